//! Queue settings: pausing, concurrency limits and rate limits, counted across all nodes.

use kith_kernel::{Ctx, Timestamp};
use kith_store::{Error, Query, Tx};
use serde::{Deserialize, Serialize};

use crate::model::{Invalid, check_name};
use crate::{queue_channel, rows};

/// Maximum length of a rate window, in milliseconds: one day.
const MAX_RATE_PERIOD_MS: i64 = 24 * 3_600_000;
/// Maximum value of a limit.
const MAX_LIMIT: i64 = 1_000_000;

/// Rate limit: at most `limit` starts of jobs in each window of `period_ms`. A window begins with the first
/// start after the end of the previous window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Maximum number of starts of jobs per window.
    pub limit: i64,
    /// Length of the window in milliseconds.
    pub period_ms: i64,
}

/// Settings of a queue. The default has no limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueSettings {
    /// True if the queue is paused, so that none of its jobs is started.
    pub paused: bool,
    /// Maximum number of running jobs.
    pub concurrency: Option<i64>,
    /// Maximum number of starts of jobs per window.
    pub rate: Option<Rate>,
    /// Maximum number of running jobs for each limit key.
    pub key_concurrency: Option<i64>,
    /// Maximum number of starts of jobs per window, for each limit key.
    pub key_rate: Option<Rate>,
    /// Revision number. It increases by one with each change.
    pub revision: i64,
}

impl QueueSettings {
    /// Returns true if the queue has limits per key.
    pub const fn limits_keys(&self) -> bool {
        self.key_concurrency.is_some() || self.key_rate.is_some()
    }

    /// Returns true if the queue has any limit.
    pub const fn is_limited(&self) -> bool {
        self.concurrency.is_some() || self.rate.is_some() || self.limits_keys()
    }

    /// Validates the settings.
    ///
    /// # Errors
    /// Returns [`Invalid`] for the first invalid field.
    pub fn check(&self) -> Result<(), Invalid> {
        let limit = |field, value: Option<i64>| match value {
            Some(value) if !(1..=MAX_LIMIT).contains(&value) => {
                Err(Invalid::new(field, format!("is not between 1 and {MAX_LIMIT}")))
            }
            _ => Ok(()),
        };
        let rate = |field, rate: Option<Rate>| {
            limit(field, rate.map(|rate| rate.limit))?;
            match rate {
                Some(Rate { period_ms, .. }) if !(1..=MAX_RATE_PERIOD_MS).contains(&period_ms) => {
                    Err(Invalid::new(field, "has a period that is not between 1 ms and a day"))
                }
                _ => Ok(()),
            }
        };
        limit("concurrency", self.concurrency)?;
        rate("rate", self.rate)?;
        limit("key_concurrency", self.key_concurrency)?;
        rate("key_rate", self.key_rate)
    }
}

/// Reason why the settings of a queue were not changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum QueueError {
    /// The new settings are invalid.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The settings have changed since they were read.
    #[error("the queue was changed since it was read")]
    Changed,
    /// The database returned an error.
    #[error(transparent)]
    Store(#[from] Error),
}

/// Returns the settings of a queue, or the default settings if none are stored.
///
/// # Errors
/// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
pub fn find_settings(q: &Query<'_>, queue: &str) -> Result<QueueSettings, Error> {
    Ok(rows::queues::find(q, queue)?.unwrap_or_default())
}

/// Returns all stored settings of queues, ordered by the name of the queue.
///
/// # Errors
/// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
pub fn list_settings(q: &Query<'_>) -> Result<Vec<(String, QueueSettings)>, Error> {
    rows::queues::list(q)
}

/// Changes the settings of a queue with `change` and writes an audit entry. If a `revision` is given, it must
/// be the current revision. If the settings stay the same, nothing is written.
///
/// # Errors
/// Returns [`QueueError::Invalid`] if the new settings are invalid, [`QueueError::Changed`] if `revision` is
/// not the current revision, and [`QueueError::Store`] if the database fails.
pub fn set(
    tx: &Tx<'_>,
    ctx: &Ctx,
    queue: &str,
    revision: Option<i64>,
    change: impl Fn(&mut QueueSettings),
) -> Result<QueueSettings, QueueError> {
    check_name("queue", queue)?;
    tx.lock("job queue", [queue])?;
    let before = find_settings(tx, queue)?;
    if revision.is_some_and(|revision| revision != before.revision) {
        return Err(QueueError::Changed);
    }
    let mut after = before.clone();
    change(&mut after);
    after.check()?;
    after.revision = before.revision;
    if after == before {
        return Ok(before);
    }
    after.revision += 1;
    rows::queues::save(tx, queue, &after, ctx.now)?;
    let action = match (before.paused, after.paused) {
        (false, true) => "queue.paused",
        (true, false) => "queue.resumed",
        _ => "queue.changed",
    };
    tx.audit(ctx, action, queue);
    tx.notify(queue_channel(queue));
    Ok(after)
}

/// Returns how many more jobs may start in the current window, the start time of the window, and the number
/// of starts in it.
pub(crate) fn remaining_starts(
    rate: Rate,
    window: Option<(Timestamp, i64)>,
    now: Timestamp,
) -> (i64, Timestamp, i64) {
    let period = std::time::Duration::from_millis(rate.period_ms.unsigned_abs());
    match window {
        // If the clock is set back, the current window lasts until its end.
        Some((since, used)) if now < since + period => ((rate.limit - used).max(0), since, used),
        _ => (rate.limit, now, 0),
    }
}
