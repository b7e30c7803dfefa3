//! Messages are reported, for moderators to look at.

use kith_kernel::{Ctx, UserId};
use kith_store::Tx;

use super::super::model::{BondError, PartnerRequestId, ReportReason, RequestReport};
use super::super::{events, rows};

/// Reports the message of a request that `user` received, as it is now. Doing it again changes nothing: the first report
/// stands. The flag says whether it is new.
///
/// # Errors
/// [`BondError::RequestNotFound`], [`BondError::OnlyReceiver`], [`BondError::NothingToReport`].
pub fn report(
    tx: &Tx<'_>,
    ctx: &Ctx,
    user: UserId,
    id: PartnerRequestId,
    reason: ReportReason,
    note: Option<&str>,
) -> Result<(RequestReport, bool), BondError> {
    let parties = rows::find_parties(tx, id)?.ok_or(BondError::RequestNotFound)?;
    if parties.from == user {
        return Err(BondError::OnlyReceiver);
    }
    // Whoever has shut the door since may still report.
    let message = rows::find_received_message(tx, id, user)?.ok_or(BondError::RequestNotFound)?;
    if message.is_none() {
        return Err(BondError::NothingToReport);
    }
    let report = RequestReport { id: ctx.new_id(|id| id), created_at: ctx.now };
    if rows::insert_report(tx, &report, parties, user, reason, note)? {
        tx.audit(ctx, "partner_request.reported", id);
        tx.emit(ctx, events::request_reported(parties, user));
        return Ok((report, true));
    }
    let known = rows::find_report(tx, id, user)?;
    Ok((known.ok_or(BondError::RequestNotFound)?, false))
}
