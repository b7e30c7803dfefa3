//! Tests of jobs over HTTP: enqueuing, uniqueness, dependencies, cancellation and lists.

use std::time::Duration;

use hyper::Method;
use kith_jobs::{MaintenanceState, Retention};
use kith_kernel::{minutes, seconds};
use serde_json::{Value, json};

use crate::support::{Client, TestApp, on_every_engine};

const JOBS: &str = "/api/v1/jobs";
const ALL: &[&str] = &["jobs.read", "jobs.write", "jobs.work", "queues.write"];

/// Interval at which a busy queue is polled for due jobs.
pub const DUE_POLL_INTERVAL: Duration = Duration::from_millis(100);

on_every_engine! {
    dead_letters_are_redriven_and_discarded_in_bulk,
    jobs_run_by_priority_when_due,
    unique_job_is_enqueued_once,
    parent_runs_after_children_with_results,
    failed_child_fails_parent_by_default,
    job_kind_declares_schema_and_defaults,
    cancel_removes_waiting_and_signals_running_job,
    batch_enqueue_is_atomic,
    each_field_error_is_reported,
    jobs_are_listed_by_state,
}

/// Returns a client with all job scopes.
pub async fn program(app: &TestApp) -> Client {
    let admin = app.admin("admin").await;
    app.api_key(&admin, ALL).await.client
}

/// Enqueues a job and returns its id.
pub async fn enqueue(client: &Client, body: Value) -> i64 {
    client.post(JOBS, body).await.expect(201)["id"].as_i64().expect("an id")
}

/// Claims jobs of a queue and returns them.
pub async fn claim(client: &Client, queue: &str, body: Value) -> Vec<Value> {
    let claimed = client.post(&format!("/api/v1/queues/{queue}/claim"), body).await.expect(200);
    claimed["jobs"].as_array().expect("jobs").clone()
}

/// Sends a report about an attempt. `word` is the last part of the path, such as `complete` or `fail`.
pub async fn report(client: &Client, id: i64, word: &str, body: Value) -> crate::support::TestResponse {
    client.post(&format!("{JOBS}/{id}/{word}"), body).await
}

pub async fn show(client: &Client, id: i64) -> Value {
    client.get(&format!("{JOBS}/{id}")).await.expect(200)
}

pub fn ids(jobs: &[Value]) -> Vec<i64> {
    jobs.iter().map(|job| job["id"].as_i64().expect("an id")).collect()
}

/// Runs the maintenance of the job engine, which returns jobs with expired leases to their queues.
pub async fn run_maintenance(app: &TestApp) {
    app.parts()
        .jobs
        .run_maintenance(&mut MaintenanceState::default(), Retention::DEFAULT)
        .await
        .expect("maintenance");
}

async fn dead_letters_are_redriven_and_discarded_in_bulk(app: &TestApp) {
    let client = program(app).await;
    let die = async |queue: &str, kind: &str| {
        let id = enqueue(&client, json!({ "kind": kind, "queue": queue })).await;
        let token = claim(&client, queue, json!({})).await[0]["lease_token"].clone();
        let body = json!({ "lease_token": token, "error": "no", "action": "discard" });
        report(&client, id, "fail", body).await.expect(200);
        id
    };
    let (a, b, c) = (die("mail", "send").await, die("mail", "sort").await, die("post", "send").await);
    let dead = async || {
        let page = client.get(&format!("{JOBS}?state=dead")).await.expect(200);
        let mut dead = ids(page["items"].as_array().expect("items"));
        dead.sort_unstable();
        dead
    };
    assert_eq!(dead().await, [a, b, c]);
    let bulk = async |what: &str, body: Value| client.post(&format!("{JOBS}/{what}"), body).await.expect(200);
    let redriven = bulk("redrive", json!({ "queue": "mail", "kind": "send" })).await;
    assert_eq!(redriven, json!({ "jobs": 1, "more": false }));
    assert_eq!(dead().await, [b, c]);
    app.advance(DUE_POLL_INTERVAL);
    assert_eq!(ids(&claim(&client, "mail", json!({})).await), [a], "the redriven job keeps its id");
    assert_eq!(bulk("discard", json!({ "queue": "post" })).await["jobs"], 1);
    client.get(&format!("{JOBS}/{c}")).await.expect_problem(404, "not_found");
    let footprint = app.footprint().await;
    assert_eq!(bulk("discard", json!({ "queue": "post" })).await["jobs"], 0);
    assert_eq!(app.footprint().await, footprint);
    let revived = report(&client, b, "retry", Value::Null).await.expect(200);
    assert_eq!(revived, json!({ "id": b, "outcome": "redriven" }));
    app.advance(DUE_POLL_INTERVAL);
    assert_eq!(ids(&claim(&client, "mail", json!({})).await), [b]);
    report(&client, b, "retry", Value::Null).await.expect_problem(409, "job_not_retryable");
}

