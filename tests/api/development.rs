//! Tests of the endpoints of development mode, and of their absence in production mode: `/dev/clock`,
//! `/dev/outbox` and others.

use hyper::Method;
use hyper::body::Bytes;
use kith_kernel::{Timestamp, days};
use kith_platform::config::{Config, Mode};
use serde_json::{Value, json};

use crate::support::{REQUESTS, TestApp, TestUser, on_every_engine};

const CLOCK: &str = "/dev/clock";
const LIMITS: &str = "/dev/limits";
const OUTBOX: &str = "/dev/outbox";
const VERIFY: &str = "/dev/verify-email";

on_every_engine! {
    advancing_clock_runs_due_work_at_new_time,
    clock_can_be_reset,
    invalid_clock_requests_are_rejected,
    outbox_lists_newest_events_first,
    development_endpoint_verifies_address_without_mail,
}

on_every_engine! {
    with super::with_a_limit;
    rate_limits_can_be_disabled_and_restored,
}

on_every_engine! {
    with super::in_production;
    development_paths_are_absent_in_production
}

fn with_a_limit(config: &mut Config) {
    config.limits.requests_per_minute = 600;
}

fn in_production(config: &mut Config) {
    config.server.mode = Mode::Production;
}

async fn advance_all(app: &TestApp, by: &str) -> Value {
    let mut last = Value::Null;
    for node in 0..app.node_count() {
        last = app.anonymous().at(node).post(CLOCK, json!({ "advance": by })).await.expect(200);
    }
    last
}

async fn bond(one: &TestUser, other: &TestUser) -> Value {
    one.post(REQUESTS, json!({ "to": { "user_id": other.id } })).await.expect(201);
    let crossed = other.post(REQUESTS, json!({ "to": { "user_id": one.id } })).await;
    crossed.expect(201)["bond"].clone()
}

/// `/dev/clock` responds after all due jobs have run. All parts of the server use the new time.
async fn advancing_clock_runs_due_work_at_new_time(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    let first = bond(&ada, &ben).await;
    ada.post("/api/v1/partners/breakup", json!({})).await.expect(200);

    let before = app.anonymous().get(CLOCK).await.expect(200);
    assert_eq!(before, json!({ "now": app.now(), "offset_ms": 0 }));
    let report = advance_all(app, "30d").await;
    let advance = days(30);
    assert_eq!(report, json!({ "now": app.now() + advance, "offset_ms": 2_592_000_000_i64 }));

    // Thirty days later the bond can still be restored. The access tokens have expired, so the users log in
    // again.
    let (ada, ben) = (app.sign_in("ada").await, app.sign_in("ben").await);
    assert_eq!(bond(&ada, &ben).await["id"], first["id"]);
    ada.post("/api/v1/partners/breakup", json!({})).await.expect(200);
    advance_all(app, "30d").await;
    let report = advance_all(app, "1ms").await;
    let now: Timestamp = report["now"].as_str().expect("a time").parse().expect("a time");
    assert_eq!(now, app.now() + days(60) + std::time::Duration::from_millis(1));

    let (ada, ben) = (app.sign_in("ada").await, app.sign_in("ben").await);
    let archived = "SELECT COUNT(*) FROM bonds WHERE archived_at IS NOT NULL";
    let count = app.db().read(move |q| q.one(archived, &[], |row| row.get::<i64>(0))).await;
    assert_eq!(count.expect("a count"), Some(1), "the bond that was due has been archived");
    assert_ne!(bond(&ada, &ben).await["id"], first["id"]);
}

/// Regression: the clock could not be reset to real time, which broke comparisons with other clocks.
async fn clock_can_be_reset(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    let put_back = async || {
        for node in 0..app.node_count() {
            let response = app.anonymous().at(node).send(Method::DELETE, CLOCK, Bytes::new()).await;
            assert_eq!(response.expect(200), json!({ "now": app.now(), "offset_ms": 0 }));
        }
    };
    put_back().await;
    // Ten days are short enough that the sessions do not end.
    advance_all(app, "10d").await;
    put_back().await;
    assert_eq!(app.anonymous().get(CLOCK).await.expect(200), json!({ "now": app.now(), "offset_ms": 0 }));
    // Earlier tokens are valid again, and schedules continue from now.
    assert_eq!(bond(&ada, &ben).await["since"], json!(app.now()));
    let next =
        "SELECT COUNT(*) FROM job_schedules WHERE next_run_at > $1 AND schedule = '@every 1m' AND NOT paused";
    let soon = app.now() + kith_kernel::minutes(1);
    let late = app.db().read(move |q| q.one(next, kith_store::params![soon], |row| row.get::<i64>(0))).await;
    assert_eq!(late.expect("a count"), Some(0), "a schedule waits until the clock has caught up");
    assert!(!app.parts().config.data.folder.join("clock-ahead").exists());
}

