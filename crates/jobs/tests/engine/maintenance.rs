//! Tests of maintenance: rows that it deletes, attempts that it ends, and attempts that it must not end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kith_jobs::{
    AttemptContext, Handler, JobState, MaintenanceState, NewJob, QueueConcurrency, ReportOutcome, Retention,
    WorkerOptions, Workers,
};
use kith_kernel::{hours, seconds};
use kith_store::{Tx, contract, params};

use crate::support::{Engine, done, until, work};

contract! {
    maintenance_removes_all_expired_rows
    unstarted_attempt_is_not_overdue
    leased_attempt_is_overdue_from_its_claim
    attempt_that_exceeds_its_timeout_is_ended_by_maintenance
}

async fn maintain(engine: &Engine) {
    engine.jobs.run_maintenance(&mut MaintenanceState::default(), Retention::DEFAULT).await.unwrap();
}

/// There are more expired rows than one transaction deletes.
async fn maintenance_removes_all_expired_rows(engine: Engine) {
    let fill = |tx: &Tx<'_>| {
        for sql in [
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
             INSERT INTO job_unique_keys (key, job, expires_at) SELECT 'k' || i, 0, 1 FROM n",
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
             INSERT INTO job_dependencies (depends_on, job, on_failure, state) SELECT i, i + 10000, 0, 4 FROM n",
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
             INSERT INTO job_rate_windows (queue, limit_key, opened_at, starts) SELECT 'q', 'k' || i, 1, 1 FROM n",
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
             INSERT INTO job_dead_letters (id, queue, kind, state, priority, run_at, payload, attempt, failures, max_attempts,
                 timeout_ms, finished_at, created_at)
             SELECT i, 'q', 'k', 6, 5, 1, '1', 1, 1, 1, 0, 1, 1 FROM n",
        ] {
            tx.exec(sql, params![])?;
        }
        Ok::<_, kith_store::Error>(())
    };
    engine.db().write(fill).await.unwrap();
    maintain(&engine).await;
    for sql in [
        "SELECT COUNT(*) FROM job_unique_keys",
        "SELECT COUNT(*) FROM job_dependencies",
        "SELECT COUNT(*) FROM job_rate_windows",
        "SELECT COUNT(*) FROM job_dead_letters",
    ] {
        assert_eq!(engine.count(sql).await, 0, "{sql}");
    }
}

/// Workers claim more jobs than they run, so a claimed job may not have started.
async fn unstarted_attempt_is_not_overdue(engine: Engine) {
    let id = engine.enqueue(work(1).timeout(seconds(1))).await.id;
    let worker = engine.worker().await;
    let job = engine.claim(worker, 1).await.jobs.remove(0);
    for _ in 0..10 {
        engine.advance(seconds(5));
        engine.jobs.heartbeat(worker).await.unwrap();
        maintain(&engine).await;
    }
    let waiting = engine.job(id).await;
    assert_eq!((waiting.state, waiting.failures), (JobState::Running, 0));
    assert_eq!(engine.report(&job, done()).await, ReportOutcome::Finished(JobState::Completed));
}

async fn leased_attempt_is_overdue_from_its_claim(engine: Engine) {
    let id = engine.enqueue(work(1).timeout(seconds(1))).await.id;
    engine.jobs.claim_with_lease("default", "elsewhere", hours(1), 1).await.unwrap().into_claim();
    engine.advance(seconds(5));
    maintain(&engine).await;
    assert_eq!(engine.state(id).await, JobState::Running);
    engine.advance(seconds(10));
    maintain(&engine).await;
    let failed = engine.job(id).await;
    assert_eq!((failed.state, failed.failures), (JobState::Scheduled, 1));
}

/// The handler blocks its thread, so that the process of the worker cannot end it.
async fn attempt_that_exceeds_its_timeout_is_ended_by_maintenance(engine: Engine) {
    let released = Arc::new(AtomicBool::new(false));
    let blocks = Arc::clone(&released);
    let handler = Handler::new("block", move |_: AttemptContext| {
        let released = Arc::clone(&blocks);
        async move {
            while !released.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            done()
        }
    });
    let mut options =
        WorkerOptions::new("test", vec![QueueConcurrency { queue: "default".to_owned(), concurrency: 1 }]);
    options.lease = seconds(1);
    let workers = Workers::start(&engine.jobs, vec![handler], options).await.unwrap();
    let id = engine.enqueue(NewJob::new("default", "block", "1").timeout(hours(1))).await.id;
    let recorded = "SELECT COUNT(*) FROM jobs WHERE state = 2 AND deadline_at IS NOT NULL";
    until("its deadline is recorded", async || engine.count(recorded).await == 1).await;
    engine.advance(hours(2));
    engine.jobs.heartbeat(workers.worker()).await.unwrap();
    maintain(&engine).await;
    assert_eq!(engine.job(id).await.failures, 1);
    released.store(true, Ordering::Relaxed);
    workers.stop().await;
}