async fn jobs_run_by_priority_when_due(app: &TestApp) {
    let client = program(app).await;
    let late = enqueue(&client, json!({ "kind": "a", "delay_ms": 60_000 })).await;
    let at = enqueue(&client, json!({ "kind": "a", "run_at": app.now() + seconds(30) })).await;
    let last = enqueue(&client, json!({ "kind": "a", "priority": 9 })).await;
    let usual = enqueue(&client, json!({ "kind": "a" })).await;
    let first = enqueue(&client, json!({ "kind": "a", "priority": 0 })).await;
    let all = json!({ "limit": 10 });
    assert_eq!(ids(&claim(&client, "default", all.clone()).await), [first, usual, last]);
    app.advance(seconds(30));
    assert_eq!(ids(&claim(&client, "default", all.clone()).await), [at]);
    let hurried = report(&client, late, "retry", Value::Null).await.expect(200);
    assert_eq!(hurried, json!({ "id": late, "outcome": "run_now" }));
    assert_eq!(ids(&claim(&client, "default", all).await), [late]);
}

async fn unique_job_is_enqueued_once(app: &TestApp) {
    let client = program(app).await;
    let put = async |unique: Value, payload: i64, delay_ms: i64| {
        let body = json!({ "kind": "sync", "unique": unique, "payload": payload, "delay_ms": delay_ms });
        client.post(JOBS, body).await.expect(201)
    };
    let one = put(json!({ "key": "keep" }), 1, 0).await;
    let two = put(json!({ "key": "keep" }), 2, 0).await;
    assert_eq!((&two["id"], &two["existing"]), (&one["id"], &json!(true)));
    assert_eq!(show(&client, one["id"].as_i64().expect("an id")).await["payload"], 1);

    let one = put(json!({ "key": "replace", "on_conflict": "replace" }), 1, 60_000).await;
    let two = put(json!({ "key": "replace", "on_conflict": "replace" }), 2, 60_000).await;
    assert_eq!(two["id"], one["id"]);
    assert_eq!(show(&client, one["id"].as_i64().expect("an id")).await["payload"], 2);

    let debounced = json!({ "key": "debounce", "on_conflict": "debounce" });
    let one = put(debounced.clone(), 1, 10_000).await["id"].as_i64().expect("an id");
    app.advance(seconds(9));
    put(debounced, 2, 10_000).await;
    let shown = show(&client, one).await;
    assert_eq!((&shown["run_at"], &shown["payload"]), (&json!(app.now() + seconds(10)), &json!(2)));

    let by_arguments = put(json!({}), 7, 0).await;
    assert_eq!(put(json!({}), 7, 0).await["id"], by_arguments["id"]);
    assert_eq!(put(json!({}), 8, 0).await["existing"], false);

    let throttled = json!({ "key": "throttle", "on_conflict": "throttle", "period_ms": 60_000 });
    let id = put(throttled.clone(), 1, 0).await["id"].as_i64().expect("an id");
    for job in claim(&client, "default", json!({ "limit": 100 })).await {
        let body = json!({ "lease_token": job["lease_token"] });
        report(&client, job["id"].as_i64().expect("an id"), "complete", body).await.expect(200);
    }
    assert_eq!(show(&client, id).await["state"], "completed");
    assert_eq!(
        put(throttled.clone(), 2, 0).await["existing"],
        true,
        "the key stays taken until its period ends"
    );
    app.advance(minutes(1));
    assert_eq!(put(throttled, 3, 0).await["existing"], false);
}

