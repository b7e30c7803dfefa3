//! Tests of queues, job kinds and schedules that modules declare: API keys cannot use them, but
//! administrators can. Also tests that a callback is delivered even if its job was lost.

use hyper::Method;
use kith_kernel::minutes;
use kith_platform::config::Config;
use kith_store::params;
use serde_json::{Value, json};

use crate::support::{Receiver, Reply, TestApp, on_every_engine};

const SCOPES: &[&str] =
    &["jobs.read", "jobs.write", "jobs.work", "queues.write", "schedules.read", "schedules.write"];

fn allow_loopback(config: &mut Config) {
    config.outbound.allowed_networks = vec!["127.0.0.1".parse().expect("a network")];
}

on_every_engine! {
    with super::allow_loopback;
    api_keys_cannot_use_reserved_queues_kinds_and_schedules,
    administrator_actions_on_reserved_queues_are_audited,
    bulk_dead_letter_actions_by_api_key_require_filter,
    overdue_callback_is_delivered_if_its_job_is_lost,
    dead_lettered_callback_job_counts_as_attempt,
}

/// Regression: a key with these scopes could complete callbacks undelivered and pause the purge of accounts.
async fn api_keys_cannot_use_reserved_queues_kinds_and_schedules(app: &TestApp) {
    let admin = app.admin("ada").await;
    let receiver = Receiver::start(Reply::Response(200, String::new(), String::new())).await;
    let made =
        admin.post("/api/v1/callbacks", json!({ "url": receiver.url("/hook"), "body": 1 })).await.expect(201);
    let recurring = json!({ "request": { "url": receiver.url("/hook") }, "schedule": "@daily" });
    let recurring = admin.post("/api/v1/recurring-callbacks", recurring).await.expect(201);
    let recurring = recurring["schedule_name"].as_str().expect("a schedule").to_owned();
    let job = made["job_id"].as_i64().expect("a job");
    let key = app.api_key(&admin, SCOPES).await.client;
    let mine = key.post("/api/v1/jobs", json!({ "kind": "mine" })).await.expect(201)["id"].clone();
    let declared = admin.get("/api/v1/schedules?declared=true").await.expect(200);
    let declared = declared["items"][0]["name"].as_str().expect("a name").to_owned();
    let footprint = app.footprint().await;

    let schedule = |queue: &str, kind: &str| json!({ "queue": queue, "kind": kind, "schedule": "@daily" });
    let post = Method::POST;
    let mut attempts: Vec<(Method, String, Value)> = [
        (post.clone(), "/api/v1/queues/callbacks/claim".to_owned(), json!({})),
        (post.clone(), "/api/v1/queues/maintenance/claim".to_owned(), json!({})),
        (post.clone(), "/api/v1/queues/maintenance/pause".to_owned(), Value::Null),
        (post.clone(), "/api/v1/queues/maintenance/resume".to_owned(), Value::Null),
        (post.clone(), "/api/v1/queues/callbacks/drain".to_owned(), Value::Null),
        (Method::PUT, "/api/v1/queues/callbacks".to_owned(), json!({ "concurrency": 1 })),
        (post.clone(), "/api/v1/jobs".to_owned(), json!({ "kind": "mine", "queue": "maintenance" })),
        (post.clone(), "/api/v1/jobs".to_owned(), json!({ "kind": "callbacks.deliver", "queue": "mine" })),
        (
            post.clone(),
            "/api/v1/jobs".to_owned(),
            json!({ "kind": "mine", "children": [{ "kind": "mine", "children": [{ "kind": "accounts.purge-deleted" }] }] }),
        ),
        (post.clone(), "/api/v1/jobs/bulk".to_owned(), json!({ "jobs": [{ "kind": "mine", "queue": "callbacks" }] })),
        (Method::PUT, "/api/v1/job-kinds/callbacks.deliver".to_owned(), json!({})),
        (Method::DELETE, "/api/v1/job-kinds/callbacks.deliver".to_owned(), Value::Null),
        (Method::PUT, "/api/v1/job-kinds/mine".to_owned(), json!({ "queue": "callbacks" })),
        (post.clone(), format!("/api/v1/jobs/{job}/cancel"), Value::Null),
        (post.clone(), format!("/api/v1/jobs/{job}/retry"), Value::Null),
        (post.clone(), "/api/v1/jobs/redrive".to_owned(), json!({ "queue": "callbacks" })),
        (post.clone(), "/api/v1/jobs/discard".to_owned(), json!({ "kind": "callbacks.deliver" })),
        (Method::PUT, "/api/v1/schedules/mine".to_owned(), schedule("maintenance", "mine")),
        (Method::PUT, "/api/v1/schedules/mine".to_owned(), schedule("mine", "callbacks.recur")),
        (Method::PUT, format!("/api/v1/schedules/{recurring}"), schedule("mine", "mine")),
        (Method::DELETE, format!("/api/v1/schedules/{recurring}"), Value::Null),
    ]
    .into();
    // Schedules of modules, and schedules whose jobs are reserved.
    for name in [&declared, &recurring] {
        for (action, body) in [
            ("pause", Value::Null),
            ("resume", Value::Null),
            ("run", Value::Null),
            ("backfill", json!({ "from": app.now() - minutes(5), "to": app.now() })),
        ] {
            attempts.push((post.clone(), format!("/api/v1/schedules/{name}/{action}"), body));
        }
    }
    for (method, path, body) in attempts {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let response = key.send(method.clone(), &path, text.into()).await;
        let problem = response.expect_problem(403, "reserved");
        assert!(
            problem["detail"].as_str().is_some_and(|detail| detail.contains("is reserved for the server")),
            "{method} {path}"
        );
    }
    // The attempt of an internal worker cannot be ended either, because it has no lease token.
    for word in ["heartbeat", "complete"] {
        let response = key
            .post(&format!("/api/v1/jobs/{job}/{word}"), json!({ "lease_token": "0000000000000001" }))
            .await;
        response.expect_problem(409, "stale_attempt");
    }
    assert_eq!(app.footprint().await, footprint);
    key.post(&format!("/api/v1/jobs/{mine}/cancel"), Value::Null).await.expect(200);
}

