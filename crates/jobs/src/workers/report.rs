//! Writes reports in batches. The reports that arrive while a batch is written form the next batch. Reports
//! that cannot be written are retried until the process ends.

use std::borrow::Borrow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use kith_store::Error;
use tokio::sync::mpsc;

use super::Shared;
use super::lane::now;
use crate::batch::is_outage;
use crate::finish::{self, AttemptReport, ReportOutcome};
use crate::model::{Attempt, JobError, JobState};

/// Maximum number of reports per transaction.
const MAX_BATCH: usize = 1_000;
/// Maximum number of retried reports per transaction.
const MAX_RETRY_BATCH: usize = 128;
/// Maximum delay before a report is retried.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// Delay after a failure of the database, or after another transaction blocked a report.
const FAILURE_DELAY: Duration = Duration::from_millis(200);

pub(super) enum Message {
    Finished(EndedAttempt),
    /// A job was claimed but not started, because the process is stopping.
    Unstarted {
        attempt: Attempt,
        queue: String,
    },
}

/// Ended attempt: its report, and data for the statistics.
#[derive(Clone)]
pub(super) struct EndedAttempt {
    report: AttemptReport,
    queue: String,
    kind: String,
    took: Duration,
    /// True if the report may already have been written, because the response to its commit was lost.
    is_doubtful: bool,
    /// True if this report replaces a report that could not be written.
    is_substitute: bool,
    /// Set if the database rejected the report and it is unknown whether the report itself is the cause.
    rejection: Option<Rejection>,
}

/// Rejection of a report by the database. All reports may be rejected at that time.
#[derive(Clone, Copy)]
struct Rejection {
    /// Number of reports that this process had written when this report was first rejected.
    reported: usize,
    wait: Duration,
    again_at: Instant,
}

impl EndedAttempt {
    pub fn new(report: AttemptReport, queue: String, kind: String, took: Duration) -> Self {
        Self { report, queue, kind, took, is_doubtful: false, is_substitute: false, rejection: None }
    }

    /// Returns a report that the attempt failed. It replaces a report that cannot be written.
    fn substitute(self, error: &Error) -> Self {
        let why = format!("the result could not be stored: {error}");
        let report = AttemptReport { outcome: Err(JobError::Retry(why)), ..self.report };
        Self { report, is_substitute: true, rejection: None, ..self }
    }

    /// Returns true if this report itself causes the failure: the error concerns its content, or other
    /// reports were written since it was first rejected. `before` and `after` are the numbers of reports that
    /// this process had written before and after the attempt to write this batch.
    fn is_at_fault(&self, error: &Error, before: usize, after: usize) -> bool {
        let first = self.rejection.map_or(before, |refused| refused.reported);
        let is_own = matches!(error, Error::NulInText | Error::Constraint(_));
        !self.is_substitute && (is_own || after > first)
    }

    /// Returns the report with the time of its next retry. The delay doubles with each retry, up to
    /// [`MAX_WAIT`].
    fn postpone(self, reported: usize) -> Self {
        let wait = self.rejection.map_or(FAILURE_DELAY, |refused| (refused.wait * 2).min(MAX_WAIT));
        let reported = self.rejection.map_or(reported, |refused| refused.reported);
        Self { rejection: Some(Rejection { reported, wait, again_at: now() + wait }), ..self }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.rejection.is_none_or(|refused| refused.again_at <= now)
    }
}

impl Borrow<AttemptReport> for EndedAttempt {
    fn borrow(&self) -> &AttemptReport {
        &self.report
    }
}

/// Writes reports until it is aborted.
pub(super) async fn run(shared: Arc<Shared>, arriving: mpsc::UnboundedReceiver<Message>) {
    let (postpone, postponed) = mpsc::unbounded_channel();
    tokio::join!(write_arriving(&shared, arriving, postpone), write_postponed(&shared, postponed));
}

async fn write_arriving(
    shared: &Shared,
    mut arriving: mpsc::UnboundedReceiver<Message>,
    postpone: mpsc::UnboundedSender<EndedAttempt>,
) {
    let mut arrived = Vec::new();
    while arriving.recv_many(&mut arrived, MAX_BATCH).await > 0 {
        let (mut ended, mut unbegun) = (Vec::new(), Vec::new());
        for message in arrived.drain(..) {
            match message {
                Message::Finished(one) => ended.push(one),
                Message::Unstarted { attempt, queue } => unbegun.push((attempt, queue)),
            }
        }
        return_to_queue(shared, unbegun).await;
        for held in write_reports(shared, ended).await {
            // The receiver cannot be closed, because the retrying task runs until this task ends.
            let _ = postpone.send(held);
        }
    }
}

