//! Tests of claiming jobs over HTTP and of reports about attempts, as external workers use them.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use kith_kernel::{minutes, seconds};
use kith_platform::idempotency::IDEMPOTENCY_KEY;
use kith_store::{EngineKind, Tx};
use serde_json::{Value, json};

use crate::jobs::{DUE_POLL_INTERVAL, claim, enqueue, ids, program, report, run_maintenance, show};
use crate::support::{TestApp, on_every_engine};

on_every_engine! {
    job_is_claimed_extended_and_completed,
    stale_attempt_report_is_ignored,
    worker_decides_how_failure_continues,
    repeated_claim_with_key_returns_same_jobs,
    claim_long_polls_until_job_exists,
    claim_of_disconnected_client_is_released,
}

/// Proves the readiness requirement JOB-01.
async fn job_is_claimed_extended_and_completed(app: &TestApp) {
    let client = program(app).await;
    let body =
        json!({ "kind": "thumbnails.make", "queue": "images", "payload": { "image": 7 }, "priority": 2 });
    let id = enqueue(&client, body).await;
    assert_eq!(claim(&client, "others", json!({})).await, [] as [Value; 0]);
    let [job] = &claim(&client, "images", json!({ "worker": "ada", "limit": 10 })).await[..] else {
        panic!("one")
    };
    assert_eq!((job["id"].as_i64(), job["attempt"].as_i64()), (Some(id), Some(1)));
    assert_eq!((&job["kind"], &job["payload"]), (&json!("thumbnails.make"), &json!({ "image": 7 })));
    assert_eq!(claim(&client, "images", json!({})).await, [] as [Value; 0]);

    let token = &job["lease_token"];
    let body = json!({ "lease_token": token, "lease_ms": 5_000 });
    let beat = report(&client, id, "heartbeat", body).await.expect(200);
    assert_eq!(beat["cancel_requested"], false);
    report(&client, id, "progress", json!({ "lease_token": token, "progress": { "done": 3, "of": 4 } }))
        .await
        .expect(204);
    report(&client, id, "log", json!({ "lease_token": token, "level": "warn", "line": "a large one" }))
        .await
        .expect(204);
    let running = show(&client, id).await;
    assert_eq!(
        (&running["state"], &running["progress"]),
        (&json!("running"), &json!({ "done": 3, "of": 4 }))
    );
    assert_eq!(
        (&running["log"][0]["line"], &running["log"][0]["level"]),
        (&json!("a large one"), &json!("warn"))
    );
    assert!(running["source"].as_str().is_some_and(|source| source.starts_with("api_key:")), "{running:#}");

    app.advance(seconds(2));
    let done = report(&client, id, "complete", json!({ "lease_token": token, "result": ["small", "large"] }))
        .await
        .expect(200);
    assert_eq!(done, json!({ "state": "completed", "run_at": null }));
    let shown = show(&client, id).await;
    assert_eq!((&shown["state"], &shown["result"]), (&json!("completed"), &json!(["small", "large"])));
    assert_eq!((&shown["payload"], &shown["finished_at"]), (&json!({ "image": 7 }), &json!(app.now())));
    assert_eq!((shown["priority"].as_i64(), shown["errors"].as_array().map(Vec::len)), (Some(2), Some(0)));
    report(&client, id, "complete", json!({ "lease_token": token }))
        .await
        .expect_problem(409, "stale_attempt");
    report(&client, 9_999_999, "complete", json!({ "lease_token": token }))
        .await
        .expect_problem(404, "not_found");
}

