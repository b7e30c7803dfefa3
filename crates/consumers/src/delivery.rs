//! Delivers events to one consumer, a batch at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kith_kernel::{Ctx, Timestamp, seconds};
use kith_store::{Error, EventScan, Query, SequencedEvent, Tx, event_at, event_id_at, scan_events};
use thiserror::Error;

use crate::failures::{MAX_ATTEMPTS, MAX_PENDING, Pending, backoff, stored_error};
use crate::rows::{self, PendingRow};
use crate::{Consumer, HandlerError, Transactions};

/// Events handed to a handler at once.
const MAX_BATCH: usize = 500;
/// Rows of the log that are read at once, wanted or not.
const SCANNED_ROWS: i64 = 500;
/// Unwanted events after which the cursor is written although nothing was handled.
const MAX_UNWRITTEN: i64 = 5_000;
/// Time after which the cursor is written although nothing was handled.
pub(crate) const WRITE_INTERVAL: Duration = seconds(5);

/// Delivery of events to one consumer by one node.
#[derive(Debug)]
pub struct Delivery<W> {
    transactions: W,
    consumer: Consumer,
    node: String,
    /// Cursor in the database, as this node last saw it.
    cursor: Option<i64>,
    /// Position up to which no event waits to be handled; at the cursor or behind it.
    scanned: i64,
    /// Time at which the cursor was last written or found moved.
    written_at: Timestamp,
    /// Events handed to the handler at once; halved while it fails.
    batch: usize,
}

/// Result of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Something was done, and there may be more.
    More {
        /// Events that were handled.
        handled: usize,
        /// Whether an event was set aside.
        set_aside: bool,
    },
    /// Nothing is to be done before an event comes, or before this time.
    Idle {
        /// Time of the next retry or of the next write of the cursor.
        until: Option<Timestamp>,
    },
    /// Another node holds the lease, or the consumer has no cursor.
    NotOwner,
}

/// Failure of a transaction that delivers.
#[derive(Debug, Error)]
pub enum DeliveryError {
    /// The database failed, or a statement of the handler did.
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

/// State of the consumer in the database, with what is to be done next.
struct View {
    cursor: i64,
    pending: Pending,
    next: Next,
}

enum Next {
    /// Retry a failure; its event is missing if a failover has undone it.
    Retry(PendingRow, Option<SequencedEvent>),
    Deliver(EventScan),
    /// Too many failures wait for their retry.
    Wait,
}

/// Part of a scan that one transaction passes.
struct Batch {
    /// Events for the handler.
    events: Vec<SequencedEvent>,
    /// Events whose subject has an earlier failure.
    deferred: Vec<SequencedEvent>,
    /// Position up to which every event is in one of the two, or unwanted.
    to: i64,
}

/// Meaning of a failed transaction.
enum Fault {
    /// The handler cannot handle these events.
    Handler(String),
    /// The view is out of date.
    Changed,
    /// The database failed; it is worth trying again later.
    Database(Error),
}

impl<W: Transactions> Delivery<W> {
    /// Delivery to `consumer` by `node`.
    pub fn new(transactions: W, consumer: Consumer, node: String) -> Self {
        let written_at = transactions.sources().clock.now();
        Self { transactions, consumer, node, cursor: None, scanned: 0, written_at, batch: MAX_BATCH }
    }

    /// Name of the consumer.
    pub fn name(&self) -> &'static str {
        self.consumer.name
    }

    /// Takes one step: retries a failure that is due, or delivers the next batch.
    ///
    /// # Errors
    /// An error of the database. Nothing has changed, or the step is found done by the next one.
    pub async fn step(&mut self) -> Result<Progress, Error> {
        let Some(view) = self.read().await? else { return Ok(Progress::NotOwner) };
        if self.cursor != Some(view.cursor) {
            (self.cursor, self.scanned) = (Some(view.cursor), self.scanned.max(view.cursor));
            self.written_at = self.now();
        }
        match view.next {
            Next::Retry(row, Some(event)) => self.retry(view.cursor, row, event).await,
            Next::Retry(row, None) => self.drop_failure(view.cursor, row).await,
            Next::Wait => Ok(Progress::Idle { until: view.pending.next_retry() }),
            Next::Deliver(scan) => self.deliver(view.cursor, &view.pending, scan).await,
        }
    }

