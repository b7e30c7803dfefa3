//! Maintenance jobs of callbacks: delete callbacks that ended long ago, and enqueue open callbacks whose job
//! has ended or was deleted.

use std::time::Duration;

use kith_kernel::{days, minutes};
use kith_platform::{App, MaintenanceError};
use kith_store::Error;

use super::{commands, rows};

/// Time for which a callback and its attempts stay stored after the callback has ended.
const RETENTION: Duration = days(30);
/// Number of callbacks processed in one transaction.
const BATCH_SIZE: i64 = 200;
/// Delay of an attempt after which the job of the open callback is checked. Shorter delays are normal in a
/// queue.
const OVERDUE: Duration = minutes(1);

/// Deletes callbacks whose retention has ended. Several nodes may run this at the same time.
///
/// # Errors
/// Returns an error if the database operation fails.
pub async fn delete_ended(app: App) -> Result<(), MaintenanceError> {
    let ctx = app.system_ctx("maintenance");
    loop {
        let forgotten = app.write(&ctx, |tx, ctx| {
            let due = rows::list_finished(tx, ctx.now - RETENTION, BATCH_SIZE)?;
            due.iter().try_for_each(|id| rows::delete(tx, *id))?;
            Ok::<_, Error>(due.len() as i64)
        });
        if forgotten.await? < BATCH_SIZE {
            return Ok(());
        }
    }
}

/// Enqueues the delivery of each overdue callback whose job has ended or was deleted. Several nodes may run
/// this at the same time.
///
/// # Errors
/// Returns an error if the database operation fails.
pub async fn enqueue_lost(app: App) -> Result<(), MaintenanceError> {
    let ctx = app.system_ctx("callbacks");
    let mut after = None;
    loop {
        let before = ctx.refreshed().now - OVERDUE;
        let overdue = app.db.read(move |q| rows::list_overdue(q, before, after, BATCH_SIZE)).await?;
        let found = overdue.len() as i64;
        after = overdue.last().map(|one| (one.next_attempt_at, one.id));
        let lost = app.db.read(move |q| {
            let mut lost = Vec::new();
            for one in &overdue {
                if commands::has_job_ended(q, one.job_id)? {
                    lost.push(one.id);
                }
            }
            Ok::<_, Error>(lost)
        });
        for id in lost.await? {
            app.write(&ctx, move |tx, ctx| commands::reenqueue(tx, ctx, id)).await?;
        }
        if found < BATCH_SIZE {
            return Ok(());
        }
    }
}
