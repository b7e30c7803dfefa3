//! Maintenance of the engine: evicts workers with expired leases, ends overdue attempts, advances the history
//! ring, and stores statistics. Several nodes can run it concurrently.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use kith_kernel::{Timestamp, hours, seconds};
use kith_store::{Error, Tx};

use crate::batch::is_outage;
use crate::finish::{AttemptReport, EvictionReason};
use crate::history::{self, Retention};
use crate::jobs::Jobs;
use crate::model::JobError;
use crate::{finish, rows, stats};

/// Maximum number of rows changed in one transaction.
const BATCH_SIZE: i64 = 500;
/// Time after its deadline at which maintenance ends an attempt. Normally the worker ends the attempt at the
/// deadline.
const OVERDUE_GRACE: Duration = seconds(10);
/// Interval at which queues are sampled.
const SAMPLE_INTERVAL: Duration = seconds(10);
/// Interval at which expired rows are deleted, and the history ring is checked.
const CLEANUP_INTERVAL: Duration = seconds(60);

/// Maximum duration of a short read. If it takes longer, the database counts as having been unreachable.
const CONTACT_TIMEOUT: Duration = seconds(2);
/// Maximum number of transactions in which one run deletes rows from a table, with [`BATCH_SIZE`] rows each.
/// The remaining rows are deleted in the next run.
const BATCHES: usize = 20;

/// State of maintenance between two runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct MaintenanceState {
    sampled_at: Timestamp,
    cleaned_at: Timestamp,
    /// True if the last run did not delete all expired rows.
    has_more: bool,
}