/// JOB-02: reports of a worker that lost its lease are rejected (fencing).
async fn stale_attempt_report_is_ignored(app: &TestApp) {
    let client = program(app).await;
    let id = enqueue(&client, json!({ "kind": "slow" })).await;
    let other = enqueue(&client, json!({ "kind": "slow" })).await;
    let leased = claim(&client, "default", json!({ "lease_ms": 10_000, "limit": 2 })).await;
    assert_eq!(ids(&leased), [id, other]);
    let (late, token) = (&leased[0]["lease_token"], &leased[1]["lease_token"]);
    app.advance(seconds(9));
    report(&client, id, "heartbeat", json!({ "lease_token": late, "lease_ms": 10_000 })).await.expect(200);
    app.advance(seconds(9));
    run_maintenance(app).await;
    assert_eq!(
        claim(&client, "default", json!({})).await,
        [] as [Value; 0],
        "a heartbeat renews all jobs of a claim"
    );
    report(&client, other, "complete", json!({ "lease_token": token })).await.expect(200);
    app.advance(seconds(2));
    run_maintenance(app).await;
    let again = claim(&client, "default", json!({})).await;
    assert_eq!((ids(&again), again[0]["attempt"].as_i64()), (vec![id], Some(2)));
    let before = show(&client, id).await;
    for (word, body) in [
        ("heartbeat", json!({ "lease_token": late })),
        ("progress", json!({ "lease_token": late, "progress": 1 })),
        ("log", json!({ "lease_token": late, "line": "late" })),
        ("complete", json!({ "lease_token": late, "result": "late" })),
        ("fail", json!({ "lease_token": late, "error": "late" })),
        ("complete", json!({ "lease_token": "0000000000000001" })),
    ] {
        report(&client, id, word, body).await.expect_problem(409, "stale_attempt");
    }
    assert_eq!(show(&client, id).await, before);
    assert_eq!(before["errors"][0]["error"], "the worker's lease expired");
    report(&client, id, "complete", json!({ "lease_token": again[0]["lease_token"], "result": "in time" }))
        .await
        .expect(200);
    assert_eq!(show(&client, id).await["result"], "in time");
}

/// JOB-03: a worker that reports a failure chooses how the job continues.
async fn worker_decides_how_failure_continues(app: &TestApp) {
    let client = program(app).await;
    let retry = json!({ "max_attempts": 3, "base_ms": 10_000, "cap_ms": 10_000 });
    let id = enqueue(&client, json!({ "kind": "flaky", "retry": retry })).await;
    let take = async || claim(&client, "default", json!({})).await[0]["lease_token"].clone();

    let token = take().await;
    let failed =
        report(&client, id, "fail", json!({ "lease_token": token, "error": "first" })).await.expect(200);
    assert_eq!(failed["state"], "scheduled");
    let run_at: kith_kernel::Timestamp = serde_json::from_value(failed["run_at"].clone()).expect("a time");
    assert!((seconds(5)..=seconds(10)).contains(&run_at.since(app.now())), "{failed:#}");
    assert_eq!(claim(&client, "default", json!({})).await, [] as [Value; 0]);
    app.advance(seconds(10));

    let token = take().await;
    let body = json!({ "lease_token": token, "action": "snooze", "wait_ms": 60_000 });
    let snoozed = report(&client, id, "fail", body).await.expect(200);
    assert_eq!(snoozed["run_at"], json!(app.now() + minutes(1)));
    assert_eq!(show(&client, id).await["failures"], 1, "a snooze does not count as a failure");
    app.advance(minutes(1));

    let token = take().await;
    let body = json!({ "lease_token": token, "error": "second", "wait_ms": 3_000 });
    assert_eq!(report(&client, id, "fail", body).await.expect(200)["run_at"], json!(app.now() + seconds(3)));
    app.advance(seconds(3));
    let token = take().await;
    let last =
        report(&client, id, "fail", json!({ "lease_token": token, "error": "third" })).await.expect(200);
    assert_eq!(last, json!({ "state": "dead", "run_at": null }));
    let shown = show(&client, id).await;
    let attempts =
        shown["errors"].as_array().expect("errors").iter().map(|one| (&one["attempt"], &one["error"]));
    let expected = [(json!(1), json!("first")), (json!(3), json!("second")), (json!(4), json!("third"))];
    assert!(attempts.eq(expected.iter().map(|(attempt, error)| (attempt, error))), "{shown:#}");

    let id = enqueue(&client, json!({ "kind": "flaky" })).await;
    let body = json!({ "lease_token": take().await, "error": "never again", "action": "discard" });
    assert_eq!(report(&client, id, "fail", body).await.expect(200)["state"], "dead");
}

