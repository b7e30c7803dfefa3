//! Running what is due: each schedule in a transaction of its own, in which its place goes on by one compare-and-set, each
//! occurrence is taken under its unique key, and its job is enqueued. Any number of nodes may do it at once.

use std::time::Duration;

use kith_kernel::{Ctx, Timestamp, minutes};
use kith_store::{Error, Tx};

use super::commands::LOCK;
use super::model::{Missed, Origin, Overlap, Schedule, ScheduleError};
use super::spec::Spec;
use crate::OnFailure;
use crate::enqueue::EnqueueError;
use crate::finish::{self, CancelOutcome};
use crate::jobs::Jobs;
use crate::model::JobId;
use crate::retry::below;
use crate::rows::schedules as rows;

/// An occurrence that is later than this was missed.
const LATE: Duration = minutes(1);
/// What was decided lies so far ahead only if the clock has gone back since.
const WENT_BACK: Duration = minutes(1);
/// Runs that wait for another run of their schedule, at most.
const MOST_WAITING: i64 = 100;
/// Schedules that are looked for at once.
const AT_ONCE: i64 = 100;

/// What a look at the clock came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ticked {
    /// Jobs that were enqueued.
    pub jobs: usize,
    /// When the next occurrence is.
    pub next_at: Option<Timestamp>,
}

impl Jobs {
    /// Enqueues what is due by the schedules. A schedule that cannot be run does not keep others from it.
    ///
    /// # Errors
    /// The database's.
    pub async fn tick(&self) -> Result<Ticked, Error> {
        let mut ticked = Ticked::default();
        let mut after = String::new();
        loop {
            let (now, behind) = (self.ctx().now, after.clone());
            let due =
                self.db().read(move |q| rows::list_due(q, now, now + WENT_BACK, &behind, AT_ONCE)).await?;
            for name in &due {
                let (ctx, one) = (self.ctx(), name.clone());
                match self.db().write(move |tx| run_due(tx, &ctx.renewed(), &one)).await {
                    Ok(jobs) => ticked.jobs += jobs,
                    Err(ScheduleError::Store(error)) => return Err(error),
                    Err(error) => tracing::error!(schedule = name, %error, "a schedule could not be run"),
                }
            }
            match due.last() {
                Some(last) if due.len() as i64 == AT_ONCE => after.clone_from(last),
                _ => break,
            }
        }
        ticked.next_at = self.db().read(rows::next_of_all).await?;
        Ok(ticked)
    }
}

/// Decides about everything that is due of one schedule. Says how many jobs it enqueued.
fn run_due(tx: &Tx<'_>, ctx: &Ctx, name: &str) -> Result<usize, ScheduleError> {
    tx.lock(LOCK, [name])?;
    let Some(before) = rows::find(tx, name)?.filter(|schedule| !schedule.paused) else { return Ok(0) };
    let went_back = before.decided_until > ctx.now + WENT_BACK;
    if !went_back && before.next_at.is_none_or(|at| at > ctx.now) {
        return Ok(0);
    }
    let spec = before.plan.check(before.anchor_at)?;
    let mut after = Schedule {
        next_at: before.plan.next_after(&spec, ctx.now),
        decided_until: ctx.now,
        ..before.clone()
    };
    let decided_until = if went_back { relived(&before, ctx.now) } else { before.decided_until };
    let due = due(&spec, &before, decided_until, ctx.now);
    let mut jobs = 0;
    for (at, origin) in due {
        after.last_at = Some(at);
        if rows::take(tx, name, at, origin, ctx.now)? {
            jobs += usize::from(occur(tx, ctx, &before, at)?);
        }
    }
    if !rows::go_on(tx, &before, &after)? {
        return Err(Error::fault("a schedule went on under its lock").into());
    }
    rows::tidy(tx, name)?;
    Ok(jobs)
}

/// From when on occurrences are decided about once more, after the clock went back. Those that have run are known by their
/// keys, and do not run again.
fn relived(schedule: &Schedule, now: Timestamp) -> Timestamp {
    if schedule.changed_at > now { now } else { now - LATE }
}

/// The occurrences that are to be run, the earliest first, and which of them were missed.
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
    let late = (now - LATE).max(from).min(until);
    let timely = spec.between(late + Duration::from_millis(1), until + Duration::from_millis(1), 100).0;
    let most = match plan.missed {
        Missed::Skip => 0,
        Missed::Latest => usize::from(timely.is_empty()),
        Missed::All => usize::try_from(plan.missed_cap).unwrap_or(1),
    };
    let missed = spec.latest_between(from, late, most).into_iter().map(|at| (at, Origin::Missed));
    missed.chain(timely.into_iter().map(|at| (at, Origin::Due))).collect()
}

/// Enqueues the job of an occurrence that was taken; says whether it did.
fn occur(tx: &Tx<'_>, ctx: &Ctx, schedule: &Schedule, at: Timestamp) -> Result<bool, ScheduleError> {
    let live = match schedule.plan.overlap {
        Overlap::Allow => Vec::new(),
        _ => rows::list_live(tx, &schedule.name, MOST_WAITING)?,
    };
    let after = match schedule.plan.overlap {
        Overlap::Skip if !live.is_empty() => return Ok(false),
        Overlap::Queue if live.len() as i64 >= MOST_WAITING => return Ok(false),
        Overlap::Allow | Overlap::Skip => Vec::new(),
        Overlap::Queue => live.into_iter().take(1).collect(),
        Overlap::Cancel => cancel_all(tx, ctx, live)?,
    };
    let jitter_ms = u64::try_from(schedule.plan.jitter.as_millis()).unwrap_or(0);
    let delay =
        Duration::from_millis(if jitter_ms == 0 { 0 } else { below(ctx.randomness(), jitter_ms + 1) });
    enqueue(tx, ctx, schedule, Run { at, after: &after, delay })?;
    Ok(true)
}

/// Cancels older runs; those that have been told to stop and still run are the answer.
fn cancel_all(tx: &Tx<'_>, ctx: &Ctx, live: Vec<JobId>) -> Result<Vec<JobId>, ScheduleError> {
    let mut running = Vec::new();
    for job in live {
        if finish::cancel(tx, ctx, job, "the next run of its schedule is due")? == CancelOutcome::Asked {
            running.push(job);
        }
    }
    Ok(running)
}

/// How an occurrence is run.
pub(super) struct Run<'a> {
    pub at: Timestamp,
    /// Only when these have ended, however.
    pub after: &'a [JobId],
    pub delay: Duration,
}

/// Enqueues the job of an occurrence that was taken.
pub(super) fn enqueue(
    tx: &Tx<'_>,
    ctx: &Ctx,
    schedule: &Schedule,
    run: Run<'_>,
) -> Result<JobId, ScheduleError> {
    let mut job = schedule.plan.job().after(run.after.iter().copied());
    job.on_failure = OnFailure::Run;
    job.source = Some(format!("schedule:{}@{}", schedule.name, run.at));
    job.run_at = (!run.delay.is_zero()).then(|| ctx.now + run.delay);
    let enqueued = crate::enqueue::enqueue(tx, ctx, &job).map_err(|error| match error {
        EnqueueError::Invalid(invalid) => ScheduleError::Invalid(invalid),
        EnqueueError::Unknown(job) => Error::fault(format!("job {job} is gone")).into(),
        EnqueueError::Store(error) => error.into(),
    })?;
    rows::set_job(tx, &schedule.name, run.at, enqueued.id)?;
    Ok(enqueued.id)
}
