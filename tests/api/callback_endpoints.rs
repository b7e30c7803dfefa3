//! Tests of callback endpoints: disabling after failures, the circuit breaker, and rotation of secrets.

use kith_kernel::{days, hours, minutes, seconds};
use serde_json::{Value, json};

use crate::callbacks::{CALLBACKS, ENDPOINTS, drain, endpoint, id, look, make, signature};
use crate::support::{Receiver, Reply, TestApp, on_every_engine};

on_every_engine! {
    with crate::callbacks::allow_loopback;
    status_410_disables_endpoint,
    endpoint_is_disabled_after_five_failing_days,
    open_circuit_breaker_closes_after_successful_probe,
    endpoint_secret_is_shown_once_and_rotated_with_overlap,
}

async fn status_410_disables_endpoint(app: &TestApp) {
    let admin = app.admin("ada").await;
    let receiver = Receiver::start(Reply::status(410)).await;
    let made = make(&admin, json!({ "url": receiver.url("/") })).await;
    let waiting = make(&admin, json!({ "url": receiver.url("/"), "run_at": app.now() + hours(1) })).await;
    assert_eq!(waiting["secret"], Value::Null, "the secret is returned only once");
    drain(app).await;
    let shown = look(&admin, &made).await;
    assert_eq!((&shown["state"], &shown["reason"]), (&json!("failed"), &json!("gone")));
    let state = endpoint(&admin, &made).await;
    assert_eq!((&state["disabled_reason"], &state["disabled_at"]), (&json!("gone"), &json!(app.now())));

    // Administrators are notified.
    let events = app.events().await;
    let disabled =
        events.iter().find(|one| one.event.kind == "callback_endpoint.disabled").expect("an event");
    assert!(disabled.event.recipients.iter().any(|user| user.to_string() == admin.id));
    assert!(disabled.event.payload.contains("gone"));
    assert!(app.audit().await.iter().any(|entry| entry.action == "callback_endpoint.disabled"));

    admin.post(CALLBACKS, json!({ "url": receiver.url("/") })).await.expect_problem(409, "endpoint_disabled");
    let path = format!("{ENDPOINTS}/{}", id(&state));
    let retry = format!("{CALLBACKS}/{}/retry", id(&made));
    admin.post(&format!("{path}/ping"), Value::Null).await.expect_problem(409, "endpoint_disabled");
    admin.post(&retry, Value::Null).await.expect_problem(409, "endpoint_disabled");
    app.advance(hours(1));
    drain(app).await;
    let dead = look(&admin, &waiting).await;
    assert_eq!((&dead["state"], &dead["reason"]), (&json!("failed"), &json!("endpoint_disabled")));
    assert_eq!(receiver.count(), 1, "no further attempt is made");

    receiver.replies(Reply::status(200));
    let enabled = admin.post(&format!("{path}/enable"), Value::Null).await.expect(200);
    assert_eq!((&enabled["disabled_at"], &enabled["breaker"]), (&Value::Null, &json!("closed")));
    let ping = admin.post(&format!("{path}/ping"), Value::Null).await.expect(201);
    admin.post(&retry, Value::Null).await.expect(200);
    drain(app).await;
    assert_eq!(look(&admin, &made).await["state"], "delivered");
    assert_eq!(look(&admin, &ping).await["state"], "delivered");
    let pinged: Value = serde_json::from_str(&receiver.arrived()[1].body).expect("JSON");
    assert_eq!((&pinged["type"], &pinged["data"]["endpoint_id"]), (&json!("ping"), &state["id"]));
}

async fn endpoint_is_disabled_after_five_failing_days(app: &TestApp) {
    let admin = app.admin("ada").await;
    let receiver = Receiver::start(Reply::status(404)).await;
    let url = receiver.url("/");
    let made = make(&admin, json!({ "url": url })).await;
    drain(app).await;
    let since = app.now();
    for _ in 0..4 {
        app.advance(days(1));
        make(&admin, json!({ "url": url })).await;
        drain(app).await;
    }
    app.advance(days(1) - seconds(1));
    make(&admin, json!({ "url": url })).await;
    drain(app).await;
    let state = endpoint(&admin, &made).await;
    assert_eq!((&state["failing_since"], &state["disabled_at"]), (&json!(since), &Value::Null));

    // A success resets the failure count.
    receiver.replies(Reply::status(200));
    app.advance(hours(1));
    make(&admin, json!({ "url": url })).await;
    drain(app).await;
    assert_eq!(endpoint(&admin, &made).await["failing_since"], Value::Null);

    receiver.replies(Reply::status(404));
    let mut last = Value::Null;
    for _ in 0..6 {
        assert_eq!(endpoint(&admin, &made).await["disabled_at"], Value::Null);
        last = make(&admin, json!({ "url": url })).await;
        drain(app).await;
        app.advance(days(1));
    }
    let state = endpoint(&admin, &made).await;
    assert_eq!(state["disabled_reason"], "failing", "{state}");
    let events = app.events().await.into_iter().filter(|one| one.event.kind == "callback_endpoint.disabled");
    assert_eq!(events.count(), 1);
    drain(app).await;
    let shown = look(&admin, &last).await;
    assert_eq!((&shown["state"], &shown["reason"]), (&json!("failed"), &json!("endpoint_disabled")));
}