async fn repeated_claim_with_key_returns_same_jobs(app: &TestApp) {
    let client = program(app).await;
    let (one, two) =
        (enqueue(&client, json!({ "kind": "a" })).await, enqueue(&client, json!({ "kind": "a" })).await);
    let keyed = client.with_header(IDEMPOTENCY_KEY, "once");
    assert_eq!(ids(&claim(&keyed, "default", json!({})).await), [one]);
    assert_eq!(ids(&claim(&keyed, "default", json!({})).await), [one]);
    assert_eq!(ids(&claim(&client, "default", json!({ "limit": 5 })).await), [two]);
}

/// Long polling: a job enqueued on one node wakes a claim on another.
#[expect(clippy::disallowed_methods, reason = "waiting is about real time")]
async fn claim_long_polls_until_job_exists(app: &TestApp) {
    // Maximum wait. A response within half of it was caused by a notification, not by the end of the wait.
    const WAIT_MS: u64 = 30_000;
    const HALF: Duration = Duration::from_millis(WAIT_MS / 2);
    let client = program(app).await;
    let began = Instant::now();
    let waits = claim(&client, "slow", json!({ "wait_ms": WAIT_MS }));
    let enqueues = async {
        tokio::time::timeout(Duration::from_millis(300), std::future::pending::<()>())
            .await
            .expect_err("over");
        enqueue(&client, json!({ "kind": "a", "queue": "slow" })).await
    };
    let (claimed, id) = tokio::join!(waits, enqueues);
    assert_eq!(ids(&claimed), [id]);
    assert!(began.elapsed() < HALF, "{:?}", began.elapsed());
    let began = Instant::now();
    assert_eq!(claim(&client, "slow", json!({ "wait_ms": 200 })).await, [] as [Value; 0]);
    let took = began.elapsed();
    assert!((Duration::from_millis(200)..HALF).contains(&took), "{took:?}");
}

/// The client disconnects while its claim waits for the queue's lock.
async fn claim_of_disconnected_client_is_released(app: &TestApp) {
    let client = program(app).await;
    let id = enqueue(&client, json!({ "kind": "a" })).await;
    let db = &app.parts().db;
    let (held, is_held) = tokio::sync::oneshot::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (held, released) = (Mutex::new(Some(held)), Mutex::new(released));
    let holding = db.clone();
    let holding = tokio::spawn(async move {
        let hold = move |tx: &Tx<'_>| {
            tx.lock("job queue", ["default"])?;
            tx.exec("UPDATE job_history_ring SET current_segment = current_segment", &[])?;
            if let Some(held) = held.lock().expect("a lock").take() {
                held.send(()).expect("a receiver");
                // If the test fails, the sender is dropped, and this call returns an error.
                let _ = released.lock().expect("a lock").recv();
            }
            Ok::<_, kith_store::Error>(())
        };
        holding.write(hold).await
    });
    is_held.await.expect("a lock");
    let is_claiming = async {
        let sql = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'";
        loop {
            let waiting = match db.kind() {
                EngineKind::Sqlite => i64::try_from(db.stats().queued).expect("a count"),
                EngineKind::Postgres => db
                    .read(move |q| q.one(sql, &[], |row| row.get::<i64>(0)))
                    .await
                    .expect("a count")
                    .unwrap_or(0),
            };
            if waiting > 0 {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    let body = json!({ "lease_ms": 3_600_000, "wait_ms": 20_000 });
    tokio::select! {
        claimed = claim(&client, "default", body) => panic!("{claimed:?}"),
        () = is_claiming => {}
    }
    drop(release);
    holding.await.expect("no panic").expect("a commit");
    let given_back = async {
        loop {
            let job = show(&client, id).await;
            if job["attempt"] == 1 && job["state"] != "running" {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), given_back).await.expect("the job is released");
    app.advance(DUE_POLL_INTERVAL);
    assert_eq!(ids(&claim(&client, "default", json!({})).await), [id]);
}
