//! Delivery of events to one consumer, in batches.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kith_kernel::uuid::Uuid;
use kith_kernel::{Ctx, Timestamp, seconds};
use kith_store::{Error, EventScan, Query, SequencedEvent, Tx, event_at, event_id_at, scan_events};
use thiserror::Error;

use crate::failures::{DueRetry, MAX_ATTEMPTS, MAX_PENDING, Pending, backoff, stored_error};
use crate::rows::{self, PendingRow};
use crate::{Consumer, HandlerError, Transactions};

/// Maximum number of events per call of a handler.
const MAX_BATCH: usize = 500;
/// Number of log rows read at once, of any kind.
const SCANNED_ROWS: i64 = 500;
/// Number of skipped events after which the cursor is written even though nothing was handled.
const MAX_UNWRITTEN: i64 = 5_000;
/// Time after which the cursor is written even though nothing was handled.
const WRITE_INTERVAL: Duration = seconds(5);
/// Target duration of a transaction, which may block others. If one takes longer, the batch size is halved.
const MAX_TRANSACTION_TIME: Duration = Duration::from_millis(100);
/// Number of consecutive database errors with a single event after which they count as a failure of its
/// handler, provided that the database accepts the record of it.
const MAX_ERRORS_ALONE: u32 = 5;

/// Delivery of events to one consumer by one node.
#[derive(Debug)]
pub struct Delivery<W> {
    transactions: W,
    consumer: Consumer,
    node: String,
    /// Cursor in the database, as last read by this node.
    cursor: Option<i64>,
    /// Last event scanned after the cursor; no event up to it is waiting to be handled.
    scanned: Option<LogEnd>,
    /// Time at which the cursor was last written, or found to have been moved.
    written_at: Timestamp,
    /// Current batch size; halved while transactions fail or take too long.
    batch: usize,
    /// True if the next step prefers a retry to new events.
    prefers_retry: bool,
    /// Number of consecutive database errors with a single event.
    errors_alone: u32,
}

/// Position and id of the last scanned event. If another event is at that position later, a failover has
/// replaced the log.
type LogEnd = (i64, Uuid);

/// Result of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Something was done, and there may be more.
    More {
        /// Number of events handled.
        handled: usize,
        /// True if an event was dead-lettered.
        dead_lettered: bool,
    },
    /// The cursor, the lease or the log has changed meanwhile, and nothing was done.
    Outdated,
    /// There is nothing to do until an event arrives, or until this time.
    Idle {
        /// Time of the next retry, or of the next write of the cursor.
        until: Option<Timestamp>,
        /// True if events of other kinds were skipped.
        has_skipped: bool,
    },
    /// Another node holds the lease, or the consumer has no cursor.
    NotOwner,
}

impl Progress {
    const DONE: Self = Self::More { handled: 0, dead_lettered: false };
}

/// Failure of a delivering transaction.
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

/// State of the consumer in the database.
struct View {
    cursor: i64,
    /// True if the events scanned before are still in the log.
    is_scan_valid: bool,
    pending: Pending,
    /// Due retry with its event; the event is missing if a failover has undone it.
    due: Option<(DueRetry, Option<SequencedEvent>)>,
    /// Next events; `None` while too many failures are pending.
    scan: Option<EventScan>,
}

/// Part of a scan to be processed in one transaction.
struct Batch {
    /// Events for the handler.
    events: Vec<SequencedEvent>,
    /// Events deferred because their subject has an earlier failure.
    deferred: Vec<SequencedEvent>,
    /// Last event of the batch. Every event up to it is in one of the two lists or of another kind.
    end: Option<LogEnd>,
}

/// Classification of a failed transaction.
enum FailedTransaction {
    /// The handler cannot handle these events.
    Handler(String),
    /// The view is outdated.
    Changed,
    /// The database failed; a later attempt may succeed.
    Database(Error),
}

impl<W: Transactions> Delivery<W> {
    /// Creates the delivery to `consumer` by `node`.
    pub fn new(transactions: W, consumer: Consumer, node: String) -> Self {
        let written_at = transactions.sources().clock.now();
        Self {
            transactions,
            consumer,
            node,
            cursor: None,
            scanned: None,
            written_at,
            batch: MAX_BATCH,
            prefers_retry: true,
            errors_alone: 0,
        }
    }