async fn invalid_clock_requests_are_rejected(app: &TestApp) {
    let node = app.anonymous().at(0);
    for advance in ["", "30", "-1d", "1 d", "1.5h", "1w", "tomorrow", "36501d", "99999999999999999999d"] {
        let response = node.post(CLOCK, json!({ "advance": advance })).await;
        let problem = response.expect_problem(422, "validation_failed");
        assert_eq!(problem["errors"][0]["pointer"], "/advance", "{advance}");
    }
    node.post(CLOCK, json!({})).await.expect_problem(422, "validation_failed");
    node.post(CLOCK, json!({ "advance": "1d", "back": true })).await.expect_problem(422, "validation_failed");
    assert_eq!(node.get(CLOCK).await.expect(200)["offset_ms"], 0);
}

async fn outbox_lists_newest_events_first(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    let body = json!({ "to": { "user_id": ben.id }, "message": "Shall we?" });
    let request = ada.post(REQUESTS, body).await.expect(201);
    // On PostgreSQL, an event is listed only after the sequencer has assigned its position.
    let newest = async || app.anonymous().get(OUTBOX).await.expect(200)["items"][0].clone();
    app.wait_until_on_all_nodes(async || newest().await["subject"] == request["id"]).await;
    let event = newest().await;
    assert_eq!((&event["recipients"], &event["at"]), (&json!([ada.id, ben.id]), &request["created_at"]));

    let (mut path, mut positions) = (format!("{OUTBOX}?limit=1"), Vec::new());
    loop {
        let page = app.anonymous().get(&path).await.expect(200);
        positions
            .extend(page["items"].as_array().expect("items").iter().map(|event| event["position"].as_i64()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("{OUTBOX}?limit=1&cursor={cursor}");
    }
    let count = event["position"].as_i64().expect("a position");
    assert!(count >= 3);
    assert_eq!(positions, (1..=count).rev().map(Some).collect::<Vec<_>>());
    app.anonymous().get(&format!("{OUTBOX}?cursor=x")).await.expect_problem(400, "malformed_request");
}

async fn development_endpoint_verifies_address_without_mail(app: &TestApp) {
    let ada = app.user("ada").await;
    let me = async || ada.get("/api/v1/me").await.expect(200);
    let before = me().await;
    assert_eq!((&before["email_verified"], &before["email_verified_at"]), (&json!(false), &Value::Null));
    let proven = app.anonymous().post(VERIFY, json!({ "email": " ADA@example.org" })).await.expect(200);
    assert_eq!(proven, json!({ "email": "ada@example.org", "email_verified_at": app.now() }));
    let after = me().await;
    assert_eq!((&after["email_verified"], &after["email_verified_at"]), (&json!(true), &json!(app.now())));
    app.advance(std::time::Duration::from_secs(1));
    let again = app.anonymous().post(VERIFY, json!({ "email": "ada@example.org" })).await.expect(200);
    assert_eq!(again, proven, "a repeated verification returns the same response");
    for unknown in ["nobody@example.org", "", &format!("released:{}", ada.id)] {
        app.anonymous().post(VERIFY, json!({ "email": unknown })).await.expect_problem(404, "not_found");
    }
}

/// CFG-02: in production mode, development paths behave like unknown paths and are not in the OpenAPI
/// document.
async fn development_paths_are_absent_in_production(app: &TestApp) {
    let client = app.anonymous();
    client.get(CLOCK).await.expect_problem(404, "not_found");
    client.post(CLOCK, json!({ "advance": "1d" })).await.expect_problem(404, "not_found");
    client.get(OUTBOX).await.expect_problem(404, "not_found");
    client.post(VERIFY, json!({ "email": "ada@example.org" })).await.expect_problem(404, "not_found");
    let document = client.get("/openapi.json").await.expect(200);
    let paths = document["paths"].as_object().expect("paths");
    assert!(paths.keys().all(|path| !path.starts_with("/dev")), "{paths:?}");
}

/// Rate limits can be disabled and enabled again at runtime.
async fn rate_limits_can_be_disabled_and_restored(app: &TestApp) {
    let put = async |body: Value| {
        app.anonymous().at(0).send(Method::PUT, LIMITS, Bytes::from(body.to_string())).await
    };
    let is_counted = async || {
        let response = app.anonymous().at(0).get("/api/v1/ping").await;
        response.header("ratelimit").is_some()
    };
    assert_eq!(app.anonymous().at(0).get(LIMITS).await.expect(200), json!({ "disabled": false }));
    assert!(is_counted().await);
    for disabled in [true, false] {
        let set = put(json!({ "disabled": disabled })).await.expect(200);
        assert_eq!(set, json!({ "disabled": disabled }));
        assert_eq!(is_counted().await, !disabled);
    }
    put(json!({ "disabled": "yes" })).await.expect_problem(422, "validation_failed");
}