async fn parent_runs_after_children_with_results(app: &TestApp) {
    let client = program(app).await;
    let body = json!({
        "kind": "album", "queue": "flow",
        "children": [
            { "kind": "photo", "queue": "flow", "payload": 1 },
            { "kind": "photo", "queue": "flow", "payload": 2, "children": [{ "kind": "scan", "queue": "flow" }] },
        ],
    });
    let made = client.post(JOBS, body).await.expect(201);
    let (parent, children) =
        (made["id"].as_i64().expect("an id"), made["children"].as_array().expect("ids").clone());
    assert_eq!((children.len(), show(&client, parent).await["pending_dependencies"].as_i64()), (2, Some(2)));
    let mut order = Vec::new();
    loop {
        let claimed = claim(&client, "flow", json!({})).await;
        let Some(job) = claimed.first() else { break };
        let (id, kind) =
            (job["id"].as_i64().expect("an id"), job["kind"].as_str().expect("a kind").to_owned());
        if kind == "album" {
            let awaits = show(&client, id).await["dependencies"].clone();
            let results: Vec<_> =
                awaits.as_array().expect("awaited").iter().map(|one| one["result"].clone()).collect();
            assert_eq!(results, [json!({ "of": 1 }), json!({ "of": 2 })]);
        }
        let body = json!({ "lease_token": job["lease_token"], "result": { "of": job["payload"] } });
        report(&client, id, "complete", body).await.expect(200);
        order.push(kind);
    }
    assert_eq!(order, ["photo", "scan", "photo", "album"]);
    let later = enqueue(&client, json!({ "kind": "print", "after": [parent] })).await;
    assert_eq!(show(&client, later).await["state"], "ready", "a job whose dependency has finished is ready");
}

async fn failed_child_fails_parent_by_default(app: &TestApp) {
    let client = program(app).await;
    for (on_failure, runs) in [("die", 0), ("run", 1)] {
        let child = json!({ "kind": "part", "queue": on_failure });
        let body =
            json!({ "kind": "whole", "queue": on_failure, "on_failure": on_failure, "children": [child] });
        let parent = enqueue(&client, body).await;
        let job = claim(&client, on_failure, json!({})).await.remove(0);
        let body = json!({ "lease_token": job["lease_token"], "error": "no", "action": "discard" });
        report(&client, job["id"].as_i64().expect("an id"), "fail", body).await.expect(200);
        let shown = show(&client, parent).await;
        app.advance(DUE_POLL_INTERVAL);
        assert_eq!(shown["state"] == "dead", runs == 0, "{shown:#}");
        assert_eq!(claim(&client, on_failure, json!({})).await.len(), runs);
    }
}

async fn job_kind_declares_schema_and_defaults(app: &TestApp) {
    let client = program(app).await;
    let path = "/api/v1/job-kinds/mail.send".to_owned();
    let body = json!({
        "queue": "mail", "priority": 1, "timeout_ms": 5_000, "retry": { "max_attempts": 4 },
        "schema": { "type": "object", "required": ["to"], "properties": { "to": { "type": "string" } } },
    });
    let put = async |body: Value| client.send(Method::PUT, &path, body.to_string().into()).await;
    let declared = put(body.clone()).await.expect(200);
    assert_eq!(client.get(&path).await.expect(200), declared);
    assert_eq!(client.get("/api/v1/job-kinds").await.expect(200)["items"], json!([declared]));
    let footprint = app.footprint().await;
    app.advance(seconds(1));
    assert_eq!(put(body).await.expect(200), declared, "declaring the same again changes nothing");
    assert_eq!(app.footprint().await, footprint);

    let id = enqueue(&client, json!({ "kind": "mail.send", "payload": { "to": "ada" } })).await;
    let job = show(&client, id).await;
    assert_eq!(
        (&job["queue"], &job["priority"], &job["timeout_ms"]),
        (&json!("mail"), &json!(1), &json!(5_000))
    );
    assert_eq!(job["retry"], json!({ "max_attempts": 4, "base_ms": 10_000, "cap_ms": 10_800_000 }));
    let own = json!({ "kind": "mail.send", "payload": { "to": "ada" }, "queue": "bulk", "priority": 8 });
    let job = show(&client, enqueue(&client, own).await).await;
    assert_eq!((&job["queue"], &job["priority"]), (&json!("bulk"), &json!(8)));
    let faults =
        client.post(JOBS, json!({ "kind": "mail.send", "payload": { "to": 7 } })).await.expect_faults();
    assert_eq!(faults, [("/payload/to".to_owned(), "not_as_declared".to_owned())]);
    let many = json!({ "jobs": [{ "kind": "other" }, { "kind": "mail.send", "payload": {} }] });
    let faults = client.post(&format!("{JOBS}/bulk"), many).await.expect_faults();
    assert_eq!(faults, [("/jobs/1/payload".to_owned(), "not_as_declared".to_owned())]);
    let faults = put(json!({ "schema": { "$ref": "https://example.org/x" } })).await.expect_faults();
    assert_eq!(faults, [("/schema".to_owned(), "not_a_schema".to_owned())]);

    client.send(Method::DELETE, &path, Default::default()).await.expect(204);
    client.get(&path).await.expect_problem(404, "not_found");
    enqueue(&client, json!({ "kind": "mail.send", "payload": { "to": 7 } })).await;
}

