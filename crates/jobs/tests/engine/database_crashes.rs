//! Tests that the cached claim state of a queue does not survive a crash or a failover. A crash of PostgreSQL
//! undoes commits that were acknowledged before they were on disk. A failover to an asynchronous replica
//! undoes commits that had not reached it. In both cases, the ids of the undone transactions are used again.

use std::process::Command;

use kith_jobs::{JobState, ReportOutcome};
use kith_store::testing::server::{PostgresServer, PostgresServerOptions};
use kith_store::testing::{TestDatabase, postgres_url};

use crate::support::{Engine, done, numbers, until, work};

const OLDEST: &str = "SELECT CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS TEXT) AS BIGINT)";

/// Freezes the WAL writer. This process flushes the commits for which no session waits.
pub async fn freeze_wal_writer(engine: &Engine) {
    let sql = "SELECT CAST(pid AS BIGINT) FROM pg_stat_activity WHERE backend_type = 'walwriter'";
    // The WAL writer starts shortly after the server accepts connections. Process id 0 would stop the
    // processes of this test.
    until("a process that writes the log", async || engine.count(sql).await > 1).await;
    let pid = engine.count(sql).await;
    assert!(pid > 1);
    let stopped = Command::new("sh").args(["-c", "kill -s STOP \"$1\"", "sh", &pid.to_string()]).status();
    assert!(stopped.unwrap().success());
}

/// Maximum number of attempts to cause a crash that undoes a claim.
const TRIES: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn claim_state_does_not_survive_database_crash() {
    if postgres_url().is_none() {
        return;
    }
    for _ in 0..TRIES {
        if crash().await {
            return;
        }
    }
    panic!("no crash has undone the claim: another process flushes unacknowledged writes to disk");
}

/// Crashes a database after a claim. Returns false if the claim was already on disk, because autovacuum or
/// another process has flushed the log.
async fn crash() -> bool {
    let options = PostgresServerOptions { fsync: true, ..PostgresServerOptions::default() };
    let mut server = PostgresServer::start(options).unwrap();
    let engine = Engine::on(TestDatabase::postgres(&server.url("postgres")).await.unwrap()).await;
    let worker = engine.worker().await;
    let id = engine.add(0).await;
    freeze_wal_writer(&engine).await;
    let undone = engine.claim(worker, 1).await.jobs.remove(0);
    for _ in 0..200 {
        engine.jobs.heartbeat(worker).await.unwrap();
    }
    assert!(engine.claim(worker, 10).await.jobs.is_empty());
    let remembered = engine.count(OLDEST).await;
    server.kill().unwrap();
    server.restart().unwrap();

    until("the database answers", async || {
        engine.jobs.enqueue_all((1..10).map(work).collect()).await.is_ok()
    })
    .await;
    if engine.state(id).await == JobState::Running {
        return false;
    }
    assert!(engine.count("SELECT MAX(position) FROM jobs").await < remembered, "transaction ids are reused");
    let claim = engine.claim(worker, 10).await;
    assert_eq!(numbers(&claim), (0..10).collect::<Vec<_>>());
    let again = &claim.jobs[0];
    assert_eq!((again.id, again.attempt, again.worker), (undone.id, undone.attempt, undone.worker));
    assert_eq!(engine.report(&undone, done()).await, ReportOutcome::Stale);
    assert_eq!(engine.state(id).await, JobState::Running);
    assert_eq!(engine.report(again, done()).await, ReportOutcome::Finished(JobState::Completed));
    true
}

/// Like the test above, but after a failover to an asynchronous replica that lacks the last claims and
/// reports.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn claim_state_does_not_survive_failover() {
    if postgres_url().is_none() {
        return;
    }
    let mut primary = PostgresServer::start(PostgresServerOptions::default()).unwrap();
    let replica = primary.replica().unwrap();
    let database = TestDatabase::postgres(&primary.url_with(&replica, "postgres")).await.unwrap();
    let engine = Engine::on(database).await;
    let worker = engine.worker().await;
    engine.jobs.enqueue_all((0..10).map(work).collect()).await.unwrap();
    replica.catch_up(&primary).unwrap();
    replica.stop_receiving().unwrap();
    let undone = engine.claim(worker, 4).await.jobs;
    assert_eq!(engine.report(&undone[0], done()).await, ReportOutcome::Finished(JobState::Completed));
    assert_eq!(engine.claim(worker, 10).await.jobs.len(), 6);
    assert!(engine.claim(worker, 10).await.jobs.is_empty());
    primary.kill().unwrap();
    replica.promote().unwrap();

    until("the new primary answers", async || {
        engine.jobs.enqueue_all((10..20).map(work).collect()).await.is_ok()
    })
    .await;
    let claim = engine.claim(worker, 20).await;
    assert_eq!(numbers(&claim), (0..20).collect::<Vec<_>>(), "every job on the replica is claimed");
    for (undone, again) in undone.iter().zip(&claim.jobs) {
        assert_eq!((again.id, again.attempt, again.worker), (undone.id, undone.attempt, undone.worker));
        assert_eq!(engine.report(undone, done()).await, ReportOutcome::Stale);
        assert_eq!(engine.state(again.id).await, JobState::Running);
    }
    for again in &claim.jobs {
        assert_eq!(engine.report(again, done()).await, ReportOutcome::Finished(JobState::Completed));
    }
}
