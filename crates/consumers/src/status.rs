//! Lag of consumers, for operators and metrics.

use kith_kernel::Timestamp;
use kith_store::{Error, Query, last_position};
use serde::{Deserialize, Serialize};

use crate::rows;

/// Maximum number of failures counted.
const MAX_COUNTED: i64 = 10_000;

/// State of a consumer in the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerStatus {
    /// Name of the consumer.
    pub name: String,
    /// Cursor: every event up to this position was handled, or is pending or dead-lettered.
    pub position: i64,
    /// Number of events after `position`, of any kind. The cursor of an idle consumer is written only every
    /// five seconds.
    pub lag_events: i64,
    /// Milliseconds since the first event after `position` was emitted; 0 if there is none.
    pub lag_ms: i64,
    /// Number of pending events, counted up to 10,000: failed events, and later events of the same subjects.
    pub pending: i64,
    /// Number of events dead-lettered after all attempts; counted up to 10,000.
    pub dead_letters: i64,
    /// Node that delivers to the consumer; empty if no node does.
    pub owner: String,
}

/// Returns the state of every consumer in the database, ordered by name.
///
/// # Errors
/// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
pub fn list_status(q: &Query<'_>, now: Timestamp) -> Result<Vec<ConsumerStatus>, Error> {
    let last = last_position(q)?;
    rows::cursors(q)?
        .into_iter()
        .map(|cursor| {
            let (pending, dead_letters) = rows::count_failures(q, &cursor.name, MAX_COUNTED)?;
            let emitted = rows::first_emitted_after(q, cursor.position)?;
            Ok(ConsumerStatus {
                position: cursor.position,
                lag_events: (last - cursor.position).max(0),
                lag_ms: emitted.map_or(0, |at| (now.as_millis() - at.as_millis()).max(0)),
                pending,
                dead_letters,
                owner: if cursor.leased_until > now { cursor.owner } else { String::new() },
                name: cursor.name,
            })
        })
        .collect()
}
