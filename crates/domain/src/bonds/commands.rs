//! Changes to requests and bonds, a transaction each: lock both people, read, decide, write.

use kith_kernel::{Ctx, UserId};
use kith_store::Tx;

use super::events::{self, Parties};
use super::model::{
    Bond, BondError, BondId, Draft, Pair, PartnerRequest, PartnerRequestId, RequestStatus, Standing,
};
use super::rows;
use super::rules::{self, Accepting, Sending, Tier};
use crate::accounts::Person;

/// What sending came to.
pub enum Sent {
    /// A new request; one that crossed another is accepted, and has its bond.
    New(PartnerRequest),
    /// The same had been sent before; nothing changed.
    Repeated(PartnerRequest),
}

/// Asks somebody to be one's partner.
///
/// # Errors
/// [`BondError`] says what is in the way.
pub fn send(
    tx: &Tx<'_>,
    ctx: &Ctx,
    sender: UserId,
    draft: &Draft,
    tiers: &[Tier],
) -> Result<Sent, BondError> {
    let pair = Pair::of(sender, draft.to)?;
    tx.lock("user", pair.users())?;
    let standing = rows::find_standing(tx, sender, draft.to, pair, ctx.now)?;
    let standing = standing.ok_or(BondError::ReceiverNotFound)?;
    match rules::may_send(&standing, draft.message.as_deref()) {
        Ok(Sending::New { lapsed }) => {
            check_tiers(tx, ctx, sender, tiers)?;
            create(tx, ctx, pair, &standing, draft, lapsed).map(Sent::New)
        }
        Ok(Sending::Crossed(theirs)) => {
            check_tiers(tx, ctx, sender, tiers)?;
            cross(tx, ctx, pair, &standing, draft, theirs).map(Sent::New)
        }
        Ok(Sending::Repeated(request)) => Ok(Sent::Repeated(request.clone())),
        Err(BondError::SlotOccupied) => find_repeated(tx, ctx, sender, draft).map(Sent::Repeated),
        Err(refusal) => Err(refusal),
    }
}

/// Counted in the transaction, over what was made: neither a restart nor another node forgets any of it.
fn check_tiers(tx: &Tx<'_>, ctx: &Ctx, sender: UserId, tiers: &[Tier]) -> Result<(), BondError> {
    let Some(widest) = tiers.iter().max_by_key(|tier| tier.within) else { return Ok(()) };
    let recent = rows::list_recently_sent(tx, sender, ctx.now - widest.within, widest.most)?;
    rules::may_create(tiers, &recent, ctx.now)
}

/// Accepts a request that `user` received. Doing it again changes nothing and answers the same.
///
/// # Errors
/// [`BondError`] says what is in the way.
pub fn accept(
    tx: &Tx<'_>,
    ctx: &Ctx,
    user: UserId,
    id: PartnerRequestId,
) -> Result<PartnerRequest, BondError> {
    let [from, to] = rows::find_parties(tx, id)?.ok_or(BondError::RequestNotFound)?;
    tx.lock("user", [from, to])?;
    let mut request = rows::find_request(tx, id, ctx.now)?.ok_or(BondError::RequestNotFound)?;
    match rules::may_accept(&request, user)? {
        Accepting::Repeated => request.bond = rows::find_bond_of_request(tx, id, user)?,
        Accepting::Now => {
            let bond = form_bond(tx, ctx, Pair::of(from, to)?, &request)?;
            request.status = RequestStatus::Accepted;
            request.bond = Some(fresh_bond(ctx, bond, &request.from));
        }
    }
    Ok(request)
}

fn create(
    tx: &Tx<'_>,
    ctx: &Ctx,
    pair: Pair,
    standing: &Standing,
    draft: &Draft,
    lapsed: Option<&PartnerRequest>,
) -> Result<PartnerRequest, BondError> {
    if let Some(lapsed) = lapsed {
        expire(tx, ctx, lapsed)?;
    }
    let request = PartnerRequest::new(ctx, standing, draft, RequestStatus::Pending);
    if !rows::insert_request(tx, &request, pair, None)? {
        return Err(BondError::AlreadyPending);
    }
    tx.audit(ctx, "partner_request.created", request.id);
    tx.emit(ctx, events::request_created(Parties::of(&request)));
    Ok(request)
}

/// Both have asked. Both requests are kept, accepted and leading to the one bond.
fn cross(
    tx: &Tx<'_>,
    ctx: &Ctx,
    pair: Pair,
    standing: &Standing,
    draft: &Draft,
    theirs: &PartnerRequest,
) -> Result<PartnerRequest, BondError> {
    let mut request = PartnerRequest::new(ctx, standing, draft, RequestStatus::Accepted);
    tx.audit(ctx, "partner_request.created", request.id);
    tx.emit(ctx, events::request_created(Parties::of(&request)));
    let bond = form_bond(tx, ctx, pair, theirs)?;
    rows::insert_request(tx, &request, pair, Some(bond))?;
    tx.audit(ctx, "partner_request.accepted", request.id);
    tx.emit(ctx, events::request_accepted(Parties::of(&request)));
    request.bond = Some(fresh_bond(ctx, bond, &standing.receiver));
    Ok(request)
}

/// A bonded sender is refused, unless this is the very request that led to the bond.
fn find_repeated(tx: &Tx<'_>, ctx: &Ctx, sender: UserId, draft: &Draft) -> Result<PartnerRequest, BondError> {
    let request = rows::find_request_behind_bond(tx, sender, draft.to, ctx.now)?;
    let mut request =
        request.filter(|request| request.message == draft.message).ok_or(BondError::SlotOccupied)?;
    request.bond = rows::find_bond_of_request(tx, request.id, sender)?;
    Ok(request)
}

/// Makes the bond that `accepted` asks for, fills both slots, and lets every other request of either make way.
fn form_bond(tx: &Tx<'_>, ctx: &Ctx, pair: Pair, accepted: &PartnerRequest) -> Result<BondId, BondError> {
    let bond = ctx.new_id(BondId);
    rows::insert_bond(tx, bond, pair, ctx.now)?;
    if !rows::fill_slots(tx, bond, pair)? {
        return Err(BondError::SlotOccupied);
    }
    let decided = rows::decide_pending(tx, accepted.id, bond, pair, ctx.now)?;
    let (accepted, closed): (Vec<_>, Vec<_>) =
        decided.into_iter().partition(|parties| parties.request == accepted.id);
    if accepted.is_empty() {
        return Err(BondError::NotPending(RequestStatus::Superseded));
    }
    for parties in accepted {
        tx.audit(ctx, "partner_request.accepted", parties.request);
        tx.emit(ctx, events::request_accepted(parties));
    }
    for parties in closed {
        tx.audit(ctx, "partner_request.superseded", parties.request);
        tx.emit(ctx, events::request_closed(parties));
    }
    tx.audit(ctx, "bond.created", bond);
    tx.emit(ctx, events::bond_created(bond, pair));
    Ok(bond)
}

fn expire(tx: &Tx<'_>, ctx: &Ctx, request: &PartnerRequest) -> Result<(), BondError> {
    if rows::expire_request(tx, request.id)? {
        tx.audit(ctx, "partner_request.expired", request.id);
        tx.emit(ctx, events::request_expired(Parties::of(request)));
    }
    Ok(())
}

fn fresh_bond(ctx: &Ctx, id: BondId, partner: &Person) -> Bond {
    Bond { id, partner: partner.clone(), since: ctx.now, restored_at: None, restorations: 0 }
}
