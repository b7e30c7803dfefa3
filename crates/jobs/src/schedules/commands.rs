//! Commands on schedules. Each command that changes something writes an audit entry.

use std::time::Duration;

use kith_kernel::{Actor, Ctx, Timestamp};
use kith_store::Tx;

use super::model::{
    LOCK, MAX_BACKFILL_RUNS, MAX_SCHEDULES, Origin, Overlap, Plan, Schedule, ScheduleError,
    check_schedule_name,
};
use super::run::{self, PlannedOccurrence};
use crate::model::JobId;
use crate::rows::schedules as rows;

/// Creates a schedule. Its owner is the component of Kith that calls this function, or else `admin`.
///
/// # Errors
/// Returns [`ScheduleError::TooMany`] if the maximum number of schedules exists, [`ScheduleError::Over`] if
/// the schedule has no future run, [`ScheduleError::Taken`] if the name exists, or a validation error.
pub fn create(
    tx: &Tx<'_>,
    ctx: &Ctx,
    name: &str,
    plan: Plan,
    paused: bool,
) -> Result<Schedule, ScheduleError> {
    check_schedule_name(name)?;
    tx.lock(LOCK, [name])?;
    if rows::count(tx)? >= MAX_SCHEDULES {
        return Err(ScheduleError::TooMany);
    }
    let schedule = Schedule { paused, ..new_schedule(ctx, name, owner(ctx), plan)? };
    if schedule.next_run_at.is_none() {
        return Err(ScheduleError::Over);
    }
    if !rows::insert(tx, &schedule)? {
        return Err(ScheduleError::Taken);
    }
    tx.audit(ctx, "schedule.created", name);
    Ok(schedule)
}

/// Returns the owner of a new schedule. The user who creates it is recorded only in the audit log.
fn owner(ctx: &Ctx) -> String {
    match &ctx.actor {
        Actor::System(part) => format!("system:{part}"),
        _ => "admin".to_owned(),
    }
}

/// Creates a schedule whose occurrences are planned from now on.
pub(super) fn new_schedule(
    ctx: &Ctx,
    name: &str,
    owner: String,
    mut plan: Plan,
) -> Result<Schedule, ScheduleError> {
    let anchor_at = plan.starts_at.unwrap_or(ctx.now).max(ctx.now);
    let spec = plan.check(anchor_at)?;
    spec.zone().clone_into(&mut plan.zone);
    Ok(Schedule {
        name: name.to_owned(),
        owner,
        is_declared: false,
        next_run_at: plan.next_after(&spec, ctx.now),
        plan,
        anchor_at,
        paused: false,
        last_run_at: None,
        decided_until: ctx.now,
        revision: 1,
        created_at: ctx.now,
        updated_at: ctx.now,
    })
}

/// Returns the schedule with a new plan. If the times of the plan are the same, the schedule keeps its
/// progress. Otherwise its occurrences are planned from now on.
pub(super) fn with_plan(ctx: &Ctx, before: &Schedule, mut plan: Plan) -> Result<Schedule, ScheduleError> {
    let times = |plan: &Plan| (plan.schedule.clone(), plan.starts_at, plan.ends_at);
    let same = times(&before.plan) == times(&plan);
    let anchor_at = if same { before.anchor_at } else { plan.starts_at.unwrap_or(ctx.now).max(ctx.now) };
    let spec = plan.check(anchor_at)?;
    spec.zone().clone_into(&mut plan.zone);
    let keeps_place = same && before.plan.zone == plan.zone;
    let next_run_at = if keeps_place { before.next_run_at } else { plan.next_after(&spec, ctx.now) };
    let decided_until = if keeps_place { before.decided_until } else { ctx.now };
    let revision = before.revision + 1;
    Ok(Schedule {
        plan,
        anchor_at,
        next_run_at,
        decided_until,
        revision,
        updated_at: ctx.now,
        ..before.clone()
    })
}

/// Locks a schedule until the transaction ends, and returns it.
///
/// # Errors
/// Returns the error of the database, such as [`kith_store::Error::Unavailable`].
pub fn find_to_change(tx: &Tx<'_>, name: &str) -> Result<Option<Schedule>, kith_store::Error> {
    tx.lock(LOCK, [name])?;
    rows::find(tx, name)
}

/// Locks a schedule for a change and returns it. If a revision is given, it must be the current revision.
fn lock_schedule(tx: &Tx<'_>, name: &str, revision: Option<i64>) -> Result<Schedule, ScheduleError> {
    tx.lock(LOCK, [name])?;
    let schedule = rows::find(tx, name)?.ok_or(ScheduleError::Unknown)?;
    match revision {
        Some(revision) if revision != schedule.revision => Err(ScheduleError::Changed),
        _ => Ok(schedule),
    }
}

pub(super) fn save(tx: &Tx<'_>, before: &Schedule, after: &Schedule) -> Result<(), ScheduleError> {
    rows::update(tx, after)?;
    if !rows::advance_progress(tx, before, after)? {
        return Err(kith_store::Error::fault("a schedule advanced while it was locked").into());
    }
    Ok(())
}

