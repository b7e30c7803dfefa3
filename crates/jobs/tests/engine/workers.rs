//! Tests of the workers of a process: running, cancelling and stopping.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kith_jobs::{
    AttemptContext, Handler, JobError, JobOutput, JobState, JobType, QueueConcurrency, RetryPolicy,
    WorkerOptions, Workers, cancel,
};
use kith_kernel::seconds;
use kith_store::contract;
use serde::{Deserialize, Serialize};

use crate::support::{Engine, done, until, work};

contract! {
    enqueued_jobs_are_run
    panicking_handler_fails_its_attempt_only
    handler_that_panics_before_its_future_frees_its_slot
    drained_handler_that_panics_fails_its_attempt
    attempt_over_timeout_fails
    running_attempt_is_cancelled_on_request
    stop_waits_for_running_and_returns_unstarted_jobs
    handlers_over_grace_are_cancelled_and_jobs_returned
    handler_ignoring_cancel_is_dropped_and_job_returned
    invalid_payload_goes_to_dead_letters
    two_nodes_run_each_job_once
    database_outage_delays_but_loses_no_job
    queued_attempts_of_evicted_worker_do_not_start
    attempt_with_undone_claim_is_stopped
}

fn share(concurrency: usize) -> Vec<QueueConcurrency> {
    vec![QueueConcurrency { queue: "default".to_owned(), concurrency }]
}

async fn start(engine: &Engine, concurrency: usize, handlers: Vec<Handler>) -> Workers {
    let mut options = WorkerOptions::new("test", share(concurrency));
    options.grace = seconds(10);
    Workers::start(&engine.jobs, handlers, options).await.unwrap()
}

async fn enqueued_jobs_are_run(engine: Engine) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sees = Arc::clone(&seen);
    let handler = Handler::new("work", move |run: AttemptContext| {
        sees.lock().unwrap().push(run.payload.parse::<i64>().unwrap());
        async move {
            run.log("info", "here").await?;
            run.progress(&serde_json::json!(0.5)).await?;
            Ok(JobOutput { result: Some("true".to_owned()) })
        }
    });
    let workers = start(&engine, 4, vec![handler]).await;
    let id = engine.add(0).await;
    engine.jobs.enqueue_all((1..100).map(work).collect()).await.unwrap();
    until("all are run", async || engine.count("SELECT COUNT(*) FROM job_history").await == 100).await;
    workers.stop().await;
    let mut seen = seen.lock().unwrap().clone();
    seen.sort_unstable();
    assert_eq!(seen, (0..100).collect::<Vec<_>>());
    assert_eq!(engine.job(id).await.result.as_deref(), Some("true"));
    assert_eq!(
        engine.count("SELECT COUNT(*) FROM job_workers").await,
        0,
        "the stopped worker has deregistered"
    );
}

/// Runs two jobs on `slots` slots. `handler` panics only for the first job, and the second job must complete.
async fn fails_alone(engine: &Engine, slots: usize, handler: Handler) {
    let workers = start(engine, slots, vec![handler]).await;
    let bad = engine.enqueue(work(1).retry(RetryPolicy::NEVER)).await.id;
    let good = engine.add(2).await;
    until("both have ended", async || {
        engine.state(bad).await == JobState::Dead && engine.state(good).await == JobState::Completed
    })
    .await;
    assert!(engine.job(bad).await.errors[0].error.contains("panicked"));
    workers.stop().await;
}

async fn panicking_handler_fails_its_attempt_only(engine: Engine) {
    let handler = Handler::new("work", |run: AttemptContext| async move {
        assert!(run.payload != "1", "on purpose");
        done()
    });
    fails_alone(&engine, 4, handler).await;
}

/// Returns a handler that panics in its closure, before it returns a future.
fn panics_at_once() -> Handler {
    Handler::new("work", |run: AttemptContext| {
        assert!(run.payload != "1", "on purpose");
        async { done() }
    })
}

async fn handler_that_panics_before_its_future_frees_its_slot(engine: Engine) {
    fails_alone(&engine, 1, panics_at_once()).await;
}

async fn drained_handler_that_panics_fails_its_attempt(engine: Engine) {
    let bad = engine.enqueue(work(1).retry(RetryPolicy::NEVER)).await.id;
    let good = engine.add(2).await;
    let (jobs, handlers) = (engine.jobs.clone(), vec![panics_at_once()]);
    let drained = tokio::spawn(async move { jobs.drain(&handlers, &["default"]).await.unwrap() });
    assert_eq!(drained.await.unwrap(), 2);
    assert_eq!((engine.state(bad).await, engine.state(good).await), (JobState::Dead, JobState::Completed));
}

