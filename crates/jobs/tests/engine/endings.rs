//! Tests of the ends of jobs: completed, retried, dead, cancelled. Only the owner of an attempt can report
//! its end.

use std::time::Duration;

use kith_jobs::{
    CancelOutcome, JobError, JobOutput, JobState, ReportOutcome, RetryOutcome, RetryPolicy, Unique, cancel,
    discard_dead, redrive, retry,
};
use kith_kernel::seconds;
use kith_store::contract;

use crate::support::{Engine, done, work};

contract! {
    completed_job_is_in_history_with_result
    failing_job_is_retried_with_backoff_then_dead
    discarded_job_is_dead_immediately
    snooze_does_not_count_as_failure
    retry_in_counts_as_failure
    stale_attempt_report_is_ignored
    cancel_removes_waiting_job_and_requests_running_one
    unstarted_job_with_cancel_request_ends_when_returned
    dead_letters_are_redriven_and_discarded_in_bulk
    retry_runs_job_from_any_state
    dead_job_releases_unique_key
    retried_dead_job_holds_its_unique_key
    dead_job_with_held_key_is_not_retried
    redrive_skips_dead_jobs_with_held_key
    reports_of_many_jobs_are_applied_together
}

async fn completed_job_is_in_history_with_result(engine: Engine) {
    let id = engine.add(1).await;
    engine.advance(seconds(1));
    let result = JobOutput { result: Some("{\"n\":1}".to_owned()) };
    let outcome = engine.run_next(Ok(result)).await;
    assert_eq!(outcome, Some((id, ReportOutcome::Finished(JobState::Completed))));
    let job = engine.job(id).await;
    assert_eq!((job.state, job.result.as_deref(), job.attempt), (JobState::Completed, Some("{\"n\":1}"), 1));
    assert_eq!(job.finished_at, Some(engine.ctx().now));
    assert_eq!(engine.count("SELECT COUNT(*) FROM jobs").await, 0, "the live table holds live jobs only");
}

/// Covers row REL-07 of the readiness catalogue.
async fn failing_job_is_retried_with_backoff_then_dead(engine: Engine) {
    let policy = RetryPolicy::times(4).waiting(seconds(10), seconds(25));
    let id = engine.enqueue(work(1).retry(policy)).await.id;
    for (failure, full_s) in [(1, 10), (2, 20), (3, 25)] {
        let (_, outcome) = engine.run_next(Err(JobError::retry("no luck"))).await.expect("the job is due");
        let ReportOutcome::Rescheduled(at) = outcome else { panic!("{outcome:?}") };
        let wait = at.since(engine.ctx().now);
        assert!(wait >= seconds(full_s) / 2 && wait <= seconds(full_s), "failure {failure}: {wait:?}");
        assert!(engine.run_next(done()).await.is_none(), "the job is not claimed before its backoff ends");
        engine.clock.set(at);
    }
    let (_, outcome) = engine.run_next(Err(JobError::retry("at last"))).await.expect("the job is due");
    assert_eq!(outcome, ReportOutcome::Finished(JobState::Dead));
    let job = engine.job(id).await;
    assert_eq!((job.state, job.failures), (JobState::Dead, 4));
    let errors: Vec<_> = job.errors.iter().map(|one| (one.attempt, &*one.error)).collect();
    assert_eq!(errors, [(1, "no luck"), (2, "no luck"), (3, "no luck"), (4, "at last")]);
}

async fn discarded_job_is_dead_immediately(engine: Engine) {
    let id = engine.add(1).await;
    let outcome = engine.run_next(Err(JobError::discard("makes no sense"))).await;
    assert_eq!(outcome, Some((id, ReportOutcome::Finished(JobState::Dead))));
    assert_eq!(engine.job(id).await.errors[0].error, "makes no sense");
}

async fn snooze_does_not_count_as_failure(engine: Engine) {
    let id = engine.enqueue(work(1).retry(RetryPolicy::NEVER)).await.id;
    for _ in 0..5 {
        let outcome = engine.run_next(Err(JobError::Snooze(seconds(30)))).await.expect("the job is due").1;
        assert_eq!(outcome, ReportOutcome::Rescheduled(engine.ctx().now + seconds(30)));
        engine.advance(seconds(30));
    }
    assert_eq!(engine.job(id).await.failures, 0);
    assert_eq!(engine.run_next(done()).await, Some((id, ReportOutcome::Finished(JobState::Completed))));
}

