//! Enqueues due occurrences. Each schedule is processed in a separate transaction. It inserts each occurrence
//! under a unique key, enqueues its job, and then updates the progress of the schedule if no other node has
//! changed it. Several nodes can run this concurrently.

use std::time::Duration;

use kith_kernel::{Ctx, Timestamp, minutes};
use kith_store::{Error, Tx};

use super::model::{LOCK, Missed, Origin, Overlap, Schedule, ScheduleError};
use super::spec::Spec;
use crate::OnFailure;
use crate::enqueue::EnqueueError;
use crate::finish::{self, CancelOutcome};
use crate::jobs::Jobs;
use crate::model::JobId;
use crate::retry::below;
use crate::rows::schedules as rows;

/// Time after which an occurrence that was not run counts as missed.
const MISSED_AFTER: Duration = minutes(1);
/// Maximum time by which `decided_until` may be ahead of the clock. If it is further ahead, the clock was set
/// back.
const CLOCK_TOLERANCE: Duration = minutes(1);
/// Maximum number of runs of one schedule that wait for each other.
const MAX_WAITING_RUNS: i64 = 100;
/// Number of due schedules read at once.
const BATCH_SIZE: i64 = 100;

/// Result of [`Jobs::tick`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TickResult {
    /// Number of jobs enqueued.
    pub jobs: usize,
    /// Time of the earliest next occurrence of all schedules.
    pub next_run_at: Option<Timestamp>,
}

impl Jobs {
    /// Enqueues the jobs of due occurrences of all schedules. An invalid schedule is logged and does not
    /// affect others.
    ///
    /// # Errors
    /// Returns the error of the database, such as [`Error::Unavailable`].
    pub async fn tick(&self) -> Result<TickResult, Error> {
        let mut ticked = TickResult::default();
        let mut after = String::new();
        loop {
            let (now, behind) = (self.ctx().now, after.clone());
            let due = self
                .db()
                .read(move |q| rows::list_due(q, now, now + CLOCK_TOLERANCE, &behind, BATCH_SIZE))
                .await?;
            for name in &due {
                let (ctx, one) = (self.ctx(), name.clone());
                match self.db().write(move |tx| run_due(tx, &ctx.refreshed(), &one)).await {
                    Ok(jobs) => ticked.jobs += jobs,
                    Err(ScheduleError::Store(error)) => return Err(error),
                    Err(error) => tracing::error!(schedule = name, %error, "a schedule could not be run"),
                }
            }
            match due.last() {
                Some(last) if due.len() as i64 == BATCH_SIZE => after.clone_from(last),
                _ => break,
            }
        }
        ticked.next_run_at = self.db().read(rows::next_of_all).await?;
        Ok(ticked)
    }
}

/// Runs or skips all due occurrences of a schedule. Returns the number of jobs enqueued.
fn run_due(tx: &Tx<'_>, ctx: &Ctx, name: &str) -> Result<usize, ScheduleError> {
    tx.lock(LOCK, [name])?;
    let Some(before) = rows::find(tx, name)?.filter(|schedule| !schedule.paused) else { return Ok(0) };
    let went_back = before.decided_until > ctx.now + CLOCK_TOLERANCE;
    if !went_back && before.next_run_at.is_none_or(|at| at > ctx.now) {
        return Ok(0);
    }
    let spec = before.plan.check(before.anchor_at)?;
    let mut after = Schedule {
        next_run_at: before.plan.next_after(&spec, ctx.now),
        decided_until: ctx.now,
        ..before.clone()
    };
    let decided_until = if went_back { redecide_from(&before, ctx.now) } else { before.decided_until };
    let due = due(&spec, &before, decided_until, ctx.now);
    let mut jobs = 0;
    for (at, origin) in due {
        after.last_run_at = Some(at);
        if rows::insert_occurrence(tx, name, at, origin, ctx.now)? {
            jobs += usize::from(run_occurrence(tx, ctx, &before, at)?);
        }
    }
    if !rows::advance_progress(tx, &before, &after)? {
        return Err(Error::fault("a schedule advanced while it was locked").into());
    }
    rows::delete_expired(tx, name)?;
    Ok(jobs)
}