async fn attempt_over_timeout_fails(engine: Engine) {
    let handler = Handler::new("work", |_: AttemptContext| std::future::pending());
    let workers = start(&engine, 4, vec![handler]).await;
    let id = engine.enqueue(work(1).retry(RetryPolicy::NEVER).timeout(Duration::from_millis(50))).await.id;
    until("it is dead", async || engine.state(id).await == JobState::Dead).await;
    assert!(engine.job(id).await.errors[0].error.contains("timeout"));
    workers.stop().await;
}

async fn running_attempt_is_cancelled_on_request(engine: Engine) {
    let handler = Handler::new("work", |mut run: AttemptContext| async move {
        run.cancelled().await;
        Err(JobError::Cancelled)
    });
    let workers = start(&engine, 4, vec![handler]).await;
    let id = engine.add(1).await;
    until("it runs", async || engine.state(id).await == JobState::Running).await;
    let ctx = engine.ctx();
    engine.db().write(move |tx| cancel(tx, &ctx, id, "by a test")).await.unwrap();
    until("it has ended", async || engine.state(id).await == JobState::Cancelled).await;
    workers.stop().await;
}

/// Regression test for graphile#526: jobs remain locked for four hours after SIGTERM.
async fn stop_waits_for_running_and_returns_unstarted_jobs(engine: Engine) {
    let (go, gone) = tokio::sync::watch::channel(false);
    let started = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&started);
    let handler = Handler::new("work", move |_: AttemptContext| {
        let mut gone = gone.clone();
        counts.fetch_add(1, Ordering::SeqCst);
        async move {
            gone.wait_for(|go| *go).await.unwrap();
            done()
        }
    });
    let workers = start(&engine, 3, vec![handler]).await;
    engine.jobs.enqueue_all((0..20).map(work).collect()).await.unwrap();
    until("three run", async || started.load(Ordering::SeqCst) == 3).await;
    let stopping = tokio::spawn(workers.stop());
    until("the rest is nobody's", async || {
        engine.count("SELECT COUNT(*) FROM jobs WHERE state = 2").await == 3
    })
    .await;
    go.send_replace(true);
    stopping.await.unwrap();
    assert_eq!(engine.count("SELECT COUNT(*) FROM job_history").await, 3);
    assert_eq!(engine.count("SELECT COUNT(*) FROM jobs WHERE crashes > 0 OR failures > 0").await, 0);
    assert_eq!(engine.numbers(100).await.len(), 17, "all remaining jobs can be claimed at once");
}

/// Increments its counter when it is dropped.
struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Starts workers without a grace period and enqueues `jobs` jobs, numbered from 1. Waits until `started`
/// shows that the handler of each job has started, because a claimed job may not have started yet.
async fn start_without_grace(
    engine: &Engine,
    handler: Handler,
    (jobs, started): (usize, &AtomicUsize),
    cancel_grace: Duration,
) -> (Workers, Vec<kith_jobs::JobId>) {
    let mut options = WorkerOptions::new("test", share(3));
    (options.grace, options.cancel_grace) = (Duration::ZERO, cancel_grace);
    let workers = Workers::start(&engine.jobs, vec![handler], options).await.unwrap();
    let mut ids = Vec::new();
    for n in (1..).take(jobs) {
        ids.push(engine.add(n).await);
    }
    until("they run", async || started.load(Ordering::SeqCst) == jobs).await;
    (workers, ids)
}