async fn retry_in_counts_as_failure(engine: Engine) {
    let id = engine.enqueue(work(1).retry(RetryPolicy::times(2))).await.id;
    let error = || JobError::RetryIn { why: "429".to_owned(), wait: seconds(777) };
    let outcome = engine.run_next(Err(error())).await;
    assert_eq!(outcome, Some((id, ReportOutcome::Rescheduled(engine.ctx().now + seconds(777)))));
    engine.advance(seconds(777));
    assert_eq!(engine.run_next(Err(error())).await, Some((id, ReportOutcome::Finished(JobState::Dead))));
}

/// Covers row DRV-08 of the readiness catalogue: reports are fenced by the attempt, and a stale report
/// changes nothing.
async fn stale_attempt_report_is_ignored(engine: Engine) {
    let id = engine.add(1).await;
    let worker = engine.worker().await;
    let first = engine.claim(worker, 1).await.jobs.remove(0);
    assert_eq!(
        engine.report(&first, Err(JobError::Snooze(Duration::from_millis(1)))).await,
        ReportOutcome::Rescheduled(engine.ctx().now + Duration::from_millis(1))
    );
    for outcome in
        [done(), Err(JobError::retry("late")), Err(JobError::discard("late")), Err(JobError::Cancelled)]
    {
        assert_eq!(
            engine.report(&first, outcome).await,
            ReportOutcome::Stale,
            "a report for a job without an owner is stale"
        );
    }
    engine.advance(seconds(1));
    let second = engine.claim(worker, 1).await.jobs.remove(0);
    assert_eq!((second.id, second.attempt), (id, 2));
    let mut other = second.clone();
    other.token = first.token;
    for late in [&first, &other] {
        for outcome in [done(), Err(JobError::retry("late")), Err(JobError::discard("late"))] {
            assert_eq!(engine.report(late, outcome).await, ReportOutcome::Stale);
        }
    }
    assert_eq!(engine.job(id).await.failures, 0);
    assert_eq!(engine.report(&second, done()).await, ReportOutcome::Finished(JobState::Completed));
    assert_eq!(engine.report(&second, done()).await, ReportOutcome::Stale, "a repeated report is stale");
    assert_eq!(engine.count("SELECT COUNT(*) FROM job_history").await, 1);
}

async fn cancel_removes_waiting_job_and_requests_running_one(engine: Engine) {
    let ctx = engine.ctx();
    let take_back = |id| {
        let ctx = ctx.clone();
        engine.db().write(move |tx| cancel(tx, &ctx, id, "by a test"))
    };
    let waiting = engine.add(1).await;
    assert_eq!(take_back(waiting).await.unwrap(), CancelOutcome::Cancelled);
    assert_eq!(engine.state(waiting).await, JobState::Cancelled);
    assert_eq!(take_back(waiting).await.unwrap(), CancelOutcome::AlreadyEnded);
    assert_eq!(take_back(99_999).await.unwrap(), CancelOutcome::Unknown);
    let running = engine.add(2).await;
    let worker = engine.worker().await;
    let job = engine.claim(worker, 1).await.jobs.remove(0);
    assert_eq!(take_back(running).await.unwrap(), CancelOutcome::Requested);
    let heartbeat = engine.jobs.heartbeat(worker).await.unwrap();
    assert_eq!((job.id, job.attempt), (running, 1));
    assert_eq!(heartbeat, kith_jobs::HeartbeatOutcome::Alive { cancel: vec![job.as_attempt()] });
    assert_eq!(
        engine.report(&job, Err(JobError::retry("stopped"))).await,
        ReportOutcome::Finished(JobState::Cancelled)
    );
}

