//! Maintenance jobs of requests, bonds and invites: record expiry, archive ended bonds, delete old invites.
//! Queries and commands compare expiry times with the clock, so their results do not depend on when these
//! jobs run.

use std::time::Duration;

use kith_kernel::uuid::Uuid;
use kith_kernel::{Ctx, Timestamp, days, hours};
use kith_platform::{App, MaintenanceError};
use kith_store::{Error, Tx};

use super::model::{ActiveBond, PartnerRequestId, restorable_until};
use super::rules::{FAILED_ATTEMPTS_WINDOW, REQUEST_LIFETIME};
use super::{commands, events, rows};

/// Time after the expiry of a request by e-mail address during which its sender can still see the address.
const ADDRESS_RETENTION: Duration = days(30);
/// Maximum number of rows per transaction.
const BATCH_SIZE: i64 = 500;

/// Records the expiry of requests, and deletes the e-mail addresses of old requests. Several nodes may run
/// this at the same time.
///
/// # Errors
/// Returns an error if the database operation fails.
pub async fn expire_requests(app: App) -> Result<(), MaintenanceError> {
    let ctx = app.system_ctx("maintenance");
    while expire_batch(&app, &ctx).await? {}
    app.write(&ctx, |tx, ctx| {
        let until = first_id_at(ctx.now - REQUEST_LIFETIME - ADDRESS_RETENTION);
        rows::delete_email_addresses(tx, until, BATCH_SIZE)
    })
    .await?;
    Ok(())
}

/// Archives the ended bonds that can no longer be restored.
///
/// # Errors
/// Returns an error if the database operation fails.
pub async fn archive_ended(app: App) -> Result<(), MaintenanceError> {
    let ctx = app.system_ctx("maintenance");
    while archive_batch(&app, &ctx).await? {}
    Ok(())
}

/// Deletes invites 30 days after their expiry, and failed attempts that are older than the window of their
/// limit.
///
/// # Errors
/// Returns an error if the database operation fails.
pub async fn delete_old_invites(app: App) -> Result<(), MaintenanceError> {
    app.write(&app.system_ctx("maintenance"), |tx, ctx| {
        rows::delete_old_invites(tx, ctx.now - FAILED_ATTEMPTS_WINDOW, ctx.now - hours(24 * 30))
    })
    .await?;
    Ok(())
}

/// Records the expiry of a batch of requests. Returns `true` if there may be more. All requests have the
/// same lifetime, so they expire in the order of their IDs. The stored progress passes a request only after
/// its expiry is recorded, so several nodes may run this at the same time.
async fn expire_batch(app: &App, ctx: &Ctx) -> Result<bool, MaintenanceError> {
    // A margin of one hour, because the clocks of the nodes that create the IDs may differ.
    let until = first_id_at(ctx.refreshed().now - REQUEST_LIFETIME - hours(1));
    let listed = app.db.read(move |q| {
        let after = rows::find_expiry_progress(q)?.unwrap_or(PartnerRequestId(Uuid::nil()));
        rows::list_expired(q, after, until, BATCH_SIZE)
    });
    let listed = listed.await?;
    for expired in listed.iter().filter(|expired| expired.is_pending) {
        let (id, from) = (expired.id, expired.from);
        app.write(ctx, move |tx, ctx| {
            tx.lock("user", [from])?;
            commands::expire(tx, ctx, id)
        })
        .await?;
    }
    let Some(last) = listed.last().map(|expired| expired.id) else { return Ok(false) };
    app.write(ctx, move |tx, _| rows::set_expiry_progress(tx, last)).await?;
    Ok(listed.len() as i64 == BATCH_SIZE)
}

/// Returns the smallest possible ID (UUIDv7, RFC 9562) of a request created at `at`.
fn first_id_at(at: Timestamp) -> PartnerRequestId {
    let millis = u64::try_from(at.as_millis()).unwrap_or(0);
    PartnerRequestId(Uuid::from_u128(u128::from(millis) << 80))
}

/// Archives a batch of bonds. Returns `true` if there may be more. Each bond is locked and checked again,
/// because it may have been restored meanwhile.
async fn archive_batch(app: &App, ctx: &Ctx) -> Result<bool, MaintenanceError> {
    let now = ctx.refreshed().now;
    let due = app.db.read(move |q| rows::list_archivable_bonds(q, ended_before(now), BATCH_SIZE)).await?;
    for bond in &due {
        let bond = *bond;
        app.write(ctx, move |tx, ctx| archive(tx, ctx, bond)).await?;
    }
    Ok(due.len() as i64 == BATCH_SIZE)
}

/// Returns the time before which a bond must have ended so that it cannot be restored at `now`.
pub fn ended_before(now: Timestamp) -> Timestamp {
    now - restorable_until(Timestamp::EPOCH).since(Timestamp::EPOCH)
}

fn archive(tx: &Tx<'_>, ctx: &Ctx, ActiveBond { id, users }: ActiveBond) -> Result<(), Error> {
    tx.lock("user", users)?;
    if rows::archive_bond(tx, id, ended_before(ctx.now), ctx.now)? {
        tx.audit(ctx, "bond.archived", id);
        tx.emit(ctx, events::bond_archived(id, users));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use kith_kernel::{Ids as _, SystemRandom, TimeOrderedIds};

    use super::*;

    #[test]
    fn ids_sort_by_creation_time() {
        let id_at = |at| PartnerRequestId(TimeOrderedIds::new(SystemRandom).next(at));
        let at = Timestamp::EPOCH + days(20_000);
        assert!(id_at(at) > first_id_at(at));
        assert!(id_at(at - Duration::from_millis(1)) < first_id_at(at));
    }

    #[test]
    fn restoration_window_includes_its_end() {
        let ended = Timestamp::EPOCH + days(100);
        let last = restorable_until(ended);
        assert!(ended >= ended_before(last), "the bond can still be restored");
        assert!(ended < ended_before(last + Duration::from_millis(1)));
    }
}
