//! Tests of queues over HTTP: listing, pausing, limits, draining, and event streams of jobs.

use std::time::Duration;

use hyper::Method;
use kith_kernel::seconds;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::jobs::{claim, enqueue, program};
use crate::support::{Client, Engine, TestApp, on_every_engine};

const JOBS: &str = "/api/v1/jobs";
/// Timeout that is reached only on failure.
const MAX_WAIT: Duration = Duration::from_secs(20);

on_every_engine! {
    paused_queue_starts_no_jobs,
    queue_limits_are_enforced,
    drain_cancels_waiting_jobs,
    queues_are_listed_with_counts,
    job_event_stream_reports_progress_and_end,
}

async fn put(client: &Client, path: &str, body: Value) -> Value {
    client.send(Method::PUT, path, body.to_string().into()).await.expect(200)
}

/// Proves the readiness requirement JOB-06.
async fn paused_queue_starts_no_jobs(app: &TestApp) {
    let client = program(app).await;
    enqueue(&client, json!({ "kind": "a", "queue": "q" })).await;
    let pause =
        async |what: &str| client.post(&format!("/api/v1/queues/q/{what}"), Value::Null).await.expect(200);
    assert_eq!(pause("pause").await["paused"], true);
    for _ in 0..app.node_count() {
        assert_eq!(claim(&client, "q", json!({})).await.len(), 0);
    }
    let footprint = app.footprint().await;
    pause("pause").await;
    assert_eq!(app.footprint().await, footprint, "pausing a paused queue changes nothing");
    assert_eq!(pause("resume").await["paused"], false);
    assert_eq!(claim(&client, "q", json!({})).await.len(), 1);
    let actions: Vec<_> = app.audit().await.into_iter().filter(|line| line.object == "q").collect();
    let actions: Vec<_> =
        actions.iter().map(|line| (&*line.action, line.actor.starts_with("api_key:"))).collect();
    assert_eq!(actions, [("queue.paused", true), ("queue.resumed", true)]);
}

/// JOB-06: the limits of a queue apply across all nodes.
async fn queue_limits_are_enforced(app: &TestApp) {
    let client = program(app).await;
    for n in 0..6 {
        enqueue(&client, json!({ "kind": "a", "queue": "q", "limit_key": format!("k{}", n % 2) })).await;
    }
    let ten = json!({ "limit": 10 });
    let set = put(&client, "/api/v1/queues/q", json!({ "concurrency": 2 })).await;
    assert_eq!((&set["concurrency"], &set["rate"]), (&json!(2), &Value::Null));
    let running = claim(&client, "q", ten.clone()).await;
    assert_eq!((running.len(), claim(&client, "q", ten.clone()).await.len()), (2, 0));
    let done = format!("{JOBS}/{}/complete", running[0]["id"]);
    client.post(&done, json!({ "lease_token": running[0]["lease_token"] })).await.expect(200);
    assert_eq!(claim(&client, "q", ten.clone()).await.len(), 1);

    put(&client, "/api/v1/queues/q", json!({ "rate": { "limit": 1, "period_ms": 60_000 } })).await;
    assert_eq!(claim(&client, "q", ten.clone()).await.len(), 1);
    assert_eq!(claim(&client, "q", ten.clone()).await.len(), 0);
    app.advance(seconds(60));
    assert_eq!(claim(&client, "q", ten.clone()).await.len(), 1);
    put(&client, "/api/v1/queues/q", json!({})).await;
    assert_eq!(claim(&client, "q", ten.clone()).await.len(), 1);
    for (key, _) in ["a", "a", "b"].into_iter().zip(0..) {
        enqueue(&client, json!({ "kind": "a", "queue": "keys", "limit_key": key })).await;
    }
    put(&client, "/api/v1/queues/keys", json!({ "key_concurrency": 1 })).await;
    assert_eq!(claim(&client, "keys", ten.clone()).await.len(), 2, "one job of each key is claimed");
    assert_eq!(claim(&client, "keys", ten).await.len(), 0);
    let faults =
        client.send(Method::PUT, "/api/v1/queues/q", json!({ "concurrency": 0 }).to_string().into()).await;
    assert_eq!(faults.expect_faults(), [("/concurrency".to_owned(), "invalid".to_owned())]);
    client.get("/api/v1/queues/no~queue").await.expect_problem(404, "not_found");
}

async fn drain_cancels_waiting_jobs(app: &TestApp) {
    let client = program(app).await;
    let running = enqueue(&client, json!({ "kind": "a", "queue": "q" })).await;
    claim(&client, "q", json!({})).await;
    let ready = enqueue(&client, json!({ "kind": "a", "queue": "q" })).await;
    let later = enqueue(&client, json!({ "kind": "a", "queue": "q", "delay_ms": 60_000 })).await;
    let blocked = enqueue(&client, json!({ "kind": "a", "queue": "q", "after": [running] })).await;
    let other = enqueue(&client, json!({ "kind": "a", "queue": "other" })).await;
    let drained = client.post("/api/v1/queues/q/drain", Value::Null).await.expect(200);
    assert_eq!(drained, json!({ "jobs": 3, "more": false }));
    for (id, state) in [
        (running, "running"),
        (ready, "cancelled"),
        (later, "cancelled"),
        (blocked, "cancelled"),
        (other, "ready"),
    ] {
        assert_eq!(client.get(&format!("{JOBS}/{id}")).await.expect(200)["state"], state);
    }
}

