//! Tests of race conditions that open transactions force: another transaction commits a change between the
//! snapshot and the row lock of a claim, a promotion or a maintenance run.

use std::time::Duration;

use kith_jobs::{JobState, Jobs, MaintenanceState, NewJob, OnConflict, Retention, Unique, cancel, enqueue};
use kith_kernel::seconds;
use kith_store::testing::Fault;
use kith_store::{EngineKind, Tx, contract, params};

use crate::support::{Engine, Held, done, hold, until, work};

contract! {
    claim_finds_remaining_jobs_after_one_is_cancelled
    claim_finds_remaining_jobs_after_one_is_debounced
    claim_continues_if_all_its_candidates_were_cancelled
    promotion_retries_skipped_locked_job
    claim_with_unknown_outcome_is_returned
    jobs_of_claim_with_unknown_outcome_are_requeued
    jobs_of_disconnected_claimer_are_requeued
    dropped_leased_claim_is_returned
    job_below_watermark_is_found_within_minutes
    report_of_undone_claim_cannot_complete_next_claim
    maintenance_keeps_the_unique_key_of_a_new_job
}

const JOBS: i64 = 100;
/// Number of write threads of a test database.
const WRITE_THREADS: usize = 8;

fn is_shared(engine: &Engine) -> bool {
    engine.db().kind() == EngineKind::Postgres
}

/// Waits until a statement in this database waits for a lock. On SQLite, waits until a transaction is queued.
async fn until_blocked(engine: &Engine) {
    if !is_shared(engine) {
        return until("a transaction is queued", async || engine.db().stats().queued > 0).await;
    }
    let waits = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    until("a statement waits for a lock", async || engine.count(waits).await > 0).await;
}

/// Starts a claim of 10 jobs, some of which `held` has changed without a commit. Then commits `held`, and
/// returns the number of claimed jobs.
async fn claim_across(engine: &Engine, held: Held, worker: i64) -> usize {
    let jobs: Jobs = engine.jobs.clone();
    let claiming = tokio::spawn(async move { jobs.claim("default", worker, 10).await.unwrap() });
    until_blocked(engine).await;
    held.release().await;
    claiming.await.unwrap().jobs.len()
}

/// Claims until no job is left, and returns the number of claimed jobs.
async fn claim_rest(engine: &Engine, worker: i64) -> usize {
    let mut rest = 0;
    loop {
        let found = engine.claim(worker, 10).await.jobs.len();
        if found == 0 {
            return rest;
        }
        rest += found;
    }
}

async fn claim_finds_remaining_jobs_after_one_is_cancelled(engine: Engine) {
    open_connections(&engine).await;
    let worker = engine.worker().await;
    engine.jobs.enqueue_all((0..JOBS).map(work).collect()).await.unwrap();
    let (first, ctx) = (engine.count("SELECT MIN(id) FROM jobs").await, engine.ctx());
    let held = hold(&engine, move |tx| cancel(tx, &ctx, first, "by a test").map(drop)).await;
    let claimed = claim_across(&engine, held, worker).await;
    assert_eq!(claimed + claim_rest(&engine, worker).await, JOBS as usize - 1);
}

async fn claim_finds_remaining_jobs_after_one_is_debounced(engine: Engine) {
    open_connections(&engine).await;
    let worker = engine.worker().await;
    let debounced = || -> NewJob { work(0).unique(Unique::key("k").on_conflict(OnConflict::Debounce)) };
    engine.enqueue(debounced()).await;
    engine.jobs.enqueue_all((1..JOBS).map(work).collect()).await.unwrap();
    let ctx = engine.ctx();
    let later = debounced().at(ctx.now + seconds(1));
    let held = hold(&engine, move |tx: &Tx<'_>| {
        enqueue(tx, &ctx, &later).map(drop).map_err(|error| kith_store::Error::fault(error.to_string()))
    })
    .await;
    let claimed = claim_across(&engine, held, worker).await;
    engine.advance(seconds(2));
    assert_eq!(claimed + claim_rest(&engine, worker).await, JOBS as usize);
}

