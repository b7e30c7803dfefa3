//! Tests of rejected, cancelled and expired requests, and of the cooldowns after them.

use std::time::Duration;

use hyper::Method;
use hyper::body::Bytes;
use kith_kernel::{days, hours};
use serde_json::{Value, json};

use crate::support::{REQUESTS, TestApp, TestUser, on_every_engine};

const SETTINGS: &str = "/api/v1/partners/settings";
const MILLISECOND: Duration = Duration::from_millis(1);

on_every_engine! {
    rejected_request_is_final,
    cancelled_request_is_final,
    cooldown_grows_with_each_rejection,
    cancellation_counts_as_refusal_without_cooldown,
    expired_requests_count_as_refusals,
    refusals_reset_after_a_year,
    reverse_request_clears_rejections,
    request_expires_for_both_users,
    users_control_who_can_send_requests,
    message_is_reported_once,
}

fn path(request: &Value, verb: &str) -> String {
    format!("{REQUESTS}/{}/{verb}", request["id"].as_str().expect("an id"))
}

async fn status(who: &TestUser, request: &Value) -> Value {
    let path = format!("{REQUESTS}/{}", request["id"].as_str().expect("an id"));
    who.get(&path).await.expect(200)["status"].clone()
}

async fn reject(who: &TestUser, request: &Value) {
    who.post(&path(request, "reject"), Value::Null).await.expect(200);
}

/// PRT-01, PRT-02: only the receiver can reject a request. After that, no decision changes it.
async fn rejected_request_is_final(app: &TestApp) {
    let (ada, ben, eve) = (app.user("ada").await, app.user("ben").await, app.user("eve").await);
    let request = ada.partners().ask(&ben).await;
    let before = app.footprint().await;
    ada.post(&path(&request, "reject"), Value::Null).await.expect_problem(403, "forbidden");
    eve.post(&path(&request, "reject"), Value::Null).await.expect_problem(404, "not_found");
    assert_eq!(app.footprint().await, before);
    let rejected = ben.post(&path(&request, "reject"), Value::Null).await.expect(200);
    assert_eq!(rejected["status"], "rejected");
    let before = app.footprint().await;
    assert_eq!(ben.post(&path(&request, "reject"), Value::Null).await.expect(200), rejected);
    ben.post(&path(&request, "accept"), Value::Null).await.expect_problem(409, "request_not_pending");
    ada.post(&path(&request, "cancel"), Value::Null).await.expect_problem(409, "request_not_pending");
    assert_eq!(app.footprint().await, before);
    for who in [&ada, &ben] {
        assert_eq!(status(who, &request).await, "rejected", "{}", who.name);
        let listed = who.get(&format!("{REQUESTS}?status=rejected")).await.expect(200);
        assert_eq!(listed["items"].as_array().map(Vec::len), Some(1), "{}", who.name);
    }
}

/// Proves the readiness requirements PRT-01, PRT-02.
async fn cancelled_request_is_final(app: &TestApp) {
    let (ada, ben, eve) = (app.user("ada").await, app.user("ben").await, app.user("eve").await);
    let request = ada.partners().ask(&ben).await;
    let before = app.footprint().await;
    ben.post(&path(&request, "cancel"), Value::Null).await.expect_problem(403, "forbidden");
    eve.post(&path(&request, "cancel"), Value::Null).await.expect_problem(404, "not_found");
    assert_eq!(app.footprint().await, before);
    let cancelled = ada.post(&path(&request, "cancel"), Value::Null).await.expect(200);
    assert_eq!(cancelled["status"], "cancelled");
    let before = app.footprint().await;
    assert_eq!(ada.post(&path(&request, "cancel"), Value::Null).await.expect(200), cancelled);
    ben.post(&path(&request, "accept"), Value::Null).await.expect_problem(409, "request_not_pending");
    ben.post(&path(&request, "reject"), Value::Null).await.expect_problem(409, "request_not_pending");
    assert_eq!(app.footprint().await, before);
    assert_eq!(status(&ben, &request).await, "cancelled");
}

/// The cooldown is a day, a week, then thirty days, exact to the millisecond. After that only the other user
/// may send a request.
async fn cooldown_grows_with_each_rejection(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    let body = json!({ "to": { "user_id": ben.id } });
    for wait in [hours(24), days(7), days(30)] {
        reject(&ben, &ada.partners().ask(&ben).await).await;
        let refused = ada.post(REQUESTS, body.clone()).await;
        let seconds = wait.as_secs().to_string();
        assert_eq!(refused.header("retry-after"), Some(&*seconds));
        refused.expect_problem(409, "request_cooldown_active");
        app.advance(wait - MILLISECOND);
        // Refreshes the session now, because that writes audit entries.
        ada.get("/api/v1/me").await.expect(200);
        let before = app.footprint().await;
        let refused = ada.post(REQUESTS, body.clone()).await;
        assert_eq!(refused.header("retry-after"), Some("1"));
        refused.expect_problem(409, "request_cooldown_active");
        assert_eq!(app.footprint().await, before);
        app.advance(MILLISECOND);
    }
    reject(&ben, &ada.partners().ask(&ben).await).await;
    app.advance(days(365) - MILLISECOND);
    ada.post(REQUESTS, body.clone()).await.expect_problem(409, "only_recipient_can_request");
    ben.partners().ask(&ada).await;
    let crossed = ada.post(REQUESTS, body).await.expect(201);
    assert_eq!(crossed["status"], "accepted", "a crossed request is accepted in spite of earlier rejections");
}