/// Returns the time from which occurrences are decided again after the clock was set back. Occurrences that
/// have run are not run again, because they are stored under unique keys.
fn redecide_from(schedule: &Schedule, now: Timestamp) -> Timestamp {
    if schedule.updated_at > now { now } else { now - MISSED_AFTER }
}

/// Returns the occurrences to run, earliest first, with the reason: due or missed.
fn due(
    spec: &Spec,
    schedule: &Schedule,
    decided_until: Timestamp,
    now: Timestamp,
) -> Vec<(Timestamp, Origin)> {
    let plan = &schedule.plan;
    let until = plan.ends_at.map_or(now, |ends| now.min(ends - Duration::from_millis(1)));
    let from =
        plan.starts_at.map_or(decided_until, |starts| decided_until.max(starts - Duration::from_millis(1)));
    let late = (now - MISSED_AFTER).max(from).min(until);
    let timely = spec.between(late + Duration::from_millis(1), until + Duration::from_millis(1), 100).0;
    let limit = match plan.missed {
        Missed::Skip => 0,
        Missed::Latest => usize::from(timely.is_empty()),
        Missed::All => usize::try_from(plan.missed_cap).unwrap_or(1),
    };
    let missed = spec.latest_between(from, late, limit).into_iter().map(|at| (at, Origin::Missed));
    missed.chain(timely.into_iter().map(|at| (at, Origin::Due))).collect()
}

/// Enqueues the job of an occurrence if the overlap policy allows it. Returns true if the job was enqueued.
fn run_occurrence(tx: &Tx<'_>, ctx: &Ctx, schedule: &Schedule, at: Timestamp) -> Result<bool, ScheduleError> {
    let live = match schedule.plan.overlap {
        Overlap::Allow => Vec::new(),
        _ => rows::list_live(tx, &schedule.name, MAX_WAITING_RUNS)?,
    };
    let after = match schedule.plan.overlap {
        Overlap::Skip if !live.is_empty() => return Ok(false),
        Overlap::Queue if live.len() as i64 >= MAX_WAITING_RUNS => return Ok(false),
        Overlap::Allow | Overlap::Skip => Vec::new(),
        Overlap::Queue => live.into_iter().take(1).collect(),
        Overlap::Cancel => cancel_all(tx, ctx, live)?,
    };
    let jitter_ms = u64::try_from(schedule.plan.jitter.as_millis()).unwrap_or(0);
    let delay =
        Duration::from_millis(if jitter_ms == 0 { 0 } else { below(ctx.randomness(), jitter_ms + 1) });
    enqueue(tx, ctx, schedule, PlannedOccurrence { at, after: &after, delay })?;
    Ok(true)
}

/// Cancels earlier runs. Returns the jobs that are still running; their workers are requested to stop them.
fn cancel_all(tx: &Tx<'_>, ctx: &Ctx, live: Vec<JobId>) -> Result<Vec<JobId>, ScheduleError> {
    let mut running = Vec::new();
    for job in live {
        if finish::cancel(tx, ctx, job, "the next run of its schedule is due")? == CancelOutcome::Requested {
            running.push(job);
        }
    }
    Ok(running)
}

/// Occurrence whose job is to be enqueued.
pub(super) struct PlannedOccurrence<'a> {
    pub at: Timestamp,
    /// Jobs that must end before the job of this occurrence runs. They may also fail.
    pub after: &'a [JobId],
    pub delay: Duration,
}

/// Enqueues the job of an occurrence and records its id.
pub(super) fn enqueue(
    tx: &Tx<'_>,
    ctx: &Ctx,
    schedule: &Schedule,
    run: PlannedOccurrence<'_>,
) -> Result<JobId, ScheduleError> {
    let mut job = schedule.plan.job().after(run.after.iter().copied());
    job.on_failure = OnFailure::Run;
    job.source = Some(format!("schedule:{}@{}", schedule.name, run.at));
    job.run_at = (!run.delay.is_zero()).then(|| ctx.now + run.delay);
    let enqueued = crate::enqueue::enqueue(tx, ctx, &job).map_err(|error| match error {
        EnqueueError::Invalid(invalid) => ScheduleError::Invalid(invalid),
        EnqueueError::Unknown(job) => Error::fault(format!("job {job} no longer exists")).into(),
        EnqueueError::Store(error) => error.into(),
    })?;
    rows::set_job(tx, &schedule.name, run.at, enqueued.id)?;
    Ok(enqueued.id)
}
