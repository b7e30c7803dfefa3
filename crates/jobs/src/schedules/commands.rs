//! What people do with schedules. Each leaves an audit entry.

use std::time::Duration;

use kith_kernel::{Actor, Ctx, Timestamp};
use kith_store::Tx;

use super::model::{
    MOST_AT_ONCE, MOST_SCHEDULES, Origin, Overlap, Plan, Schedule, ScheduleError, check_schedule_name,
};
use super::run::{self, Run};
use crate::model::JobId;
use crate::rows::schedules as rows;

/// Makes a schedule, which belongs to the part of Kith that asks, or to administrators.
///
/// # Errors
/// [`ScheduleError`] if it is wrong, has no run from now on, or another one has the name.
pub fn create(
    tx: &Tx<'_>,
    ctx: &Ctx,
    name: &str,
    plan: Plan,
    paused: bool,
) -> Result<Schedule, ScheduleError> {
    check_schedule_name(name)?;
    tx.lock(LOCK, [name])?;
    if rows::count(tx)? >= MOST_SCHEDULES {
        return Err(ScheduleError::TooMany);
    }
    let schedule = Schedule { paused, ..anew(ctx, name, owner(ctx), plan)? };
    if schedule.next_at.is_none() {
        return Err(ScheduleError::Over);
    }
    if !rows::insert(tx, &schedule)? {
        return Err(ScheduleError::Taken);
    }
    tx.audit(ctx, "schedule.created", name);
    Ok(schedule)
}

/// Which person it was is in the audit log, and nowhere else.
fn owner(ctx: &Ctx) -> String {
    match &ctx.actor {
        Actor::System(part) => format!("system:{part}"),
        _ => "admin".to_owned(),
    }
}

pub(super) const LOCK: &str = "job schedule";

/// A schedule that begins now.
pub(super) fn anew(ctx: &Ctx, name: &str, owner: String, mut plan: Plan) -> Result<Schedule, ScheduleError> {
    let anchor_at = plan.starts_at.unwrap_or(ctx.now).max(ctx.now);
    let spec = plan.check(anchor_at)?;
    spec.zone().clone_into(&mut plan.zone);
    Ok(Schedule {
        name: name.to_owned(),
        owner,
        is_declared: false,
        next_at: plan.next_after(&spec, ctx.now),
        plan,
        anchor_at,
        paused: false,
        last_at: None,
        decided_until: ctx.now,
        revision: 1,
        created_at: ctx.now,
        changed_at: ctx.now,
    })
}

/// What a change makes of a schedule: where its times are the same it keeps its place, else it is planned anew from now.
pub(super) fn changed(ctx: &Ctx, before: &Schedule, mut plan: Plan) -> Result<Schedule, ScheduleError> {
    let times = |plan: &Plan| (plan.schedule.clone(), plan.starts_at, plan.ends_at);
    let same = times(&before.plan) == times(&plan);
    let anchor_at = if same { before.anchor_at } else { plan.starts_at.unwrap_or(ctx.now).max(ctx.now) };
    let spec = plan.check(anchor_at)?;
    spec.zone().clone_into(&mut plan.zone);
    let keeps_place = same && before.plan.zone == plan.zone;
    let next_at = if keeps_place { before.next_at } else { plan.next_after(&spec, ctx.now) };
    let decided_until = if keeps_place { before.decided_until } else { ctx.now };
    let revision = before.revision + 1;
    Ok(Schedule { plan, anchor_at, next_at, decided_until, revision, changed_at: ctx.now, ..before.clone() })
}

/// A schedule that nobody else changes until this transaction ends.
///
/// # Errors
/// The database's.
pub fn find_to_change(tx: &Tx<'_>, name: &str) -> Result<Option<Schedule>, kith_store::Error> {
    tx.lock(LOCK, [name])?;
    rows::find(tx, name)
}

/// Takes a schedule for a change; with a revision, only if that is the present one.
fn hold(tx: &Tx<'_>, name: &str, revision: Option<i64>) -> Result<Schedule, ScheduleError> {
    tx.lock(LOCK, [name])?;
    let schedule = rows::find(tx, name)?.ok_or(ScheduleError::Unknown)?;
    match revision {
        Some(revision) if revision != schedule.revision => Err(ScheduleError::Changed),
        _ => Ok(schedule),
    }
}

pub(super) fn save(tx: &Tx<'_>, before: &Schedule, after: &Schedule) -> Result<(), ScheduleError> {
    rows::update(tx, after)?;
    if !rows::go_on(tx, before, after)? {
        return Err(kith_store::Error::fault("a schedule went on under its lock").into());
    }
    Ok(())
}

