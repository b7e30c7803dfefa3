//! Making, changing and removing schedules as requests ask for it.

use kith_jobs::schedules::{self, Plan, Schedule, ScheduleError};
use kith_kernel::Ctx;
use kith_platform::IfMatch;
use kith_store::{Error, Tx};
use serde_json::Value;

use super::answers::ScheduleAnswer;

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The engine's reason.
    #[error(transparent)]
    Engine(#[from] ScheduleError),
    /// It is not as whoever asks has seen it.
    #[error("it has changed since it was read")]
    Changed,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Engine(error.into())
    }
}

/// Makes a schedule what `plan` says; says whether it is new.
pub fn set(
    tx: &Tx<'_>,
    ctx: &Ctx,
    name: &str,
    plan: &Plan,
    meant_for: &IfMatch,
) -> Result<(Schedule, bool), Refusal> {
    match schedules::find_to_change(tx, name)? {
        None => {
            meant_for.check(&Value::Null).map_err(|_| Refusal::Changed)?;
            Ok((schedules::create(tx, ctx, name, plan.clone(), false)?, true))
        }
        Some(present) => {
            check(meant_for, present)?;
            let replace = |present: &mut Plan| {
                present.clone_from(plan);
                Ok(())
            };
            Ok((schedules::change(tx, ctx, name, None, replace)?, false))
        }
    }
}

/// Removes a schedule and what is known of its runs; its jobs stay.
pub fn delete(tx: &Tx<'_>, ctx: &Ctx, name: &str, meant_for: &IfMatch) -> Result<(), Refusal> {
    let present = schedules::find_to_change(tx, name)?.ok_or(ScheduleError::Unknown)?;
    check(meant_for, present)?;
    Ok(schedules::delete(tx, ctx, name, None)?)
}

fn check(meant_for: &IfMatch, present: Schedule) -> Result<(), Refusal> {
    meant_for.check(&ScheduleAnswer::from(present)).map_err(|_| Refusal::Changed)
}