    fn now(&self) -> Timestamp {
        self.transactions.sources().clock.now()
    }

    /// Reads the state; `None` if this node may not deliver.
    async fn read(&mut self) -> Result<Option<View>, Error> {
        let (consumer, node, now) = (self.consumer.clone(), self.node.clone(), self.now());
        let (known, scanned) = (self.cursor, self.scanned);
        let view = self
            .transactions
            .store()
            .read(move |q: &Query<'_>| {
                let row = rows::cursor(q, consumer.name)?.filter(|row| row.owner == node);
                let Some(row) = row else { return Ok::<_, Error>(None) };
                // A cursor that somebody has moved, by a replay or a failover, says that earlier scans do not count.
                let is_known = known == Some(row.position);
                let from = if is_known { scanned.max(row.position) } else { row.position };
                let pending = Pending(rows::pending(q, consumer.name, MAX_PENDING)?);
                let next = match pending.due(now) {
                    Some(due) => Next::Retry(due.clone(), event_at(q, due.position)?),
                    None if pending.is_full() => Next::Wait,
                    None => Next::Deliver(scan_events(q, from, SCANNED_ROWS, |kind| consumer.handles(kind))?),
                };
                Ok(Some(View { cursor: row.position, pending, next }))
            })
            .await?;
        if view.as_ref().is_none_or(|view| self.cursor != Some(view.cursor)) {
            self.scanned = 0;
        }
        Ok(view)
    }

    async fn deliver(&mut self, cursor: i64, pending: &Pending, scan: EventScan) -> Result<Progress, Error> {
        let has_more = scan.has_more;
        let batch = cut(scan, pending, self.batch);
        if batch.events.is_empty() && batch.deferred.is_empty() {
            self.scanned = batch.to;
            return self.pass(cursor, pending, has_more).await;
        }
        let (to, count) = (batch.to, batch.events.len());
        let batch = Arc::new(batch);
        match self.transact(count, Arc::clone(&batch), cursor).await {
            Ok(()) => {
                self.batch = (self.batch * 2).min(MAX_BATCH);
                self.moved_to(to);
                Ok(Progress::More { handled: count, set_aside: false })
            }
            Err(Fault::Changed) => Ok(Progress::More { handled: 0, set_aside: false }),
            Err(Fault::Database(error)) => Err(error),
            Err(Fault::Handler(_)) if count > 1 => {
                self.batch = count / 2;
                Ok(Progress::More { handled: 0, set_aside: false })
            }
            Err(Fault::Handler(reason)) => self.note_failure(cursor, &batch, &reason).await,
        }
    }

    /// Runs the handler for a batch and moves the cursor behind it.
    async fn transact(&self, count: usize, batch: Arc<Batch>, cursor: i64) -> Result<(), Fault> {
        let (consumer, node) = (self.consumer.clone(), self.node.clone());
        let began = Arc::new(AtomicBool::new(false));
        let begins = Arc::clone(&began);
        let run = move |tx: &Tx<'_>, ctx: &Ctx| {
            begins.store(false, Ordering::Relaxed);
            verify(tx, batch.events.last().or(batch.deferred.last()))?;
            if count > 0 {
                begins.store(true, Ordering::Relaxed);
                consumer.handle(tx, ctx, &batch.events)?;
            }
            defer(tx, consumer.name, &batch.deferred)?;
            moved(rows::move_cursor(tx, consumer.name, &node, cursor, batch.to)?)
        };
        self.transactions.clone().write(self.ctx(), run).await.map_err(|error| fault(error, &began))
    }

    /// Writes down that the only event of `batch` has failed, and passes it.
    async fn note_failure(
        &mut self,
        cursor: i64,
        batch: &Arc<Batch>,
        reason: &str,
    ) -> Result<Progress, Error> {
        let Some(event) = batch.events.first() else {
            return Ok(Progress::More { handled: 0, set_aside: false });
        };
        let (position, error) = (event.position, stored_error(reason));
        tracing::warn!(consumer = self.name(), position, error, "a consumer failed to handle an event");
        let retry_at = self.now() + backoff(1);
        let row = PendingRow { position, subject: event.event.subject.clone(), attempts: 1, retry_at };
        let (name, node, passed) = (self.name(), self.node.clone(), Arc::clone(batch));
        let run = move |tx: &Tx<'_>, _: &Ctx| {
            verify(tx, passed.events.first())?;
            rows::insert_failure(tx, name, &row, &error)?;
            defer(tx, name, &passed.deferred)?;
            moved(rows::move_cursor(tx, name, &node, cursor, passed.to)?)
        };
        if self.commit(run).await? {
            self.moved_to(batch.to);
        }
        Ok(Progress::More { handled: 0, set_aside: false })
    }

    async fn retry(
        &mut self,
        cursor: i64,
        row: PendingRow,
        event: SequencedEvent,
    ) -> Result<Progress, Error> {
        let (consumer, node) = (self.consumer.clone(), self.node.clone());
        let began = Arc::new(AtomicBool::new(false));
        let (begins, retried) = (Arc::clone(&began), row.clone());
        let run = move |tx: &Tx<'_>, ctx: &Ctx| {
            begins.store(false, Ordering::Relaxed);
            verify(tx, Some(&event))?;
            begins.store(true, Ordering::Relaxed);
            if consumer.handles(&event.event.kind) {
                consumer.handle(tx, ctx, std::slice::from_ref(&event))?;
            }
            moved(rows::delete_failure(tx, consumer.name, &retried)?)?;
            moved(rows::move_cursor(tx, consumer.name, &node, cursor, cursor)?)
        };
        let retried = self.transactions.clone().write(self.ctx(), run).await;
        match retried.map_err(|error| fault(error, &began)) {
            Ok(()) => Ok(Progress::More { handled: 1, set_aside: false }),
            Err(Fault::Changed) => Ok(Progress::More { handled: 0, set_aside: false }),
            Err(Fault::Database(error)) => Err(error),
            Err(Fault::Handler(reason)) => self.note_failed_retry(cursor, row, &reason).await,
        }
    }

    async fn note_failed_retry(
        &mut self,
        cursor: i64,
        row: PendingRow,
        reason: &str,
    ) -> Result<Progress, Error> {
        let (now, attempts, error) = (self.now(), row.attempts + 1, stored_error(reason));
        let is_last = attempts >= MAX_ATTEMPTS;
        let (name, node, position) = (self.name(), self.node.clone(), row.position);
        if is_last {
            tracing::error!(consumer = name, position, error, "an event was set aside after all attempts");
        }
        let run = move |tx: &Tx<'_>, _: &Ctx| {
            let set_aside_at = is_last.then_some(now);
            moved(rows::update_failure(tx, name, &row, now + backoff(attempts), &error, set_aside_at)?)?;
            moved(rows::move_cursor(tx, name, &node, cursor, cursor)?)
        };
        let committed = self.commit(run).await?;
        Ok(Progress::More { handled: 0, set_aside: is_last && committed })
    }

    /// Deletes a failure whose event is no longer there.
    async fn drop_failure(&mut self, cursor: i64, row: PendingRow) -> Result<Progress, Error> {
        let (name, node, position) = (self.name(), self.node.clone(), row.position);
        tracing::warn!(consumer = name, position, "an event that was to be retried is gone");
        let run = move |tx: &Tx<'_>, _: &Ctx| {
            moved(rows::delete_failure(tx, name, &row)?)?;
            moved(rows::move_cursor(tx, name, &node, cursor, cursor)?)
        };
        self.commit(run).await?;
        Ok(Progress::More { handled: 0, set_aside: false })
    }

    /// Passes events that the consumer does not want. The cursor is written now and then only.
    async fn pass(&mut self, cursor: i64, pending: &Pending, has_more: bool) -> Result<Progress, Error> {
        let due_at = self.written_at + WRITE_INTERVAL;
        let is_due = self.scanned - cursor >= MAX_UNWRITTEN || self.now() >= due_at;
        if self.scanned > cursor && is_due {
            let (name, node, to) = (self.name(), self.node.clone(), self.scanned);
            let run = move |tx: &Tx<'_>, _: &Ctx| {
                tx.may_be_lost();
                moved(rows::move_cursor(tx, name, &node, cursor, to)?)
            };
            if self.commit(run).await? {
                self.moved_to(to);
            }
            return Ok(Progress::More { handled: 0, set_aside: false });
        }
        if has_more {
            return Ok(Progress::More { handled: 0, set_aside: false });
        }
        let write_at = (self.scanned > cursor).then_some(due_at);
        let until = pending.next_retry().into_iter().chain(write_at).min();
        Ok(Progress::Idle { until })
    }

    /// Runs a transaction without the handler; false if the view is out of date.
    async fn commit<F>(&self, run: F) -> Result<bool, Error>
    where
        F: Fn(&Tx<'_>, &Ctx) -> Result<(), DeliveryError> + Send + 'static,
    {
        match self.transactions.clone().write(self.ctx(), run).await {
            Ok(()) => Ok(true),
            Err(DeliveryError::Store(error)) => Err(error),
            Err(DeliveryError::Changed | DeliveryError::Handler(_)) => Ok(false),
        }
    }

    fn ctx(&self) -> Ctx {
        self.transactions.ctx(self.consumer.name)
    }

    fn moved_to(&mut self, position: i64) {
        (self.cursor, self.scanned, self.written_at) = (Some(position), position, self.now());
    }
}