    /// Returns the name of the consumer.
    pub fn name(&self) -> &'static str {
        self.consumer.name
    }

    /// Takes one step: retries a due failure or delivers the next batch, in turns.
    ///
    /// # Errors
    /// Returns the error of the database. Either nothing has changed, or the next step detects that this one
    /// was completed.
    pub async fn step(&mut self) -> Result<Progress, Error> {
        let Some(view) = self.read().await? else { return Ok(Progress::NotOwner) };
        if !view.is_scan_valid || self.cursor != Some(view.cursor) {
            (self.cursor, self.scanned) = (Some(view.cursor), None);
            self.written_at = self.now();
        }
        let View { cursor, pending, due, scan, .. } = view;
        let has_wanted = scan.as_ref().is_some_and(|scan| !scan.events.is_empty());
        match (due, scan) {
            (Some((due, event)), _) if self.prefers_retry || !has_wanted => {
                self.prefers_retry = false;
                match event {
                    Some(event) => self.retry(cursor, due, event).await,
                    None => self.drop_failure(cursor, due.row).await,
                }
            }
            (_, Some(scan)) => {
                self.prefers_retry = true;
                self.deliver(cursor, &pending, scan).await
            }
            (_, None) => Ok(Progress::Idle { until: pending.next_retry(), has_skipped: false }),
        }
    }

    fn now(&self) -> Timestamp {
        self.transactions.sources().clock.now()
    }

    /// Reads the state. Returns `None` if this node does not hold the lease.
    async fn read(&self) -> Result<Option<View>, Error> {
        let (consumer, node, now) = (self.consumer.clone(), self.node.clone(), self.now());
        let (known, scanned) = (self.cursor, self.scanned);
        let read = move |q: &Query<'_>| {
            let row = rows::cursor(q, consumer.name)?.filter(|row| row.owner == node);
            let Some(row) = row else { return Ok::<_, Error>(None) };
            let scanned = scanned.filter(|_| known == Some(row.position));
            let from = match scanned {
                Some((position, id)) if event_id_at(q, position)? == Some(id) => position,
                _ => row.position,
            };
            let pending = Pending(rows::pending(q, consumer.name, MAX_PENDING)?);
            let due = match pending.due(now) {
                Some(due) => Some((due.clone(), event_at(q, due.row.position)?)),
                None => None,
            };
            let scan = match pending.is_full() {
                true => None,
                false => Some(scan_events(q, from, SCANNED_ROWS, |kind| consumer.handles(kind))?),
            };
            let is_scan_valid = scanned.is_none_or(|(position, _)| position == from);
            Ok(Some(View { cursor: row.position, is_scan_valid, pending, due, scan }))
        };
        self.transactions.store().read(read).await
    }

    async fn deliver(&mut self, cursor: i64, pending: &Pending, scan: EventScan) -> Result<Progress, Error> {
        let has_more = scan.has_more;
        let batch = take_batch(scan, pending, self.batch);
        if batch.events.is_empty() && batch.deferred.is_empty() {
            let has_skipped = batch.end.is_some();
            self.scanned = batch.end.or(self.scanned);
            return match self.skip_events(cursor, pending).await? {
                Progress::Idle { .. } if has_more => Ok(Progress::DONE),
                Progress::Idle { until, .. } => Ok(Progress::Idle { until, has_skipped }),
                progress => Ok(progress),
            };
        }
        let (end, count) = (batch.end, batch.events.len());
        let batch = Arc::new(batch);
        match self.transact(Arc::clone(&batch), cursor).await {
            Ok(()) => {
                self.set_cursor(end);
                Ok(Progress::More { handled: count, dead_lettered: false })
            }
            Err(FailedTransaction::Changed) => Ok(Progress::Outdated),
            Err(FailedTransaction::Handler(_)) if count > 1 => {
                self.batch = count / 2;
                Ok(Progress::DONE)
            }
            Err(FailedTransaction::Handler(reason)) => self.record_failure(cursor, &batch, &reason).await,
            Err(FailedTransaction::Database(error)) if count > 1 => {
                // Smaller transactions wait for fewer others, and a failure affects fewer events.
                self.batch = count / 2;
                Err(error)
            }
            Err(FailedTransaction::Database(error)) if self.is_event_suspect(count) => {
                self.record_failure(cursor, &batch, &error.to_string()).await
            }
            Err(FailedTransaction::Database(error)) => Err(error),
        }
    }

    /// Counts a database error with a single event. Returns true after [`MAX_ERRORS_ALONE`] in a row.
    fn is_event_suspect(&mut self, count: usize) -> bool {
        self.errors_alone += u32::from(count == 1);
        self.errors_alone >= MAX_ERRORS_ALONE
    }

    /// Runs the handler on a batch and advances the cursor.
    #[expect(clippy::disallowed_methods, reason = "batches are sized by their real duration")]
    async fn transact(&mut self, batch: Arc<Batch>, cursor: i64) -> Result<(), FailedTransaction> {
        let (consumer, node, count) = (self.consumer.clone(), self.node.clone(), batch.events.len());
        let began = Arc::new(AtomicBool::new(false));
        let begins = Arc::clone(&began);
        let run = move |tx: &Tx<'_>, ctx: &Ctx| {
            begins.store(false, Ordering::Relaxed);
            ensure_same_log(tx, batch.end)?;
            if count > 0 {
                begins.store(true, Ordering::Relaxed);
                consumer.handle(tx, ctx, &batch.events)?;
            }
            defer(tx, consumer.name, &batch.deferred)?;
            let to = batch.end.map_or(cursor, |(position, _)| position);
            ensure_current(rows::move_cursor(tx, consumer.name, &node, cursor, to)?)
        };
        let started = Instant::now();
        self.write(run, &began).await?;
        self.errors_alone = 0;
        self.batch = match started.elapsed() > MAX_TRANSACTION_TIME {
            true => (count / 2).max(1),
            false => (self.batch * 2).min(MAX_BATCH),
        };
        Ok(())
    }

    async fn write<F>(&self, run: F, began: &AtomicBool) -> Result<(), FailedTransaction>
    where
        F: Fn(&Tx<'_>, &Ctx) -> Result<(), DeliveryError> + Send + 'static,
    {
        let written = self.transactions.clone().write(self.ctx(), run).await;
        written.map_err(|error| classify(error, began))
    }

    /// Records the failure of the only event of `batch`, and advances the cursor.
    async fn record_failure(
        &mut self,
        cursor: i64,
        batch: &Arc<Batch>,
        reason: &str,
    ) -> Result<Progress, Error> {
        let (Some(event), Some((to, _))) = (batch.events.first(), batch.end) else {
            return Ok(Progress::Outdated);
        };
        let (position, error) = (event.position, stored_error(reason));
        tracing::warn!(consumer = self.name(), position, error, "a consumer failed to handle an event");
        let retry_at = self.now() + backoff(1);
        let row = PendingRow { position, subject: event.subject.clone(), attempts: 1, retry_at };
        let (name, node, passed) = (self.name(), self.node.clone(), Arc::clone(batch));
        let run = move |tx: &Tx<'_>, _: &Ctx| {
            ensure_same_log(tx, passed.end)?;
            rows::insert_failure(tx, name, &row, &error)?;
            defer(tx, name, &passed.deferred)?;
            ensure_current(rows::move_cursor(tx, name, &node, cursor, to)?)
        };
        if !self.commit(run).await? {
            return Ok(Progress::Outdated);
        }
        self.errors_alone = 0;
        self.set_cursor(batch.end);
        Ok(Progress::DONE)
    }

    async fn retry(&mut self, cursor: i64, due: DueRetry, event: SequencedEvent) -> Result<Progress, Error> {
        let (consumer, node) = (self.consumer.clone(), self.node.clone());
        if !consumer.handles(&event.kind) {
            // A newer build handled this kind.
            let reason = format!("this build does not handle {}", event.kind);
            return self.record_failed_retry(cursor, due, &reason).await;
        }
        let began = Arc::new(AtomicBool::new(false));
        let (begins, row) = (Arc::clone(&began), due.row.clone());
        let run = move |tx: &Tx<'_>, ctx: &Ctx| {
            begins.store(false, Ordering::Relaxed);
            ensure_same_log(tx, Some((event.position, event.id)))?;
            begins.store(true, Ordering::Relaxed);
            consumer.handle(tx, ctx, std::slice::from_ref(&event))?;
            ensure_current(rows::move_cursor(tx, consumer.name, &node, cursor, cursor)?)?;
            ensure_current(rows::delete_failure(tx, consumer.name, &row)?)
        };
        match self.write(run, &began).await {
            Ok(()) => {
                self.errors_alone = 0;
                Ok(Progress::More { handled: 1, dead_lettered: false })
            }
            Err(FailedTransaction::Changed) => Ok(Progress::Outdated),
            Err(FailedTransaction::Handler(reason)) => self.record_failed_retry(cursor, due, &reason).await,
            Err(FailedTransaction::Database(error)) if self.is_event_suspect(1) => {
                self.record_failed_retry(cursor, due, &error.to_string()).await
            }
            Err(FailedTransaction::Database(error)) => Err(error),
        }
    }

    async fn record_failed_retry(
        &mut self,
        cursor: i64,
        due: DueRetry,
        reason: &str,
    ) -> Result<Progress, Error> {
        let DueRetry { row, is_last } = due;
        let (now, attempts, error) = (self.now(), row.attempts + 1, stored_error(reason));
        let (name, node, position) = (self.name(), self.node.clone(), row.position);
        if is_last {
            tracing::error!(
                consumer = name,
                position,
                error,
                "an event was dead-lettered after all attempts"
            );
        }
        let run = move |tx: &Tx<'_>, _: &Ctx| {
            ensure_current(rows::move_cursor(tx, name, &node, cursor, cursor)?)?;
            let dead_lettered_at = is_last.then_some(now);
            let retry_at = now + backoff(attempts);
            ensure_current(rows::update_failure(tx, name, &row, retry_at, &error, dead_lettered_at)?)?;
            if is_last {
                rows::limit_attempts(tx, name, &row.subject, MAX_ATTEMPTS - 1)?;
            }
            Ok(())
        };
        if !self.commit(run).await? {
            return Ok(Progress::Outdated);
        }
        self.errors_alone = 0;
        Ok(Progress::More { handled: 0, dead_lettered: is_last })
    }

    /// Deletes a failure whose event no longer exists.
    async fn drop_failure(&mut self, cursor: i64, row: PendingRow) -> Result<Progress, Error> {
        let (name, node, position) = (self.name(), self.node.clone(), row.position);
        tracing::warn!(consumer = name, position, "an event due for a retry no longer exists");
        let run = move |tx: &Tx<'_>, _: &Ctx| {
            ensure_current(rows::move_cursor(tx, name, &node, cursor, cursor)?)?;
            ensure_current(rows::delete_failure(tx, name, &row)?)
        };
        let is_done = self.commit(run).await?;
        Ok(if is_done { Progress::DONE } else { Progress::Outdated })
    }

    /// Skips events of other kinds. The cursor is written at intervals only.
    async fn skip_events(&mut self, cursor: i64, pending: &Pending) -> Result<Progress, Error> {
        let due_at = self.written_at + WRITE_INTERVAL;
        let unwritten = self.scanned.filter(|(position, _)| *position > cursor);
        let is_due = |to: i64| to - cursor >= MAX_UNWRITTEN || self.now() >= due_at;
        if let Some((to, _)) = unwritten.filter(|(to, _)| is_due(*to)) {
            let (name, node) = (self.name(), self.node.clone());
            let run = move |tx: &Tx<'_>, _: &Ctx| {
                tx.allow_async_commit();
                ensure_same_log(tx, unwritten)?;
                ensure_current(rows::move_cursor(tx, name, &node, cursor, to)?)
            };
            if !self.commit(run).await? {
                return Ok(Progress::Outdated);
            }
            self.set_cursor(unwritten);
            return Ok(Progress::DONE);
        }
        let until = pending.next_retry().into_iter().chain(unwritten.map(|_| due_at)).min();
        Ok(Progress::Idle { until, has_skipped: false })
    }

    /// Runs a transaction without the handler. Returns false if the view is outdated.
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

    fn set_cursor(&mut self, end: Option<LogEnd>) {
        if let Some((position, _)) = end {
            (self.cursor, self.scanned, self.written_at) = (Some(position), None, self.now());
        }
    }
}

