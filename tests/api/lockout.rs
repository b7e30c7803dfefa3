//! Guessing: what five failures lead to and for whom, and how often it is told that an address is registered.

use std::time::Duration;

use futures_util::future::join_all;
use hyper::header::HeaderName;
use kith_kernel::{days, hours, minutes, seconds};
use kith_platform::config::Config;
use serde_json::{Value, json};

use crate::support::{Answer, Client, Engine, PASSWORD, Person, TestApp, on_every_engine};

const REGISTER: &str = "/api/v1/auth/register";
const LOGIN: &str = "/api/v1/auth/login";
const ME: &str = "/api/v1/me";
const MILLISECOND: Duration = Duration::from_millis(1);
const MINUTES_LOCKED: [u64; 7] = [1, 2, 4, 8, 15, 15, 15];

on_every_engine! {
    with super::behind_a_proxy;
    five_failures_lock_an_address_known_or_not,
    every_spelling_of_an_address_counts_as_one,
    a_known_device_gets_in_while_strangers_are_locked_out,
    a_device_token_does_not_help_guessing,
    a_device_of_whoever_had_the_address_before_is_a_strangers,
    a_device_is_known_as_long_as_its_password_is,
    nobody_logs_in_as_somebody_who_has_gone,
    a_success_resets,
    of_many_guesses_at_once_each_counts,
    no_client_address_is_locked_out,
    a_claim_to_be_oneself_counts,
    ten_times_an_hour_it_is_told_that_an_address_is_taken,
    taken_addresses_close_registration_for_nobody,
    of_many_registrations_at_once_each_counts,
}

/// Whoever asks is believed to be at the address that `at` gives them.
fn behind_a_proxy(config: &mut Config) {
    config.server.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")];
}

fn at(app: &TestApp, address: &str) -> Client {
    app.anonymous().with_header(HeaderName::from_static("x-forwarded-for"), address)
}

async fn guess(client: &Client, email: &str, password: &str) -> Answer {
    client.post(LOGIN, json!({ "email": email, "password": password })).await
}

async fn guess_on(app: &TestApp, device: &Value, email: &str, password: &str) -> Answer {
    let body = json!({ "email": email, "password": password, "device_token": device });
    app.anonymous().post(LOGIN, body).await
}

/// A refusal as nobody can tell it from another: without what names the request.
fn refusal(answer: Answer, status: u16, code: &str) -> (Option<String>, Value) {
    let wait = answer.header("retry-after").map(str::to_owned);
    let mut problem = answer.expect_problem(status, code);
    problem["request_id"].take();
    (wait, problem)
}

#[track_caller]
fn expect_locked(answer: Answer, wait: Duration) {
    let (told, _) = refusal(answer, 423, "locked");
    assert_eq!(told, Some(wait.as_secs().to_string()));
}

async fn fail(client: &Client, email: &str, times: usize) {
    for _ in 0..times {
        guess(client, email, "wrong horse").await.expect_problem(401, "invalid_credentials");
    }
}

/// ACC-07, SEC-05: a minute, then twice as long each time, up to fifteen; to the millisecond.
async fn five_failures_lock_an_address_known_or_not(app: &TestApp) {
    let ada = app.user("ada").await;
    let (known, unknown) = (ada.email.as_str(), "nobody@example.org");
    let anyone = app.anonymous();
    fail(anyone, known, 4).await;
    fail(anyone, unknown, 4).await;
    for minutes_locked in MINUTES_LOCKED {
        fail(anyone, known, 1).await;
        fail(anyone, unknown, 1).await;
        let before = app.footprint().await;
        // Right or wrong is not told either.
        for password in ["wrong horse", PASSWORD] {
            let locked = refusal(guess(anyone, known, password).await, 423, "locked");
            assert_eq!(locked.0, Some((minutes_locked * 60).to_string()));
            assert_eq!(refusal(guess(anyone, unknown, password).await, 423, "locked"), locked);
        }
        assert_eq!(app.footprint().await, before);
        app.advance(minutes(minutes_locked) - MILLISECOND);
        expect_locked(guess(anyone, known, PASSWORD).await, seconds(1));
        expect_locked(guess(anyone, unknown, PASSWORD).await, seconds(1));
        app.advance(MILLISECOND);
    }
    guess(anyone, known, PASSWORD).await.expect(200);
}

