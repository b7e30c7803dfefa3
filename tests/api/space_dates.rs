//! Tests of dates in spaces and of reminders, which are emitted once.

use hyper::Method;
use hyper::body::Bytes;
use kith_kernel::{days, hours, minutes};
use serde_json::{Value, json};

use crate::support::{PASSWORD, TestApp, item, on_every_engine};

const MINE: &str = "/api/v1/spaces/me/dates";
const OURS: &str = "/api/v1/spaces/bond/dates";

on_every_engine! {
    date_is_stored_completely,
    reminder_is_emitted_once_to_both,
    recurring_date_emits_each_reminder,
    date_change_updates_reminders,
    frozen_space_emits_no_reminders,
}

/// Returns the emitted reminders in order: minutes before the date, and number of recipients.
async fn emitted_reminders(app: &TestApp) -> Vec<(i64, usize)> {
    let events = app.events().await.into_iter().map(|sequenced| sequenced.event);
    let due = events.filter(|event| event.kind == "space_reminder.due");
    let reminders = due.map(|event| {
        let payload: Value = serde_json::from_str(&event.payload).expect("JSON");
        (payload["minutes_before"].as_i64().expect("minutes"), event.recipients.len())
    });
    reminders.collect()
}

/// Runs maintenance on every node at the same time.
async fn run_maintenance(app: &TestApp) {
    tokio::join!(app.run_maintenance(), app.run_maintenance());
}

async fn date_is_stored_completely(app: &TestApp) {
    let ada = app.user("ada").await;
    let made = ada.post(MINE, json!({ "data": { "title": " Us ", "date": "2026-02-14" } })).await.expect(201);
    let usual = json!({ "title": "Us", "date": "2026-02-14", "time": null, "time_zone": "UTC", "repeat": "none",
                        "remind_minutes_before": [] });
    assert_eq!(made["data"], usual);
    let profile = json!({ "time_zone": "Europe/Vienna" });
    ada.send(Method::PATCH, "/api/v1/me", Bytes::from(profile.to_string())).await.expect(200);
    let made = ada.post(MINE, json!({ "data": { "title": "x", "date": "2026-02-14" } })).await.expect(201);
    assert_eq!(made["data"]["time_zone"], "Europe/Vienna");
    let patch = json!({ "data": { "time": "18:30", "remind_minutes_before": [60, 60, 0] } });
    let path = format!("{MINE}/{}", made["id"].as_str().expect("an id"));
    let patched = ada.send(Method::PATCH, &path, Bytes::from(patch.to_string())).await.expect(200);
    assert_eq!(patched["data"]["remind_minutes_before"], json!([0, 60]));
    for (field, value, code) in [
        ("date", json!("2026-02-30"), "not_a_date"),
        ("time", json!("25:00"), "not_a_time"),
        ("time_zone", json!("Mars/Base"), "not_a_time_zone"),
        ("repeat", json!("daily"), "invalid"),
        ("remind_minutes_before", json!([1, 2, 3, 4, 5, 6]), "invalid"),
        ("title", json!(5), "wrong_type"),
        ("place", json!("Rome"), "unknown_field"),
    ] {
        let mut data = json!({ "title": "x", "date": "2026-02-14" });
        data[field] = value;
        let faults = ada.post(MINE, json!({ "data": data })).await.expect_faults();
        assert_eq!(faults, [(format!("/data/{field}"), code.to_owned())]);
    }
    item(&ada, MINE, json!({ "title": "y", "date": "2026-01-01" })).await;
    let listed = ada.get(&format!("{MINE}?order=date&limit=1")).await.expect(200);
    assert_eq!(listed["items"][0]["data"]["title"], "y");
}

