//! Commands on requests, bonds and invites. Each runs in one transaction: lock both users, read, decide,
//! write.

mod bonding;
mod deciding;
mod expiring;
mod invites;
mod reporting;
mod sending;

pub use bonding::{break_up, end_all_for_user, handle_block, handle_unblock};
pub use deciding::{accept, cancel, reject};
pub use expiring::expire;
pub use invites::{InviteAttempt, create_invite, preview_invite, revoke_invite};
pub use reporting::report;
pub use sending::{SendOutcome, SendingLimits, send};

use kith_kernel::{Ctx, UserId};
use kith_store::Tx;

use super::model::{BondError, PartnerSettings};
use super::{events, rows};

/// Changes the partner settings of a user. Pending requests are not affected.
///
/// # Errors
/// Returns [`BondError::Store`] if the database operation fails.
pub fn change_settings(
    tx: &Tx<'_>,
    ctx: &Ctx,
    user: UserId,
    change: impl Fn(PartnerSettings) -> PartnerSettings,
) -> Result<PartnerSettings, BondError> {
    tx.lock("user", [user])?;
    let known = rows::find_settings(tx, user)?;
    let settings = change(known);
    if settings != known {
        rows::upsert_settings(tx, user, settings)?;
        tx.audit(ctx, "partner_settings.changed", user);
        tx.emit(ctx, events::settings_changed(user));
    }
    Ok(settings)
}