async fn claim_continues_if_all_its_candidates_were_cancelled(engine: Engine) {
    open_connections(&engine).await;
    let worker = engine.worker().await;
    engine.jobs.enqueue_all((0..JOBS).map(work).collect()).await.unwrap();
    let (first, ctx) = (engine.count("SELECT MIN(id) FROM jobs").await, engine.ctx());
    let held = hold(&engine, move |tx: &Tx<'_>| {
        (first..first + 10).try_for_each(|job| cancel(tx, &ctx, job, "by a test").map(drop))
    })
    .await;
    assert_eq!(claim_across(&engine, held, worker).await, 10);
    assert_eq!(claim_rest(&engine, worker).await, JOBS as usize - 20);
}

async fn promotion_retries_skipped_locked_job(engine: Engine) {
    let worker = engine.worker().await;
    let due = engine.ctx().now + seconds(10);
    let locked = engine.enqueue(work(1).at(due)).await.id;
    engine.enqueue(work(2).at(due)).await;
    assert_eq!(claim_rest(&engine, worker).await, 0, "no job is due yet");
    engine.advance(seconds(200));
    let held = if is_shared(&engine) {
        let lock = move |tx: &Tx<'_>| {
            tx.exec("UPDATE jobs SET started_at = started_at WHERE id = $1", params![locked]).map(drop)
        };
        Some(hold(&engine, lock).await)
    } else {
        None
    };
    let found = claim_rest(&engine, worker).await;
    if let Some(held) = held {
        assert_eq!(found, 1, "a claim skips the locked job");
        held.release().await;
    }
    engine.advance(seconds(1));
    assert_eq!(found + claim_rest(&engine, worker).await, 2);
}

async fn claim_with_unknown_outcome_is_returned(engine: Engine) {
    let worker = engine.worker().await;
    engine.jobs.enqueue_all((0..5).map(work).collect()).await.unwrap();
    engine.db().inject(Fault::CommitAnswerLost);
    assert!(engine.jobs.claim("default", worker, 5).await.is_err());
    let free = "SELECT COUNT(*) FROM jobs WHERE state <> 2 AND attempt = 1 AND crashes = 0";
    until("the jobs are free", async || engine.count(free).await == 5).await;
    engine.advance(seconds(1));
    engine.jobs.heartbeat(worker).await.unwrap();
    assert_eq!(engine.claim(worker, 10).await.jobs.len(), 5, "the worker can claim the remaining jobs");
}

async fn jobs_of_claim_with_unknown_outcome_are_requeued(engine: Engine) {
    engine.jobs.enqueue_all((0..5).map(work).collect()).await.unwrap();
    engine.db().inject(Fault::CommitAnswerLost);
    assert!(engine.jobs.claim_with_lease("default", "elsewhere", seconds(3_600), 5).await.is_err());
    let free = "SELECT COUNT(*) FROM jobs WHERE state <> 2 AND attempt = 1 AND crashes = 0";
    until("the jobs are free", async || engine.count(free).await == 5).await;
    assert_eq!(engine.count("SELECT COUNT(*) FROM job_workers").await, 0);
    engine.advance(seconds(1));
    assert_eq!(engine.numbers(10).await.len(), 5);
}

/// A request is dropped during its claim, because its time limit has passed or the client has disconnected.
async fn jobs_of_disconnected_claimer_are_requeued(engine: Engine) {
    engine.add(1).await;
    let lock = |tx: &Tx<'_>| {
        tx.lock("job queue", ["default"])?;
        tx.exec("UPDATE job_history_ring SET current_segment = current_segment", params![]).map(drop)
    };
    let held = hold(&engine, lock).await;
    let jobs = engine.jobs.clone();
    let claiming = tokio::spawn(async move {
        jobs.claim_with_lease("default", "elsewhere", seconds(3_600), 1).await.unwrap().into_claim();
    });
    until_blocked(&engine).await;
    claiming.abort();
    assert!(claiming.await.unwrap_err().is_cancelled());
    held.release().await;
    let free = "SELECT COUNT(*) FROM jobs WHERE state <> 2 AND attempt = 1 AND crashes = 0";
    until("the job is free", async || engine.count(free).await == 1).await;
    assert_eq!(engine.count("SELECT COUNT(*) FROM job_workers").await, 0);
    engine.advance(seconds(1));
    assert_eq!(engine.numbers(10).await, [1]);
}

