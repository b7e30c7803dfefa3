//! Batches of scanned events, and the failures of the transactions that process them.

use std::sync::atomic::{AtomicBool, Ordering};

use kith_kernel::Timestamp;
use kith_kernel::uuid::Uuid;
use kith_store::{Error, EventScan, SequencedEvent, Tx, event_id_at};
use thiserror::Error;

use crate::HandlerError;
use crate::failures::{DueRetry, MAX_PENDING, Pending};
use crate::rows::{self, PendingRow};

/// Position and id of the last scanned event. If the log has another event at that position later, a failover
/// has replaced the log.
pub(super) type LogEnd = (i64, Uuid);

/// State of the consumer in the database.
pub(super) struct View {
    pub cursor: i64,
    /// True if the events that were scanned earlier are still in the log.
    pub is_scan_valid: bool,
    pub pending: Pending,
    /// Failure whose retry is due, and its event. The event is `None` if a failover or retention has removed
    /// it.
    pub due: Option<(DueRetry, Option<SequencedEvent>)>,
    /// Next events; `None` while too many failures are pending.
    pub scan: Option<EventScan>,
}

/// Events of a scan that are processed in one transaction.
pub(super) struct Batch {
    /// Events for the handler.
    pub events: Vec<SequencedEvent>,
    /// Events deferred because their subject has an earlier failure.
    pub deferred: Vec<SequencedEvent>,
    /// Last event of the batch. Every event up to it is in `events` or `deferred`, or is of a kind that the
    /// consumer does not handle.
    pub end: Option<LogEnd>,
}

/// Failure of a transaction that delivers events.
#[derive(Debug, Error)]
pub enum DeliveryError {
    /// The database or a statement of the handler failed.
    #[error(transparent)]
    Store(#[from] Error),
    /// The handler failed.
    #[error("{0}")]
    Handler(String),
    /// The cursor was moved, the lease was lost, or a failover has replaced the events.
    #[error("the cursor or the lease has changed")]
    Changed,
}

impl From<HandlerError> for DeliveryError {
    fn from(error: HandlerError) -> Self {
        match error {
            HandlerError::Store(error) => Self::Store(error),
            HandlerError::Failed(reason) => Self::Handler(reason),
        }
    }
}

/// Classification of a failed transaction.
pub(super) enum FailedTransaction {
    /// The handler cannot handle these events.
    Handler(String),
    /// The cursor, the lease or the log has changed since the state was read.
    Changed,
    /// The database failed; a later attempt may succeed.
    Database(Error),
}

/// Returns the first events of a scan as a batch. The batch ends after `limit` events for the handler, or
/// when its deferred events reach the maximum number of pending failures.
pub(super) fn take_batch(scan: EventScan, pending: &Pending, limit: usize) -> Batch {
    let blocked = pending.subjects();
    let may_defer = usize::try_from(MAX_PENDING).unwrap_or(0).saturating_sub(pending.0.len()).max(1);
    let mut batch = Batch { events: Vec::new(), deferred: Vec::new(), end: scan.last };
    for event in scan.events {
        let end = (event.position, event.id);
        if blocked.contains(event.subject.as_str()) {
            batch.deferred.push(event);
        } else {
            batch.events.push(event);
        }
        if batch.events.len() == limit || batch.deferred.len() == may_defer {
            batch.end = Some(end);
            break;
        }
    }
    batch
}

/// Returns [`DeliveryError::Changed`] unless the event `end` is still in the log. After a failover, another
/// event can have its position.
pub(super) fn ensure_same_log(tx: &Tx<'_>, end: Option<LogEnd>) -> Result<(), DeliveryError> {
    match end {
        Some((position, id)) => ensure_current(event_id_at(tx, position)? == Some(id)),
        None => Ok(()),
    }
}

/// Defers events until the earlier failure of their subject is resolved.
pub(super) fn defer(tx: &Tx<'_>, name: &str, events: &[SequencedEvent]) -> Result<(), Error> {
    for SequencedEvent { position, event } in events {
        let subject = event.subject.clone();
        let row = PendingRow { position: *position, subject, attempts: 0, retry_at: Timestamp::EPOCH };
        rows::insert_failure(tx, name, &row, "")?;
    }
    Ok(())
}

pub(super) fn ensure_current(is_current: bool) -> Result<(), DeliveryError> {
    if is_current { Ok(()) } else { Err(DeliveryError::Changed) }
}

/// Classifies an error of a transaction. `handler_called` is true if the transaction called the handler.
pub(super) fn classify(error: DeliveryError, handler_called: &AtomicBool) -> FailedTransaction {
    match error {
        DeliveryError::Changed => FailedTransaction::Changed,
        DeliveryError::Handler(reason) => FailedTransaction::Handler(reason),
        DeliveryError::Store(error) => match error {
            Error::Constraint(_) | Error::Fault(_) | Error::NulInText
                if handler_called.load(Ordering::Relaxed) =>
            {
                FailedTransaction::Handler(error.to_string())
            }
            _ => FailedTransaction::Database(error),
        },
    }
}
