//! Reporting: how attempts ended, as many in one transaction as have ended meanwhile. What cannot be written is kept and
//! tried again for as long as the process lives.

use std::borrow::Borrow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use kith_store::Error;
use tokio::sync::mpsc;

use super::Shared;
use super::run::now;
use crate::batch::is_outage;
use crate::finish::{self, Attempt, Report, Told};
use crate::model::{JobError, JobState};

/// Reports in one transaction.
const TOGETHER: usize = 1_000;
/// Reports that are tried again in one transaction.
const AGAIN_TOGETHER: usize = 128;
/// Longest wait before a report is tried again.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// Wait after the database did not answer, or another transaction held up a report.
const AFTER_FAILURE: Duration = Duration::from_millis(200);

pub(super) enum Message {
    Ended(Ended),
    /// It was claimed, and the process stops before it began.
    Unbegun {
        attempt: Attempt,
        queue: String,
    },
}

/// An attempt that has ended, and what is counted with it.
#[derive(Clone)]
pub(super) struct Ended {
    report: Report,
    queue: String,
    kind: String,
    took: Duration,
    /// Set if it may have been written already: the answer to the commit was lost.
    is_doubtful: bool,
    /// Set if it replaces a report that could not be written.
    is_substitute: bool,
    /// Since the database refused it, although nothing says that the report is at fault.
    refused: Option<Refused>,
}

/// A report that the database refused, as it may refuse all others at that time.
#[derive(Clone, Copy)]
struct Refused {
    /// Reports that this process had written when it first did.
    reported: usize,
    wait: Duration,
    again_at: Instant,
}

impl Ended {
    pub fn new(report: Report, queue: String, kind: String, took: Duration) -> Self {
        Self { report, queue, kind, took, is_doubtful: false, is_substitute: false, refused: None }
    }

    /// The failure of the attempt in place of an end that cannot be written.
    fn substitute(self, error: &Error) -> Self {
        let why = format!("how it ended could not be stored: {error}");
        let report = Report { outcome: Err(JobError::Retry(why)), ..self.report };
        Self { report, is_substitute: true, refused: None, ..self }
    }

    /// Whether the report itself cannot be written, rather than any: `before` reports were written when it was tried, and
    /// `after` when the database had refused it.
    fn is_at_fault(&self, error: &Error, before: usize, after: usize) -> bool {
        let first = self.refused.map_or(before, |refused| refused.reported);
        let is_own = matches!(error, Error::NulInText | Error::Constraint(_));
        !self.is_substitute && (is_own || after > first)
    }

    /// The same, to be tried again after a wait that grows.
    fn postpone(self, reported: usize) -> Self {
        let wait = self.refused.map_or(AFTER_FAILURE, |refused| (refused.wait * 2).min(MAX_WAIT));
        let reported = self.refused.map_or(reported, |refused| refused.reported);
        Self { refused: Some(Refused { reported, wait, again_at: now() + wait }), ..self }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.refused.is_none_or(|refused| refused.again_at <= now)
    }
}

impl Borrow<Report> for Ended {
    fn borrow(&self) -> &Report {
        &self.report
    }
}

/// Writes reports until it is aborted.
pub(super) async fn heed(shared: Arc<Shared>, arriving: mpsc::UnboundedReceiver<Message>) {
    let (postpone, postponed) = mpsc::unbounded_channel();
    tokio::join!(heed_arriving(&shared, arriving, postpone), heed_postponed(&shared, postponed));
}

async fn heed_arriving(
    shared: &Shared,
    mut arriving: mpsc::UnboundedReceiver<Message>,
    postpone: mpsc::UnboundedSender<Ended>,
) {
    let mut arrived = Vec::new();
    while arriving.recv_many(&mut arrived, TOGETHER).await > 0 {
        let (mut ended, mut unbegun) = (Vec::new(), Vec::new());
        for message in arrived.drain(..) {
            match message {
                Message::Ended(one) => ended.push(one),
                Message::Unbegun { attempt, queue } => unbegun.push((attempt, queue)),
            }
        }
        give_back(shared, unbegun).await;
        for held in persist(shared, ended).await {
            // The other half ends after this one.
            let _ = postpone.send(held);
        }
    }
}