/// A request fails after its claim, because its response could not be stored.
async fn dropped_leased_claim_is_returned(engine: Engine) {
    engine.jobs.enqueue_all((0..3).map(work).collect()).await.unwrap();
    let claim = engine.jobs.claim_with_lease("default", "elsewhere", seconds(3_600), 2).await.unwrap();
    assert_eq!(claim.jobs.len(), 2);
    drop(claim);
    until("the jobs are free", async || engine.count("SELECT COUNT(*) FROM jobs WHERE state = 2").await == 0)
        .await;
    let claim = engine.jobs.claim_with_lease("default", "elsewhere", seconds(3_600), 1).await.unwrap();
    claim.return_to_queue().await.unwrap();
    assert_eq!(engine.count("SELECT COUNT(*) FROM job_workers").await, 0);
    engine.advance(seconds(1));
    let claim = engine.jobs.claim_with_lease("default", "elsewhere", seconds(3_600), 5).await.unwrap();
    assert_eq!(claim.into_claim().jobs.len(), 3);
    assert_eq!(engine.count("SELECT COUNT(*) FROM jobs WHERE state = 2 AND crashes = 0").await, 3);
}

/// Opens all write connections. On a new connection the cached watermarks are not valid.
async fn open_connections(engine: &Engine) {
    let mut all = Vec::new();
    while is_shared(engine) && all.len() < WRITE_THREADS {
        all.push(hold(engine, |_: &Tx<'_>| Ok(())).await);
    }
    for held in all {
        held.release().await;
    }
}

/// Covers the safety net that corrects a wrong watermark, whatever its cause.
async fn job_below_watermark_is_found_within_minutes(engine: Engine) {
    open_connections(&engine).await;
    let worker = engine.worker().await;
    engine.jobs.enqueue_all((0..20).map(work).collect()).await.unwrap();
    assert_eq!(claim_rest(&engine, worker).await, 20);
    engine.add(1).await;
    let hide = |tx: &Tx<'_>| tx.exec("UPDATE jobs SET position = 0 WHERE state = 0", params![]).map(drop);
    engine.db().write(hide).await.unwrap();
    let found_at_once = claim_rest(&engine, worker).await;
    assert_eq!(found_at_once == 0, is_shared(&engine), "only PostgreSQL uses watermarks");
    engine.advance(seconds(301));
    assert_eq!(found_at_once + claim_rest(&engine, worker).await, 1);
}

/// A crash of the database undoes a claim, including its attempt number, and the next claim gets the same
/// number.
async fn report_of_undone_claim_cannot_complete_next_claim(engine: Engine) {
    let id = engine.add(1).await;
    let worker = engine.worker().await;
    let lost = engine.claim(worker, 1).await.jobs.remove(0);
    let undo = |tx: &Tx<'_>| {
        let sql = "UPDATE jobs SET state = 0, attempt = attempt - 1, worker = NULL, started_at = NULL";
        tx.exec(sql, params![]).map(drop)
    };
    engine.db().write(undo).await.unwrap();
    let fresh = engine.claim(worker, 1).await.jobs.remove(0);
    assert_eq!((fresh.id, fresh.attempt, fresh.worker), (lost.id, lost.attempt, lost.worker));
    assert_eq!(engine.report(&lost, done()).await, kith_jobs::ReportOutcome::Stale);
    assert_eq!(engine.state(id).await, JobState::Running);
    assert_eq!(engine.report(&fresh, done()).await, kith_jobs::ReportOutcome::Finished(JobState::Completed));
}

async fn maintenance_keeps_the_unique_key_of_a_new_job(engine: Engine) {
    let throttled = |n: i64| work(n).unique(Unique::key("k").within(Duration::from_millis(500)));
    engine.enqueue(throttled(1)).await;
    engine.run_next(done()).await.unwrap();
    engine.advance(seconds(1));
    let (ctx, again) = (engine.ctx(), throttled(2));
    let renew = move |tx: &Tx<'_>| {
        enqueue(tx, &ctx, &again).map(drop).map_err(|error| kith_store::Error::fault(error.to_string()))
    };
    let held = hold(&engine, renew).await;
    let jobs = engine.jobs.clone();
    let tidying = tokio::spawn(async move {
        jobs.run_maintenance(&mut MaintenanceState::default(), Retention::DEFAULT).await
    });
    until_blocked(&engine).await;
    held.release().await;
    tidying.await.unwrap().unwrap();
    assert!(engine.enqueue(throttled(3)).await.is_existing, "the key belongs to a live job");
}
