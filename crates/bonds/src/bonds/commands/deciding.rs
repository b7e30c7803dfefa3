//! Requests are accepted, rejected, taken back.

use kith_kernel::{Ctx, UserId};
use kith_store::Tx;

use super::super::model::{BondError, Pair, Parties, PartnerRequest, PartnerRequestId, RequestStatus};
use super::super::rules::{self, Deciding};
use super::super::{events, rows};
use super::bonding::{find_restorable, form_bond};

/// Accepts a request that `user` received. Doing it again changes nothing and answers the same. With `expects_restoration`
/// only if that brings a former bond back.
///
/// # Errors
/// [`BondError`] says what is in the way.
pub fn accept(
    tx: &Tx<'_>,
    ctx: &Ctx,
    user: UserId,
    id: PartnerRequestId,
    expects_restoration: bool,
) -> Result<PartnerRequest, BondError> {
    let (parties, mut request) = lock_request(tx, ctx, user, id)?;
    match rules::may_answer(&request, user, RequestStatus::Accepted)? {
        Deciding::Repeated => request.bond = rows::find_bond_of_request(tx, id, user)?,
        Deciding::Now => {
            let pair = Pair::of(parties.from, user)?;
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

/// Rejects a request that `user` received. Doing it again changes nothing and answers the same.
///
/// # Errors
/// [`BondError`] says what is in the way.
pub fn reject(
    tx: &Tx<'_>,
    ctx: &Ctx,
    user: UserId,
    id: PartnerRequestId,
) -> Result<PartnerRequest, BondError> {
    let (parties, mut request) = lock_request(tx, ctx, user, id)?;
    if rules::may_answer(&request, user, RequestStatus::Rejected)? == Deciding::Now {
        rows::reject_request(tx, id, ctx.now)?;
        let refusals = rows::find_refusals(tx, parties.from, user, parties.by_email)?;
        rows::upsert_refusals(tx, parties.from, user, parties.by_email, refusals.and_rejected(ctx.now))?;
        tx.audit(ctx, "partner_request.rejected", id);
        tx.emit(ctx, events::request_rejected(parties));
        request.status = RequestStatus::Rejected;
        request.restorable_until = None;
    }
    Ok(request)
}

/// Takes back a request that `user` sent. Doing it again changes nothing and answers the same.
///
/// # Errors
/// [`BondError`] says what is in the way.
pub fn cancel(
    tx: &Tx<'_>,
    ctx: &Ctx,
    user: UserId,
    id: PartnerRequestId,
) -> Result<PartnerRequest, BondError> {
    let (parties, mut request) = lock_request(tx, ctx, user, id)?;
    if rules::may_cancel(&request, user)? == Deciding::Now {
        let waited = rows::cancel_request(tx, id, ctx.now)?;
        let parties = Parties { to: parties.to.filter(|_| waited), ..parties };
        if let Some(receiver) = parties.to {
            let refusals = rows::find_refusals(tx, user, receiver, parties.by_email)?;
            rows::upsert_refusals(tx, user, receiver, parties.by_email, refusals.and_cancelled(ctx.now))?;
        }
        tx.audit(ctx, "partner_request.cancelled", id);
        tx.emit(ctx, events::request_cancelled(parties));
        request.status = RequestStatus::Cancelled;
        request.restorable_until = None;
    }
    Ok(request)
}

/// Locks both, and reads the request as `user` sees it.
fn lock_request(
    tx: &Tx<'_>,
    ctx: &Ctx,
    user: UserId,
    id: PartnerRequestId,
) -> Result<(Parties, PartnerRequest), BondError> {
    let parties = rows::find_parties(tx, id)?.ok_or(BondError::RequestNotFound)?;
    tx.lock("user", std::iter::once(parties.from).chain(parties.to))?;
    // Who may see it may have changed before it was locked.
    let parties = rows::find_parties(tx, id)?.ok_or(BondError::RequestNotFound)?;
    let request = rows::find_request(tx, id, user, ctx.now)?.ok_or(BondError::RequestNotFound)?;
    Ok((parties, request))
}
