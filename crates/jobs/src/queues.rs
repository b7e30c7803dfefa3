//! What is set for a queue: whether it is paused, and how much of it runs at once and per time, counted across all
//! nodes.

use kith_kernel::{Ctx, Timestamp};
use kith_store::{Error, Query, Tx};
use serde::{Deserialize, Serialize};

use crate::model::{Invalid, check_name};
use crate::{bell_of, rows};

/// Longest window of a rate, in milliseconds: a day.
const LONGEST_WINDOW_MS: i64 = 24 * 3_600_000;
/// Greatest limit that makes sense.
const GREATEST: i64 = 1_000_000;

/// At most `limit` starts in each window of `period_ms`; a window opens with the first start after the last one closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Starts.
    pub limit: i64,
    /// Milliseconds.
    pub period_ms: i64,
}

/// What is set for a queue. A queue that nobody has set anything for has no limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueSettings {
    /// Whether no job of it is started.
    pub paused: bool,
    /// Most jobs that run at once.
    pub concurrency: Option<i64>,
    /// Most jobs that start in a time.
    pub rate: Option<Rate>,
    /// Most jobs of one limit key that run at once.
    pub key_concurrency: Option<i64>,
    /// Most jobs of one limit key that start in a time.
    pub key_rate: Option<Rate>,
    /// Grows with each change.
    pub revision: i64,
}

impl QueueSettings {
    /// Whether keys are counted.
    pub const fn limits_keys(&self) -> bool {
        self.key_concurrency.is_some() || self.key_rate.is_some()
    }

    /// Whether anything is counted.
    pub const fn is_limited(&self) -> bool {
        self.concurrency.is_some() || self.rate.is_some() || self.limits_keys()
    }

    /// Whether it can be set.
    ///
    /// # Errors
    /// [`Invalid`] names the first field that is wrong.
    pub fn check(&self) -> Result<(), Invalid> {
        let limit = |field, value: Option<i64>| match value {
            Some(value) if !(1..=GREATEST).contains(&value) => {
                Err(Invalid::new(field, format!("is not between 1 and {GREATEST}")))
            }
            _ => Ok(()),
        };
        let rate = |field, rate: Option<Rate>| {
            limit(field, rate.map(|rate| rate.limit))?;
            match rate {
                Some(Rate { period_ms, .. }) if !(1..=LONGEST_WINDOW_MS).contains(&period_ms) => {
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

/// Why a queue's settings did not change.
#[derive(Clone, Debug, thiserror::Error)]
pub enum QueueError {
    /// They are wrong.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Somebody else changed them since they were read.
    #[error("the queue was changed since it was read")]
    Changed,
    /// The database's.
    #[error(transparent)]
    Store(#[from] Error),
}

/// What is set for a queue.
///
/// # Errors
/// The database's.
pub fn find_settings(q: &Query<'_>, queue: &str) -> Result<QueueSettings, Error> {
    Ok(rows::queues::find(q, queue)?.unwrap_or_default())
}

/// What is set for each queue that anything was ever set for, by name.
///
/// # Errors
/// The database's.
pub fn list_settings(q: &Query<'_>) -> Result<Vec<(String, QueueSettings)>, Error> {
    rows::queues::list(q)
}

/// Sets a queue, as `change` makes it of what is set, and leaves an audit entry. With a `revision`, only if that is the
/// present one.
///
/// # Errors
/// [`QueueError`] if the new settings are wrong, or the old ones others than thought.
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
    tx.ring(bell_of(queue));
    Ok(after)
}

/// How many more may start in a window, and when the next one opens if none may.
pub(crate) fn room(rate: Rate, window: Option<(Timestamp, i64)>, now: Timestamp) -> (i64, Timestamp, i64) {
    let period = std::time::Duration::from_millis(rate.period_ms.unsigned_abs());
    match window {
        // A clock that went back opens no second window before the first is over.
        Some((since, used)) if now < since + period => ((rate.limit - used).max(0), since, used),
        _ => (rate.limit, now, 0),
    }
}