async fn unstarted_job_with_cancel_request_ends_when_returned(engine: Engine) {
    let worker = engine.worker().await;
    let (cancelled, other) = (engine.add(1).await, engine.add(2).await);
    let claim = engine.claim(worker, 2).await;
    let ctx = engine.ctx();
    assert_eq!(
        engine.db().write(move |tx| cancel(tx, &ctx, cancelled, "by a test")).await.unwrap(),
        CancelOutcome::Requested
    );
    let (ctx, jobs) = (engine.ctx(), claim.jobs.iter().map(|job| (job.as_attempt(), job.queue.clone())));
    let jobs: Vec<_> = jobs.collect();
    engine.db().write(move |tx| kith_jobs::return_to_queue(tx, &ctx, &jobs)).await.unwrap();
    assert_eq!(engine.state(cancelled).await, JobState::Cancelled);
    assert_eq!(engine.state(other).await, JobState::Scheduled);
    assert_eq!(engine.numbers(5).await, [2]);
}

async fn dead_letters_are_redriven_and_discarded_in_bulk(engine: Engine) {
    for n in 0..20 {
        engine.add(n).await;
        engine.run_next(Err(JobError::discard("no"))).await.unwrap();
    }
    assert_eq!(engine.count("SELECT COUNT(*) FROM job_dead_letters").await, 20);
    let ctx = engine.ctx();
    let back = engine.db().write(move |tx| redrive(tx, &ctx, Some("default"), Some("work"), 15)).await;
    assert_eq!(back.unwrap(), 15);
    assert_eq!(engine.numbers(100).await.len(), 15);
    let none = engine.db().write(move |tx| discard_dead(tx, Some("elsewhere"), None, 100)).await;
    assert_eq!(none.unwrap(), 0);
    assert_eq!(engine.db().write(move |tx| discard_dead(tx, None, None, 100)).await.unwrap(), 5);
    assert_eq!(engine.count("SELECT COUNT(*) FROM job_dead_letters").await, 0);
}

async fn retry_runs_job_from_any_state(engine: Engine) {
    let ctx = engine.ctx();
    let again = |id| {
        let ctx = ctx.clone();
        engine.db().write(move |tx| retry(tx, &ctx, id))
    };
    let dead = engine.add(1).await;
    let (_, outcome) = engine.run_next(Err(JobError::discard("no"))).await.unwrap();
    assert_eq!(outcome, ReportOutcome::Finished(JobState::Dead));
    assert_eq!(again(dead).await.unwrap(), RetryOutcome::Revived);
    let worker = engine.worker().await;
    let revived = engine.claim(worker, 1).await.jobs.remove(0);
    assert_eq!(
        (revived.id, revived.attempt, revived.failures),
        (dead, 2, 0),
        "the attempt number continues after a retry"
    );
    assert_eq!(again(dead).await.unwrap(), RetryOutcome::Live);
    engine.report(&revived, done()).await;
    let RetryOutcome::Reenqueued(reenqueued) = again(dead).await.unwrap() else {
        panic!("a finished job is enqueued again")
    };
    assert_ne!(reenqueued, dead);
    assert_eq!(engine.numbers(5).await, [1]);
    let delayed = engine.enqueue(work(2).at(engine.ctx().now + seconds(500))).await.id;
    assert_eq!(again(delayed).await.unwrap(), RetryOutcome::MadeDue);
    assert_eq!(engine.numbers(5).await, [2]);
    assert_eq!(again(99_999).await.unwrap(), RetryOutcome::Unknown);
}

async fn dead_job_releases_unique_key(engine: Engine) {
    let first = engine.enqueue(work(1).unique(Unique::key("k"))).await;
    engine.run_next(Err(JobError::discard("no"))).await.unwrap();
    let second = engine.enqueue(work(2).unique(Unique::key("k"))).await;
    assert!(!second.is_existing && second.id != first.id);
}

async fn retried_dead_job_holds_its_unique_key(engine: Engine) {
    let first = engine.enqueue(work(1).unique(Unique::key("k"))).await;
    engine.run_next(Err(JobError::discard("no"))).await.unwrap();
    let ctx = engine.ctx();
    engine.db().write(move |tx| retry(tx, &ctx, first.id)).await.unwrap();
    let second = engine.enqueue(work(2).unique(Unique::key("k"))).await;
    assert_eq!((second.id, second.is_existing), (first.id, true));
    engine.run_next(done()).await.unwrap();
    assert!(
        !engine.enqueue(work(3).unique(Unique::key("k"))).await.is_existing,
        "a finished job releases its unique key"
    );
}

