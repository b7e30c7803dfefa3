//! Commands that limit, pause and drain queues.

use kith_jobs::{JobFilter, JobState, Rate};
use kith_kernel::Ctx;
use kith_store::Tx;

use super::super::model::{JobsError, QueueLimits, QueueLimitsBody};

/// Maximum number of jobs that one call of [`drain_queue`] cancels.
pub const MAX_DRAINED_JOBS: usize = 1_000;

/// Sets the limits of a queue. Absent limits are removed.
///
/// # Errors
/// Returns [`JobsError::Invalid`] for invalid limits, [`JobsError::Store`] if a statement fails.
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

/// Pauses a queue, or resumes it if `paused` is `false`.
///
/// # Errors
/// Returns [`JobsError::Store`] if a statement fails.
pub fn pause_queue(tx: &Tx<'_>, ctx: &Ctx, name: &str, paused: bool) -> Result<QueueLimits, JobsError> {
    Ok(kith_jobs::set_queue(tx, ctx, name, None, |settings| settings.paused = paused)?.into())
}

/// Cancels up to [`MAX_DRAINED_JOBS`] ready, scheduled and blocked jobs of a queue. Returns their number.
/// Running jobs continue.
///
/// # Errors
/// Returns [`JobsError::Store`] if a statement fails.
pub fn drain_queue(tx: &Tx<'_>, ctx: &Ctx, name: &str) -> Result<usize, JobsError> {
    let mut drained = 0;
    for state in [JobState::Ready, JobState::Scheduled, JobState::Blocked] {
        let filter = JobFilter { state: Some(state), queue: Some(name.to_owned()), ..JobFilter::default() };
        let limit = i64::try_from(MAX_DRAINED_JOBS - drained).unwrap_or(0);
        for job in kith_jobs::list_jobs(tx, &filter, limit)? {
            let outcome = kith_jobs::cancel(tx, ctx, job.id, "queue drained")?;
            drained += usize::from(outcome == kith_jobs::CancelOutcome::Cancelled);
        }
    }
    if drained > 0 {
        tx.audit(ctx, "queue.drained", name);
    }
    Ok(drained)
}
