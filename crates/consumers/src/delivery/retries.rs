//! Failed events: records failures, retries the events, and dead-letters them after the last attempt.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kith_kernel::Ctx;
use kith_store::{Error, SequencedEvent, Tx};

use super::batch::{Batch, FailedTransaction, defer, ensure_current, ensure_same_log};
use super::{Delivery, Progress};
use crate::Transactions;
use crate::failures::{DueRetry, MAX_ATTEMPTS, backoff, stored_error};
use crate::rows::{self, PendingRow};

impl<W: Transactions> Delivery<W> {
    /// Records the failure of the only event of `batch`, and advances the cursor.
    pub(super) async fn record_failure(
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

    pub(super) async fn retry(
        &mut self,
        cursor: i64,
        due: DueRetry,
        event: SequencedEvent,
    ) -> Result<Progress, Error> {
        let (consumer, node) = (self.consumer.clone(), self.node.clone());
        if !consumer.handles(&event.kind) {
            // Another build handled this kind.
            let reason = format!("this build does not handle {}", event.kind);
            return self.record_failed_retry(cursor, due, &reason).await;
        }
        let handler_called = Arc::new(AtomicBool::new(false));
        let (set_called, row) = (Arc::clone(&handler_called), due.row.clone());
        let run = move |tx: &Tx<'_>, ctx: &Ctx| {
            set_called.store(false, Ordering::Relaxed);
            ensure_same_log(tx, Some((event.position, event.id)))?;
            set_called.store(true, Ordering::Relaxed);
            consumer.handle(tx, ctx, std::slice::from_ref(&event))?;
            ensure_current(rows::move_cursor(tx, consumer.name, &node, cursor, cursor)?)?;
            ensure_current(rows::delete_failure(tx, consumer.name, &row)?)
        };
        match self.write(run, &handler_called).await {
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

    pub(super) async fn record_failed_retry(
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
    pub(super) async fn drop_failure(&mut self, cursor: i64, row: PendingRow) -> Result<Progress, Error> {
        let (name, node, position) = (self.name(), self.node.clone(), row.position);
        tracing::warn!(consumer = name, position, "an event due for a retry no longer exists");
        let run = move |tx: &Tx<'_>, _: &Ctx| {
            ensure_current(rows::move_cursor(tx, name, &node, cursor, cursor)?)?;
            ensure_current(rows::delete_failure(tx, name, &row)?)
        };
        let is_done = self.commit(run).await?;
        Ok(if is_done { Progress::DONE } else { Progress::Outdated })
    }
}