/// ACC-07: neither case, composition, spaces around it nor another client address is another counter.
async fn every_spelling_of_an_address_counts_as_one(app: &TestApp) {
    app.user("zoe\u{301}").await;
    let spellings = [
        "zo\u{e9}@example.org",
        "ZOE\u{301}@EXAMPLE.ORG",
        "  zo\u{c9}@example.org\t",
        "zoe\u{301}@Example.org",
        "\u{a0}ZO\u{c9}@example.org\n",
    ];
    for (n, spelling) in spellings.into_iter().enumerate() {
        fail(&at(app, &format!("203.0.113.{n}")), spelling, 1).await;
    }
    for (n, spelling) in spellings.into_iter().enumerate() {
        let client = at(app, &format!("2001:db8:{n}::1"));
        expect_locked(guess(&client, spelling, PASSWORD).await, minutes(1));
    }
    app.user("zoe").await;
    guess(app.anonymous(), "zoe@example.org", PASSWORD).await.expect(200);
}

/// ACC-07: nobody can shut out the owner, on the device where they were before.
async fn a_known_device_gets_in_while_strangers_are_locked_out(app: &TestApp) {
    let ada = app.user("ada").await;
    let device = guess(app.anonymous(), &ada.email, PASSWORD).await.expect(200)["device_token"].clone();
    fail(app.anonymous(), &ada.email, 5).await;
    expect_locked(guess(app.anonymous(), &ada.email, PASSWORD).await, minutes(1));
    let again = guess_on(app, &device, &ada.email, PASSWORD).await.expect(200);
    assert_eq!(again["device_token"], device);
    // Its success is not the strangers'.
    expect_locked(guess(app.anonymous(), &ada.email, PASSWORD).await, minutes(1));
}

/// ACC-07: a device has five tries of its own, and only for the account that it was given for.
async fn a_device_token_does_not_help_guessing(app: &TestApp) {
    let (ada, eve) = (app.user("ada").await, app.user("eve").await);
    let sign_in = async |who: &Person| {
        guess(app.anonymous(), &who.email, PASSWORD).await.expect(200)["device_token"].clone()
    };
    let (first, second, foreign) = (sign_in(&ada).await, sign_in(&ada).await, sign_in(&eve).await);
    for _ in 0..5 {
        guess_on(app, &first, &ada.email, "wrong horse").await.expect_problem(401, "invalid_credentials");
    }
    expect_locked(guess_on(app, &first, &ada.email, PASSWORD).await, minutes(1));
    guess_on(app, &second, &ada.email, PASSWORD).await.expect(200);
    guess(app.anonymous(), &ada.email, PASSWORD).await.expect(200);

    // What is not this account's device is a stranger, however many there are.
    for token in [&foreign, &json!("AAAA"), &json!(""), &json!("x".repeat(64)), &foreign] {
        guess_on(app, token, &ada.email, "wrong horse").await.expect_problem(401, "invalid_credentials");
    }
    for token in [&foreign, &json!("BBBB")] {
        expect_locked(guess_on(app, token, &ada.email, PASSWORD).await, minutes(1));
    }
    expect_locked(guess(app.anonymous(), &ada.email, PASSWORD).await, minutes(1));
}

async fn a_device_of_whoever_had_the_address_before_is_a_strangers(app: &TestApp) {
    let ada = app.user("ada").await;
    let device = guess(app.anonymous(), &ada.email, PASSWORD).await.expect(200)["device_token"].clone();
    ada.delete(ME, json!({ "password": PASSWORD })).await.expect(202);
    app.advance(days(14));
    app.upkeep().await;
    app.user("ada").await;
    for _ in 0..5 {
        guess_on(app, &device, &ada.email, "wrong horse").await.expect_problem(401, "invalid_credentials");
    }
    expect_locked(guess(app.anonymous(), &ada.email, PASSWORD).await, minutes(1));
    expect_locked(guess_on(app, &device, &ada.email, PASSWORD).await, minutes(1));
}