async fn administrator_actions_on_reserved_queues_are_audited(app: &TestApp) {
    let admin = app.admin("ada").await;
    let declared = admin.get("/api/v1/schedules?declared=true").await.expect(200);
    let declared = declared["items"][0]["name"].as_str().expect("a name").to_owned();
    admin.post("/api/v1/queues/callbacks/pause", Value::Null).await.expect(200);
    admin.put("/api/v1/queues/callbacks", json!({ "key_concurrency": 2 })).await.expect(200);
    admin.post("/api/v1/queues/callbacks/resume", Value::Null).await.expect(200);
    admin.post(&format!("/api/v1/schedules/{declared}/pause"), Value::Null).await.expect(200);
    let audit = app.audit().await;
    let by_admin = format!("user:{}", admin.id);
    let actions: Vec<_> =
        audit.iter().filter(|line| line.actor == by_admin).map(|line| &*line.action).collect();
    for action in ["queue.paused", "queue.changed", "queue.resumed", "schedule.paused"] {
        assert!(actions.contains(&action), "{action} is missing in {actions:?}");
    }
    for (path, body) in [
        ("/api/v1/queues/callbacks/claim", json!({})),
        ("/api/v1/jobs", json!({ "kind": "callbacks.deliver", "payload": {} })),
    ] {
        admin.post(path, body).await.expect_problem(403, "reserved");
    }
}

async fn bulk_dead_letter_actions_by_api_key_require_filter(app: &TestApp) {
    let admin = app.admin("ada").await;
    let key = app.api_key(&admin, SCOPES).await.client;
    for path in ["/api/v1/jobs/redrive", "/api/v1/jobs/discard"] {
        let problem = key.post(path, json!({})).await.expect_problem(422, "validation_failed");
        assert_eq!(problem["errors"][0]["pointer"], "/queue", "{problem}");
        key.post(path, json!({ "kind": "mine" })).await.expect(200);
        admin.post(path, json!({})).await.expect(200);
    }
}