/// Takes events from a scan until `limit` of them are for the handler, or the maximum number of pending
/// failures is reached.
fn take_batch(scan: EventScan, pending: &Pending, limit: usize) -> Batch {
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

/// Fails unless `end` is still in the log: a failover may have given its position to another event.
fn ensure_same_log(tx: &Tx<'_>, end: Option<LogEnd>) -> Result<(), DeliveryError> {
    match end {
        Some((position, id)) => ensure_current(event_id_at(tx, position)? == Some(id)),
        None => Ok(()),
    }
}

/// Defers events until the earlier failure of their subject is resolved.
fn defer(tx: &Tx<'_>, name: &str, events: &[SequencedEvent]) -> Result<(), Error> {
    for SequencedEvent { position, event } in events {
        let subject = event.subject.clone();
        let row = PendingRow { position: *position, subject, attempts: 0, retry_at: Timestamp::EPOCH };
        rows::insert_failure(tx, name, &row, "")?;
    }
    Ok(())
}

fn ensure_current(is_current: bool) -> Result<(), DeliveryError> {
    if is_current { Ok(()) } else { Err(DeliveryError::Changed) }
}

/// Classifies an error. `began` tells whether the handler was called.
fn classify(error: DeliveryError, began: &AtomicBool) -> FailedTransaction {
    match error {
        DeliveryError::Changed => FailedTransaction::Changed,
        DeliveryError::Handler(reason) => FailedTransaction::Handler(reason),
        DeliveryError::Store(error) => match error {
            Error::Constraint(_) | Error::Fault(_) | Error::NulInText if began.load(Ordering::Relaxed) => {
                FailedTransaction::Handler(error.to_string())
            }
            _ => FailedTransaction::Database(error),
        },
    }
}
