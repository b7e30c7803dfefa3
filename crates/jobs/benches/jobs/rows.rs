//! Measurements that need only one process. Each function measures one row of the results.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::Error;
use super::engine::{BATCH, CALLERS, Engine, QUEUE, now, pause, wall};

/// Number of jobs enqueued per second in the latency measurement.
const STEADY_PER_S: f64 = 500.0;
/// Interval at which an urgent job is enqueued while a million jobs become due.
const URGENT_INTERVAL_MS: u64 = 100;
/// Number of the first urgent job. The numbers of all other jobs are lower.
const FIRST_URGENT: u64 = 1 << 40;

fn rate(jobs: u64, began: Instant) -> f64 {
    jobs as f64 / began.elapsed().as_secs_f64()
}

/// Measures enqueueing of one job per call, by [`CALLERS`] concurrent callers.
pub async fn single(engine: &Engine, jobs: u64) -> Result<Value, Error> {
    by_callers(engine, jobs.min(2_000)).await?;
    let began = now();
    by_callers(engine, jobs).await?;
    Ok(json!({ "rate_per_s": rate(jobs, began) }))
}

async fn by_callers(engine: &Engine, jobs: u64) -> Result<(), Error> {
    let next = Arc::new(AtomicU64::new(0));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (next, engine) = (Arc::clone(&next), engine.jobs.clone());
        callers.spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= jobs {
                    return Ok::<_, Error>(());
                }
                engine.enqueue(Engine::job(n, None)).await?;
            }
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended??;
    }
    Ok(())
}

/// Measures enqueueing of [`BATCH`] jobs per call.
pub async fn bulk(engine: &Engine, jobs: u64) -> Result<Value, Error> {
    engine.in_bulk(jobs.min(2_000), None).await?;
    let began = now();
    engine.in_bulk(jobs, None).await?;
    Ok(json!({ "rate_per_s": rate(jobs, began), "batch": BATCH }))
}

/// Measures running jobs that were all enqueued before the workers start.
pub async fn drain(engine: &Engine, jobs: u64) -> Result<Value, Error> {
    engine.warm_up().await?;
    engine.in_bulk(jobs, None).await?;
    let began = now();
    let (workers, ran) = engine.work(|_| {}).await?;
    engine.worked(&ran, jobs).await?;
    let rate = rate(jobs, began);
    workers.stop().await;
    Ok(json!({ "rate_per_s": rate }))
}

/// Measures enqueueing in bulk while workers run the jobs, from the first call until the last job has ended.
pub async fn cycle(engine: &Engine, jobs: u64) -> Result<Value, Error> {
    engine.warm_up().await?;
    let (workers, ran) = engine.work(|_| {}).await?;
    pause(100).await;
    let began = now();
    engine.in_bulk(jobs, None).await?;
    engine.worked(&ran, jobs).await?;
    let rate = rate(jobs, began);
    workers.stop().await;
    Ok(json!({ "rate_per_s": rate }))
}

/// Time at which each job was enqueued, and the time that it took until each job started.
struct StartTimes {
    base: Instant,
    enqueued_at: Vec<AtomicU64>,
    took: Mutex<Vec<Duration>>,
}