async fn open_circuit_breaker_closes_after_successful_probe(app: &TestApp) {
    let admin = app.admin("ada").await;
    let receiver = Receiver::start(Reply::status(500)).await;
    let mut made = Vec::new();
    for _ in 0..8 {
        made.push(make(&admin, json!({ "url": receiver.url("/") })).await);
    }
    drain(app).await;
    assert_eq!(receiver.count(), 5, "five consecutive failures open the breaker on any nodes");
    let state = endpoint(&admin, &made[0]).await;
    let until = app.now() + seconds(30);
    assert_eq!((&state["breaker"], &state["next_request_at"]), (&json!("open"), &json!(until)));
    let kept_back = look(&admin, &made[7]).await;
    assert_eq!((&kept_back["attempts_made"], &kept_back["next_attempt_at"]), (&json!(0), &json!(until)));

    app.advance(seconds(29));
    drain(app).await;
    assert_eq!(receiver.count(), 5);
    app.advance(seconds(1));
    assert_eq!(endpoint(&admin, &made[0]).await["breaker"], "half_open");
    drain(app).await;
    assert_eq!(receiver.count(), 6, "exactly one probe is sent");
    let state = endpoint(&admin, &made[0]).await;
    assert_eq!(
        (&state["breaker"], &state["next_request_at"]),
        (&json!("open"), &json!(app.now() + minutes(1)))
    );

    receiver.replies(Reply::status(200));
    app.advance(minutes(1));
    drain(app).await;
    assert_eq!(endpoint(&admin, &made[0]).await["breaker"], "closed");
    // Callbacks that wait for the result of the probe are retried, at the latest, when the probe times out.
    app.advance(minutes(6));
    drain(app).await;
    for one in &made {
        assert_eq!(look(&admin, one).await["state"], "delivered");
    }
}

async fn endpoint_secret_is_shown_once_and_rotated_with_overlap(app: &TestApp) {
    let admin = app.admin("ada").await;
    let receiver = Receiver::start(Reply::status(200)).await;
    let url = receiver.url("/hook");
    let made = admin.post(ENDPOINTS, json!({ "url": format!("{url}?a=b") })).await.expect(201);
    assert_eq!(made["url"], json!(url), "the endpoint URL has no query");
    assert!(made["secret"].as_str().is_some_and(|secret| secret.starts_with("whsec_")));
    let again = admin.post(ENDPOINTS, json!({ "url": url })).await.expect(201);
    assert_eq!((&again["id"], &again["secret"]), (&made["id"], &Value::Null));
    let path = format!("{ENDPOINTS}/{}", id(&made));
    let shown = admin.get(&path).await.expect(200);
    assert_eq!(shown["secret"], Value::Null);
    let list = admin.get(ENDPOINTS).await.expect(200);
    assert_eq!((&list["items"][0]["id"], &list["items"][0]["secret"]), (&made["id"], &Value::Null));

    let send = async || {
        make(&admin, json!({ "endpoint_id": made["id"], "body": 1 })).await;
        drain(app).await;
        receiver.arrived().pop().expect("a request")
    };
    let arrived = send().await;
    assert_eq!(arrived.header("webhook-signature"), signature(&made["secret"], &arrived));

    let rotate = format!("{path}/rotate-secret");
    let rotated = admin.post(&rotate, json!({ "overlap_hours": 2 })).await.expect(200);
    assert_eq!(rotated["previous_secret_until"], json!(app.now() + hours(2)));
    assert_ne!(rotated["secret"], made["secret"]);
    app.advance(hours(2) - seconds(1));
    let arrived = send().await;
    let both =
        format!("{} {}", signature(&rotated["secret"], &arrived), signature(&made["secret"], &arrived));
    assert_eq!(arrived.header("webhook-signature"), both);
    app.advance(seconds(1));
    let arrived = send().await;
    assert_eq!(arrived.header("webhook-signature"), signature(&rotated["secret"], &arrived));
    assert_eq!(admin.get(&path).await.expect(200)["previous_secret_until"], Value::Null);

    let at_once = admin.post(&rotate, json!({ "overlap_hours": 0 })).await.expect(200);
    let arrived = send().await;
    assert_eq!(arrived.header("webhook-signature"), signature(&at_once["secret"], &arrived));
    admin.post(&rotate, json!({ "overlap_hours": 337 })).await.expect_problem(422, "validation_failed");
    let unknown = format!("{ENDPOINTS}/01900000-0000-7000-8000-000000000000");
    admin.post(&format!("{unknown}/rotate-secret"), json!({})).await.expect_problem(404, "not_found");
    admin.get(&unknown).await.expect_problem(404, "not_found");
}
