//! Tests of the protection against guessing: lockout after five failed log-ins, and the limit on how often
//! registration reports that an address is taken.

use std::time::Duration;

use futures_util::future::join_all;
use hyper::header::HeaderName;
use kith_kernel::{days, hours, minutes, seconds};
use kith_platform::config::Config;
use serde_json::{Value, json};

use crate::support::{Client, Engine, PASSWORD, TestApp, TestResponse, TestUser, on_every_engine};

const REGISTER: &str = "/api/v1/auth/register";
const LOGIN: &str = "/api/v1/auth/login";
const ME: &str = "/api/v1/me";
const MILLISECOND: Duration = Duration::from_millis(1);
const MINUTES_LOCKED: [u64; 7] = [1, 2, 4, 8, 15, 15, 15];

on_every_engine! {
    with super::behind_a_proxy;
    five_failures_lock_known_and_unknown_addresses,
    email_variants_share_failure_counter,
    known_device_bypasses_lockout,
    device_token_has_own_failure_counter,
    device_of_former_address_owner_is_unknown,
    password_change_invalidates_device_tokens,
    purged_account_cannot_log_in,
    successful_login_resets_failure_counter,
    concurrent_guesses_are_counted,
    client_addresses_are_not_locked_out,
    current_password_checks_count_as_guesses,
    taken_address_is_reported_ten_times_per_hour,
    taken_addresses_do_not_block_registration,
    concurrent_registrations_with_taken_address_are_limited,
}

/// Configures the server to trust the client address that `at` sends in `X-Forwarded-For`.
fn behind_a_proxy(config: &mut Config) {
    config.server.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")];
}

fn at(app: &TestApp, address: &str) -> Client {
    app.anonymous().with_header(HeaderName::from_static("x-forwarded-for"), address)
}

async fn guess(client: &Client, email: &str, password: &str) -> TestResponse {
    client.post(LOGIN, json!({ "email": email, "password": password })).await
}

async fn guess_on(app: &TestApp, device: &Value, email: &str, password: &str) -> TestResponse {
    let body = json!({ "email": email, "password": password, "device_token": device });
    app.anonymous().post(LOGIN, body).await
}

/// Returns a rejection without its request id, for comparison.
fn expect_rejection(response: TestResponse, status: u16, code: &str) -> (Option<String>, Value) {
    let wait = response.header("retry-after").map(str::to_owned);
    let mut problem = response.expect_problem(status, code);
    problem["request_id"].take();
    (wait, problem)
}

#[track_caller]
fn expect_locked(response: TestResponse, wait: Duration) {
    let (retry_after, _) = expect_rejection(response, 423, "locked");
    assert_eq!(retry_after, Some(wait.as_secs().to_string()));
}

async fn fail(client: &Client, email: &str, times: usize) {
    for _ in 0..times {
        guess(client, email, "wrong horse").await.expect_problem(401, "invalid_credentials");
    }
}

/// ACC-07, SEC-05: the first lockout lasts one minute. Each further one lasts twice as long, up to fifteen
/// minutes, exact to the millisecond.
async fn five_failures_lock_known_and_unknown_addresses(app: &TestApp) {
    let ada = app.user("ada").await;
    let (known, unknown) = (ada.email.as_str(), "nobody@example.org");
    let anyone = app.anonymous();
    fail(anyone, known, 4).await;
    fail(anyone, unknown, 4).await;
    for minutes_locked in MINUTES_LOCKED {
        fail(anyone, known, 1).await;
        fail(anyone, unknown, 1).await;
        let before = app.footprint().await;
        // During the lock a correct password is rejected like a wrong one.
        for password in ["wrong horse", PASSWORD] {
            let locked = expect_rejection(guess(anyone, known, password).await, 423, "locked");
            assert_eq!(locked.0, Some((minutes_locked * 60).to_string()));
            assert_eq!(expect_rejection(guess(anyone, unknown, password).await, 423, "locked"), locked);
        }
        assert_eq!(app.footprint().await, before);
        app.advance(minutes(minutes_locked) - MILLISECOND);
        expect_locked(guess(anyone, known, PASSWORD).await, seconds(1));
        expect_locked(guess(anyone, unknown, PASSWORD).await, seconds(1));
        app.advance(MILLISECOND);
    }
    guess(anyone, known, PASSWORD).await.expect(200);
}

