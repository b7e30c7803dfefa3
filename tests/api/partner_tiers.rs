//! Tests of the limits on sending partner requests (SEC-03). Sent requests are counted in the database, so
//! the limits apply across restarts and nodes.

use std::time::Duration;

use futures_util::future::join_all;
use kith_kernel::{days, hours, minutes};
use kith_platform::idempotency::IDEMPOTENCY_KEY;
use serde_json::json;

use crate::support::{Engine, REQUESTS, TestApp, TestResponse, TestUser, on_every_engine};

const MILLISECOND: Duration = Duration::from_millis(1);

on_every_engine! {
    sixth_request_in_a_minute_is_rejected,
    twenty_first_request_in_an_hour_is_rejected,
    hundred_and_first_request_in_a_day_is_rejected,
    repeated_and_rejected_requests_do_not_count,
    five_of_twenty_concurrent_requests_succeed,
}

#[track_caller]
fn expect_refused(response: TestResponse, wait: Duration) {
    assert_eq!(response.header("retry-after"), Some(&*wait.as_millis().div_ceil(1_000).to_string()));
    response.expect_problem(429, "rate_limited");
}

/// Sends a request to each user within the limits of five per minute and 20 per hour.
async fn send_within_limits(app: &TestApp, from: &TestUser, all: &[TestUser]) {
    for (n, to) in all.iter().enumerate() {
        match n {
            0 => {}
            n if n % 20 == 0 => app.advance(hours(1) - minutes(3)),
            n if n % 5 == 0 => app.advance(minutes(1)),
            _ => {}
        }
        from.partners().send(to).await.expect(201);
    }
}

async fn sixth_request_in_a_minute_is_rejected(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    let others = app.register_users("other", 7).await;
    for to in &others[..5] {
        ada.partners().send(to).await.expect(201);
        app.advance(Duration::from_millis(1_500));
    }
    let before = app.footprint().await;
    expect_refused(ada.partners().send(&others[5]).await, Duration::from_millis(52_500));
    app.advance(Duration::from_millis(52_500) - MILLISECOND);
    expect_refused(ada.partners().send(&others[5]).await, MILLISECOND);
    assert_eq!(app.footprint().await, before);
    let sent = ada.get(&format!("{REQUESTS}?direction=outgoing")).await.expect(200);
    assert_eq!(sent["items"].as_array().map(Vec::len), Some(5));
    assert_eq!(others[5].get(REQUESTS).await.expect(200)["items"], json!([]));
    // Other users are not affected.
    ben.partners().send(&others[5]).await.expect(201);

    app.advance(MILLISECOND);
    ada.partners().send(&others[5]).await.expect(201);
    // The window slides: each request stops counting when it is one minute old.
    expect_refused(ada.partners().send(&others[6]).await, Duration::from_millis(1_500));
}

async fn twenty_first_request_in_an_hour_is_rejected(app: &TestApp) {
    let ada = app.user("ada").await;
    let others = app.register_users("other", 21).await;
    send_within_limits(app, &ada, &others[..20]).await;
    app.advance(minutes(1));
    let before = app.footprint().await;
    expect_refused(ada.partners().send(&others[20]).await, minutes(56));
    assert_eq!(app.footprint().await, before);
    app.advance(minutes(56) - MILLISECOND);
    let ada = app.sign_in("ada").await;
    let before = app.footprint().await;
    expect_refused(ada.partners().send(&others[20]).await, MILLISECOND);
    assert_eq!(app.footprint().await, before);
    app.advance(MILLISECOND);
    ada.partners().send(&others[20]).await.expect(201);
}

async fn hundred_and_first_request_in_a_day_is_rejected(app: &TestApp) {
    let ada = app.user("ada").await;
    let others = app.register_users("other", 101).await;
    send_within_limits(app, &ada, &others[..100]).await;
    // Four hours and three minutes after the first request.
    app.advance(hours(1));
    expect_refused(ada.partners().send(&others[100]).await, days(1) - hours(5) - minutes(3));
    app.advance(days(1) - hours(5) - minutes(3) - MILLISECOND);
    expect_refused(ada.partners().send(&others[100]).await, MILLISECOND);
    app.advance(MILLISECOND);
    ada.partners().send(&others[100]).await.expect(201);
}

/// Repeated requests, and requests that are rejected for another reason, do not count towards the limits.
async fn repeated_and_rejected_requests_do_not_count(app: &TestApp) {
    let ada = app.user("ada").await;
    let others = app.register_users("other", 6).await;
    let keyed = ada.signed_in().await.with_header(IDEMPOTENCY_KEY, "once");
    let body = json!({ "to": { "user_id": others[0].id } });
    let first = keyed.post(REQUESTS, body.clone()).await.expect(201);
    for _ in 0..10 {
        assert_eq!(keyed.post(REQUESTS, body.clone()).await.expect(201), first);
        ada.partners().send(&others[0]).await.expect(200);
        ada.partners().send(&ada).await.expect_faults();
        ada.post(REQUESTS, json!({ "to": { "user_id": others[0].id }, "message": "x" }))
            .await
            .expect_problem(409, "request_pending");
    }
    for to in &others[1..5] {
        ada.partners().send(to).await.expect(201);
    }
    let sixth = ada.signed_in().await.with_header(IDEMPOTENCY_KEY, "sixth");
    let body_of_sixth = json!({ "to": { "user_id": others[5].id } });
    expect_refused(sixth.post(REQUESTS, body_of_sixth.clone()).await, minutes(1));
    // Stored responses are still returned, and a rejection is not stored under its key.
    assert_eq!(keyed.post(REQUESTS, body).await.expect(201), first);
    ada.partners().send(&others[0]).await.expect(200);
    app.advance(minutes(1));
    sixth.post(REQUESTS, body_of_sixth).await.expect(201);
}

async fn five_of_twenty_concurrent_requests_succeed(app: &TestApp) {
    let ada = app.user("ada").await;
    let others = app.register_users("other", 20).await;
    let statuses = join_all(others.iter().map(async |to| ada.partners().send(to).await.status)).await;
    let count = |status| statuses.iter().filter(|found| **found == status).count();
    assert_eq!((count(201), count(429)), (5, 15), "{statuses:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_counts_survive_restart_on_sqlite() {
    request_counts_survive_restart(Engine::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_counts_survive_restart_on_two_nodes() {
    request_counts_survive_restart(Engine::Pair).await;
}

async fn request_counts_survive_restart(engine: Engine) {
    if !engine.is_chosen() {
        return;
    }
    let app = TestApp::start(engine, engine.database().await).await;
    let ada = app.user("ada").await;
    let others = app.register_users("other", 6).await;
    for to in &others[..4] {
        ada.partners().send(to).await.expect(201);
    }
    app.advance(Duration::from_secs(20));
    let app = app.restart(engine).await;
    let ada = app.sign_in("ada").await;
    ada.partners().send(&others[4]).await.expect(201);
    let app = app.restart(engine).await;
    let ada = app.sign_in("ada").await;
    expect_refused(ada.partners().send(&others[5]).await, Duration::from_secs(40));
    app.stop().await;
}