async fn a_success_resets(app: &TestApp) {
    let ada = app.user("ada").await;
    for _ in 0..3 {
        fail(app.anonymous(), &ada.email, 4).await;
        guess(app.anonymous(), &ada.email, PASSWORD).await.expect(200);
    }
    // After a lock too: the next one is the first again.
    for _ in 0..2 {
        fail(app.anonymous(), &ada.email, 5).await;
        expect_locked(guess(app.anonymous(), &ada.email, PASSWORD).await, minutes(1));
        app.advance(minutes(1));
        guess(app.anonymous(), &ada.email, PASSWORD).await.expect(200);
    }
}

/// ACC-07: of twenty at once five learn that they are wrong, and a right one among the others is locked out.
async fn of_many_guesses_at_once_each_counts(app: &TestApp) {
    let ada = app.user("ada").await;
    for email in [ada.email.as_str(), "nobody@example.org"] {
        let guesses = (0..20).map(async |_| guess(app.anonymous(), email, "wrong horse").await.status);
        let statuses = join_all(guesses).await;
        let count = |status| statuses.iter().filter(|found| **found == status).count();
        assert_eq!((count(401), count(423)), (5, 15), "{statuses:?}");
        expect_locked(guess(app.anonymous(), email, PASSWORD).await, minutes(1));
    }
    let refused = app.audit().await.into_iter().filter(|line| line.action == "session.refused");
    assert_eq!(refused.count(), 10);
}

/// ACC-07: many share an address; who guesses from it is slowed down by 429 alone.
async fn no_client_address_is_locked_out(app: &TestApp) {
    let ada = app.user("ada").await;
    let client = at(app, "203.0.113.7");
    for n in 0..30 {
        fail(&client, &format!("nobody{n}@example.org"), 1).await;
    }
    guess(&client, &ada.email, PASSWORD).await.expect(200);
}

/// ACC-07: whoever has taken a session does not guess the password with it.
async fn a_claim_to_be_oneself_counts(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    let change = |password: &str| json!({ "current_password": password, "new_password": "another horse" });
    for n in 0..5 {
        let refused = match n % 2 {
            0 => ada.post("/api/v1/me/password", change("wrong horse")).await,
            _ => ada.delete(ME, json!({ "password": "wrong horse" })).await,
        };
        refused.expect_problem(403, "wrong_password");
    }
    expect_locked(ada.post("/api/v1/me/password", change(PASSWORD)).await, minutes(1));
    expect_locked(ada.delete(ME, json!({ "password": PASSWORD })).await, minutes(1));
    // The owner still signs in, and others are not concerned.
    guess(app.anonymous(), &ada.email, PASSWORD).await.expect(200);
    ben.post("/api/v1/me/password", change(PASSWORD)).await.expect(204);
    app.advance(minutes(1));
    ada.post("/api/v1/me/password", change(PASSWORD)).await.expect(204);
    guess(app.anonymous(), &ada.email, PASSWORD).await.expect_problem(401, "invalid_credentials");
    guess(app.anonymous(), &ada.email, "another horse").await.expect(200);

    // Many at once count as well.
    let guesses = (0..20).map(async |_| ben.post("/api/v1/me/password", change("wrong horse")).await.status);
    let statuses = join_all(guesses).await;
    let count = |status| statuses.iter().filter(|found| **found == status).count();
    assert_eq!((count(403), count(423)), (5, 15), "{statuses:?}");
}

async fn register(client: &Client, email: &str) -> Answer {
    client.post(REGISTER, json!({ "email": email, "password": PASSWORD, "display_name": "X" })).await
}

