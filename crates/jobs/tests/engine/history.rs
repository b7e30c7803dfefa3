//! Tests of the history of ended jobs, and of the statistics.

use kith_jobs::{JobFilter, JobState, MaintenanceState, Retention, list_jobs};
use kith_kernel::{days, hours, seconds};
use kith_store::contract;

use crate::support::{Engine, done, hold, work};

contract! {
    ended_jobs_are_removed_by_age
    ended_jobs_are_removed_by_count
    jobs_are_listed_by_state
    minutes_and_samples_record_activity
}

async fn run_maintenance(engine: &Engine, last: &mut MaintenanceState, retention: Retention) {
    engine.jobs.run_maintenance(last, retention).await.unwrap();
}

/// Regression test for bullmq#366: finished jobs fill up the memory.
async fn ended_jobs_are_removed_by_age(engine: Engine) {
    let retention = Retention { ended_age: days(7), ..Retention::DEFAULT };
    let mut last = MaintenanceState::default();
    run_maintenance(&engine, &mut last, retention).await;
    let old = engine.add(1).await;
    engine.run_next(done()).await.unwrap();
    for _ in 0..24 * 7 {
        engine.advance(hours(1));
        run_maintenance(&engine, &mut last, retention).await;
    }
    assert!(engine.find(old).await.is_some(), "the job is kept for the full retention of a week");
    let young = engine.add(2).await;
    engine.run_next(done()).await.unwrap();
    for _ in 0..24 * 3 {
        engine.advance(hours(1));
        run_maintenance(&engine, &mut last, retention).await;
    }
    assert!(engine.find(old).await.is_none(), "the job is removed after ten days");
    assert!(engine.find(young).await.is_some());
}

async fn ended_jobs_are_removed_by_count(engine: Engine) {
    let retention = Retention { max_ended: 60, ..Retention::DEFAULT };
    let mut last = MaintenanceState::default();
    run_maintenance(&engine, &mut last, retention).await;
    for _ in 0..30 {
        for n in 0..10 {
            engine.add(n).await;
            engine.run_next(done()).await.unwrap();
        }
        engine.advance(seconds(61));
        run_maintenance(&engine, &mut last, retention).await;
        assert!(engine.count("SELECT COUNT(*) FROM job_history").await <= 80);
    }
    assert!(engine.count("SELECT COUNT(*) FROM job_history").await >= 60, "the latest jobs are kept");
    assert_eq!(engine.count("SELECT COUNT(*) FROM jobs").await, 0);
}

async fn jobs_are_listed_by_state(engine: Engine) {
    let mut ids = Vec::new();
    for n in 0..9 {
        ids.push(engine.add(n).await);
    }
    for n in 0..6 {
        let outcome = if n % 2 == 0 { done() } else { Err(kith_jobs::JobError::discard("no")) };
        engine.run_next(outcome).await.unwrap();
    }
    let list = async |filter: JobFilter| {
        let jobs = engine.db().read(move |q| list_jobs(q, &filter, 100)).await.unwrap();
        jobs.iter().map(|job| job.id).collect::<Vec<_>>()
    };
    let of = |state| JobFilter { state: Some(state), ..JobFilter::default() };
    assert_eq!(list(JobFilter::default()).await, [ids[8], ids[7], ids[6]]);
    assert_eq!(list(of(JobState::Completed)).await, [ids[4], ids[2], ids[0]]);
    assert_eq!(list(of(JobState::Dead)).await, [ids[5], ids[3], ids[1]]);
    assert_eq!(list(JobFilter { before: Some(ids[4]), ..of(JobState::Completed) }).await, [ids[2], ids[0]]);
    assert!(list(JobFilter { queue: Some("other".into()), ..of(JobState::Completed) }).await.is_empty());
    assert!(list(JobFilter { kind: Some("other".into()), ..JobFilter::default() }).await.is_empty());
}

/// Covers row JOB-03 of the readiness catalogue.
async fn minutes_and_samples_record_activity(engine: Engine) {
    let mut last = MaintenanceState::default();
    let handlers = [kith_jobs::Handler::new("work", |run: kith_jobs::AttemptContext| async move {
        if run.payload == "3" { Err(kith_jobs::JobError::discard("no")) } else { done() }
    })];
    engine.jobs.enqueue_all((0..5).map(work).collect()).await.unwrap();
    let due = engine.ctx().now + hours(1);
    engine.enqueue(work(9).at(due)).await;
    engine.advance(seconds(30));
    run_maintenance(&engine, &mut last, Retention::DEFAULT).await;
    let sample = engine.jobs.samples().remove(0);
    assert_eq!((sample.ready, sample.scheduled, sample.dead), (5, 1, 0));
    assert_eq!(sample.oldest_ready_at, Some(crate::support::BEGINNING));
    assert_eq!(engine.jobs.drain(&handlers, &["default"]).await.unwrap(), 5);
    engine.advance(seconds(11));
    run_maintenance(&engine, &mut last, Retention::DEFAULT).await;
    let since = crate::support::BEGINNING - hours(1);
    let minutes =
        engine.db().read(move |q| kith_jobs::list_minutes(q, Some("default"), since, 100)).await.unwrap();
    let started: i64 = minutes.iter().map(|minute| minute.counts.started).sum();
    assert_eq!(started, 5);
    let samples = engine.db().read(move |q| kith_jobs::list_samples(q, "default", since, 100)).await.unwrap();
    assert_eq!(samples.iter().map(|one| (one.ready, one.dead)).collect::<Vec<_>>(), [(5, 0), (0, 1)]);
}

const CURRENT_SEGMENT: &str = "SELECT current_segment FROM job_history_ring";

/// A dump locks the segment that is to be truncated next for as long as the dump runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn history_segment_is_not_truncated_while_it_is_read() {
    let Some(engine) = Engine::postgres().await else { return };
    let mut last = MaintenanceState::default();
    run_maintenance(&engine, &mut last, Retention::DEFAULT).await;
    let id = engine.add(1).await;
    engine.run_next(done()).await.unwrap();
    let before = engine.count(CURRENT_SEGMENT).await;
    let held = hold(&engine, |tx| {
        tx.one("SELECT COUNT(*) FROM job_history_segment_2", &[], |row| row.get::<i64>(0)).map(drop)
    })
    .await;
    engine.advance(days(2));
    let jobs = engine.jobs.clone();
    let maintained = tokio::spawn(async move {
        let outcome = jobs.run_maintenance(&mut last, Retention::DEFAULT).await;
        (outcome, last)
    });
    assert_eq!(
        engine.job(id).await.state,
        JobState::Completed,
        "finished jobs can be read during maintenance"
    );
    let (outcome, mut last) = maintained.await.unwrap();
    outcome.unwrap();
    assert_eq!(engine.count(CURRENT_SEGMENT).await, before, "a segment is not dropped while it is read");
    held.release().await;
    engine.advance(seconds(61));
    run_maintenance(&engine, &mut last, Retention::DEFAULT).await;
    assert_eq!(engine.count(CURRENT_SEGMENT).await, before + 1);
    assert_eq!(engine.job(id).await.state, JobState::Completed);
}