/// Changes what is run or when, as `change` makes it of what there is.
///
/// # Errors
/// [`ScheduleError`] if the new plan is wrong or the code declares the schedule.
pub fn change(
    tx: &Tx<'_>,
    ctx: &Ctx,
    name: &str,
    revision: Option<i64>,
    change: impl FnOnce(&mut Plan) -> Result<(), ScheduleError>,
) -> Result<Schedule, ScheduleError> {
    let before = hold(tx, name, revision)?;
    if before.is_declared {
        return Err(ScheduleError::Declared);
    }
    let mut plan = before.plan.clone();
    change(&mut plan)?;
    let after = changed(ctx, &before, plan)?;
    if after.plan == before.plan {
        return Ok(before);
    }
    if after.next_at.is_none() {
        return Err(ScheduleError::Over);
    }
    save(tx, &before, &after)?;
    tx.audit(ctx, "schedule.changed", name);
    Ok(after)
}

/// Stops a schedule for good and forgets its past runs; the jobs that it has enqueued stay.
///
/// # Errors
/// [`ScheduleError`] if the code declares it.
pub fn delete(tx: &Tx<'_>, ctx: &Ctx, name: &str, revision: Option<i64>) -> Result<(), ScheduleError> {
    if hold(tx, name, revision)?.is_declared {
        return Err(ScheduleError::Declared);
    }
    rows::delete(tx, name)?;
    tx.audit(ctx, "schedule.deleted", name);
    Ok(())
}

/// Stops a schedule until it is resumed, or resumes it. What falls into a pause is not missed: [`backfill`] runs it.
///
/// # Errors
/// [`ScheduleError::Unknown`].
pub fn set_paused(tx: &Tx<'_>, ctx: &Ctx, name: &str, paused: bool) -> Result<Schedule, ScheduleError> {
    let before = hold(tx, name, None)?;
    if before.paused == paused {
        return Ok(before);
    }
    let mut after = Schedule { paused, revision: before.revision + 1, changed_at: ctx.now, ..before.clone() };
    if !paused {
        let spec = after.plan.check(after.anchor_at)?;
        after.next_at = after.plan.next_after(&spec, ctx.now);
        after.decided_until = ctx.now;
    }
    save(tx, &before, &after)?;
    tx.audit(ctx, if paused { "schedule.paused" } else { "schedule.resumed" }, name);
    Ok(after)
}

/// Runs a schedule at once, whatever its times, pause and other runs.
///
/// # Errors
/// [`ScheduleError::Unknown`].
pub fn run_now(tx: &Tx<'_>, ctx: &Ctx, name: &str) -> Result<JobId, ScheduleError> {
    let schedule = hold(tx, name, None)?;
    let moments = (0..100).map(|ms| ctx.now + Duration::from_millis(ms));
    for at in moments {
        if rows::take(tx, name, at, Origin::Now, ctx.now)? {
            let job = run::enqueue(tx, ctx, &schedule, Run { at, after: &[], delay: Duration::ZERO })?;
            tx.audit(ctx, "schedule.run", name);
            return Ok(job);
        }
    }
    Err(kith_store::Error::fault("a hundred runs were asked for at one moment").into())
}

/// What a backfill came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backfilled {
    /// What is run, the earliest first.
    pub jobs: Vec<(Timestamp, JobId)>,
    /// Occurrences that had been run, or left out, before.
    pub known: i64,
}

/// Runs the occurrences from `from` until before `to` that have not been run. Where runs of the schedule may not overlap, each
/// waits for the one before it.
///
/// # Errors
/// [`ScheduleError::TooWide`] if there are more than [`MOST_AT_ONCE`], or `to` is to come.
pub fn backfill(
    tx: &Tx<'_>,
    ctx: &Ctx,
    name: &str,
    from: Timestamp,
    to: Timestamp,
) -> Result<Backfilled, ScheduleError> {
    let schedule = hold(tx, name, None)?;
    let spec = schedule.plan.check(schedule.anchor_at)?;
    let (occurrences, more) = spec.between(from, to, MOST_AT_ONCE as usize);
    if more || to > ctx.now {
        return Err(ScheduleError::TooWide);
    }
    let mut done = Backfilled { jobs: Vec::new(), known: 0 };
    let mut before = Vec::new();
    for at in occurrences {
        if !rows::take(tx, name, at, Origin::Backfill, ctx.now)? {
            done.known += 1;
            continue;
        }
        let job = run::enqueue(tx, ctx, &schedule, Run { at, after: &before, delay: Duration::ZERO })?;
        if schedule.plan.overlap != Overlap::Allow {
            before = vec![job];
        }
        done.jobs.push((at, job));
    }
    tx.audit(ctx, "schedule.backfilled", name);
    Ok(done)
}
