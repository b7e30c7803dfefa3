//! Schedules declared in code. At each start, the schedules in the database are updated to the declarations.

use std::collections::BTreeMap;

use kith_kernel::Ctx;
use kith_store::{Error, Tx};

use super::commands::{new_schedule, save, with_plan};
use super::model::{DeclaredSchedule, LOCK, Schedule, ScheduleError};
use super::queries::ScheduleFilter;
use crate::jobs::Jobs;
use crate::rows::schedules as rows;

/// Changes that were made in the database to match the declared schedules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeclaredChanges {
    /// Names of new schedules.
    pub added: Vec<String>,
    /// Names of schedules whose plan has changed. They keep their progress if their times are the same.
    pub changed: Vec<String>,
    /// Names of schedules that are no longer declared and were deleted.
    pub removed: Vec<String>,
}

impl Jobs {
    /// Updates the schedules in the database to the declarations of this build. `declared` lists the
    /// schedules of each module. Schedules that are paused stay paused.
    ///
    /// # Errors
    /// Returns [`Error::Fault`] if a declaration is invalid, or the error of the database.
    pub async fn declare(
        &self,
        declared: Vec<(&'static str, &'static [DeclaredSchedule])>,
    ) -> Result<DeclaredChanges, Error> {
        let ctx = self.ctx();
        let done = self.db().write(move |tx| declare(tx, &ctx.refreshed(), &declared)).await?;
        if done != DeclaredChanges::default() {
            tracing::info!(added = ?done.added, changed = ?done.changed, removed = ?done.removed, "declared schedules");
        }
        Ok(done)
    }
}

fn declare(
    tx: &Tx<'_>,
    ctx: &Ctx,
    declared: &[(&'static str, &'static [DeclaredSchedule])],
) -> Result<DeclaredChanges, Error> {
    let mut wanted = BTreeMap::new();
    for (module, schedules) in declared {
        wanted.extend(schedules.iter().map(|one| (one.name.to_owned(), (format!("module:{module}"), one))));
    }
    let filter = ScheduleFilter { is_declared: Some(true), ..ScheduleFilter::default() };
    let names = rows::list(tx, &filter, i64::MAX)?.into_iter().map(|one| one.name);
    let all: Vec<_> = names.chain(wanted.keys().cloned()).collect();
    tx.lock(LOCK, &all)?;
    // The schedules are read again under the lock, because another node may have changed them.
    let known = rows::list(tx, &filter, i64::MAX)?;
    let mut done = DeclaredChanges::default();
    for before in known {
        match wanted.remove(&before.name) {
            None => {
                rows::delete(tx, &before.name)?;
                tx.audit(ctx, "schedule.deleted", &before.name);
                done.removed.push(before.name);
            }
            Some((owner, one)) => {
                let after = Schedule { owner, ..with_plan(ctx, &before, one.plan()).map_err(wrong(one))? };
                if (&after.plan, &after.owner) != (&before.plan, &before.owner) {
                    save(tx, &before, &after).map_err(wrong(one))?;
                    tx.audit(ctx, "schedule.changed", &before.name);
                    done.changed.push(before.name);
                }
            }
        }
    }
    for (name, (owner, one)) in wanted {
        let new = Schedule {
            is_declared: true,
            ..new_schedule(ctx, &name, owner, one.plan()).map_err(wrong(one))?
        };
        if rows::insert(tx, &new)? {
            tx.audit(ctx, "schedule.created", &name);
            done.added.push(name);
        } else {
            tracing::error!(schedule = name, "a schedule with the declared name exists");
        }
    }
    Ok(done)
}

fn wrong(one: &'static DeclaredSchedule) -> impl Fn(ScheduleError) -> Error {
    move |error| match error {
        ScheduleError::Store(error) => error,
        error => Error::fault(format!("the schedule {} is declared wrongly: {error}", one.name)),
    }
}
