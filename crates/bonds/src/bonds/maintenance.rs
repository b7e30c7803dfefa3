//! Maintenance of requests and bonds: records expiry, archives ended bonds, deletes old invites. Queries and
//! commands judge expiry by the clock, so nothing depends on when these jobs run.

use std::time::Duration;

use kith_kernel::uuid::Uuid;
use kith_kernel::{Ctx, Timestamp, days, hours};
use kith_platform::{App, MaintenanceError};
use kith_store::{Error, Tx};

use super::model::{ActiveBond, PartnerRequestId, restorable_until};
use super::rules::{FAILED_ATTEMPTS_WINDOW, REQUEST_LIFETIME};
use super::{commands, events, rows};

/// Time after the expiry of a request by e-mail address for which its sender can still see the address.
const ADDRESS_RETENTION: Duration = days(30);
/// Maximum number of rows per transaction.
const BATCH_SIZE: i64 = 500;

/// Records which requests have expired, and deletes the e-mail addresses of old requests. Several nodes may
/// run it at once.
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

/// Archives bonds that can no longer be restored.
///
/// # Errors
/// Returns an error if the database operation fails.
pub async fn archive_ended(app: App) -> Result<(), MaintenanceError> {
    let ctx = app.system_ctx("maintenance");
    while archive_batch(&app, &ctx).await? {}
    Ok(())
}

/// Deletes invites and failed attempts that no longer matter.
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

/// Records a batch of expired requests. Returns `true` if there may be more. All requests have the same
/// lifetime, so they expire in the order of their IDs. The mark passes a request only after its expiry is
/// recorded, so that several nodes may run this at once.
async fn expire_batch(app: &App, ctx: &Ctx) -> Result<bool, MaintenanceError> {
    // An hour of margin, because the clocks of the nodes that made the IDs differ.
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

/// Returns the smallest ID (UUIDv7, RFC 9562) of requests made at `at`. IDs of earlier requests are smaller.
fn first_id_at(at: Timestamp) -> PartnerRequestId {
    let millis = u64::try_from(at.as_millis()).unwrap_or(0);
    PartnerRequestId(Uuid::from_u128(u128::from(millis) << 80))
}

/// Archives a batch of bonds. Returns `true` if there may be more. Each pair is locked and checked again,
/// because it may be restored meanwhile.
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