impl StartTimes {
    fn new(jobs: u64) -> Arc<Self> {
        let enqueued_at = (0..jobs).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { base: now(), enqueued_at, took: Mutex::default() })
    }

    fn since_base(&self) -> u64 {
        u64::try_from(self.base.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn ask(&self, n: u64) {
        if let Some(enqueued_at) = usize::try_from(n).ok().and_then(|n| self.enqueued_at.get(n)) {
            enqueued_at.store(self.since_base(), Ordering::Relaxed);
        }
    }

    fn start(&self, n: u64) {
        let Some(enqueued_at) = usize::try_from(n).ok().and_then(|n| self.enqueued_at.get(n)) else { return };
        let took = self.since_base().saturating_sub(enqueued_at.load(Ordering::Relaxed));
        self.took.lock().unwrap_or_else(PoisonError::into_inner).push(Duration::from_nanos(took));
    }

    /// Returns the median, the 99th percentile and the maximum of the times, in milliseconds.
    fn times(&self) -> [f64; 3] {
        let mut took = self.took.lock().unwrap_or_else(PoisonError::into_inner);
        took.sort_unstable();
        let at = |quantile: f64| {
            let rank = (quantile * took.len() as f64).ceil() as usize;
            took.get(rank.clamp(1, took.len().max(1)) - 1).map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
        };
        [at(0.5), at(0.99), at(1.0)]
    }
}

/// Measures the time from the call that enqueues a job to the start of its handler. Calls are made at a fixed
/// rate and do not wait for each other.
pub async fn latency(engine: &Engine, jobs: u64) -> Result<Value, Error> {
    engine.warm_up().await?;
    let starts = StartTimes::new(jobs);
    let recorded = Arc::clone(&starts);
    let (workers, ran) = engine.work(move |n| recorded.start(n)).await?;
    pause(300).await;
    let (began, mut n, mut calls) = (now(), 0, JoinSet::new());
    while n < jobs {
        let due = jobs.min((began.elapsed().as_secs_f64() * STEADY_PER_S) as u64 + 1);
        while n < due {
            starts.ask(n);
            let (number, jobs) = (n, engine.jobs.clone());
            calls.spawn(async move { jobs.enqueue(Engine::job(number, None)).await });
            n += 1;
        }
        pause(1).await;
    }
    while let Some(ended) = calls.join_next().await {
        ended??;
    }
    engine.worked(&ran, jobs).await?;
    workers.stop().await;
    let [p50_ms, p99_ms, worst_ms] = starts.times();
    Ok(json!({ "rate_per_s": STEADY_PER_S, "p50_ms": p50_ms, "p99_ms": p99_ms, "worst_ms": worst_ms }))
}

/// Makes all jobs due at one moment while workers wait, and measures the time from that moment until all jobs
/// have ended. Meanwhile enqueues urgent jobs and measures when they start.
pub async fn due(engine: &Engine, jobs: u64) -> Result<Value, Error> {
    let began = now();
    engine.warm_up().await?;
    let sample = jobs.min(10_000);
    let far = wall() + Duration::from_secs(3_600);
    engine.in_bulk(sample, Some(far)).await?;
    cancel_all(engine).await?;
    let per_s = rate(sample, began);
    let at = wall() + Duration::from_secs(3) + Duration::from_secs_f64(2.0 * jobs as f64 / per_s);
    let starts = StartTimes::new(jobs.min(100_000));
    let recorded = Arc::clone(&starts);
    let on_run = move |n: u64| {
        if n >= FIRST_URGENT {
            recorded.start(n - FIRST_URGENT);
        }
    };
    let (workers, ran) = engine.work(on_run).await?;
    engine.in_bulk(jobs, Some(at)).await?;
    if wall() > at {
        return Err("the jobs fell due while they were being enqueued".into());
    }
    pause(at.since(wall()).as_millis() as u64).await;
    let began = now();
    let mut urgent = 0;
    while ran.count() < jobs + urgent {
        starts.ask(urgent);
        engine.jobs.enqueue(Engine::job(FIRST_URGENT + urgent, None).priority(0)).await?;
        urgent += 1;
        pause(URGENT_INTERVAL_MS).await;
    }
    engine.worked(&ran, jobs + urgent).await?;
    let rate = rate(jobs, began);
    workers.stop().await;
    let [p50_ms, p99_ms, worst_ms] = starts.times();
    Ok(json!({
        "rate_per_s": rate,
        "took_s": jobs as f64 / rate,
        "urgent": { "jobs": urgent, "p50_ms": p50_ms, "p99_ms": p99_ms, "worst_ms": worst_ms },
    }))
}

/// Deletes all jobs of the queue, so that they do not affect the measurement.
async fn cancel_all(engine: &Engine) -> Result<(), Error> {
    let delete = |tx: &kith_store::Tx<'_>| {
        tx.exec("DELETE FROM jobs WHERE queue = $1", kith_store::params![QUEUE]).map(drop)
    };
    Ok(engine.jobs.db().write(delete).await?)
}