/// Dashboards can read all queues with their depths and limits.
async fn queues_are_listed_with_counts(app: &TestApp) {
    let client = program(app).await;
    let began = app.now();
    for queue in ["b", "a", "b"] {
        enqueue(&client, json!({ "kind": "k", "queue": queue })).await;
    }
    enqueue(&client, json!({ "kind": "k", "queue": "a", "delay_ms": 60_000 })).await;
    put(&client, "/api/v1/queues/c", json!({ "concurrency": 7 })).await;
    app.advance(seconds(5));
    let job = claim(&client, "b", json!({})).await.remove(0);
    let (done, body) =
        (format!("{JOBS}/{}/complete", job["id"]), json!({ "lease_token": job["lease_token"] }));
    client.post(&done, body).await.expect(200);
    let queues = client.get("/api/v1/queues").await.expect(200)["items"].clone();
    let listed: Vec<_> = queues
        .as_array()
        .expect("queues")
        .iter()
        .map(|one| {
            (
                one["name"].as_str().expect("a name"),
                one["depth"]["ready"].clone(),
                one["depth"]["scheduled"].clone(),
            )
        })
        .collect();
    assert_eq!(listed, [("a", json!(1), json!(1)), ("b", json!(1), json!(0)), ("c", json!(0), json!(0))]);
    assert_eq!(queues[1]["depth"]["oldest_ready_at"], json!(began));
    assert_eq!(queues[2]["limits"]["concurrency"], 7);
    let detail = client.get("/api/v1/queues/b?since=2026-01-01T00:00:00Z").await.expect(200);
    assert_eq!((&detail["name"], &detail["depth"]), (&json!("b"), &queues[1]["depth"]));
    assert_eq!(client.get("/api/v1/queues/unheard").await.expect(200)["depth"]["ready"], 0);
}

/// Server-sent event stream, read line by line without chunk framing.
struct EventStream(BufReader<TcpStream>);

impl EventStream {
    async fn of(app: &TestApp, token: &str, id: i64) -> Self {
        let mut stream = TcpStream::connect(app.addr()).await.expect("a connection");
        let head = format!(
            "GET {JOBS}/{id}/events HTTP/1.1\r\nHost: kith\r\nAuthorization: Bearer {token}\r\n\
             Last-Event-ID: 7\r\nAccept: text/event-stream\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.expect("the head");
        let mut events = Self(BufReader::new(stream));
        let status = events.line().await.expect("a status");
        assert!(status.starts_with("HTTP/1.1 200"), "{status}");
        events
    }

    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read =
            tokio::time::timeout(MAX_WAIT, self.0.read_line(&mut line)).await.expect("an event in time");
        (read.expect("text") > 0).then(|| line.trim_end().to_owned())
    }

    /// Returns the data of the next event, or `None` at the end of the stream.
    async fn next(&mut self) -> Option<Value> {
        loop {
            let line = self.line().await?;
            if let Some(data) = line.strip_prefix("data: ") {
                return Some(serde_json::from_str(data).expect("JSON"));
            }
        }
    }
}

async fn job_event_stream_reports_progress_and_end(app: &TestApp) {
    let admin = app.admin("watcher").await;
    let key = app.api_key(&admin, &["jobs.read", "jobs.write", "jobs.work"]).await;
    let client = &key.client;
    let id = enqueue(client, json!({ "kind": "a" })).await;
    let mut events = EventStream::of(app, &key.text, id).await;
    assert_eq!(events.next().await.expect("an event")["state"], "ready");
    let token = claim(client, "default", json!({})).await[0]["lease_token"].clone();
    assert_eq!(events.next().await.expect("an event")["state"], "running");
    let progress = json!({ "lease_token": token, "progress": { "done": 1 } });
    client.post(&format!("{JOBS}/{id}/progress"), progress).await.expect(204);
    assert_eq!(events.next().await.expect("an event")["progress"], json!({ "done": 1 }));
    let body = json!({ "lease_token": token, "result": 42 });
    client.post(&format!("{JOBS}/{id}/complete"), body).await.expect(200);
    let last = events.next().await.expect("an event");
    assert_eq!((&last["state"], &last["result"]), (&json!("completed"), &json!(42)));
    assert_eq!(events.next().await, None, "the stream ends after the last event");
    client.get(&format!("{JOBS}/9999999/events")).await.expect_problem(404, "not_found");

    // The stream ends when the permission is revoked.
    let id = enqueue(client, json!({ "kind": "a", "delay_ms": 60_000 })).await;
    let mut events = EventStream::of(app, &key.text, id).await;
    assert!(events.next().await.is_some());
    admin.delete(&format!("/api/v1/admin/api-keys/{}", key.id), Value::Null).await.expect(204);
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn shutdown_ends_event_streams_and_long_polls() {
    let app = TestApp::start(Engine::Sqlite, Engine::Sqlite.database().await).await;
    let admin = app.admin("watcher").await;
    let key = app.api_key(&admin, &["jobs.read", "jobs.write", "jobs.work"]).await;
    let id = enqueue(&key.client, json!({ "kind": "a", "delay_ms": 60_000 })).await;
    let mut events = EventStream::of(&app, &key.text, id).await;
    assert!(events.next().await.is_some());
    let waits = {
        let client = key.client.clone();
        tokio::spawn(async move { claim(&client, "nothing", json!({ "wait_ms": 30_000 })).await })
    };
    // Both requests have arrived when the server counts two requests in flight.
    while app.metric("kith_http_requests_in_flight").await < 2.0 {
        tokio::task::yield_now().await;
    }
    tokio::time::timeout(MAX_WAIT, app.stop()).await.expect("requests in flight do not delay the shutdown");
    assert_eq!(events.next().await, None);
    assert_eq!(waits.await.expect("an answer").len(), 0);
}
