//! Delivery of events to one consumer, in batches.

mod batch;
mod retries;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kith_kernel::{Ctx, Timestamp, seconds};
use kith_store::{Error, EventScan, Query, Tx, event_at, event_id_at, scan_events};

use self::batch::{
    Batch, FailedTransaction, LogEnd, View, classify, defer, ensure_current, ensure_same_log, take_batch,
};
use crate::failures::{MAX_PENDING, Pending};
use crate::rows;
use crate::{Consumer, Transactions};

pub use self::batch::DeliveryError;

/// Maximum number of events per call of a handler.
const MAX_BATCH: usize = 500;
/// Number of rows of the log read at once. Rows of all kinds count.
const SCANNED_ROWS: i64 = 500;
/// Number of skipped events after which the cursor is written even though no event was handled.
const MAX_UNWRITTEN: i64 = 5_000;
/// Time after which the cursor is written even though no event was handled.
const WRITE_INTERVAL: Duration = seconds(5);
/// Target duration of a transaction, because it can block other transactions. If one takes longer, the batch
/// size is halved.
const MAX_TRANSACTION_TIME: Duration = Duration::from_millis(100);
/// Number of consecutive database errors with a single event after which the event counts as failed, provided
/// that the failure can be written to the database.
const MAX_ERRORS_ALONE: u32 = 5;

/// Delivery of events to one consumer by one node.
#[derive(Debug)]
pub struct Delivery<W> {
    transactions: W,
    consumer: Consumer,
    node: String,
    /// Cursor in the database, as last read by this node.
    cursor: Option<i64>,
    /// Last event scanned after the cursor. No event between the cursor and it has to be handled.
    scanned: Option<LogEnd>,
    /// Time at which this node last wrote the cursor, or found that the cursor was moved.
    written_at: Timestamp,
    /// Current batch size; halved while transactions fail or take too long.
    batch: usize,
    /// True if the next step retries a due failure before it delivers new events.
    prefers_retry: bool,
    /// Number of consecutive database errors with a single event.
    errors_alone: u32,
}

/// Result of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Work was done, and more may follow.
    More {
        /// Number of events handled.
        handled: usize,
        /// True if an event was dead-lettered.
        dead_lettered: bool,
    },
    /// Nothing was done, because the cursor, the lease or the log has changed since it was read.
    Outdated,
    /// No work is due until an event arrives, or until the time in `until`.
    Idle {
        /// Time of the next retry, or of the next write of the cursor.
        until: Option<Timestamp>,
        /// True if events of kinds that the consumer does not handle were skipped.
        has_skipped: bool,
    },
    /// Another node holds the lease, or the consumer has no cursor.
    NotOwner,
}

impl Progress {
    const DONE: Self = Self::More { handled: 0, dead_lettered: false };
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

    /// Retries a due failed event or delivers the next batch. If both are due, it alternates between them.
    ///
    /// # Errors
    /// Returns the error of the database. After an error, the transaction was either rolled back or
    /// committed; the next step detects which.
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

    /// Reads the state of the consumer. Returns `None` if this node does not hold the lease.
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
            let pending = Pending(rows::list_pending_failures(q, consumer.name, MAX_PENDING)?);
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

    /// Counts a database error, if the batch has a single event. Returns true after [`MAX_ERRORS_ALONE`]
    /// errors in a row.
    fn is_event_suspect(&mut self, count: usize) -> bool {
        self.errors_alone += u32::from(count == 1);
        self.errors_alone >= MAX_ERRORS_ALONE
    }

    /// Runs the handler on a batch and advances the cursor.
    #[expect(clippy::disallowed_methods, reason = "batches are sized by their real duration")]
    async fn transact(&mut self, batch: Arc<Batch>, cursor: i64) -> Result<(), FailedTransaction> {
        let (consumer, node, count) = (self.consumer.clone(), self.node.clone(), batch.events.len());
        let handler_called = Arc::new(AtomicBool::new(false));
        let set_called = Arc::clone(&handler_called);
        let run = move |tx: &Tx<'_>, ctx: &Ctx| {
            set_called.store(false, Ordering::Relaxed);
            ensure_same_log(tx, batch.end)?;
            if count > 0 {
                set_called.store(true, Ordering::Relaxed);
                consumer.handle(tx, ctx, &batch.events)?;
            }
            defer(tx, consumer.name, &batch.deferred)?;
            let to = batch.end.map_or(cursor, |(position, _)| position);
            ensure_current(rows::move_cursor(tx, consumer.name, &node, cursor, to)?)
        };
        let started = Instant::now();
        self.write(run, &handler_called).await?;
        self.errors_alone = 0;
        self.batch = match started.elapsed() > MAX_TRANSACTION_TIME {
            true => (count / 2).max(1),
            false => (self.batch * 2).min(MAX_BATCH),
        };
        Ok(())
    }

    async fn write<F>(&self, run: F, handler_called: &AtomicBool) -> Result<(), FailedTransaction>
    where
        F: Fn(&Tx<'_>, &Ctx) -> Result<(), DeliveryError> + Send + 'static,
    {
        let written = self.transactions.clone().write(self.ctx(), run).await;
        written.map_err(|error| classify(error, handler_called))
    }

    /// Skips events of other kinds. Writes the cursor only after [`WRITE_INTERVAL`] or [`MAX_UNWRITTEN`]
    /// events.
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

    /// Runs a transaction that does not call the handler. Returns false if the cursor, the lease or the log
    /// has changed.
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
