//! Limits, pauses and drains queues.

use kith_jobs::{JobFilter, JobState, Rate};
use kith_kernel::Ctx;
use kith_store::Tx;

use super::super::model::{JobsError, QueueLimits, QueueLimitsBody};

/// Jobs that one call of a drain takes back at most.
pub const DRAINED: usize = 1_000;

/// Sets the limits of a queue; what is absent is not limited any more.
///
/// # Errors
/// What is wrong with them; the database's.
pub fn limit_queue(
    tx: &Tx<'_>,
    ctx: &Ctx,
    name: &str,
    body: &QueueLimitsBody,
) -> Result<QueueLimits, JobsError> {
    let set = kith_jobs::set_queue(tx, ctx, name, None, |settings| {
        settings.concurrency = body.concurrency;
        settings.rate = body.rate.map(Rate::from);
        settings.key_concurrency = body.key_concurrency;
        settings.key_rate = body.key_rate.map(Rate::from);
    });
    Ok(set?.into())
}

/// Pauses a queue, or lets it go on.
///
/// # Errors
/// The database's.
pub fn pause_queue(tx: &Tx<'_>, ctx: &Ctx, name: &str, paused: bool) -> Result<QueueLimits, JobsError> {
    Ok(kith_jobs::set_queue(tx, ctx, name, None, |settings| settings.paused = paused)?.into())
}

/// Takes back jobs of a queue that wait, at most [`DRAINED`], and says how many. What runs goes on.
///
/// # Errors
/// The database's.
pub fn drain_queue(tx: &Tx<'_>, ctx: &Ctx, name: &str) -> Result<usize, JobsError> {
    let mut drained = 0;
    for state in [JobState::Ready, JobState::Scheduled, JobState::Blocked] {
        let filter = JobFilter { state: Some(state), queue: Some(name.to_owned()), ..JobFilter::default() };
        let most = i64::try_from(DRAINED - drained).unwrap_or(0);
        for job in kith_jobs::list_jobs(tx, &filter, most)? {
            let outcome = kith_jobs::cancel(tx, ctx, job.id, "its queue was drained")?;
            drained += usize::from(outcome == kith_jobs::CancelOutcome::Cancelled);
        }
    }
    if drained > 0 {
        tx.audit(ctx, "queue.drained", name);
    }
    Ok(drained)
}
