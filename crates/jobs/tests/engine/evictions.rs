//! Tests of the recovery of jobs whose worker has died, and of jobs that crash their workers.

use kith_jobs::{JobState, ReportOutcome, RetryPolicy};
use kith_kernel::seconds;
use kith_store::contract;

use crate::support::{Engine, done, work};

contract! {
    jobs_of_expired_worker_run_again
    live_worker_keeps_long_running_jobs
    frozen_worker_is_fenced_after_resume
    evicted_worker_claims_nothing
    job_that_crashes_worker_three_times_is_dead
    other_jobs_complete_despite_poison_job
    suspects_run_in_busy_queue
    suspect_counts_against_the_limit_of_its_key
    suspects_of_saturated_key_do_not_block_other_suspects
    eviction_does_not_count_as_job_failure
    concurrent_nodes_evict_worker_once
    outage_longer_than_lease_evicts_no_worker
    clock_set_back_does_not_stop_evictions
}

/// Regression test for oban#364 and pgqueuer#475: jobs remain in the state running after a crash.
async fn jobs_of_expired_worker_run_again(engine: Engine) {
    engine.jobs.enqueue_all((0..5).map(work).collect()).await.unwrap();
    let gone = engine.worker().await;
    assert_eq!(engine.claim(gone, 5).await.jobs.len(), 5);
    engine.advance(seconds(5));
    assert_eq!(
        engine.jobs.evict_expired_workers().await.unwrap(),
        0,
        "the worker is not evicted before its lease expires"
    );
    engine.advance(seconds(2));
    assert_eq!(engine.jobs.evict_expired_workers().await.unwrap(), 5);
    assert_eq!(engine.jobs.evict_expired_workers().await.unwrap(), 0);
    assert_eq!(engine.numbers(10).await, [0, 1, 2, 3, 4]);
}

/// Regression test for hexpm#1825 (a recovery based only on time runs live jobs again) and bull#308 (a
/// stalled job runs twice).
async fn live_worker_keeps_long_running_jobs(engine: Engine) {
    let id = engine.add(1).await;
    let worker = engine.worker().await;
    let job = engine.claim(worker, 1).await.jobs.remove(0);
    for _ in 0..500 {
        engine.advance(seconds(5));
        engine.jobs.heartbeat(worker).await.unwrap();
        assert_eq!(engine.jobs.evict_expired_workers().await.unwrap(), 0);
    }
    assert_eq!(engine.numbers(5).await, [0; 0]);
    assert_eq!(engine.report(&job, done()).await, ReportOutcome::Finished(JobState::Completed));
    assert_eq!(engine.job(id).await.attempt, 1);
}

/// Jobs that a worker claims after its eviction would never be recovered.
async fn evicted_worker_claims_nothing(engine: Engine) {
    let frozen = engine.worker().await;
    engine.advance(seconds(60));
    assert_eq!(engine.jobs.evict_expired_workers().await.unwrap(), 0);
    let id = engine.add(1).await;
    assert!(engine.claim(frozen, 1).await.jobs.is_empty());
    assert_eq!(engine.state(id).await, JobState::Ready);
    assert_eq!(engine.numbers(1).await, [1], "another worker claims the job");
}

/// Covers row DRV-08 of the readiness catalogue.
async fn frozen_worker_is_fenced_after_resume(engine: Engine) {
    let id = engine.add(1).await;
    let frozen = engine.worker().await;
    let late = engine.claim(frozen, 1).await.jobs.remove(0);
    engine.advance(seconds(60));
    assert_eq!(engine.jobs.evict_expired_workers().await.unwrap(), 1);
    let worker = engine.worker().await;
    let fresh = engine.claim(worker, 1).await.jobs.remove(0);
    assert_eq!(engine.jobs.heartbeat(frozen).await.unwrap(), kith_jobs::HeartbeatOutcome::Evicted);
    assert_eq!(engine.report(&late, done()).await, ReportOutcome::Stale);
    assert_eq!(engine.state(id).await, JobState::Running);
    assert_eq!(engine.report(&fresh, done()).await, ReportOutcome::Finished(JobState::Completed));
    assert_eq!(engine.job(id).await.attempt, 2);
}

