//! Replays: deliver events again that are before the cursor of a consumer.

use kith_kernel::Timestamp;
use kith_store::{Error, Tx, last_position};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::engine::WAKE_UP;
use crate::rows;

/// Maximum number of dead letters that one call retries.
const MAX_RETRIED: i64 = 1_000;

/// First event to deliver again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplayFrom {
    /// The oldest event that retention has not removed.
    Beginning,
    /// The event at this position.
    Position(i64),
    /// The first event emitted at this time or later. Events committed at about the same time may be slightly
    /// out of order; choose an earlier time if in doubt.
    Time(Timestamp),
}

/// Reason why nothing was replayed.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// The database has no consumer with this name.
    #[error("unknown consumer {0:?}")]
    UnknownConsumer(String),
    /// The position is after the end of the log, or not positive.
    #[error("position {position} does not exist; the last one is {last}")]
    UnknownPosition {
        /// Requested position.
        position: i64,
        /// Last position in the log.
        last: i64,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] Error),
}

/// Moves the cursor of `consumer` back so that events are delivered again from `from` on. Returns the number
/// of events of any kind after the new cursor. A cursor that is already before `from` is not moved.
///
/// # Errors
/// Returns [`ReplayError::UnknownConsumer`], [`ReplayError::UnknownPosition`], or [`ReplayError::Store`] if
/// the database fails.
pub fn replay(tx: &Tx<'_>, consumer: &str, from: ReplayFrom) -> Result<i64, ReplayError> {
    let cursor = rows::cursor(tx, consumer)?;
    let cursor = cursor.ok_or_else(|| ReplayError::UnknownConsumer(consumer.to_owned()))?;
    let last = last_position(tx)?;
    let wanted = match from {
        ReplayFrom::Beginning => rows::position_before_first(tx)?,
        ReplayFrom::Position(position) if (1..=last).contains(&position) => position - 1,
        ReplayFrom::Position(position) => return Err(ReplayError::UnknownPosition { position, last }),
        ReplayFrom::Time(since) => position_before(tx, since, last)?,
    };
    let position = wanted.max(rows::position_before_first(tx)?).min(cursor.position);
    rows::set_cursor(tx, consumer, position)?;
    rows::delete_failures_after(tx, consumer, position)?;
    tx.notify(WAKE_UP);
    Ok(last - position)
}

/// Returns the position before the first event that was emitted at `since` or later. Uses binary search.
fn position_before(tx: &Tx<'_>, since: Timestamp, last: i64) -> Result<i64, Error> {
    let (mut before, mut behind) = (rows::position_before_first(tx)?, last);
    while before < behind {
        let middle = before + (behind - before) / 2;
        match rows::first_emitted_after(tx, middle)? {
            Some(at) if at < since => before = middle + 1,
            _ => behind = middle,
        }
    }
    Ok(before)
}

/// Makes up to 1,000 of the oldest dead letters of `consumer` pending again, and returns the number of dead
/// letters changed.
///
/// # Errors
/// Returns [`ReplayError::UnknownConsumer`] if the consumer does not exist, or [`ReplayError::Store`] if the
/// database fails.
pub fn retry_dead_letters(tx: &Tx<'_>, consumer: &str) -> Result<u64, ReplayError> {
    if rows::cursor(tx, consumer)?.is_none() {
        return Err(ReplayError::UnknownConsumer(consumer.to_owned()));
    }
    let retried = rows::retry_dead_letters(tx, consumer, MAX_RETRIED)?;
    tx.notify(WAKE_UP);
    Ok(retried)
}
