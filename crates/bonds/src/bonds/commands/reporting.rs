//! Command that reports the message of a partner request to the moderators.

use kith_kernel::{Ctx, UserId};
use kith_store::Tx;

use super::super::model::{BondError, PartnerRequestId, ReportReason, RequestReport};
use super::super::{events, rows};

/// Reports the message of a request that `user` received. If the user has already reported it, returns the
/// first report. The flag is `true` if the report is new.
///
/// # Errors
/// Returns [`BondError::RequestNotFound`], [`BondError::OnlyRecipient`], or [`BondError::NothingToReport`] if
/// the request has no message.
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
        return Err(BondError::OnlyRecipient);
    }
    // The recipient may report the message after blocking its sender.
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