/// Tries reports again that another transaction held up or the database refused, apart from those that arrive.
async fn heed_postponed(shared: &Shared, mut postponed: mpsc::UnboundedReceiver<Ended>) {
    let mut held = Vec::new();
    while !held.is_empty() || postponed.recv_many(&mut held, TOGETHER).await > 0 {
        tokio::time::sleep(AFTER_FAILURE).await;
        while let Ok(one) = postponed.try_recv() {
            held.push(one);
        }
        let now = now();
        let (mut due, later): (Vec<_>, _) = held.into_iter().partition(|one| one.is_due(now));
        let mut left = due.split_off(due.len().min(AGAIN_TOGETHER));
        left.extend(later);
        left.extend(persist(shared, due).await);
        held = left;
    }
}

/// Writes reports, again and again while the database is away. In place of one that can never be written its attempt fails.
/// Returns those to be tried later: another transaction holds what they change, or the database is at fault.
async fn persist(shared: &Shared, mut ended: Vec<Ended>) -> Vec<Ended> {
    let mut held = Vec::new();
    while !ended.is_empty() {
        let (reports, mut failures) = (Arc::new(std::mem::take(&mut ended)), Failures::default());
        let reported = shared.reported.load(Ordering::Relaxed);
        let outcomes = shared.jobs.report_each(&reports).await;
        let written = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        shared.reported.fetch_add(written, Ordering::Relaxed);
        for (one, outcome) in reports.iter().zip(outcomes) {
            match outcome {
                Ok(told) => count_it(shared, told, one).await,
                Err(error) if is_outage(&error) => {
                    let is_doubtful = one.is_doubtful || matches!(error, Error::OutcomeUnknown(_));
                    ended.push(Ended { is_doubtful, ..one.clone() });
                    failures.outage = Some(error);
                }
                Err(Error::DeadlinePassed) => held.push(one.clone()),
                Err(error) if one.is_at_fault(&error, reported, reported + written) => {
                    let Attempt { job, attempt, .. } = one.report.attempt;
                    tracing::warn!(%error, job, attempt, "how an attempt ended could not be stored; it has failed");
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
            tokio::time::sleep(AFTER_FAILURE).await;
        }
    }
    held
}

/// Why reports of one batch were not written and are tried again.
#[derive(Default)]
struct Failures {
    outage: Option<Error>,
    refusal: Option<Error>,
}

impl Failures {
    fn warn(&self) {
        for error in self.outage.iter().chain(&self.refusal) {
            tracing::warn!(%error, "how jobs ended could not be written; tried again");
        }
    }
}

async fn give_back(shared: &Shared, unbegun: Vec<(Attempt, String)>) {
    if unbegun.is_empty() {
        return;
    }
    let (ctx, count) = (shared.jobs.ctx(), unbegun.len());
    let given = shared.jobs.db().write(move |tx| finish::give_back(tx, &ctx.renewed(), &unbegun)).await;
    if let Err(error) = given {
        tracing::warn!(%error, "claimed jobs could not be given back; they are once this process has signed off");
    }
    shared.free(count);
}

async fn count_it(shared: &Shared, mut told: Told, ended: &Ended) {
    if told == Told::Stale && ended.is_doubtful {
        told = shared.jobs.find_told(&ended.report).await;
    }
    let Ended { report, queue, kind, took, .. } = ended;
    let Attempt { job, attempt, .. } = report.attempt;
    if told == Told::Stale {
        shared.stale.fetch_add(1, Ordering::Relaxed);
        return tracing::warn!(
            job,
            attempt,
            "an attempt ended that was somebody else's by then; it counts for nothing"
        );
    }
    if let (Err(error), false) = (&report.outcome, matches!(told, Told::Ended(JobState::Cancelled))) {
        tracing::info!(job, attempt, kind, %error, "an attempt did not succeed");
    }
    let is_snooze = matches!(report.outcome, Err(JobError::Snooze(_)));
    shared.jobs.inner().counts.count_told(queue, kind, &told, is_snooze, *took);
}