/// A callback that has not finished is delivered even if its job was lost.
async fn overdue_callback_is_delivered_if_its_job_is_lost(app: &TestApp) {
    let admin = app.admin("ada").await;
    let receiver = Receiver::start(Reply::Response(200, String::new(), String::new())).await;
    let mut made = Vec::new();
    for n in 0..3 {
        let body = json!({ "url": receiver.url("/hook"), "body": n });
        made.push(admin.post("/api/v1/callbacks", body).await.expect(201));
    }
    // The first job is deleted, the second is cancelled, and the third is unchanged.
    let job = |n: usize| made[n]["job_id"].as_i64().expect("a job");
    let gone = job(0);
    app.db()
        .write(move |tx| tx.exec("DELETE FROM jobs WHERE id = $1", params![gone]))
        .await
        .expect("deleted");
    admin.post(&format!("/api/v1/jobs/{}/cancel", job(1)), Value::Null).await.expect(200);
    app.run_maintenance().await;
    let untouched = admin.get(&format!("/api/v1/callbacks/{}", made[0]["id"].as_str().expect("an id"))).await;
    assert_eq!(untouched.expect(200)["job_id"], gone, "a callback that is not overdue is left unchanged");
    app.advance(minutes(2));
    app.run_maintenance().await;
    app.run_due().await;
    for callback in &made {
        let path = format!("/api/v1/callbacks/{}", callback["id"].as_str().expect("an id"));
        assert_eq!(admin.get(&path).await.expect(200)["state"], "delivered");
    }
    assert_eq!(receiver.count(), 3);
    let again = app.audit().await.iter().filter(|line| line.action == "callback.reenqueued").count();
    assert_eq!(again, 2);
}

/// If the job of a callback is dead-lettered because its workers died, this counts as a failed attempt of the
/// callback. Otherwise such a callback would kill workers for ever.
async fn dead_lettered_callback_job_counts_as_attempt(app: &TestApp) {
    let admin = app.admin("ada").await;
    let receiver = Receiver::start(Reply::Response(200, String::new(), String::new())).await;
    let mut paths = Vec::new();
    for delays in [0, 100] {
        let body = json!({ "url": receiver.url("/hook"), "body": delays });
        let made = admin.post("/api/v1/callbacks", body).await.expect(201);
        let (job, id) =
            (made["job_id"].as_i64().expect("a job"), made["id"].as_str().expect("an id").to_owned());
        paths.push(format!("/api/v1/callbacks/{id}"));
        let killed = app.db().write(move |tx| {
            tx.exec(
                "INSERT INTO job_dead_letters (id, queue, kind, state, priority, run_at, payload, attempt, failures, max_attempts,
                     timeout_ms, finished_at, created_at)
                 SELECT id, queue, kind, 6, priority, run_at, payload, attempt, 3, max_attempts, timeout_ms, run_at, created_at
                 FROM jobs WHERE id = $1",
                params![job],
            )?;
            tx.exec("DELETE FROM jobs WHERE id = $1", params![job])?;
            tx.exec("UPDATE callbacks SET retry_attempts = $2 WHERE id = $1", params![id, delays])
        });
        assert_eq!(killed.await.expect("a database"), 1);
    }
    app.advance(minutes(2));
    let due = admin.get(&paths[0]).await.expect(200)["next_attempt_at"].clone();
    app.run_maintenance().await;
    let again = admin.get(&paths[0]).await.expect(200);
    assert!(again["next_attempt_at"].as_str() > due.as_str(), "next attempt of {again} is later than {due}");
    let dead = admin.get(&paths[1]).await.expect(200);
    assert_eq!((&dead["state"], &dead["reason"]), (&json!("failed"), &json!("attempts_exhausted")));
    app.advance(minutes(2));
    app.run_due().await;
    assert_eq!(admin.get(&paths[0]).await.expect(200)["state"], "delivered");
    assert_eq!(receiver.count(), 1);
}