async fn die_with(engine: &Engine, limit: i64) -> Vec<i64> {
    let worker = engine.worker().await;
    let claim = engine.claim(worker, limit).await;
    engine.advance(seconds(60));
    engine.jobs.evict_expired_workers().await.unwrap();
    claim.jobs.iter().map(|job| job.id).collect()
}

/// Regression test for sidekiq#4633: a poison job kills workers repeatedly.
async fn job_that_crashes_worker_three_times_is_dead(engine: Engine) {
    let id = engine.enqueue(work(1).retry(RetryPolicy::times(100))).await.id;
    for _ in 0..3 {
        assert_eq!(die_with(&engine, 5).await, [id]);
    }
    let job = engine.job(id).await;
    assert_eq!((job.state, job.errors.len()), (JobState::Dead, 3));
    assert!(die_with(&engine, 5).await.is_empty());
}

async fn other_jobs_complete_despite_poison_job(engine: Engine) {
    let poison = engine.add(0).await;
    engine.jobs.enqueue_all((1..20).map(work).collect()).await.unwrap();
    // After two crashes all of them are suspects.
    for _ in 0..2 {
        assert_eq!(die_with(&engine, 50).await.len(), 20);
    }
    // From now on a worker claims only one suspect at a time.
    let mut done_ones = 0;
    for _ in 0..60 {
        let worker = engine.worker().await;
        let claim = engine.claim(worker, 50).await;
        assert!(claim.jobs.len() <= 1, "{:?}", claim.jobs);
        let Some(job) = claim.jobs.first() else { break };
        if job.id == poison {
            engine.advance(seconds(60));
            engine.jobs.evict_expired_workers().await.unwrap();
        } else {
            assert_eq!(engine.report(job, done()).await, ReportOutcome::Finished(JobState::Completed));
            done_ones += 1;
        }
    }
    assert_eq!(done_ones, 19);
    assert_eq!(engine.state(poison).await, JobState::Dead);
}

/// Enqueues the given jobs and makes them suspects, in this order.
async fn make_suspects(engine: &Engine, jobs: Vec<kith_jobs::NewJob>) {
    engine.jobs.enqueue_all(jobs).await.unwrap();
    for _ in 0..2 {
        die_with(engine, 50).await;
    }
}

async fn suspects_run_in_busy_queue(engine: Engine) {
    make_suspects(&engine, vec![work(-1), work(-2)]).await;
    engine.jobs.enqueue_all((0..100).map(work).collect()).await.unwrap();
    let worker = engine.worker().await;
    let mut found = Vec::new();
    for _ in 0..10 {
        engine.advance(seconds(2));
        engine.jobs.heartbeat(worker).await.unwrap();
        for job in engine.claim(worker, 5).await.jobs {
            found.push(job.payload.parse::<i64>().unwrap());
            engine.report(&job, done()).await;
        }
    }
    assert_eq!(found.iter().filter(|n| **n < 0).count(), 2, "{found:?}");
    assert_eq!(found.len(), 50, "the remaining jobs run");
}

async fn limit_keys_to_one(engine: &Engine) {
    let ctx = engine.ctx();
    let limit = move |tx: &kith_store::Tx<'_>| {
        kith_jobs::set_queue(tx, &ctx, "default", None, |queue| queue.key_concurrency = Some(1)).map(drop)
    };
    engine.db().write(limit).await.unwrap();
}

/// Makes all ready jobs suspects.
async fn suspect_all(engine: &Engine) {
    let suspect = |tx: &kith_store::Tx<'_>| {
        tx.exec("UPDATE jobs SET crashes = 2 WHERE state = 0", kith_store::params![]).map(drop)
    };
    engine.db().write(suspect).await.unwrap();
}

/// There are more suspects with a saturated key than one claim examines.
async fn suspects_of_saturated_key_do_not_block_other_suspects(engine: Engine) {
    limit_keys_to_one(&engine).await;
    let (first, second) = (engine.worker().await, engine.worker().await);
    engine.enqueue(work(0).with_limit_key("crowd")).await;
    let running = engine.claim(first, 1).await.jobs.remove(0);
    let crowd = (1..=120).map(|n| work(n).with_limit_key("crowd"));
    engine.jobs.enqueue_all(crowd.chain([work(-1).with_limit_key("other")]).collect()).await.unwrap();
    suspect_all(&engine).await;
    let mut found = Vec::new();
    for _ in 0..5 {
        engine.advance(seconds(2));
        let claim = engine.claim(second, 5).await;
        found.extend(crate::support::numbers(&claim));
        for job in &claim.jobs {
            engine.report(job, done()).await;
        }
    }
    assert_eq!(found, [-1], "other jobs with the saturated key are not claimed");
    engine.report(&running, done()).await;
    engine.advance(seconds(2));
    assert_eq!(engine.claim(second, 5).await.jobs.len(), 1, "jobs with the key can be claimed again");
}