/// Retries reports that were blocked by another transaction or rejected by the database. They are written
/// separately from new reports.
async fn write_postponed(shared: &Shared, mut postponed: mpsc::UnboundedReceiver<EndedAttempt>) {
    let mut held = Vec::new();
    while !held.is_empty() || postponed.recv_many(&mut held, MAX_BATCH).await > 0 {
        tokio::time::sleep(FAILURE_DELAY).await;
        while let Ok(one) = postponed.try_recv() {
            held.push(one);
        }
        let now = now();
        let (mut due, later): (Vec<_>, _) = held.into_iter().partition(|one| one.is_due(now));
        let mut remaining = due.split_off(due.len().min(MAX_RETRY_BATCH));
        remaining.extend(later);
        remaining.extend(write_reports(shared, due).await);
        held = remaining;
    }
}

/// Writes reports, and repeats this while the database is unavailable. A report that can never be written is
/// replaced by a failure of its attempt. Returns the reports that must be retried later, because another
/// transaction blocked them or the database rejected them.
async fn write_reports(shared: &Shared, mut ended: Vec<EndedAttempt>) -> Vec<EndedAttempt> {
    let mut held = Vec::new();
    while !ended.is_empty() {
        let (reports, mut failures) = (Arc::new(std::mem::take(&mut ended)), Failures::default());
        let reported = shared.reported.load(Ordering::Relaxed);
        let outcomes = shared.jobs.report_each(&reports).await;
        let written = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        shared.reported.fetch_add(written, Ordering::Relaxed);
        for (one, outcome) in reports.iter().zip(outcomes) {
            match outcome {
                Ok(outcome) => record_outcome(shared, outcome, one).await,
                Err(error) if is_outage(&error) => {
                    let is_doubtful = one.is_doubtful || matches!(error, Error::OutcomeUnknown(_));
                    ended.push(EndedAttempt { is_doubtful, ..one.clone() });
                    failures.outage = Some(error);
                }
                Err(Error::DeadlinePassed) => held.push(one.clone()),
                Err(error) if one.is_at_fault(&error, reported, reported + written) => {
                    let Attempt { job, attempt, .. } = one.report.attempt;
                    tracing::warn!(%error, job, attempt, "cannot store the outcome of an attempt; the attempt has failed");
                    ended.push(one.clone().substitute(&error));
                }
                Err(error) => {
                    held.push(one.clone().postpone(reported));
                    failures.refusal = Some(error);
                }
            }
        }
        shared.free(written);
        failures.warn();
        if failures.outage.is_some() {
            tokio::time::sleep(FAILURE_DELAY).await;
        }
    }
    held
}

/// Reasons why reports of a batch were not written and will be retried.
#[derive(Default)]
struct Failures {
    outage: Option<Error>,
    refusal: Option<Error>,
}

impl Failures {
    fn warn(&self) {
        for error in self.outage.iter().chain(&self.refusal) {
            tracing::warn!(%error, "cannot write reports; retrying");
        }
    }
}

async fn return_to_queue(shared: &Shared, unbegun: Vec<(Attempt, String)>) {
    if unbegun.is_empty() {
        return;
    }
    let (ctx, count) = (shared.jobs.ctx(), unbegun.len());
    let given =
        shared.jobs.db().write(move |tx| finish::return_to_queue(tx, &ctx.refreshed(), &unbegun)).await;
    if let Err(error) = given {
        tracing::warn!(%error, "cannot release claimed jobs; they are released when this process signs off");
    }
    shared.free(count);
}

async fn record_outcome(shared: &Shared, mut outcome: ReportOutcome, ended: &EndedAttempt) {
    if outcome == ReportOutcome::Stale && ended.is_doubtful {
        outcome = shared.jobs.find_report_outcome(&ended.report).await;
    }
    let EndedAttempt { report, queue, kind, took, .. } = ended;
    let Attempt { job, attempt, .. } = report.attempt;
    if outcome == ReportOutcome::Stale {
        shared.stale.fetch_add(1, Ordering::Relaxed);
        return tracing::warn!(job, attempt, "stale report ignored");
    }
    if let (Err(error), false) =
        (&report.outcome, matches!(outcome, ReportOutcome::Finished(JobState::Cancelled)))
    {
        tracing::info!(job, attempt, kind, %error, "an attempt did not succeed");
    }
    let is_snooze = matches!(report.outcome, Err(JobError::Snooze(_)));
    shared.jobs.inner().counts.record_outcome(queue, kind, &outcome, is_snooze, *took);
}