async fn handlers_over_grace_are_cancelled_and_jobs_returned(engine: Engine) {
    let (started, cancelled_runs) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (starts, cancellations) = (Arc::clone(&started), Arc::clone(&cancelled_runs));
    let handler = Handler::new("work", move |mut run: AttemptContext| {
        let (starts, cancellations) = (Arc::clone(&starts), Arc::clone(&cancellations));
        async move {
            starts.fetch_add(1, Ordering::SeqCst);
            run.cancelled().await;
            cancellations.fetch_add(1, Ordering::SeqCst);
            Err(JobError::Cancelled)
        }
    });
    // The grace period is long, but the stop ends as soon as both handlers have ended.
    let (workers, ids) = start_without_grace(&engine, handler, (2, &started), seconds(60)).await;
    let (ctx, cancelled) = (engine.ctx(), ids[1]);
    let mark = move |tx: &kith_store::Tx<'_>| {
        let sql = "UPDATE jobs SET cancel_requested_at = $1 WHERE id = $2";
        tx.exec(sql, kith_store::params![ctx.now, cancelled]).map(drop)
    };
    engine.db().write(mark).await.unwrap();
    workers.stop().await;
    assert_eq!(cancelled_runs.load(Ordering::SeqCst), 2);
    assert_eq!(
        engine.state(cancelled).await,
        JobState::Cancelled,
        "the job with a requested cancellation is cancelled"
    );
    let job = engine.job(ids[0]).await;
    assert_eq!((job.state, job.failures), (JobState::Scheduled, 0), "{:?}", job.errors);
    assert_eq!(engine.numbers(5).await, [1], "another worker can claim the released job at once");
}

async fn handler_ignoring_cancel_is_dropped_and_job_returned(engine: Engine) {
    let (started, dropped) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (starts, drops) = (Arc::clone(&started), Arc::clone(&dropped));
    let handler = Handler::new("work", move |_: AttemptContext| {
        let (starts, drops) = (Arc::clone(&starts), Dropped(Arc::clone(&drops)));
        async move {
            let _drops = drops;
            starts.fetch_add(1, Ordering::SeqCst);
            std::future::pending().await
        }
    });
    let cancel_grace = Duration::from_millis(10);
    let (workers, ids) = start_without_grace(&engine, handler, (1, &started), cancel_grace).await;
    workers.stop().await;
    until("it is dropped", async || dropped.load(Ordering::SeqCst) == 1).await;
    let job = engine.job(ids[0]).await;
    assert_eq!((job.state, job.failures), (JobState::Scheduled, 0), "{:?}", job.errors);
    assert_eq!(engine.numbers(5).await, [1], "another worker can claim the released job at once");
}

#[derive(Serialize, Deserialize)]
struct Greeting {
    name: String,
}

const GREET: JobType<Greeting> = JobType::new("greet", "default").retry(RetryPolicy::times(3)).priority(2);

async fn invalid_payload_goes_to_dead_letters(engine: Engine) {
    let handler = GREET.handler(|_, greeting| async move {
        Ok(JobOutput { result: Some(format!("\"hello {}\"", greeting.name)) })
    });
    let workers = start(&engine, 2, vec![handler]).await;
    let good = engine.enqueue(GREET.with(&Greeting { name: "Ada".into() }).unwrap()).await.id;
    let bad = engine.enqueue(kith_jobs::NewJob::new("default", "greet", "{}")).await.id;
    until("both have ended", async || {
        engine.state(good).await.has_ended() && engine.state(bad).await.has_ended()
    })
    .await;
    assert_eq!(engine.job(good).await.result.as_deref(), Some("\"hello Ada\""));
    assert_eq!(engine.state(bad).await, JobState::Dead);
    workers.stop().await;
}

async fn two_nodes_run_each_job_once(engine: Engine) {
    let runs: Arc<Mutex<HashMap<i64, usize>>> = Arc::default();
    let handler = || {
        let runs = Arc::clone(&runs);
        Handler::new("work", move |run: AttemptContext| {
            *runs.lock().unwrap().entry(run.id).or_default() += 1;
            async { done() }
        })
    };
    let first = start(&engine, 10, vec![handler()]).await;
    let second = match engine.second().await {
        Some(jobs) => {
            Some(Workers::start(&jobs, vec![handler()], WorkerOptions::new("b", share(10))).await.unwrap())
        }
        None => None,
    };
    for part in 0..10 {
        engine.jobs.enqueue_all((part * 100..part * 100 + 100).map(work).collect()).await.unwrap();
    }
    until("all are run", async || engine.count("SELECT COUNT(*) FROM job_history").await == 1_000).await;
    assert_eq!(first.stale() + second.as_ref().map_or(0, Workers::stale), 0);
    first.stop().await;
    if let Some(second) = second {
        second.stop().await;
    }
    let runs = runs.lock().unwrap();
    assert_eq!((runs.len(), runs.values().sum::<usize>()), (1_000, 1_000));
}