/// Sends a request and lets it expire. If `run_maintenance` is true, maintenance records the expiry,
/// otherwise the next
/// request does.
async fn let_expire(app: &TestApp, from: &TestUser, to: &TestUser, run_maintenance: bool) {
    from.partners().ask(to).await;
    app.advance(days(14) + hours(2));
    if run_maintenance {
        app.run_maintenance().await;
    }
}

/// PRT-02: expired requests count as refusals, so the cooldown after the next rejection is longer. But only a
/// rejection can block the sender permanently.
async fn expired_requests_count_as_refusals(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    let body = json!({ "to": { "user_id": ben.id } });
    let_expire(app, &ada, &ben, true).await;
    app.run_maintenance().await;
    let_expire(app, &ada, &ben, false).await;
    reject(&ben, &ada.partners().ask(&ben).await).await;
    let refused = ada.post(REQUESTS, body.clone()).await;
    assert_eq!(refused.header("retry-after"), Some(&*days(30).as_secs().to_string()));
    app.advance(days(30));
    for run_maintenance in [true, false, true] {
        let_expire(app, &ada, &ben, run_maintenance).await;
    }
    reject(&ben, &ada.partners().ask(&ben).await).await;
    ada.post(REQUESTS, body).await.expect_problem(409, "only_recipient_can_request");

    // A request that a block hid from its receiver does not count as a refusal when it expires.
    let eve = app.user("eve").await;
    eve.partners().ask(&ben).await;
    ben.put(&format!("/api/v1/blocks/{}", eve.id), Value::Null).await.expect(200);
    app.advance(days(14) + hours(2));
    app.run_maintenance().await;
    ben.delete(&format!("/api/v1/blocks/{}", eve.id), Value::Null).await.expect(204);
    reject(&ben, &eve.partners().ask(&ben).await).await;
    let refused = eve.post(REQUESTS, json!({ "to": { "user_id": ben.id } })).await;
    assert_eq!(refused.header("retry-after"), Some(&*hours(24).as_secs().to_string()));
}

/// Proves the readiness requirement PRT-02.
async fn refusals_reset_after_a_year(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    let body = json!({ "to": { "user_id": ben.id } });
    for wait in [hours(24), days(7), days(30), days(365)] {
        reject(&ben, &ada.partners().ask(&ben).await).await;
        app.advance(wait);
    }
    reject(&ben, &ada.partners().ask(&ben).await).await;
    let refused = ada.post(REQUESTS, body).await;
    assert_eq!(refused.header("retry-after"), Some(&*hours(24).as_secs().to_string()));
}

/// A cancelled request counts as a refusal but starts no cooldown. The receiver is notified of the first
/// request, but not of another one within a day.
async fn cancellation_counts_as_refusal_without_cooldown(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    let shown_to_sender = async |request: &Value| {
        let events = app.events().await.into_iter().map(|sequenced| sequenced.event);
        let id = request["id"].as_str().expect("an id");
        let mut created =
            events.filter(|event| event.kind == "partner_request.created" && event.subject == id);
        created.next().expect("an event").recipients.iter().any(|one| one.to_string() == ben.id)
    };
    let first = ada.partners().ask(&ben).await;
    assert!(shown_to_sender(&first).await);
    ada.post(&path(&first, "cancel"), Value::Null).await.expect(200);
    app.advance(hours(24) - MILLISECOND);
    let second = ada.partners().ask(&ben).await;
    assert!(!shown_to_sender(&second).await, "a repeated request within a day sends no notification");
    let waiting = ben.get(&format!("{REQUESTS}?status=pending")).await.expect(200);
    assert_eq!(waiting["items"][0]["id"], second["id"], "the repeated request is in the list");
    reject(&ben, &second).await;
    app.advance(days(7) - MILLISECOND);
    let body = json!({ "to": { "user_id": ben.id } });
    ada.post(REQUESTS, body.clone()).await.expect_problem(409, "request_cooldown_active");
    app.advance(MILLISECOND);
    let third = ada.partners().ask(&ben).await;
    assert!(shown_to_sender(&third).await);
    ada.post(&path(&third, "cancel"), Value::Null).await.expect(200);
    for _ in 0..3 {
        let again = ada.partners().ask(&ben).await;
        ada.post(&path(&again, "cancel"), Value::Null).await.expect(200);
    }
    reject(&ben, &ada.partners().ask(&ben).await).await;
    ada.post(REQUESTS, body).await.expect_problem(409, "only_recipient_can_request");
}

