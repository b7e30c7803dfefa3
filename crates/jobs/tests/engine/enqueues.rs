//! Tests of enqueueing: atomicity with the transaction, uniqueness, and validation.

use std::time::Duration;

use kith_jobs::{EnqueueError, JobState, NewJob, OnConflict, RetryPolicy, Unique, enqueue};
use kith_kernel::seconds;
use kith_store::contract;

use crate::support::{Engine, done, work};

contract! {
    job_exists_only_if_transaction_commits
    invalid_job_is_rejected_with_field_name
    many_callers_get_their_own_ids
    batch_is_atomic
    same_unique_key_returns_first_job
    payload_uniqueness_is_per_kind
    replace_updates_waiting_job_only
    debounce_runs_once_after_last_request
    debounce_during_run_enqueues_successor
    debounce_replaces_job_that_waits_for_others
    throttle_allows_one_job_per_period
    racing_enqueues_with_one_key_create_one_job
    delayed_job_starts_when_due
    delayed_jobs_start_without_new_jobs
}

async fn job_exists_only_if_transaction_commits(engine: Engine) {
    let ctx = engine.ctx();
    let undone = engine.db().write(move |tx| {
        enqueue(tx, &ctx, &work(1))?;
        Err::<(), _>(EnqueueError::Unknown(7))
    });
    assert!(undone.await.is_err());
    assert_eq!(engine.count("SELECT COUNT(*) FROM jobs").await, 0);
    let ctx = engine.ctx();
    let id = engine.db().write(move |tx| enqueue(tx, &ctx, &work(2))).await.unwrap().id;
    assert_eq!(engine.state(id).await, JobState::Ready);
    assert_eq!(engine.numbers(10).await, [2]);
}

async fn invalid_job_is_rejected_with_field_name(engine: Engine) {
    let long = "x".repeat(300);
    let wrong = [
        ("queue", NewJob::new("", "work", "1")),
        ("queue", NewJob::new("a b", "work", "1")),
        ("kind", NewJob::new("default", long.clone(), "1")),
        ("payload", NewJob::new("default", "work", "1".repeat(300_000))),
        ("priority", work(1).priority(10)),
        ("priority", work(1).priority(-1)),
        ("retry.max_attempts", work(1).retry(RetryPolicy::times(0))),
        ("limit_key", work(1).with_limit_key("")),
        ("unique.key", work(1).unique(Unique::key(long))),
    ];
    for (field, job) in wrong {
        match engine.jobs.enqueue(job).await {
            Err(EnqueueError::Invalid(invalid)) => assert_eq!(invalid.field, field),
            other => panic!("{field}: {other:?}"),
        }
    }
    let unknown = engine.jobs.enqueue(work(1).after([4_711])).await;
    assert!(matches!(unknown, Err(EnqueueError::Unknown(4_711))), "{unknown:?}");
    assert_eq!(engine.count("SELECT COUNT(*) FROM jobs").await, 0);
}

async fn many_callers_get_their_own_ids(engine: Engine) {
    let callers = (0..64).map(|n| {
        let jobs = engine.jobs.clone();
        tokio::spawn(async move {
            // This job is rejected without affecting the other callers.
            let wrong = jobs.enqueue(work(n).after([999_999])).await;
            assert!(matches!(wrong, Err(EnqueueError::Unknown(_))), "{wrong:?}");
            (n, jobs.enqueue(work(n)).await.unwrap().id)
        })
    });
    let mut seen = std::collections::BTreeSet::new();
    for caller in callers.collect::<Vec<_>>() {
        let (n, id) = caller.await.unwrap();
        assert_eq!(engine.job(id).await.payload, n.to_string());
        assert!(seen.insert(id), "{id} was assigned twice");
    }
    assert_eq!(engine.count("SELECT COUNT(*) FROM jobs").await, 64);
}

async fn batch_is_atomic(engine: Engine) {
    let good: Vec<_> = (0..700).map(work).collect();
    let ids = engine.jobs.enqueue_all(good).await.unwrap();
    for (n, one) in [(0, ids[0]), (350, ids[350]), (699, ids[699])] {
        assert_eq!(engine.job(one.id).await.payload, n.to_string());
    }
    let bad: Vec<_> = (0..10).map(work).chain([work(1).after([999_999])]).collect();
    assert!(engine.jobs.enqueue_all(bad).await.is_err());
    assert_eq!(engine.count("SELECT COUNT(*) FROM jobs").await, 700);
    assert!(engine.jobs.enqueue_all(Vec::new()).await.unwrap().is_empty());
}

async fn same_unique_key_returns_first_job(engine: Engine) {
    let first = engine.enqueue(work(1).unique(Unique::key("k"))).await;
    let second = engine.enqueue(work(2).unique(Unique::key("k"))).await;
    assert!(!first.is_existing && second.is_existing);
    assert_eq!(first.id, second.id);
    assert_eq!(engine.job(first.id).await.payload, "1");
    engine.run_next(done()).await.unwrap();
    let third = engine.enqueue(work(3).unique(Unique::key("k"))).await;
    assert!(!third.is_existing && third.id != first.id, "a finished job releases its unique key");
}

async fn payload_uniqueness_is_per_kind(engine: Engine) {
    let first = engine.enqueue(work(1).unique(Unique::arguments())).await;
    assert!(engine.enqueue(work(1).unique(Unique::arguments())).await.is_existing);
    assert!(!engine.enqueue(work(2).unique(Unique::arguments())).await.is_existing);
    let other = NewJob::new("default", "other", "1").unique(Unique::arguments());
    let other = engine.enqueue(other).await;
    assert!(!other.is_existing && other.id != first.id);
}