async fn dead_job_with_held_key_is_not_retried(engine: Engine) {
    let first = engine.enqueue(work(1).unique(Unique::key("k"))).await.id;
    engine.run_next(Err(JobError::discard("no"))).await.unwrap();
    let second = engine.enqueue(work(2).unique(Unique::key("k"))).await.id;
    let ctx = engine.ctx();
    let outcome = engine.db().write(move |tx| retry(tx, &ctx, first)).await.unwrap();
    assert_ne!(outcome, RetryOutcome::Revived);
    let ctx = engine.ctx();
    assert_eq!(engine.db().write(move |tx| redrive(tx, &ctx, None, None, 10)).await.unwrap(), 0);
    assert_eq!(engine.state(first).await, JobState::Dead);
    engine.run_next(done()).await.unwrap();
    assert_eq!(engine.state(second).await, JobState::Completed);
    let ctx = engine.ctx();
    assert_eq!(engine.db().write(move |tx| redrive(tx, &ctx, None, None, 10)).await.unwrap(), 1);
}

async fn redrive_skips_dead_jobs_with_held_key(engine: Engine) {
    let mut dead = Vec::new();
    for n in 0..6 {
        let job = if n < 5 { work(n).unique(Unique::key("k")) } else { work(n) };
        dead.push(engine.enqueue(job).await.id);
        engine.run_next(Err(JobError::discard("no"))).await.unwrap();
    }
    let redrive = async |limit| {
        let ctx = engine.ctx();
        engine.db().write(move |tx| redrive(tx, &ctx, None, None, limit)).await.unwrap()
    };
    // One of the five jobs with the same key becomes live again; the sixth job has no key.
    assert_eq!(redrive(2).await, 2);
    let mut still_dead = Vec::new();
    for (n, job) in dead.iter().enumerate() {
        if engine.state(*job).await == JobState::Dead {
            still_dead.push(n);
        }
    }
    assert_eq!(still_dead, [1, 2, 3, 4]);
    assert_eq!(redrive(10).await, 0);
    for _ in 0..2 {
        engine.run_next(done()).await.unwrap();
    }
    assert_eq!(redrive(10).await, 1, "redrive enqueues the next job with the key");
}

async fn reports_of_many_jobs_are_applied_together(engine: Engine) {
    engine.jobs.enqueue_all((0..300).map(work).collect()).await.unwrap();
    let worker = engine.worker().await;
    let claim = engine.claim(worker, 300).await;
    let report = |job: &kith_jobs::ClaimedJob| kith_jobs::AttemptReport {
        attempt: job.as_attempt(),
        outcome: match job.id % 3 {
            0 => done(),
            1 => Err(JobError::retry("later")),
            _ => Err(JobError::discard("never")),
        },
        notify_queue: None,
    };
    let reports = std::sync::Arc::new(claim.jobs.iter().map(report).collect::<Vec<_>>());
    let outcomes = engine.jobs.report(std::sync::Arc::clone(&reports)).await.unwrap();
    for (outcome, one) in outcomes.iter().zip(reports.iter()) {
        match one.attempt.job % 3 {
            0 => assert_eq!(*outcome, ReportOutcome::Finished(JobState::Completed)),
            1 => assert!(matches!(outcome, ReportOutcome::Rescheduled(_))),
            _ => assert_eq!(*outcome, ReportOutcome::Finished(JobState::Dead)),
        }
    }
    assert_eq!(engine.count("SELECT COUNT(*) FROM jobs WHERE state = 1").await, 100);
    assert_eq!(engine.count("SELECT COUNT(*) FROM job_history").await, 100);
    assert_eq!(engine.count("SELECT COUNT(*) FROM job_dead_letters").await, 100);
    let again = engine.jobs.report(reports).await.unwrap();
    assert!(again.iter().all(|outcome| *outcome == ReportOutcome::Stale), "{again:?}");
}
