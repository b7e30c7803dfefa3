//! Commands on schedules, used by the HTTP API and the command line.

use kith_jobs::schedules::{self, Plan, Schedule, ScheduleError};
use kith_kernel::{Actor, Ctx};
use kith_platform::{Preconditions, ReservedJobs};
use kith_store::{Error, Tx};

use super::model::ScheduleResponse;
use crate::jobs::{JobsError, reject_reserved, reject_reserved_for_api_key};

/// Error of an operation on schedules. If it is returned, nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleCommandError {
    /// The job engine rejected the operation, or the database operation failed.
    #[error(transparent)]
    Engine(#[from] ScheduleError),
    /// The schedule has changed since the caller read it.
    #[error("the resource does not satisfy the preconditions")]
    Changed,
    /// The queue, job kind or schedule is reserved for the server's own work.
    #[error(transparent)]
    Reserved(#[from] JobsError),
}

impl From<Error> for ScheduleCommandError {
    fn from(error: Error) -> Self {
        Self::Engine(error.into())
    }
}

/// Creates or replaces a schedule. The flag in the result is `true` if the schedule is new.
pub fn set(
    tx: &Tx<'_>,
    ctx: &Ctx,
    reserved: ReservedJobs,
    name: &str,
    plan: &Plan,
    preconditions: &Preconditions,
) -> Result<(Schedule, bool), ScheduleCommandError> {
    check_plan(reserved, plan)?;
    match schedules::find_to_change(tx, name)? {
        None => {
            preconditions.check_absent().map_err(|_| ScheduleCommandError::Changed)?;
            Ok((schedules::create(tx, ctx, name, plan.clone(), false)?, true))
        }
        Some(present) => {
            if !present.is_declared {
                check_plan(reserved, &present.plan)?;
            }
            check(preconditions, present)?;
            let replace = |present: &mut Plan| {
                present.clone_from(plan);
                Ok(())
            };
            Ok((schedules::change(tx, ctx, name, None, replace)?, false))
        }
    }
}

/// Deletes a schedule and the history of its runs. Jobs that it has enqueued stay.
pub fn delete(
    tx: &Tx<'_>,
    ctx: &Ctx,
    reserved: ReservedJobs,
    name: &str,
    preconditions: &Preconditions,
) -> Result<(), ScheduleCommandError> {
    let Some(present) = schedules::find_to_change(tx, name)? else {
        preconditions.check_absent().map_err(|_| ScheduleCommandError::Changed)?;
        return Err(ScheduleError::Unknown.into());
    };
    if !present.is_declared {
        reject_reserved_for_api_key(reserved, ctx, Some(&present.plan.queue), Some(&present.plan.kind))?;
    }
    check(preconditions, present)?;
    Ok(schedules::delete(tx, ctx, name, None)?)
}

/// Checks that the actor may pause, resume, run or backfill a schedule. An API key may not if a module
/// declares the schedule, or if its queue or kind is reserved.
pub fn check_operation_allowed(
    tx: &Tx<'_>,
    ctx: &Ctx,
    reserved: ReservedJobs,
    name: &str,
) -> Result<(), ScheduleCommandError> {
    if !matches!(ctx.actor, Actor::ApiKey(_)) {
        return Ok(());
    }
    let present = schedules::find_schedule(tx, name)?.ok_or(ScheduleError::Unknown)?;
    if present.is_declared {
        return Err(JobsError::Reserved { resource: "schedule", name: name.to_owned() }.into());
    }
    Ok(check_plan(reserved, &present.plan)?)
}

fn check_plan(reserved: ReservedJobs, plan: &Plan) -> Result<(), JobsError> {
    reject_reserved(reserved, Some(&plan.queue), Some(&plan.kind))
}

fn check(preconditions: &Preconditions, present: Schedule) -> Result<(), ScheduleCommandError> {
    preconditions.check(&ScheduleResponse::from(present)).map_err(|_| ScheduleCommandError::Changed)
}