async fn replace_updates_waiting_job_only(engine: Engine) {
    let replace = || Unique::key("k").on_conflict(OnConflict::Replace);
    let first = engine.enqueue(work(1).unique(replace())).await;
    let second = engine.enqueue(work(2).priority(1).unique(replace())).await;
    assert!(second.is_existing && second.id == first.id);
    let job = engine.job(first.id).await;
    assert_eq!((&*job.payload, job.priority), ("2", 1));
    let worker = engine.worker().await;
    assert_eq!(engine.claim(worker, 1).await.jobs.len(), 1);
    let third = engine.enqueue(work(3).unique(replace())).await;
    assert!(third.is_existing);
    assert_eq!(engine.job(first.id).await.payload, "2", "the running job keeps its payload");
}

async fn debounce_runs_once_after_last_request(engine: Engine) {
    let debounced = |n: i64, at| work(n).at(at).unique(Unique::key("k").on_conflict(OnConflict::Debounce));
    for n in 1..=5 {
        let at = engine.ctx().now + seconds(10);
        engine.enqueue(debounced(n, at)).await;
        engine.advance(seconds(5));
        assert_eq!(engine.numbers(10).await, [0; 0], "after {n}");
    }
    engine.advance(seconds(5));
    assert_eq!(engine.numbers(10).await, [5]);
}

async fn debounce_during_run_enqueues_successor(engine: Engine) {
    let debounced = |n: i64| work(n).unique(Unique::key("k").on_conflict(OnConflict::Debounce));
    let first = engine.enqueue(debounced(1)).await;
    let worker = engine.worker().await;
    let running = engine.claim(worker, 1).await.jobs.remove(0);
    let second = engine.enqueue(debounced(2)).await;
    assert!(!second.is_existing && second.id != first.id);
    let third = engine.enqueue(debounced(3)).await;
    assert_eq!((third.id, third.is_existing), (second.id, true));
    engine.advance(seconds(1));
    assert_eq!(engine.numbers(5).await, [0; 0], "the second job waits until the first has finished");
    engine.report(&running, done()).await;
    engine.advance(seconds(1));
    assert_eq!(engine.numbers(5).await, [3], "the job has the payload of the last enqueue");
}

async fn debounce_replaces_job_that_waits_for_others(engine: Engine) {
    let debounced = |n: i64| work(n).unique(Unique::key("k").on_conflict(OnConflict::Debounce));
    let before = engine.add(0).await;
    let first = engine.enqueue(debounced(1).after([before])).await;
    assert_eq!(engine.enqueue(debounced(2)).await.id, first.id);
    assert_eq!(engine.state(first.id).await, JobState::Blocked);
    engine.run_next(done()).await.unwrap();
    engine.advance(seconds(1));
    assert_eq!(engine.numbers(5).await, [2]);
}

async fn throttle_allows_one_job_per_period(engine: Engine) {
    let throttled = |n| work(n).unique(Unique::key("k").within(seconds(60)));
    let first = engine.enqueue(throttled(1)).await;
    assert!(!first.is_existing);
    engine.run_next(done()).await.unwrap();
    let second = engine.enqueue(throttled(2)).await;
    assert!(
        second.is_existing && second.id == first.id,
        "the key stays taken until its period ends, although the job has finished"
    );
    engine.advance(seconds(61));
    assert!(!engine.enqueue(throttled(3)).await.is_existing);
}

async fn racing_enqueues_with_one_key_create_one_job(engine: Engine) {
    let second = engine.second().await;
    let racers = (0..40).map(|n| {
        let jobs = second.clone().filter(|_| n % 2 == 0).unwrap_or_else(|| engine.jobs.clone());
        tokio::spawn(async move { jobs.enqueue(work(n).unique(Unique::key("one"))).await.unwrap() })
    });
    let mut made = 0;
    for racer in racers.collect::<Vec<_>>() {
        made += usize::from(!racer.await.unwrap().is_existing);
    }
    assert_eq!(made, 1);
    assert_eq!(engine.count("SELECT COUNT(*) FROM jobs").await, 1);
}

async fn delayed_job_starts_when_due(engine: Engine) {
    let due = engine.ctx().now + seconds(3_600);
    let id = engine.enqueue(work(1).at(due)).await.id;
    assert_eq!(engine.state(id).await, JobState::Scheduled);
    engine.advance(seconds(3_600) - Duration::from_millis(1));
    assert_eq!(engine.numbers(10).await, [0; 0]);
    engine.advance(Duration::from_millis(1));
    assert_eq!(engine.numbers(10).await, [1]);
    engine.clock.set(engine.ctx().now + seconds(100));
    let past = engine.ctx().now - seconds(50);
    let late = engine.enqueue(work(2).at(past)).await.id;
    assert_eq!(engine.state(late).await, JobState::Ready, "a job with a past run time is due at once");
}

/// Regression test for bullmq#2466: delayed jobs are not started until another job is added.
async fn delayed_jobs_start_without_new_jobs(engine: Engine) {
    let now = engine.ctx().now;
    let jobs = (1..=50).map(|n: i64| work(n).at(now + seconds(n.unsigned_abs() * 60)));
    engine.jobs.enqueue_all(jobs.collect()).await.unwrap();
    let worker = engine.worker().await;
    for n in 1..=50_i64 {
        engine.clock.set(now + seconds(n.unsigned_abs() * 60));
        let claim = engine.claim(worker, 10).await;
        assert_eq!(crate::support::numbers(&claim), [n]);
        let next = (n < 50).then(|| now + seconds((n.unsigned_abs() + 1) * 60));
        assert_eq!(claim.next_claim_at, next, "the claim returns the time of the next due job");
    }
}
