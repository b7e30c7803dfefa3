//! Commands that accept, reject and cancel partner requests.

use kith_kernel::{Ctx, UserId};
use kith_store::Tx;

use super::super::model::{BondError, Pair, PartnerRequest, PartnerRequestId, RequestParties, RequestStatus};
use super::super::rules::{self, Decision};
use super::super::{events, rows};
use super::bonding::{find_restorable, form_bond};

/// Accepts a request that `user` received. If it is already accepted, returns it unchanged. With
/// `expects_restoration`, the request is accepted only if this restores a former bond.
///
/// # Errors
/// Returns [`BondError::RequestNotFound`] if `user` cannot see the request, [`BondError::OnlyRecipient`] if
/// `user` sent it, and [`BondError::NotPending`] if it has another final status. Returns
/// [`BondError::RestorationExpired`] if a restoration is expected but not possible, and
/// [`BondError::SlotOccupied`] if one of the two users has a partner.
pub fn accept(
    tx: &Tx<'_>,
    ctx: &Ctx,
    user: UserId,
    id: PartnerRequestId,
    expects_restoration: bool,
) -> Result<PartnerRequest, BondError> {
    let (parties, mut request) = lock_request(tx, ctx, user, id)?;
    match rules::decide_answer(&request, user, RequestStatus::Accepted)? {
        Decision::Repeated => request.bond = rows::find_bond_of_request(tx, id, user)?,
        Decision::Now => {
            let pair = Pair::new(parties.from, user)?;
            if expects_restoration && find_restorable(tx, ctx, pair)?.is_none() {
                return Err(BondError::RestorationExpired);
            }
            form_bond(tx, ctx, pair, id)?;
            request.bond = rows::find_bond_of_request(tx, id, user)?;
            request.status = RequestStatus::Accepted;
            request.restorable_until = None;
        }
    }
    Ok(request)
}

/// Rejects a request that `user` received. If it is already rejected, returns it unchanged.
///
/// # Errors
/// Returns [`BondError::RequestNotFound`] if `user` cannot see the request, [`BondError::OnlyRecipient`] if
/// `user` sent it, and [`BondError::NotPending`] if it has another final status.
pub fn reject(
    tx: &Tx<'_>,
    ctx: &Ctx,
    user: UserId,
    id: PartnerRequestId,
) -> Result<PartnerRequest, BondError> {
    let (parties, mut request) = lock_request(tx, ctx, user, id)?;
    if rules::decide_answer(&request, user, RequestStatus::Rejected)? == Decision::Now {
        rows::reject_request(tx, id, ctx.now)?;
        let refusals = rows::find_refusals(tx, parties.from, user, parties.is_by_email)?;
        rows::upsert_refusals(tx, parties.from, user, parties.is_by_email, refusals.with_rejection(ctx.now))?;
        tx.audit(ctx, "partner_request.rejected", id);
        tx.emit(ctx, events::request_rejected(parties));
        request.status = RequestStatus::Rejected;
        request.restorable_until = None;
    }
    Ok(request)
}

/// Cancels a request that `user` sent. If it is already cancelled, returns it unchanged.
///
/// # Errors
/// Returns [`BondError::RequestNotFound`] if `user` cannot see the request, [`BondError::OnlySender`] if
/// `user` received it, and [`BondError::NotPending`] if it has another final status.
pub fn cancel(
    tx: &Tx<'_>,
    ctx: &Ctx,
    user: UserId,
    id: PartnerRequestId,
) -> Result<PartnerRequest, BondError> {
    let (parties, mut request) = lock_request(tx, ctx, user, id)?;
    if rules::decide_cancel(&request, user)? == Decision::Now {
        let was_pending = rows::cancel_request(tx, id, ctx.now)?;
        let parties = RequestParties { to: parties.to.filter(|_| was_pending), ..parties };
        if let Some(recipient) = parties.to {
            let refusals = rows::find_refusals(tx, user, recipient, parties.is_by_email)?;
            rows::upsert_refusals(
                tx,
                user,
                recipient,
                parties.is_by_email,
                refusals.with_cancellation(ctx.now),
            )?;
        }
        tx.audit(ctx, "partner_request.cancelled", id);
        tx.emit(ctx, events::request_cancelled(parties));
        request.status = RequestStatus::Cancelled;
        request.restorable_until = None;
    }
    Ok(request)
}

/// Locks the sender and the recipient, and reads the request as `user` sees it.
fn lock_request(
    tx: &Tx<'_>,
    ctx: &Ctx,
    user: UserId,
    id: PartnerRequestId,
) -> Result<(RequestParties, PartnerRequest), BondError> {
    let parties = rows::find_parties(tx, id)?.ok_or(BondError::RequestNotFound)?;
    tx.lock("user", std::iter::once(parties.from).chain(parties.to))?;
    rows::prefetch_request(tx, id, user)?;
    if let Some(recipient) = parties.to {
        rows::prefetch_former(tx, Pair::new(parties.from, recipient)?)?;
    }
    // Reads the request again: a block may have hidden it before the lock was acquired.
    let parties = rows::find_parties(tx, id)?.ok_or(BondError::RequestNotFound)?;
    let request = rows::find_request(tx, id, user, ctx.now)?.ok_or(BondError::RequestNotFound)?;
    Ok((parties, request))
}
