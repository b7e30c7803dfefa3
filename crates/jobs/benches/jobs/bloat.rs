//! Benchmark: number of pages that a claim reads on PostgreSQL after many jobs were enqueued and completed,
//! possibly while another session holds an old snapshot.

use std::sync::{Arc, Mutex, PoisonError};

use kith_jobs::MAX_PRIORITY;
use kith_store::{Error as StoreError, Tx, Values, params};
use serde_json::{Value, json};

use super::Error;
use super::engine::{Engine, QUEUE, now, pause, wall};

/// Maximum number of jobs in the table at once, so that dead rows are measured and not live rows.
const AT_ONCE: u64 = 20_000;
/// Number of jobs that the explained claim finds.
const FOUND: u64 = 100;

/// Runs `jobs` jobs, then explains one claim with the watermarks that a running process would use.
pub async fn bloat(engine: &Engine, jobs: u64) -> Result<Value, Error> {
    engine.warm_up().await?;
    let (workers, ran) = engine.work(|_| {}).await?;
    let (began, mut enqueued) = (now(), 0);
    while enqueued < jobs {
        let many = AT_ONCE.min(jobs - enqueued);
        engine.in_bulk(many, None).await?;
        enqueued += many;
        while ran.count() + AT_ONCE / 2 < enqueued {
            pause(1).await;
        }
    }
    engine.worked(&ran, jobs).await?;
    let rate = jobs as f64 / began.elapsed().as_secs_f64();
    workers.stop().await;
    // No job below this watermark is ready. A claim that finds no job records the same watermark.
    let mark = oldest_transaction(engine).await?;
    engine.in_bulk(FOUND, None).await?;
    let plan = explain(engine, mark).await?;
    Ok(json!({
        "rate_per_s": rate,
        "buffers_per_claim": buffers(&plan),
        "claimed": FOUND,
        "dead_rows": dead_rows(engine).await?,
        "held_transactions": oldest_snapshot_age(engine).await?,
        "plan": plan,
    }))
}

async fn oldest_transaction(engine: &Engine) -> Result<i64, Error> {
    let sql = "SELECT CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS TEXT) AS BIGINT)";
    let oldest = engine.jobs.db().read(move |q| q.one(sql, params![], |row| row.get::<i64>(0))).await?;
    oldest.ok_or_else(|| "no transaction is the oldest".into())
}

/// Returns the number of dead rows of the table `jobs` that are not vacuumed, according to PostgreSQL's
/// statistics.
async fn dead_rows(engine: &Engine) -> Result<Option<i64>, Error> {
    pause(1_000).await;
    let sql = "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'jobs'";
    Ok(engine.jobs.db().read(move |q| q.one(sql, params![], |row| row.get::<i64>(0))).await?)
}

/// Returns the age, in transactions, of the oldest snapshot that another session holds.
async fn oldest_snapshot_age(engine: &Engine) -> Result<Option<i64>, Error> {
    let sql =
        "SELECT CAST(MAX(age(backend_xmin)) AS BIGINT) FROM pg_stat_activity WHERE pid <> pg_backend_pid()";
    Ok(engine
        .jobs
        .db()
        .read(move |q| q.one(sql, params![], |row| row.get::<Option<i64>>(0)))
        .await?
        .flatten())
}

async fn explain(engine: &Engine, mark: i64) -> Result<Vec<String>, Error> {
    let plan = Arc::new(Mutex::new(Vec::new()));
    let captured = Arc::clone(&plan);
    let undone = "explained";
    let explained = move |tx: &Tx<'_>| -> Result<(), StoreError> {
        let priorities: Vec<_> = (0..=MAX_PRIORITY).collect();
        let marks = vec![mark; priorities.len()];
        let lanes = [Values::Ints(&priorities), Values::Ints(&marks)];
        let claim = kith_jobs::CLAIM.explained();
        let lines = tx.all_for_engine(&claim, params![wall(), 0_i64, QUEUE, 500_i64], &lanes, |row| {
            row.get::<String>(0)
        })?;
        *captured.lock().unwrap_or_else(PoisonError::into_inner) = lines;
        // The error rolls back the explained claim.
        Err(StoreError::fault(undone))
    };
    let ended = engine.jobs.db().write(explained).await;
    let lines = plan.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if lines.is_empty() {
        ended?;
        return Err("the claim was not explained".into());
    }
    Ok(lines)
}

/// Returns the number of pages that the whole statement read. The first line with buffers in the plan
/// includes the lines below it.
fn buffers(plan: &[String]) -> Option<u64> {
    let line = plan.iter().map(|line| line.trim()).find(|line| line.starts_with("Buffers: shared"))?;
    let touched = line.split(' ').filter_map(|word| word.strip_prefix("hit=").or(word.strip_prefix("read=")));
    Some(touched.filter_map(|number| number.parse::<u64>().ok()).sum())
}