/// A crash of the database has undone the claim, so another worker may already run the job.
async fn attempt_with_undone_claim_is_stopped(engine: Engine) {
    let stopped = Arc::new(AtomicUsize::new(0));
    let stops = Arc::clone(&stopped);
    let handler = Handler::new("work", move |mut run: AttemptContext| {
        let stops = Arc::clone(&stops);
        async move {
            if stops.load(Ordering::SeqCst) == 0 {
                run.cancelled().await;
                stops.fetch_add(1, Ordering::SeqCst);
                return Err(JobError::Cancelled);
            }
            done()
        }
    });
    let workers = start(&engine, 1, vec![handler]).await;
    let id = engine.add(1).await;
    until("it runs", async || engine.state(id).await == JobState::Running).await;
    let undo = |tx: &kith_store::Tx<'_>| {
        let sql = "UPDATE jobs SET state = 1, attempt = attempt - 1, worker = NULL";
        tx.exec(sql, kith_store::params![])?;
        tx.notify(kith_jobs::CANCEL_CHANNEL);
        Ok::<_, kith_store::Error>(())
    };
    engine.db().write(undo).await.unwrap();
    engine.advance(seconds(1));
    until("the lost attempt is stopped", async || stopped.load(Ordering::SeqCst) == 1).await;
    until("the job is done", async || engine.state(id).await == JobState::Completed).await;
    assert_eq!(engine.job(id).await.attempt, 1);
    workers.stop().await;
}

async fn queued_attempts_of_evicted_worker_do_not_start(engine: Engine) {
    const AT_ONCE: usize = 20;
    let (go, gone) = tokio::sync::watch::channel(false);
    let starts: Arc<Mutex<Vec<(i64, i64)>>> = Arc::default();
    let starting = Arc::clone(&starts);
    let blocks = Handler::new("block", move |mut run: AttemptContext| {
        let mut gone = gone.clone();
        starting.lock().unwrap().push((run.id, run.attempt));
        async move {
            tokio::select! {
                () = run.cancelled() => Err(JobError::Cancelled),
                _ = gone.wait_for(|go| *go) => done(),
            }
        }
    });
    let quick = Handler::new("work", |_: AttemptContext| async { done() });
    let workers = start(&engine, AT_ONCE, vec![blocks, quick]).await;
    // Because the first jobs are short, the worker claims more jobs in advance.
    let block = |n: i64| kith_jobs::NewJob::new("default", "block", n.to_string());
    engine.jobs.enqueue_all((0..2_000).map(work).chain((0..300).map(block)).collect()).await.unwrap();
    let claimed = "SELECT COUNT(*) FROM jobs WHERE state = 2 AND kind = 'block'";
    until("some are in line", async || {
        starts.lock().unwrap().len() == AT_ONCE && engine.count(claimed).await > AT_ONCE as i64
    })
    .await;
    let evict_all = |tx: &kith_store::Tx<'_>| {
        tx.exec("DELETE FROM job_workers", kith_store::params![])?;
        let taken = "UPDATE jobs SET state = 1, worker = NULL WHERE state = 2 RETURNING id";
        let taken = tx.all(taken, kith_store::params![], |row| row.get::<i64>(0))?;
        tx.notify(kith_jobs::CANCEL_CHANNEL);
        Ok::<_, kith_store::Error>(taken)
    };
    let taken = engine.db().write(evict_all).await.unwrap();
    engine.advance(seconds(1));
    until("others start", async || starts.lock().unwrap().len() >= 2 * AT_ONCE).await;
    let starts = starts.lock().unwrap().clone();
    go.send_replace(true);
    workers.stop().await;
    let late = starts[AT_ONCE..].iter().filter(|(id, attempt)| *attempt == 1 && taken.contains(id)).count();
    assert_eq!(late, 0, "the evicted worker starts no attempts");
}

/// Regression test for solid_queue#385 and bullmq#1658: the database does not respond for a short time.
async fn database_outage_delays_but_loses_no_job(engine: Engine) {
    let handler = Handler::new("work", |_: AttemptContext| async { done() });
    let workers = start(&engine, 5, vec![handler]).await;
    for n in 0..60 {
        if n % 6 == 0 {
            engine.db().inject(kith_store::testing::Fault::CommitFails);
        }
        let _ = engine.jobs.enqueue(work(n)).await;
    }
    until("all that is there is run", async || engine.count("SELECT COUNT(*) FROM jobs").await == 0).await;
    workers.stop().await;
    assert_eq!(engine.count("SELECT COUNT(*) FROM job_dead_letters").await, 0);
    assert!(engine.count("SELECT COUNT(*) FROM job_history").await >= 50);
}