/// Changes the plan of a schedule with `change`.
///
/// # Errors
/// Returns [`ScheduleError::Declared`] if the schedule is declared in code, [`ScheduleError::Unknown`] if it
/// does not exist, [`ScheduleError::Changed`] if `revision` is not the current revision,
/// [`ScheduleError::Over`] if it has no future run, or a validation error.
pub fn change(
    tx: &Tx<'_>,
    ctx: &Ctx,
    name: &str,
    revision: Option<i64>,
    change: impl FnOnce(&mut Plan) -> Result<(), ScheduleError>,
) -> Result<Schedule, ScheduleError> {
    let before = lock_schedule(tx, name, revision)?;
    if before.is_declared {
        return Err(ScheduleError::Declared);
    }
    let mut plan = before.plan.clone();
    change(&mut plan)?;
    let after = with_plan(ctx, &before, plan)?;
    if after.plan == before.plan {
        return Ok(before);
    }
    if after.next_run_at.is_none() {
        return Err(ScheduleError::Over);
    }
    save(tx, &before, &after)?;
    tx.audit(ctx, "schedule.changed", name);
    Ok(after)
}

/// Deletes a schedule and the records of its past runs. Jobs that it has enqueued are not deleted.
///
/// # Errors
/// Returns [`ScheduleError::Declared`] if the schedule is declared in code, [`ScheduleError::Unknown`] if it
/// does not exist, or [`ScheduleError::Changed`] if `revision` is not the current revision.
pub fn delete(tx: &Tx<'_>, ctx: &Ctx, name: &str, revision: Option<i64>) -> Result<(), ScheduleError> {
    if lock_schedule(tx, name, revision)?.is_declared {
        return Err(ScheduleError::Declared);
    }
    rows::delete(tx, name)?;
    tx.audit(ctx, "schedule.deleted", name);
    Ok(())
}

/// Pauses or resumes a schedule. Occurrences during a pause do not count as missed. They can be run with
/// [`backfill`].
///
/// # Errors
/// Returns [`ScheduleError::Unknown`] if the schedule does not exist.
pub fn set_paused(tx: &Tx<'_>, ctx: &Ctx, name: &str, paused: bool) -> Result<Schedule, ScheduleError> {
    let before = lock_schedule(tx, name, None)?;
    if before.paused == paused {
        return Ok(before);
    }
    let mut after = Schedule { paused, revision: before.revision + 1, updated_at: ctx.now, ..before.clone() };
    if !paused {
        let spec = after.plan.check(after.anchor_at)?;
        after.next_run_at = after.plan.next_after(&spec, ctx.now);
        after.decided_until = ctx.now;
    }
    save(tx, &before, &after)?;
    tx.audit(ctx, if paused { "schedule.paused" } else { "schedule.resumed" }, name);
    Ok(after)
}

/// Enqueues a run of a schedule immediately, regardless of its times, of a pause and of other runs.
///
/// # Errors
/// Returns [`ScheduleError::Unknown`] if the schedule does not exist.
pub fn run_now(tx: &Tx<'_>, ctx: &Ctx, name: &str) -> Result<JobId, ScheduleError> {
    let schedule = lock_schedule(tx, name, None)?;
    let free_times = (0..100).map(|ms| ctx.now + Duration::from_millis(ms));
    for at in free_times {
        if rows::insert_occurrence(tx, name, at, Origin::Now, ctx.now)? {
            let job = run::enqueue(
                tx,
                ctx,
                &schedule,
                PlannedOccurrence { at, after: &[], delay: Duration::ZERO },
            )?;
            tx.audit(ctx, "schedule.run", name);
            return Ok(job);
        }
    }
    Err(kith_store::Error::fault("too many runs were requested at the same time").into())
}

/// Result of a backfill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackfillResult {
    /// Times and jobs of the enqueued occurrences, earliest first.
    pub jobs: Vec<(Timestamp, JobId)>,
    /// Number of occurrences that had already been run or skipped.
    pub skipped: i64,
}

/// Enqueues the occurrences from `from` (inclusive) to `to` (exclusive) that have not been run. If runs of
/// the schedule must not overlap, each run waits for the previous one.
///
/// # Errors
/// Returns [`ScheduleError::TooWide`] if there are more than [`MAX_BACKFILL_RUNS`] or if `to` is in the
/// future, and [`ScheduleError::Unknown`] if the schedule does not exist.
pub fn backfill(
    tx: &Tx<'_>,
    ctx: &Ctx,
    name: &str,
    from: Timestamp,
    to: Timestamp,
) -> Result<BackfillResult, ScheduleError> {
    let schedule = lock_schedule(tx, name, None)?;
    let spec = schedule.plan.check(schedule.anchor_at)?;
    let (occurrences, more) = spec.between(from, to, MAX_BACKFILL_RUNS as usize);
    if more || to > ctx.now {
        return Err(ScheduleError::TooWide);
    }
    let mut done = BackfillResult { jobs: Vec::new(), skipped: 0 };
    let mut before = Vec::new();
    for at in occurrences {
        if !rows::insert_occurrence(tx, name, at, Origin::Backfill, ctx.now)? {
            done.skipped += 1;
            continue;
        }
        let job = run::enqueue(
            tx,
            ctx,
            &schedule,
            PlannedOccurrence { at, after: &before, delay: Duration::ZERO },
        )?;
        if schedule.plan.overlap != Overlap::Allow {
            before = vec![job];
        }
        done.jobs.push((at, job));
    }
    tx.audit(ctx, "schedule.backfilled", name);
    Ok(done)
}