/// A reminder is emitted when it is due, exact to the millisecond. Scenarios start at 2026-01-01.
async fn reminder_is_emitted_once_to_both(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    ada.partners().bond_with(&ben).await;
    let date = json!({ "title": "x", "date": "2026-01-01", "time": "12:00", "remind_minutes_before": [0, 60, 2000] });
    item(&ada, OURS, date.clone()).await;
    item(&ben, MINE, date).await;
    app.advance(hours(11) - std::time::Duration::from_millis(1));
    run_maintenance(app).await;
    assert_eq!(
        emitted_reminders(app).await,
        [],
        "reminders in the past when the item was written are not due"
    );
    app.advance(std::time::Duration::from_millis(1));
    run_maintenance(app).await;
    let mut at_eleven = emitted_reminders(app).await;
    at_eleven.sort_unstable();
    assert_eq!(at_eleven, [(60, 1), (60, 2)]);
    run_maintenance(app).await;
    assert_eq!(emitted_reminders(app).await.len(), 2);
    app.advance(days(100));
    run_maintenance(app).await;
    assert_eq!(emitted_reminders(app).await.len(), 4);
    assert_eq!(app.count("space_reminders", "space <> $1", "").await, 0);
}

async fn recurring_date_emits_each_reminder(app: &TestApp) {
    let ada = app.user("ada").await;
    for n in 0..120 {
        let date = json!({ "title": n.to_string(), "date": "2025-01-02", "repeat": "weekly", "remind_minutes_before": [60] });
        item(&ada, MINE, date).await;
    }
    // January 1st, 2026 is a Thursday.
    app.advance(days(7));
    run_maintenance(app).await;
    assert_eq!(
        emitted_reminders(app).await.len(),
        120,
        "each reminder is emitted once, over several batches"
    );
    app.advance(days(28));
    run_maintenance(app).await;
    assert_eq!(emitted_reminders(app).await.len(), 240, "each missed reminder is emitted once");
    run_maintenance(app).await;
    assert_eq!(emitted_reminders(app).await.len(), 240);
    assert_eq!(app.count("space_reminders", "space <> $1", "").await, 120);
}

async fn date_change_updates_reminders(app: &TestApp) {
    let ada = app.user("ada").await;
    let date = |day: &str, title: &str| json!({ "title": title, "date": day, "remind_minutes_before": [0] });
    let path = item(&ada, MINE, date("2026-01-02", "x")).await;
    ada.put(&path, json!({ "data": date("2026-01-03", "x") })).await.expect(200);
    app.advance(days(1));
    run_maintenance(app).await;
    assert_eq!(emitted_reminders(app).await, []);
    // The reminder is due but not emitted yet. Changing the title must not discard it.
    app.advance(days(1) + minutes(1));
    ada.put(&path, json!({ "data": date("2026-01-03", "y") })).await.expect(200);
    run_maintenance(app).await;
    assert_eq!(emitted_reminders(app).await, [(0, 1)]);
    ada.put(&path, json!({ "data": date("2026-01-05", "y") })).await.expect(200);
    ada.delete(&path, Value::Null).await.expect(204);
    app.advance(days(5));
    run_maintenance(app).await;
    assert_eq!(emitted_reminders(app).await.len(), 1);
}

async fn frozen_space_emits_no_reminders(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    ada.partners().bond_with(&ben).await;
    let date =
        json!({ "title": "x", "date": "2026-01-02", "repeat": "weekly", "remind_minutes_before": [0] });
    item(&ada, OURS, date.clone()).await;
    item(&ada, MINE, date).await;
    ada.partners().break_up().await;
    ada.delete("/api/v1/me", json!({ "password": PASSWORD })).await.expect(202);
    app.advance(days(2));
    run_maintenance(app).await;
    assert_eq!(emitted_reminders(app).await, []);
    let credentials = json!({ "email": ada.email, "password": PASSWORD });
    app.anonymous().post("/api/v1/auth/restore", credentials).await.expect(200);
    ada.partners().bond_with(&ben).await;
    run_maintenance(app).await;
    assert_eq!(emitted_reminders(app).await, [], "no reminder is emitted for the new bond");
    app.advance(days(7));
    run_maintenance(app).await;
    let mut both = emitted_reminders(app).await;
    both.sort_unstable();
    assert_eq!(both, [(0, 1), (0, 2)], "repeating dates continue");
}
