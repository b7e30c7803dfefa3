//! SQL for queue settings and rate windows.

use kith_kernel::Timestamp;
use kith_store::{Columns, Error, FromRow as _, Query, Tx, params, row_columns};

use crate::queues::{QueueSettings, Rate};

row_columns! {
    settings_columns => QueueSettings (
        rate_limit: Option<i64> = "rate",
        rate_ms: Option<i64> = "rate_ms",
        key_rate_limit: Option<i64> = "key_rate",
        key_rate_ms: Option<i64> = "key_rate_ms",
    ) {
        paused = "paused",
        concurrency = "concurrency",
        key_concurrency = "key_concurrency",
        revision = "revision";
        rate = rate_limit.zip(rate_ms).map(|(limit, period_ms)| Rate { limit, period_ms });
        key_rate = key_rate_limit.zip(key_rate_ms).map(|(limit, period_ms)| Rate { limit, period_ms })
    }
}

pub fn find(q: &Query<'_>, queue: &str) -> Result<Option<QueueSettings>, Error> {
    q.one(
        concat!("SELECT ", settings_columns!(), " FROM job_queues WHERE name = $1"),
        params![queue],
        QueueSettings::read_row,
    )
}

pub fn list(q: &Query<'_>) -> Result<Vec<(String, QueueSettings)>, Error> {
    q.all(concat!("SELECT name, ", settings_columns!(), " FROM job_queues ORDER BY name"), &[], |row| {
        let columns = &mut Columns::of(row);
        Ok((columns.read()?, columns.read()?))
    })
}

pub fn save(tx: &Tx<'_>, queue: &str, settings: &QueueSettings, now: Timestamp) -> Result<(), Error> {
    tx.exec(
        "INSERT INTO job_queues (name, paused, concurrency, rate, rate_ms, key_concurrency, key_rate, key_rate_ms,
             revision, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         ON CONFLICT (name) DO UPDATE SET paused = excluded.paused, concurrency = excluded.concurrency,
             rate = excluded.rate, rate_ms = excluded.rate_ms, key_concurrency = excluded.key_concurrency,
             key_rate = excluded.key_rate, key_rate_ms = excluded.key_rate_ms, revision = excluded.revision,
             updated_at = excluded.updated_at",
        params![
            queue,
            settings.paused,
            settings.concurrency,
            settings.rate.map(|rate| rate.limit),
            settings.rate.map(|rate| rate.period_ms),
            settings.key_concurrency,
            settings.key_rate.map(|rate| rate.limit),
            settings.key_rate.map(|rate| rate.period_ms),
            settings.revision,
            now
        ],
    )?;
    Ok(())
}

/// Returns the time at which the rate window began, and the number of starts in it; `None` if there is no
/// window.
pub fn find_window(q: &Query<'_>, queue: &str, key: &str) -> Result<Option<(Timestamp, i64)>, Error> {
    let sql = "SELECT opened_at, starts FROM job_rate_windows WHERE queue = $1 AND limit_key = $2";
    q.one(sql, params![queue, key], |row| Ok((row.get(0)?, row.get(1)?)))
}

pub fn save_rate_window(
    tx: &Tx<'_>,
    queue: &str,
    key: &str,
    opened_at: Timestamp,
    starts: i64,
) -> Result<(), Error> {
    tx.exec(
        "INSERT INTO job_rate_windows (queue, limit_key, opened_at, starts) VALUES ($1, $2, $3, $4)
         ON CONFLICT (queue, limit_key) DO UPDATE SET opened_at = excluded.opened_at, starts = excluded.starts",
        params![queue, key, opened_at, starts],
    )?;
    Ok(())
}

/// Deletes up to `limit` rate windows that began before `before`.
pub fn delete_old_windows(tx: &Tx<'_>, before: Timestamp, limit: i64) -> Result<u64, Error> {
    // The outer statement checks the time again, because a claim may have begun a new window since the
    // subquery read the row.
    tx.exec(
        "DELETE FROM job_rate_windows WHERE opened_at < $1 AND (queue, limit_key) IN (
             SELECT queue, limit_key FROM job_rate_windows WHERE opened_at < $1 LIMIT $2)",
        params![before, limit],
    )
}