/// ACC-07: variants of an e-mail address in case, Unicode normalization or surrounding spaces share one
/// counter, for all client addresses.
async fn email_variants_share_failure_counter(app: &TestApp) {
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

/// ACC-07: a known device of the owner is not locked out by others.
async fn known_device_bypasses_lockout(app: &TestApp) {
    let ada = app.user("ada").await;
    let device = guess(app.anonymous(), &ada.email, PASSWORD).await.expect(200)["device_token"].clone();
    fail(app.anonymous(), &ada.email, 5).await;
    expect_locked(guess(app.anonymous(), &ada.email, PASSWORD).await, minutes(1));
    let again = guess_on(app, &device, &ada.email, PASSWORD).await.expect(200);
    assert_eq!(again["device_token"], device);
    // A success on the device does not reset the counter of other clients.
    expect_locked(guess(app.anonymous(), &ada.email, PASSWORD).await, minutes(1));
}

/// ACC-07: a device token has its own five attempts, and only for its own account.
async fn device_token_has_own_failure_counter(app: &TestApp) {
    let (ada, eve) = (app.user("ada").await, app.user("eve").await);
    let sign_in = async |who: &TestUser| {
        guess(app.anonymous(), &who.email, PASSWORD).await.expect(200)["device_token"].clone()
    };
    let (first, second, foreign) = (sign_in(&ada).await, sign_in(&ada).await, sign_in(&eve).await);
    for _ in 0..5 {
        guess_on(app, &first, &ada.email, "wrong horse").await.expect_problem(401, "invalid_credentials");
    }
    expect_locked(guess_on(app, &first, &ada.email, PASSWORD).await, minutes(1));
    guess_on(app, &second, &ada.email, PASSWORD).await.expect(200);
    guess(app.anonymous(), &ada.email, PASSWORD).await.expect(200);

    // Tokens of other accounts count as unknown devices, however many there are.
    for token in [&foreign, &json!("AAAA"), &json!(""), &json!("x".repeat(64)), &foreign] {
        guess_on(app, token, &ada.email, "wrong horse").await.expect_problem(401, "invalid_credentials");
    }
    for token in [&foreign, &json!("BBBB")] {
        expect_locked(guess_on(app, token, &ada.email, PASSWORD).await, minutes(1));
    }
    expect_locked(guess(app.anonymous(), &ada.email, PASSWORD).await, minutes(1));
}

async fn device_of_former_address_owner_is_unknown(app: &TestApp) {
    let ada = app.user("ada").await;
    let device = guess(app.anonymous(), &ada.email, PASSWORD).await.expect(200)["device_token"].clone();
    ada.delete(ME, json!({ "password": PASSWORD })).await.expect(202);
    app.advance(days(14));
    app.run_maintenance().await;
    app.user("ada").await;
    for _ in 0..5 {
        guess_on(app, &device, &ada.email, "wrong horse").await.expect_problem(401, "invalid_credentials");
    }
    expect_locked(guess(app.anonymous(), &ada.email, PASSWORD).await, minutes(1));
    expect_locked(guess_on(app, &device, &ada.email, PASSWORD).await, minutes(1));
}

async fn successful_login_resets_failure_counter(app: &TestApp) {
    let ada = app.user("ada").await;
    for _ in 0..3 {
        fail(app.anonymous(), &ada.email, 4).await;
        guess(app.anonymous(), &ada.email, PASSWORD).await.expect(200);
    }
    // After a lockout and a successful log-in, counting starts again.
    for _ in 0..2 {
        fail(app.anonymous(), &ada.email, 5).await;
        expect_locked(guess(app.anonymous(), &ada.email, PASSWORD).await, minutes(1));
        app.advance(minutes(1));
        guess(app.anonymous(), &ada.email, PASSWORD).await.expect(200);
    }
}

/// ACC-07: of twenty concurrent guesses five are evaluated, and the others are locked out.
async fn concurrent_guesses_are_counted(app: &TestApp) {
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

/// ACC-07: client addresses are shared, so they are only rate-limited (429), never locked out.
async fn client_addresses_are_not_locked_out(app: &TestApp) {
    let ada = app.user("ada").await;
    let client = at(app, "203.0.113.7");
    for n in 0..30 {
        fail(&client, &format!("nobody{n}@example.org"), 1).await;
    }
    guess(&client, &ada.email, PASSWORD).await.expect(200);
}

/// ACC-07: password checks of a signed-in user count too, so a stolen session cannot be used to guess.
async fn current_password_checks_count_as_guesses(app: &TestApp) {
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
    // The owner can still log in, and other users are not affected.
    guess(app.anonymous(), &ada.email, PASSWORD).await.expect(200);
    ben.post("/api/v1/me/password", change(PASSWORD)).await.expect(204);
    app.advance(minutes(1));
    ada.post("/api/v1/me/password", change(PASSWORD)).await.expect(204);
    guess(app.anonymous(), &ada.email, PASSWORD).await.expect_problem(401, "invalid_credentials");
    guess(app.anonymous(), &ada.email, "another horse").await.expect(200);

    // Concurrent guesses count too.
    let guesses = (0..20).map(async |_| ben.post("/api/v1/me/password", change("wrong horse")).await.status);
    let statuses = join_all(guesses).await;
    let count = |status| statuses.iter().filter(|found| **found == status).count();
    assert_eq!((count(403), count(423)), (5, 15), "{statuses:?}");
}

async fn register(client: &Client, email: &str) -> TestResponse {
    client.post(REGISTER, json!({ "email": email, "password": PASSWORD, "display_name": "X" })).await
}

/// ACC-02: a taken address is reported ten times an hour, regardless of the client. Other users of the same
/// network are not affected.
async fn taken_address_is_reported_ten_times_per_hour(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    for n in 0..10 {
        let client = at(app, &format!("203.0.113.{n}"));
        register(&client, ["ADA@example.org", &ada.email][n % 2]).await.expect_problem(409, "email_taken");
        app.advance(minutes(1));
    }
    let before = app.footprint().await;
    for elsewhere in ["203.0.113.1", "2001:db8::1"] {
        let (wait, _) =
            expect_rejection(register(&at(app, elsewhere), &ada.email).await, 429, "rate_limited");
        assert_eq!(wait, Some("3000".to_owned()));
    }
    assert_eq!(app.footprint().await, before);
    // From the same network, other addresses are still reported, and free ones can be registered.
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

/// Regression: ten reports of taken addresses blocked registration for a whole network.
async fn taken_addresses_do_not_block_registration(app: &TestApp) {
    let client = at(app, "2001:db8::1");
    let users = app.register_users("user", 12).await;
    for user in &users {
        register(&client, &user.email).await.expect_problem(409, "email_taken");
    }
    register(&client, "neighbour@example.org").await.expect(201);
}

async fn concurrent_registrations_with_taken_address_are_limited(app: &TestApp) {
    let ada = app.user("ada").await;
    let client = at(app, "203.0.113.7");
    let statuses = join_all((0..25).map(async |_| register(&client, &ada.email).await.status)).await;
    let count = |status| statuses.iter().filter(|found| **found == status).count();
    assert_eq!((count(409), count(429)), (10, 15), "{statuses:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failure_counters_survive_restart_on_sqlite() {
    failure_counters_survive_restart(Engine::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failure_counters_survive_restart_on_two_nodes() {
    failure_counters_survive_restart(Engine::Pair).await;
}

/// Proves the readiness requirement ACC-07.
async fn failure_counters_survive_restart(engine: Engine) {
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

/// After a password change, earlier device tokens are unknown devices.
async fn password_change_invalidates_device_tokens(app: &TestApp) {
    let ada = app.user("ada").await;
    let device = guess(app.anonymous(), &ada.email, PASSWORD).await.expect(200)["device_token"].clone();
    let change = json!({ "current_password": PASSWORD, "new_password": "another horse" });
    ada.post("/api/v1/me/password", change).await.expect(204);
    let again = guess_on(app, &device, &ada.email, "another horse").await.expect(200);
    assert_ne!(again["device_token"], device, "the device gets a new token");
    for _ in 0..5 {
        guess_on(app, &device, &ada.email, "wrong horse").await.expect_problem(401, "invalid_credentials");
    }
    guess(app.anonymous(), &ada.email, "another horse").await.expect_problem(423, "locked");
}

/// The placeholder for the address of a purged account is not a valid log-in name.
async fn purged_account_cannot_log_in(app: &TestApp) {
    let ada = app.user("ada").await;
    ada.delete("/api/v1/me", json!({ "password": PASSWORD })).await.expect(202);
    app.advance(days(14));
    app.run_maintenance().await;
    for path in ["/api/v1/auth/login", "/api/v1/auth/restore"] {
        let body = json!({ "email": format!("purged:{}", ada.id), "password": "" });
        app.anonymous().post(path, body).await.expect_problem(401, "invalid_credentials");
    }
}
