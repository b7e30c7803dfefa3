//! Load tests: writers never get an error because the database is locked, old snapshots do not slow down
//! claims, and limits have no cost until they are reached.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use kith_jobs::{
    AttemptContext, AttemptReport, Handler, JobOutput, MAX_PRIORITY, QueueConcurrency, WorkerOptions,
    Workers, set_queue,
};
use kith_kernel::seconds;
use kith_store::{EngineKind, Error, Tx, Values, contract, params};
use tokio::task::{JoinHandle, JoinSet};

use crate::support::{Engine, done, until, work};

contract! {
    concurrent_writers_never_see_database_locked
    unreached_limit_does_not_shrink_claims
    old_snapshot_does_not_slow_claims
}

/// Read whose snapshot stays open until it is released.
struct Snapshot {
    let_go: Sender<()>,
    read: JoinHandle<Result<i64, Error>>,
}

async fn hold_a_snapshot(engine: &Engine) -> Snapshot {
    let (let_go, wait): (_, Receiver<()>) = channel();
    let (held, is_held) = tokio::sync::oneshot::channel();
    let (wait, held, db) = (Mutex::new(wait), Mutex::new(Some(held)), engine.db().clone());
    let read = tokio::spawn(async move {
        db.export(move |q| {
            let count = "SELECT COUNT(*) FROM jobs";
            let before = q.one(count, &[], |row| row.get::<i64>(0))?;
            if let Some(held) = held.lock().unwrap().take() {
                held.send(()).unwrap();
            }
            // This call returns when the sender is dropped.
            let _ = wait.lock().unwrap().recv();
            let after = q.one(count, &[], |row| row.get::<i64>(0))?;
            assert_eq!(before, after, "both reads see the same snapshot");
            Ok::<_, Error>(after.unwrap_or(0))
        })
        .await
    });
    is_held.await.unwrap();
    Snapshot { let_go, read }
}

impl Snapshot {
    async fn let_go(self) {
        drop(self.let_go);
        self.read.await.unwrap().unwrap();
    }
}

async fn concurrent_writers_never_see_database_locked(engine: Engine) {
    let handler = Handler::new("work", |_: AttemptContext| async { done() });
    let share = QueueConcurrency { queue: "default".to_owned(), concurrency: 20 };
    let mut options = WorkerOptions::new("test", vec![share]);
    options.grace = seconds(10);
    let workers = Workers::start(&engine.jobs, vec![handler], options).await.unwrap();
    let snapshot = hold_a_snapshot(&engine).await;
    let mut writers = JoinSet::new();
    for writer in 0..200 {
        let jobs = engine.jobs.clone();
        writers.spawn(async move {
            for n in 0..5 {
                jobs.enqueue(work(writer * 5 + n)).await?;
                let ctx = jobs.ctx();
                let change = move |tx: &Tx<'_>| {
                    set_queue(tx, &ctx, "other", None, |queue| queue.concurrency = Some(writer + 1)).map(drop)
                };
                jobs.db().write(change).await.unwrap();
            }
            Ok::<_, kith_jobs::EnqueueError>(())
        });
    }
    while let Some(wrote) = writers.join_next().await {
        wrote.unwrap().expect("no write is rejected");
    }
    until("all are run", async || engine.count("SELECT COUNT(*) FROM job_history").await == 1_000).await;
    snapshot.let_go().await;
    workers.stop().await;
}

/// The limit equals the total concurrency of four workers, so each claim must return as many jobs as without
/// a limit.
async fn unreached_limit_does_not_shrink_claims(engine: Engine) {
    const WORKERS: usize = 4;
    const EACH: i64 = 10;
    let ctx = engine.ctx();
    let limited = move |tx: &Tx<'_>| {
        set_queue(tx, &ctx, "default", None, |queue| queue.concurrency = Some(WORKERS as i64 * EACH))
            .map(drop)
    };
    engine.db().write(limited).await.unwrap();
    engine.jobs.enqueue_all((0..400).map(work).collect()).await.unwrap();
    let second = engine.second().await.unwrap_or_else(|| engine.jobs.clone());
    let nodes = [&engine.jobs, &second];
    let mut running: Vec<Vec<AttemptReport>> = vec![Vec::new(); WORKERS];
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        workers.push(engine.worker().await);
    }
    let mut claims = 0;
    for turn in 0..40 {
        let (at, node) = (turn % WORKERS, nodes[turn % 2]);
        let ended = std::mem::take(&mut running[at]);
        node.report(Arc::new(ended)).await.unwrap();
        let claim = node.claim("default", workers[at], EACH).await.unwrap();
        assert_eq!(claim.jobs.len() as i64, EACH, "claim {turn} returns the maximum number of jobs");
        claims += 1;
        running[at] = claim
            .jobs
            .iter()
            .map(|job| AttemptReport {
                attempt: job.as_attempt(),
                outcome: Ok(JobOutput::default()),
                notify_queue: None,
            })
            .collect();
        let is_saturated = turn + 1 >= WORKERS;
        let other = workers[(at + 1) % WORKERS];
        if is_saturated {
            assert!(
                node.claim("default", other, 1).await.unwrap().jobs.is_empty(),
                "no job is claimed beyond the limit"
            );
        }
    }
    assert_eq!(claims * EACH, 400, "all jobs were claimed in as many claims as without a limit");
}