async fn cancel_removes_waiting_and_signals_running_job(app: &TestApp) {
    let client = program(app).await;
    let waiting = enqueue(&client, json!({ "kind": "a", "delay_ms": 1_000 })).await;
    let cancelled = report(&client, waiting, "cancel", Value::Null).await.expect(200);
    assert_eq!(cancelled, json!({ "id": waiting, "outcome": "cancelled" }));
    assert_eq!(show(&client, waiting).await["state"], "cancelled");
    report(&client, waiting, "cancel", Value::Null).await.expect_problem(409, "job_ended");
    report(&client, 9_999_999, "cancel", Value::Null).await.expect_problem(404, "not_found");

    let running = enqueue(&client, json!({ "kind": "a" })).await;
    let claimed = claim(&client, "default", json!({})).await;
    assert_eq!(ids(&claimed), [running]);
    let token = &claimed[0]["lease_token"];
    assert_eq!(report(&client, running, "cancel", Value::Null).await.expect(200)["outcome"], "requested");
    let beat = report(&client, running, "heartbeat", json!({ "lease_token": token })).await.expect(200);
    assert_eq!(beat["cancel_requested"], true);
    let body = json!({ "lease_token": token, "action": "cancel" });
    let stopped = report(&client, running, "fail", body).await.expect(200);
    assert_eq!(stopped["state"], "cancelled");
    let reenqueued = report(&client, running, "retry", Value::Null).await.expect(200);
    assert_eq!(reenqueued["outcome"], "reenqueued");
    assert_ne!(reenqueued["id"], running);
}

async fn batch_enqueue_is_atomic(app: &TestApp) {
    let client = program(app).await;
    let bulk = format!("{JOBS}/bulk");
    let jobs: Vec<_> = (0..500).map(|n| json!({ "kind": "many", "payload": n })).collect();
    let made = client.post(&bulk, json!({ "jobs": jobs })).await.expect(201);
    let made: Vec<_> = made["jobs"].as_array().expect("jobs").iter().map(|one| one["id"].as_i64()).collect();
    let mut taken = Vec::new();
    while taken.len() < 500 {
        let claimed = claim(&client, "default", json!({ "limit": 100 })).await;
        assert!(!claimed.is_empty());
        taken.extend(
            claimed.iter().map(|job| (job["id"].as_i64(), job["payload"].as_i64().expect("a number"))),
        );
    }
    let expected: Vec<_> = made.into_iter().zip(0..500).collect();
    assert_eq!(taken, expected, "jobs are claimed exactly once and in order");
    let faulty = json!({ "jobs": [{ "kind": "many" }, { "kind": "no spaces" }] });
    let faults = client.post(&bulk, faulty).await.expect_faults();
    assert_eq!(faults, [("/jobs/1/kind".to_owned(), "invalid".to_owned())]);
    assert_eq!(claim(&client, "default", json!({})).await, [] as [Value; 0]);
}