/// ACC-02: that an address is taken is said ten times an hour for each address, whoever asks. What somebody's neighbours do
/// closes registration for nobody.
async fn ten_times_an_hour_it_is_told_that_an_address_is_taken(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    for n in 0..10 {
        let client = at(app, &format!("203.0.113.{n}"));
        register(&client, ["ADA@example.org", &ada.email][n % 2]).await.expect_problem(409, "email_taken");
        app.advance(minutes(1));
    }
    let before = app.footprint().await;
    for elsewhere in ["203.0.113.1", "2001:db8::1"] {
        let (wait, _) = refusal(register(&at(app, elsewhere), &ada.email).await, 429, "rate_limited");
        assert_eq!(wait, Some("3000".to_owned()));
    }
    assert_eq!(app.footprint().await, before);
    // Of another address it is said, and one that is free is registered, from the same network.
    let client = at(app, "203.0.113.1");
    register(&client, &ben.email).await.expect_problem(409, "email_taken");
    register(&client, "new@example.org").await.expect(201);
    app.advance(hours(1) - minutes(10) - MILLISECOND);
    register(&client, &ada.email).await.expect_problem(429, "rate_limited");
    app.advance(MILLISECOND);
    register(&client, &ada.email).await.expect_problem(409, "email_taken");
    register(&client, &ada.email).await.expect_problem(429, "rate_limited");
    let series = "kith_security_events_total{kind=\"registered_address_tried\"}";
    assert!(app.metric(series).await >= 15.0);
}

/// Ten answers that an address is taken closed registration for a whole network.
async fn taken_addresses_close_registration_for_nobody(app: &TestApp) {
    let client = at(app, "2001:db8::1");
    let people = app.crowd("user", 12).await;
    for person in &people {
        register(&client, &person.email).await.expect_problem(409, "email_taken");
    }
    register(&client, "neighbour@example.org").await.expect(201);
}

async fn of_many_registrations_at_once_each_counts(app: &TestApp) {
    let ada = app.user("ada").await;
    let client = at(app, "203.0.113.7");
    let statuses = join_all((0..25).map(async |_| register(&client, &ada.email).await.status)).await;
    let count = |status| statuses.iter().filter(|found| **found == status).count();
    assert_eq!((count(409), count(429)), (10, 15), "{statuses:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_counted_outlives_a_restart_on_sqlite() {
    what_was_counted_outlives_a_restart(Engine::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_counted_outlives_a_restart_on_the_pair() {
    what_was_counted_outlives_a_restart(Engine::Pair).await;
}

/// ACC-07.
async fn what_was_counted_outlives_a_restart(engine: Engine) {
    if !engine.is_chosen() {
        return;
    }
    let app = TestApp::start(engine, engine.database().await).await;
    let ada = app.user("ada").await;
    fail(app.anonymous(), &ada.email, 4).await;
    for _ in 0..10 {
        register(app.anonymous(), &ada.email).await.expect_problem(409, "email_taken");
    }
    app.advance(seconds(10));
    let app = app.restart(engine).await;
    fail(app.anonymous(), &ada.email, 1).await;
    register(app.anonymous(), &ada.email).await.expect_problem(429, "rate_limited");
    app.advance(seconds(10));
    let app = app.restart(engine).await;
    expect_locked(guess(app.anonymous(), &ada.email, PASSWORD).await, seconds(50));
    app.stop().await;
}

/// Whoever knew the password once is a stranger after it was changed.
async fn a_device_is_known_as_long_as_its_password_is(app: &TestApp) {
    let ada = app.user("ada").await;
    let device = guess(app.anonymous(), &ada.email, PASSWORD).await.expect(200)["device_token"].clone();
    let change = json!({ "current_password": PASSWORD, "new_password": "another horse" });
    ada.post("/api/v1/me/password", change).await.expect(204);
    let again = guess_on(app, &device, &ada.email, "another horse").await.expect(200);
    assert_ne!(again["device_token"], device, "it is a new device");
    for _ in 0..5 {
        guess_on(app, &device, &ada.email, "wrong horse").await.expect_problem(401, "invalid_credentials");
    }
    guess(app.anonymous(), &ada.email, "another horse").await.expect_problem(423, "locked");
}

/// What stands in place of the address of a purged account is nobody's address.
async fn nobody_logs_in_as_somebody_who_has_gone(app: &TestApp) {
    let ada = app.user("ada").await;
    ada.delete("/api/v1/me", json!({ "password": PASSWORD })).await.expect(202);
    app.advance(days(14));
    app.upkeep().await;
    for path in ["/api/v1/auth/login", "/api/v1/auth/restore"] {
        let body = json!({ "email": format!("purged:{}", ada.id), "password": "" });
        app.anonymous().post(path, body).await.expect_problem(401, "invalid_credentials");
    }
}