async fn suspect_counts_against_the_limit_of_its_key(engine: Engine) {
    limit_keys_to_one(&engine).await;
    let (first, second) = (engine.worker().await, engine.worker().await);
    engine.enqueue(work(1).with_limit_key("a")).await;
    let running = engine.claim(first, 1).await.jobs.remove(0);
    engine.jobs.enqueue_all(vec![work(-1).with_limit_key("a"), work(-2).with_limit_key("b")]).await.unwrap();
    suspect_all(&engine).await;
    let other = engine.claim(second, 5).await;
    assert_eq!(crate::support::numbers(&other), [-2], "the job with the saturated key is not claimed");
    engine.report(&other.jobs[0], done()).await;
    assert!(engine.claim(second, 5).await.jobs.is_empty());
    engine.report(&running, done()).await;
    assert_eq!(crate::support::numbers(&engine.claim(second, 5).await), [-1]);
}

async fn eviction_does_not_count_as_job_failure(engine: Engine) {
    let id = engine.enqueue(work(1).retry(RetryPolicy::NEVER)).await.id;
    die_with(&engine, 1).await;
    let job = engine.job(id).await;
    assert_eq!((job.state, job.failures), (JobState::Scheduled, 0));
    assert_eq!(engine.run_next(done()).await, Some((id, ReportOutcome::Finished(JobState::Completed))));
}

/// No worker can send heartbeats while the database is unavailable. The first worker to recover must not
/// evict the others.
async fn outage_longer_than_lease_evicts_no_worker(engine: Engine) {
    engine.add(1).await;
    let worker = engine.worker().await;
    engine.claim(worker, 1).await;
    engine.advance(seconds(60));
    engine.db().inject(kith_store::testing::Fault::CommitFails);
    assert!(
        engine.jobs.heartbeat(worker).await.is_err(),
        "a heartbeat fails while the database is unavailable"
    );
    assert_eq!(engine.jobs.evict_expired_workers().await.unwrap(), 0);
    engine.advance(seconds(5));
    assert_eq!(
        engine.jobs.evict_expired_workers().await.unwrap(),
        0,
        "workers have one full lease to reconnect after an outage"
    );
    engine.advance(seconds(2));
    assert_eq!(
        engine.jobs.evict_expired_workers().await.unwrap(),
        1,
        "the worker that did not reconnect is evicted"
    );
}

async fn clock_set_back_does_not_stop_evictions(engine: Engine) {
    let worker = engine.worker().await;
    engine.advance(seconds(86_400));
    engine.db().inject(kith_store::testing::Fault::CommitFails);
    assert!(engine.jobs.heartbeat(worker).await.is_err());
    engine.clock.set(crate::support::BEGINNING);
    engine.add(1).await;
    let gone = engine.worker().await;
    engine.claim(gone, 1).await;
    engine.jobs.evict_expired_workers().await.unwrap();
    engine.advance(seconds(7));
    assert_eq!(engine.jobs.evict_expired_workers().await.unwrap(), 1);
}

async fn concurrent_nodes_evict_worker_once(engine: Engine) {
    engine.jobs.enqueue_all((0..50).map(work).collect()).await.unwrap();
    let gone = engine.worker().await;
    engine.claim(gone, 50).await;
    engine.advance(seconds(7));
    let nodes = [Some(engine.jobs.clone()), engine.second().await];
    let mut evictors = tokio::task::JoinSet::new();
    for n in 0..6 {
        let jobs = nodes[n % 2].clone().unwrap_or_else(|| engine.jobs.clone());
        evictors.spawn(async move { jobs.evict_expired_workers().await.unwrap() });
    }
    let mut returned = 0;
    while let Some(ended) = evictors.join_next().await {
        returned += ended.unwrap();
    }
    assert_eq!(returned, 50);
    assert_eq!(engine.count("SELECT COUNT(*) FROM jobs WHERE crashes = 1").await, 50);
}
