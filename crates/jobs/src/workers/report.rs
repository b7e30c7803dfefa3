//! Reporting: how attempts ended, as many in one transaction as have ended meanwhile. What cannot be written is kept and
//! tried again for as long as the process lives.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;

use super::Shared;
use crate::finish::{self, Attempt, Report, Told};
use crate::model::{JobError, JobState};

/// Reports in one transaction.
const TOGETHER: usize = 1_000;
/// Wait after the database did not answer.
const AFTER_FAILURE: Duration = Duration::from_millis(200);

pub(super) enum Message {
    Ended {
        report: Report,
        queue: String,
        kind: String,
        took: Duration,
    },
    /// It was claimed, and the process stops before it began.
    Unbegun {
        attempt: Attempt,
        queue: String,
    },
}

pub(super) async fn heed(shared: Arc<Shared>, mut arriving: mpsc::UnboundedReceiver<Message>) {
    let mut arrived = Vec::new();
    while arriving.recv_many(&mut arrived, TOGETHER).await > 0 {
        let count = arrived.len();
        let (mut reports, mut whats, mut unbegun) = (Vec::new(), Vec::new(), Vec::new());
        for message in arrived.drain(..) {
            match message {
                Message::Ended { report, queue, kind, took } => {
                    reports.push(report);
                    whats.push((queue, kind, took));
                }
                Message::Unbegun { attempt, queue } => unbegun.push((attempt, queue)),
            }
        }
        give_back(&shared, unbegun).await;
        let reports = Arc::new(reports);
        let told = persist(&shared, &reports).await;
        for ((told, report), (queue, kind, took)) in told.iter().zip(reports.iter()).zip(whats) {
            count_it(&shared, told, report, &queue, &kind, took);
        }
        shared.outstanding.fetch_sub(count, Ordering::Release);
        shared.freed.notify_waiters();
    }
}

async fn persist(shared: &Shared, reports: &Arc<Vec<Report>>) -> Vec<Told> {
    if reports.is_empty() {
        return Vec::new();
    }
    loop {
        match shared.jobs.report(Arc::clone(reports)).await {
            Ok(told) => return told,
            Err(error) => {
                tracing::warn!(%error, reports = reports.len(), "how jobs ended could not be written; tried again");
                tokio::time::sleep(AFTER_FAILURE).await;
            }
        }
    }
}

async fn give_back(shared: &Shared, unbegun: Vec<(Attempt, String)>) {
    if unbegun.is_empty() {
        return;
    }
    let ctx = shared.jobs.ctx();
    let given = shared.jobs.db().write(move |tx| finish::give_back(tx, &ctx.renewed(), &unbegun)).await;
    if let Err(error) = given {
        tracing::warn!(%error, "claimed jobs could not be given back; they are once this process has signed off");
    }
}

fn count_it(shared: &Shared, told: &Told, report: &Report, queue: &str, kind: &str, took: Duration) {
    if *told == Told::Stale {
        shared.stale.fetch_add(1, Ordering::Relaxed);
        let Attempt { job, attempt, .. } = report.attempt;
        return tracing::warn!(
            job,
            attempt,
            "an attempt ended that was somebody else's by then; it counts for nothing"
        );
    }
    if let (Err(error), false) = (&report.outcome, matches!(told, Told::Ended(JobState::Cancelled))) {
        let Attempt { job, attempt, .. } = report.attempt;
        tracing::info!(job, attempt, kind, %error, "an attempt did not succeed");
    }
    let is_snooze = matches!(report.outcome, Err(JobError::Snooze(_)));
    shared.jobs.inner().counts.count_told(queue, kind, told, is_snooze, took);
}
