//! What time does to requests and bonds: it is written down here, and counts whether or not that has happened yet.

use std::time::Duration;

use kith_kernel::uuid::Uuid;
use kith_kernel::{Ctx, Timestamp, days, hours};
use kith_platform::{App, UpkeepError};
use kith_store::{Error, Tx};

use super::model::{Living, PartnerRequestId, restorable_until};
use super::rules::{MISSES_WITHIN, REQUEST_LIFETIME};
use super::{commands, events, rows};

/// After a request by address has run out, its sender sees for so long whom they asked.
const ADDRESSES_KEPT: Duration = days(30);
/// Rows looked at in one transaction.
const AT_ONCE: i64 = 500;

/// Writes down which requests have expired, and forgets which addresses were asked long ago. Any number of nodes may do
/// it at once.
///
/// # Errors
/// The database's.
pub async fn expire_requests(app: App) -> Result<(), UpkeepError> {
    let ctx = app.system_ctx("upkeep");
    while expire_some(&app, &ctx).await? {}
    app.write(&ctx, |tx, ctx| {
        let until = last_id_before(ctx.now - REQUEST_LIFETIME - ADDRESSES_KEPT);
        rows::forget_addresses(tx, until, AT_ONCE)
    })
    .await?;
    Ok(())
}

/// Writes down which bonds can no longer come back.
///
/// # Errors
/// The database's.
pub async fn archive_ended(app: App) -> Result<(), UpkeepError> {
    let ctx = app.system_ctx("upkeep");
    while archive_some(&app, &ctx).await? {}
    Ok(())
}

/// Forgets invites that nobody can use any more.
///
/// # Errors
/// The database's.
pub async fn tidy_invites(app: App) -> Result<(), UpkeepError> {
    app.write(&app.system_ctx("upkeep"), |tx, ctx| {
        rows::tidy_invites(tx, ctx.now - MISSES_WITHIN, ctx.now - hours(24 * 30))
    })
    .await?;
    Ok(())
}

/// Returns whether there may be more. Requests all live equally long, so they expire in the order of their ids. Several nodes
/// may do the same at once; the mark passes a request only when that is written down.
async fn expire_some(app: &App, ctx: &Ctx) -> Result<bool, UpkeepError> {
    // Ids are made on several nodes, whose clocks differ a little.
    let until = last_id_before(ctx.renewed().now - REQUEST_LIFETIME - hours(1));
    let listed = app.db.read(move |q| {
        let after = rows::find_expiry_mark(q)?.unwrap_or(PartnerRequestId(Uuid::nil()));
        rows::list_expired(q, after, until, AT_ONCE)
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
    app.write(ctx, move |tx, _| rows::set_expiry_mark(tx, last)).await?;
    Ok(listed.len() as i64 == AT_ONCE)
}

/// What no id (UUIDv7, RFC 9562) that was made before `at` lies behind.
fn last_id_before(at: Timestamp) -> PartnerRequestId {
    let millis = u64::try_from(at.as_millis()).unwrap_or(0);
    PartnerRequestId(Uuid::from_u128(u128::from(millis) << 80))
}

/// Whether there may be more. Each pair is locked and looked at again: they may come back together at any moment.
async fn archive_some(app: &App, ctx: &Ctx) -> Result<bool, UpkeepError> {
    let now = ctx.renewed().now;
    let due = app.db.read(move |q| rows::list_to_archive(q, ended_before(now), AT_ONCE)).await?;
    for bond in &due {
        let bond = *bond;
        app.write(ctx, move |tx, ctx| archive(tx, ctx, bond)).await?;
    }
    Ok(due.len() as i64 == AT_ONCE)
}

/// A bond that ended before this cannot come back at `now`.
pub fn ended_before(now: Timestamp) -> Timestamp {
    now - restorable_until(Timestamp::EPOCH).since(Timestamp::EPOCH)
}

fn archive(tx: &Tx<'_>, ctx: &Ctx, Living { id, users }: Living) -> Result<(), Error> {
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
    fn ids_stand_on_the_side_of_the_moment_they_were_made_at() {
        let id_at = |at| PartnerRequestId(TimeOrderedIds::new(SystemRandom).next(at));
        let at = Timestamp::EPOCH + days(20_000);
        assert!(id_at(at) > last_id_before(at));
        assert!(id_at(at - Duration::from_millis(1)) < last_id_before(at));
    }

    #[test]
    fn the_last_moment_of_the_window_counts() {
        let ended = Timestamp::EPOCH + days(100);
        let last = restorable_until(ended);
        assert!(ended >= ended_before(last), "it can still come back");
        assert!(ended < ended_before(last + Duration::from_millis(1)));
    }
}