/// On PostgreSQL dead rows remain while an old snapshot is held. SQLite has no dead rows, so there the test
/// only checks that claims continue.
async fn old_snapshot_does_not_slow_claims(engine: Engine) {
    let worker = engine.worker().await;
    churn(&engine, worker, 500).await;
    let before = least_pages(&engine).await;
    let snapshot = hold_a_snapshot(&engine).await;
    churn(&engine, worker, 10_000).await;
    let with_the_snapshot = least_pages(&engine).await;
    if let (Some(before), Some(after)) = (before, with_the_snapshot) {
        let naive = pages_of_a_claim(&engine, Some(0)).await.unwrap();
        eprintln!("pages read per claim: {before}, then {after}; {naive} without the watermark");
        assert!(after <= 2 * before, "pages read per claim grew from {before} to {after}");
        assert!(naive > 2 * before, "the table has dead rows before the watermark");
    }
    snapshot.let_go().await;
    assert_eq!(engine.count("SELECT COUNT(*) FROM job_history").await, 10_500);
}

/// Runs `jobs` jobs to completion.
async fn churn(engine: &Engine, worker: i64, jobs: i64) {
    for from in (0..jobs).step_by(500) {
        engine.jobs.enqueue_all((from..from + 500).map(work).collect()).await.unwrap();
        let claim = engine.claim(worker, 500).await;
        assert_eq!(claim.jobs.len(), 500);
        let ended = claim.jobs.iter().map(|job| AttemptReport {
            attempt: job.as_attempt(),
            outcome: done(),
            notify_queue: None,
        });
        engine.jobs.report(Arc::new(ended.collect())).await.unwrap();
    }
}

/// Returns the smallest number of pages of three claims. Transactions of other tests on the same server can
/// briefly prevent the watermark from advancing.
async fn least_pages(engine: &Engine) -> Option<u64> {
    let mut least = None;
    for _ in 0..3 {
        let pages = pages_of_a_claim(engine, None).await?;
        least = Some(least.map_or(pages, |least: u64| least.min(pages)));
    }
    least
}

/// Returns the number of pages that a claim of ten jobs reads, with the watermarks that a running process
/// would use, or with `mark` if it is given. Returns `None` on SQLite.
async fn pages_of_a_claim(engine: &Engine, mark: Option<i64>) -> Option<u64> {
    if engine.db().kind() == EngineKind::Sqlite {
        return None;
    }
    let oldest = "SELECT CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS TEXT) AS BIGINT)";
    let mark = match mark {
        Some(mark) => mark,
        None => engine.count(oldest).await,
    };
    let now = engine.ctx().now;
    engine.jobs.enqueue_all((0..10).map(work).collect()).await.unwrap();
    let plan = Arc::new(Mutex::new(Vec::new()));
    let captured = Arc::clone(&plan);
    let explained = move |tx: &Tx<'_>| -> Result<(), Error> {
        let priorities: Vec<_> = (0..=MAX_PRIORITY).collect();
        let marks = vec![mark; priorities.len()];
        let lanes = [Values::Ints(&priorities), Values::Ints(&marks)];
        let claim = kith_jobs::CLAIM.explained();
        let lines =
            tx.all_for_engine(&claim, params![now, 0_i64, "default", 10_i64, 1_i64, now], &lanes, |row| {
                row.get::<String>(0)
            })?;
        *captured.lock().unwrap() = lines;
        tx.exec("DELETE FROM jobs", params![])?;
        Ok(())
    };
    engine.db().write(explained).await.unwrap();
    let plan = plan.lock().unwrap();
    let line = plan.iter().map(|line| line.trim()).find(|line| line.starts_with("Buffers: shared"));
    let words = line.expect("the plan contains buffer counts").split(' ');
    let touched = words.filter_map(|word| word.strip_prefix("hit=").or(word.strip_prefix("read=")));
    Some(touched.map(|number| number.parse::<u64>().unwrap()).sum())
}
