//! Tests of leased jobs, which external programs run: lease, heartbeat and fencing.

use std::time::Duration;

use kith_jobs::{
    ClaimedJob, JobError, JobOutput, JobState, ReportOutcome, append_log, heartbeat, report_leased,
    store_progress,
};
use kith_kernel::seconds;
use kith_store::contract;

use crate::support::{Engine, done, work};

contract! {
    lease_expires_only_without_heartbeats
    expired_lease_holder_cannot_change_job
    progress_and_log_are_stored_with_job
    empty_leased_claim_leaves_no_worker
    delay_longer_than_lease_runs_once
}

async fn end(engine: &Engine, job: &ClaimedJob, outcome: Result<JobOutput, JobError>) -> ReportOutcome {
    let (ctx, id, token) = (engine.ctx(), job.id, job.token);
    engine.db().write(move |tx| report_leased(tx, &ctx, id, token, outcome.clone())).await.unwrap()
}

async fn send_heartbeat(engine: &Engine, job: &ClaimedJob) -> bool {
    let (ctx, id, token) = (engine.ctx(), job.id, job.token);
    let kept = engine.db().write(move |tx| heartbeat(tx, &ctx, id, token, seconds(30))).await;
    kept.unwrap().is_some()
}

async fn lease_expires_only_without_heartbeats(engine: Engine) {
    engine.add(1).await;
    let job = claim(&engine, seconds(30)).await;
    assert_eq!(job.attempt, 1);
    for _ in 0..10 {
        engine.advance(seconds(29));
        assert_eq!(
            engine.jobs.evict_expired_workers().await.unwrap(),
            0,
            "bullmq#3056: a job with a renewed lease is not stalled"
        );
        assert!(send_heartbeat(&engine, &job).await);
    }
    engine.advance(seconds(31));
    assert_eq!(engine.jobs.evict_expired_workers().await.unwrap(), 1);
    assert!(!send_heartbeat(&engine, &job).await);
    assert_eq!(engine.numbers(5).await, [1]);
}

async fn expired_lease_holder_cannot_change_job(engine: Engine) {
    engine.add(1).await;
    let late = claim(&engine, seconds(10)).await;
    engine.advance(seconds(11));
    engine.jobs.evict_expired_workers().await.unwrap();
    let job = claim(&engine, seconds(10)).await;
    assert_eq!((job.id, job.attempt), (late.id, 2));
    for outcome in [done(), Err(JobError::retry("late"))] {
        assert_eq!(end(&engine, &late, outcome).await, ReportOutcome::Stale);
    }
    assert!(!log(&engine, &late, "late".to_owned()).await);
    assert!(!progress(&engine, &late, "0.5").await);
    assert_eq!(end(&engine, &job, done()).await, ReportOutcome::Finished(JobState::Completed));
    assert_eq!(end(&engine, &job, done()).await, ReportOutcome::Stale);
    assert_eq!(engine.count("SELECT COUNT(*) FROM job_workers").await, 0, "no worker rows are left");
}

async fn progress_and_log_are_stored_with_job(engine: Engine) {
    let id = engine.add(1).await;
    let job = claim(&engine, seconds(30)).await;
    assert!(progress(&engine, &job, "{\"done\":3}").await);
    for n in 0..3 {
        assert!(log(&engine, &job, format!("line {n}")).await);
    }
    assert_eq!(engine.job(id).await.progress.as_deref(), Some("{\"done\":3}"));
    end(&engine, &job, done()).await;
    let lines = engine.db().read(move |q| kith_jobs::list_log(q, id)).await.unwrap();
    let lines: Vec<_> = lines.into_iter().map(|one| one.line).collect();
    assert_eq!(lines, ["line 0", "line 1", "line 2"], "log lines stay readable after the job has finished");
}

async fn empty_leased_claim_leaves_no_worker(engine: Engine) {
    let claim = engine.jobs.claim_with_lease("default", "early", seconds(30), 5).await.unwrap();
    assert!(claim.jobs.is_empty());
    assert_eq!(engine.count("SELECT COUNT(*) FROM job_workers").await, 0);
}

async fn log(engine: &Engine, job: &ClaimedJob, line: String) -> bool {
    let (ctx, id, token) = (engine.ctx(), job.id, job.token);
    engine.db().write(move |tx| append_log(tx, &ctx, id, token, "info", &line)).await.unwrap()
}

async fn progress(engine: &Engine, job: &ClaimedJob, progress: &'static str) -> bool {
    let (id, token) = (job.id, job.token);
    engine.db().write(move |tx| store_progress(tx, id, token, progress)).await.unwrap()
}

/// Claims one job for an external program.
async fn claim(engine: &Engine, lease: Duration) -> ClaimedJob {
    let claim = engine.jobs.claim_with_lease("default", "elsewhere", lease, 1).await.unwrap();
    claim.into_claim().jobs.remove(0)
}

/// Regression test for celery#2481: a job with a delay longer than the visibility timeout runs more than
/// once.
async fn delay_longer_than_lease_runs_once(engine: Engine) {
    let due = engine.ctx().now + seconds(36_000);
    engine.enqueue(work(1).at(due)).await;
    for _ in 0..100 {
        let claim = engine.jobs.claim_with_lease("default", "impatient", seconds(5), 5).await.unwrap();
        assert!(claim.jobs.is_empty());
        engine.advance(seconds(360));
        engine.jobs.evict_expired_workers().await.unwrap();
    }
    assert_eq!(engine.numbers(10).await, [1]);
    assert_eq!(engine.numbers(10).await, [0; 0]);
}