async fn reverse_request_clears_rejections(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    reject(&ben, &ada.partners().ask(&ben).await).await;
    let theirs = ben.partners().ask(&ada).await;
    ben.post(&path(&theirs, "cancel"), Value::Null).await.expect(200);
    ada.partners().ask(&ben).await;
}

/// PRT-02: a request expires exactly on time, even if maintenance has not recorded the expiry yet. Both users
/// are notified when the expiry is recorded.
async fn request_expires_for_both_users(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    let request = ada.partners().ask(&ben).await;
    app.advance(days(14) - MILLISECOND);
    app.run_maintenance().await;
    assert_eq!(status(&ben, &request).await, "pending");
    app.advance(MILLISECOND);
    for who in [&ada, &ben] {
        assert_eq!(status(who, &request).await, "expired", "{}", who.name);
    }
    for verb in ["accept", "reject"] {
        ben.post(&path(&request, verb), Value::Null).await.expect_problem(409, "request_not_pending");
    }
    let expired = async || {
        let events = app.events().await.into_iter().map(|sequenced| sequenced.event.kind);
        events.filter(|kind| kind == "partner_request.expired").count()
    };
    assert_eq!(expired().await, 0);
    app.advance(hours(2));
    app.run_maintenance().await;
    app.run_maintenance().await;
    assert_eq!(expired().await, 1);
    ada.partners().ask(&ben).await;
    assert_eq!(expired().await, 1);
}

async fn users_control_who_can_send_requests(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    let defaults =
        json!({ "accepts_requests_from": "anyone", "discoverable_by_email": false, "discreet": false });
    assert_eq!(ben.get(SETTINGS).await.expect(200), defaults);
    let set = async |patch: Value| {
        ben.send(Method::PATCH, SETTINGS, Bytes::from(patch.to_string())).await.expect(200)
    };
    let changed = set(json!({ "accepts_requests_from": "nobody", "discreet": true })).await;
    assert_eq!(
        changed,
        json!({ "accepts_requests_from": "nobody", "discoverable_by_email": false, "discreet": true })
    );
    assert_eq!(ben.get(SETTINGS).await.expect(200), changed);
    let body = json!({ "to": { "user_id": ben.id } });
    ada.post(REQUESTS, body.clone()).await.expect_problem(403, "requests_not_accepted");
    set(json!({ "accepts_requests_from": "invited" })).await;
    ada.post(REQUESTS, body.clone()).await.expect_problem(403, "requests_not_accepted");
    ben.partners().ask(&ada).await;
    assert_eq!(ada.post(REQUESTS, body).await.expect(201)["status"], "accepted");
    for bad in
        [json!({ "accepts_requests_from": "friends" }), json!({ "discreet": null }), json!({ "other": 1 })]
    {
        ben.send(Method::PATCH, SETTINGS, Bytes::from(bad.to_string())).await.expect_faults();
    }
}

async fn message_is_reported_once(app: &TestApp) {
    let (ada, ben, eve) = (app.user("ada").await, app.user("ben").await, app.user("eve").await);
    let silent = eve.partners().ask(&ben).await;
    let body = json!({ "to": { "user_id": ben.id }, "message": "You will regret this." });
    let request = ada.post(REQUESTS, body).await.expect(201);
    let report = json!({ "reason": "harassment", "note": "The third one." });
    ben.post(&path(&silent, "report"), report.clone()).await.expect_problem(409, "nothing_to_report");
    ada.post(&path(&request, "report"), report.clone()).await.expect_problem(403, "forbidden");
    eve.post(&path(&request, "report"), report.clone()).await.expect_problem(404, "not_found");
    let made = ben.post(&path(&request, "report"), report.clone()).await.expect(201);
    assert_eq!(made["created_at"], json!(app.now()));
    let before = app.footprint().await;
    assert_eq!(ben.post(&path(&request, "report"), json!({ "reason": "spam" })).await.expect(200), made);
    assert_eq!(app.footprint().await, before);
    let kept = app.db().read(|q| {
        q.one("SELECT message, reason, note FROM request_reports", &[], |row| {
            Ok::<(String, String, String), kith_store::Error>((row.get(0)?, row.get(1)?, row.get(2)?))
        })
    });
    let expected = ("You will regret this.", "harassment", "The third one.");
    let (message, reason, note) = kept.await.expect("a read").expect("a report");
    assert_eq!((&*message, &*reason, &*note), expected);
}
