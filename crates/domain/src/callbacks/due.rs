//! What time does to callbacks: those that have come to their end are forgotten.

use std::time::Duration;

use kith_kernel::days;
use kith_platform::{App, UpkeepError};
use kith_store::Error;

use super::rows;

/// How long a callback and its attempts are kept after its end.
const KEPT: Duration = days(30);
/// Callbacks forgotten in one transaction.
const AT_ONCE: i64 = 200;

/// Forgets what is due. Any number of nodes may do it at once.
///
/// # Errors
/// The database's.
pub async fn run(app: App) -> Result<(), UpkeepError> {
    let ctx = app.system_ctx("upkeep");
    loop {
        let forgotten = app.write(&ctx, |tx, ctx| {
            let due = rows::list_finished(tx, ctx.now - KEPT, AT_ONCE)?;
            due.iter().try_for_each(|id| rows::delete(tx, *id))?;
            Ok::<_, Error>(due.len() as i64)
        });
        if forgotten.await? < AT_ONCE {
            return Ok(());
        }
    }
}
