//! Tests of recurring callbacks, and of callbacks that wait for their time.

use kith_kernel::{days, hours, minutes, seconds};
use serde_json::{Value, json};

use crate::callbacks::{CALLBACKS, drain, id, look, make, signature};
use crate::support::{Receiver, Reply, TestApp, on_every_engine};

const RECURRING: &str = "/api/v1/recurring-callbacks";

on_every_engine! {
    with crate::callbacks::allow_loopback;
    recurring_callback_creates_callback_per_run,
    scheduled_callback_waits_until_due,
}

async fn recurring_callback_creates_callback_per_run(app: &TestApp) {
    let admin = app.admin("ada").await;
    let receiver = Receiver::start(Reply::status(200)).await;
    let request =
        json!({ "url": receiver.url("/tick"), "headers": { "x-own": "planted-secret" }, "body": { "n": 1 } });
    // The clock is at 1:00 in Berlin, in winter.
    let body = json!({ "request": request, "schedule": "30 9 * * *", "time_zone": "europe/berlin" });
    let made = admin.post(RECURRING, body).await.expect(201);
    assert_eq!((&made["time_zone"], &made["paused"]), (&json!("Europe/Berlin"), &json!(false)));
    let first = app.now() + hours(8) + minutes(30);
    assert_eq!(made["next"][0], json!(first));
    assert_eq!(made["next"][4], json!(first + days(4)));
    assert!(app.rows_with(&["planted-secret"]).await.is_empty(), "headers are not stored in plain text");

    app.advance(hours(8));
    drain(app).await;
    assert_eq!(receiver.count(), 0);
    app.advance(minutes(30));
    for day in 1..=3 {
        drain(app).await;
        assert_eq!(receiver.count(), day, "all nodes together make one attempt a day");
        app.advance(days(1));
    }
    let arrived = receiver.arrived();
    assert_eq!((&*arrived[2].line, arrived[2].header("x-own")), ("POST /tick HTTP/1.1", "planted-secret"));
    assert_ne!(arrived[0].header("webhook-id"), arrived[1].header("webhook-id"));
    assert_eq!(arrived[1].header("webhook-signature"), signature(&made["secret"], &arrived[1]));
    let path = format!("{RECURRING}/{}", id(&made));
    let shown = admin.get(&path).await.expect(200);
    assert_eq!(shown["last_run_at"], json!(first + days(2)));
    let of_it = admin.get(&format!("{CALLBACKS}?recurring_id={}", id(&made))).await.expect(200);
    assert_eq!(of_it["items"].as_array().map(Vec::len), Some(3));
    assert!(of_it["items"].as_array().expect("items").iter().all(|one| one["recurring_id"] == made["id"]));

    assert_eq!(admin.get(RECURRING).await.expect(200)["items"][0]["id"], made["id"]);
    admin.delete(&path, Value::Null).await.expect(204);
    admin.get(&path).await.expect_problem(404, "not_found");
    app.advance(days(2));
    drain(app).await;
    assert_eq!(receiver.count(), 3);

    for (body, pointer, code) in [
        (json!({ "request": {}, "schedule": "@daily" }), "/request/url", "not_exactly_one"),
        (
            json!({ "request": { "url": "http://10.0.0.1/" }, "schedule": "@daily" }),
            "/request/url",
            "internal_address",
        ),
        (
            json!({ "request": { "url": receiver.url("/"), "run_at": app.now() }, "schedule": "@daily" }),
            "/request/run_at",
            "not_here",
        ),
        (
            json!({ "request": { "url": receiver.url("/") }, "schedule": "61 * * * *" }),
            "/schedule",
            "not_a_schedule",
        ),
        (
            json!({ "request": { "url": receiver.url("/") }, "schedule": "0 0 1 1 * * 2020" }),
            "/schedule",
            "no_run",
        ),
        (
            json!({ "request": { "url": receiver.url("/") }, "schedule": "@daily", "time_zone": "Mars" }),
            "/time_zone",
            "not_a_time_zone",
        ),
    ] {
        let problem = admin.post(RECURRING, body.clone()).await.expect_problem(422, "validation_failed");
        let found = (&problem["errors"][0]["pointer"], &problem["errors"][0]["code"]);
        assert_eq!(found, (&json!(pointer), &json!(code)), "{body}");
    }
}

async fn scheduled_callback_waits_until_due(app: &TestApp) {
    let admin = app.admin("ada").await;
    let receiver = Receiver::start(Reply::status(204)).await;
    let at = app.now() + days(30);
    let made =
        make(&admin, json!({ "url": receiver.url("/"), "text": "grüß", "method": "PUT", "run_at": at }))
            .await;
    assert_eq!(made["due_at"], json!(at));
    app.advance(days(30) - seconds(1));
    drain(app).await;
    assert_eq!(receiver.count(), 0);
    app.advance(seconds(1));
    drain(app).await;
    let arrived = &receiver.arrived()[0];
    assert_eq!((&*arrived.line, &*arrived.body), ("PUT / HTTP/1.1", "grüß"));
    assert_eq!(arrived.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(look(&admin, &made).await["state"], "delivered");
}