/// Function that deletes up to a number of rows that expired before a time, and returns how many it deleted.
type Cleanup = fn(&Tx<'_>, Timestamp, i64) -> Result<u64, Error>;

impl Jobs {
    /// Runs the maintenance steps that are due.
    ///
    /// # Errors
    /// Returns the error of the database. The remaining steps are run in the next call.
    pub async fn run_maintenance(
        &self,
        last: &mut MaintenanceState,
        retention: Retention,
    ) -> Result<(), Error> {
        let ctx = self.ctx();
        self.evict_expired_workers().await?;
        self.end_overdue().await?;
        self.run_deferred_updates().await?;
        self.write_counts().await?;
        let apart = |last: Timestamp, every| ctx.now < last || ctx.now >= last + every;
        if apart(last.sampled_at, SAMPLE_INTERVAL) {
            last.sampled_at = ctx.now;
            self.sample(ctx.now).await?;
        }
        let is_time = apart(last.cleaned_at, CLEANUP_INTERVAL);
        if is_time {
            last.cleaned_at = ctx.now;
            history::advance(self.db(), &ctx, retention).await?;
        }
        if is_time || last.has_more {
            last.has_more = self.delete_expired(ctx.now, retention).await?;
        }
        Ok(())
    }

    /// Deletes expired rows. Returns true if there may be more of them.
    async fn delete_expired(&self, now: Timestamp, retention: Retention) -> Result<bool, Error> {
        let tables: [(Cleanup, Timestamp); 4] = [
            (rows::dependencies::delete_expired_keys, now),
            (|tx, _, limit| rows::dependencies::delete_ended_dependencies(tx, limit), now),
            (rows::queues::delete_old_windows, now - hours(48)),
            (rows::ended::delete_old_dead, now - retention.dead),
        ];
        let mut has_more = false;
        for (tidy, before) in tables {
            has_more |= self.delete_expired_rows(tidy, before).await?;
        }
        Ok(has_more)
    }

    async fn delete_expired_rows(&self, tidy: Cleanup, before: Timestamp) -> Result<bool, Error> {
        for _ in 0..BATCHES {
            let removed = self.db().write(move |tx| tidy(tx, before, BATCH_SIZE)).await?;
            if removed < BATCH_SIZE.unsigned_abs() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Evicts workers whose leases have expired. A worker is evicted only if this process has been in contact
    /// with the database since the lease was last renewed, because no worker can send heartbeats while the
    /// database is unreachable. Returns the number of jobs of the evicted workers.
    ///
    /// # Errors
    /// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
    #[expect(clippy::disallowed_methods, reason = "contact with the database is measured in real time")]
    pub async fn evict_expired_workers(&self) -> Result<u64, Error> {
        let (now, started) = (self.inner().sources.clock.now(), Instant::now());
        if now < self.in_contact_since() {
            // The clock was set back.
            self.restart_contact();
        }
        let contact = now.since(self.in_contact_since());
        let unresponsive =
            self.db().read(move |q| rows::workers::list_expired(q, now, contact, BATCH_SIZE)).await;
        if unresponsive.is_err() || started.elapsed() > CONTACT_TIMEOUT {
            self.restart_contact();
        }
        let unresponsive = if started.elapsed() > CONTACT_TIMEOUT { Vec::new() } else { unresponsive? };
        let mut jobs = 0;
        for worker in unresponsive {
            jobs += self.evict(worker, EvictionReason::LeaseExpired).await?;
        }
        Ok(jobs)
    }

    /// Evicts all workers of earlier processes. Call it only at the start, and only if the database allows a
    /// single process (SQLite). Returns the number of jobs of the evicted workers.
    ///
    /// # Errors
    /// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
    pub async fn evict_previous_workers(&self) -> Result<u64, Error> {
        let gone = self.db().read(rows::workers::list_local).await?;
        let mut jobs = 0;
        for worker in gone {
            jobs += self.evict(worker, EvictionReason::Died).await?;
        }
        Ok(jobs)
    }

    /// Evicts a worker of this process that is stopping, and reschedules the jobs that it is still running.
    /// Returns the number of these jobs.
    pub(crate) async fn deregister(&self, worker: i64) -> Result<u64, Error> {
        self.evict(worker, EvictionReason::Stopped).await
    }

    async fn evict(&self, worker: i64, why: EvictionReason) -> Result<u64, Error> {
        let mut all = 0;
        loop {
            let ctx = self.ctx();
            let jobs = self
                .db()
                .write(move |tx| finish::evict_worker(tx, &ctx.refreshed(), worker, why, BATCH_SIZE))
                .await?;
            all += jobs;
            if (jobs as i64) < BATCH_SIZE {
                break;
            }
        }
        if all > 0 {
            tracing::warn!(worker, jobs = all, ?why, "worker evicted; its jobs were rescheduled");
        }
        Ok(all)
    }

    async fn end_overdue(&self) -> Result<(), Error> {
        let before = self.inner().sources.clock.now() - OVERDUE_GRACE;
        let overdue = self.db().read(move |q| rows::attempts::list_overdue(q, before, BATCH_SIZE)).await?;
        if overdue.is_empty() {
            return Ok(());
        }
        let report = |attempt| AttemptReport {
            attempt,
            outcome: Err(JobError::Retry("the job ran longer than its timeout".to_owned())),
            notify_queue: None,
        };
        let reports: Arc<Vec<AttemptReport>> = Arc::new(overdue.into_iter().map(report).collect());
        for (report, outcome) in reports.iter().zip(self.report_each(&reports).await) {
            match outcome {
                Err(error) if is_outage(&error) => return Err(error),
                Err(error) => {
                    let job = report.attempt.job;
                    tracing::warn!(%error, job, "cannot end an overdue attempt; retrying");
                }
                Ok(_) => {}
            }
        }
        Ok(())
    }

    pub(crate) async fn write_counts(&self) -> Result<(), Error> {
        let counts = &self.inner().counts;
        let unwritten = counts.take_unwritten();
        if unwritten.is_empty() {
            return Ok(());
        }
        let (now, outcome) = (self.inner().sources.clock.now(), unwritten.clone());
        let written = self.db().write(move |tx| {
            tx.allow_async_commit();
            stats::write_counts(tx, now, &outcome)
        });
        written.await.inspect_err(|_| counts.return_to_queue(unwritten))
    }

    async fn sample(&self, now: Timestamp) -> Result<(), Error> {
        let samples = self.db().export(move |q| stats::sample_queues(q, now)).await?;
        *self.inner().samples.lock().unwrap_or_else(PoisonError::into_inner) = samples.clone();
        self.db()
            .write(move |tx| {
                tx.allow_async_commit();
                stats::store_samples(tx, &samples, now, SAMPLE_INTERVAL)
            })
            .await?;
        Ok(())
    }
}