/// Takes events from a scan until `limit` of them are for the handler or as many are deferred as may be.
fn cut(scan: EventScan, pending: &Pending, limit: usize) -> Batch {
    let blocked = pending.subjects();
    let may_defer = usize::try_from(MAX_PENDING).unwrap_or(0).saturating_sub(pending.0.len()).max(1);
    let mut batch = Batch { events: Vec::new(), deferred: Vec::new(), to: scan.last };
    for event in scan.events {
        let position = event.position;
        if blocked.contains(event.event.subject.as_str()) {
            batch.deferred.push(event);
        } else {
            batch.events.push(event);
        }
        if batch.events.len() == limit || batch.deferred.len() == may_defer {
            batch.to = position;
            break;
        }
    }
    batch
}

/// Verifies that no failover has given the position of `event` to another one.
fn verify(tx: &Tx<'_>, event: Option<&SequencedEvent>) -> Result<(), DeliveryError> {
    match event {
        Some(event) => moved(event_id_at(tx, event.position)? == Some(event.event.id)),
        None => Ok(()),
    }
}

/// Lets events wait for an earlier failure of their subject.
fn defer(tx: &Tx<'_>, name: &str, events: &[SequencedEvent]) -> Result<(), Error> {
    for SequencedEvent { position, event } in events {
        let subject = event.subject.clone();
        let row = PendingRow { position: *position, subject, attempts: 0, retry_at: Timestamp::EPOCH };
        rows::insert_failure(tx, name, &row, "")?;
    }
    Ok(())
}

fn moved(is_current: bool) -> Result<(), DeliveryError> {
    if is_current { Ok(()) } else { Err(DeliveryError::Changed) }
}

/// Meaning of an error. `began` says whether the handler had been called.
fn fault(error: DeliveryError, began: &AtomicBool) -> Fault {
    match error {
        DeliveryError::Changed => Fault::Changed,
        DeliveryError::Handler(reason) => Fault::Handler(reason),
        DeliveryError::Store(error) => match error {
            Error::Busy | Error::Unavailable(_) | Error::OutcomeUnknown(_) => Fault::Database(error),
            _ if began.load(Ordering::Relaxed) => Fault::Handler(error.to_string()),
            _ => Fault::Database(error),
        },
    }
}