async fn each_field_error_is_reported(app: &TestApp) {
    let client = program(app).await;
    let token = "0000000000000001";
    let id = enqueue(&client, json!({ "kind": "a" })).await;
    claim(&client, "default", json!({})).await;
    for (path, body, pointer) in [
        ("", json!({ "kind": "" }), "/kind"),
        ("", json!({ "kind": "a b" }), "/kind"),
        ("", json!({ "kind": "a", "queue": "ü" }), "/queue"),
        ("", json!({ "kind": "a", "priority": 10 }), "/priority"),
        ("", json!({ "kind": "a", "delay_ms": -1 }), "/delay_ms"),
        ("", json!({ "kind": "a", "delay_ms": 1, "run_at": "2026-01-01T00:00:00Z" }), "/delay_ms"),
        ("", json!({ "kind": "a", "retry": { "max_attempts": 0 } }), "/retry/max_attempts"),
        ("", json!({ "kind": "a", "unique": { "on_conflict": "throttle" } }), "/unique/period_ms"),
        ("", json!({ "kind": "a", "unique": { "key": "" } }), "/unique/key"),
        ("", json!({ "kind": "a", "after": [9_999_999] }), "/after"),
        (
            "",
            json!({ "kind": "a", "children": [{ "kind": "b", "children": [{ "kind": "" }] }] }),
            "/children/0/children/0/kind",
        ),
        ("", json!({ "kind": "a", "payload": "x".repeat(300_000) }), ""),
        ("/bulk", json!({ "jobs": [] }), "/jobs"),
        ("/bulk", json!({ "jobs": [{ "kind": "a", "children": [{ "kind": "b" }] }] }), "/jobs/0/children"),
        (&format!("/{id}/heartbeat"), json!({ "lease_token": token, "lease_ms": 1 }), "/lease_ms"),
        (
            &format!("/{id}/progress"),
            json!({ "lease_token": token, "progress": "x".repeat(20_000) }),
            "/progress",
        ),
        (&format!("/{id}/log"), json!({ "lease_token": token, "line": "" }), "/line"),
        (&format!("/{id}/fail"), json!({ "lease_token": token }), "/error"),
        (&format!("/{id}/fail"), json!({ "lease_token": token, "action": "snooze" }), "/wait_ms"),
        (&format!("/{id}/complete"), json!({ "lease_token": "1" }), "/lease_token"),
    ] {
        let response = client.post(&format!("{JOBS}{path}"), body.clone()).await;
        if pointer.is_empty() {
            response.expect_problem(413, "body_too_large");
            continue;
        }
        let faults = response.expect_faults();
        assert_eq!(faults.iter().map(|(at, _)| &**at).collect::<Vec<_>>(), [pointer], "{path} {body}");
    }
    for body in [
        json!({ "limit": 0 }),
        json!({ "limit": 101 }),
        json!({ "lease_ms": 1 }),
        json!({ "wait_ms": 30_001 }),
    ] {
        client.post("/api/v1/queues/default/claim", body).await.expect_faults();
    }
    assert_eq!(show(&client, id).await["attempt"], 1);
}

async fn jobs_are_listed_by_state(app: &TestApp) {
    let client = program(app).await;
    let mut made = Vec::new();
    for n in 0..5 {
        let kind = if n % 2 == 0 { "even" } else { "odd" };
        made.insert(0, enqueue(&client, json!({ "kind": kind, "payload": { "secret": n } })).await);
    }
    let list = async |query: &str| client.get(&format!("{JOBS}?{query}")).await.expect(200);
    let page = list("limit=3").await;
    let rest = list(&format!("limit=3&cursor={}", page["next_cursor"].as_str().expect("a cursor"))).await;
    let all = [&page, &rest].map(|page| page["items"].as_array().expect("items").clone()).concat();
    assert_eq!(ids(&all), made);
    assert!(!page.to_string().contains("secret"), "the list does not contain payloads");
    assert_eq!(ids(list("kind=odd").await["items"].as_array().expect("items")), [made[1], made[3]]);
    let claimed = claim(&client, "default", json!({ "limit": 2 })).await;
    let taken = ids(&claimed);
    let running = list("state=running").await;
    assert_eq!(ids(running["items"].as_array().expect("items")), [taken[1], taken[0]]);
    let body = json!({ "lease_token": claimed[0]["lease_token"] });
    report(&client, taken[0], "complete", body).await.expect(200);
    assert_eq!(
        ids(list("state=completed&queue=default").await["items"].as_array().expect("items")),
        [taken[0]]
    );
    assert_eq!(list("queue=nowhere").await["items"], json!([]));
}
