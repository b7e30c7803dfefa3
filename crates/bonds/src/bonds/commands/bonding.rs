//! Commands that form, restore and end bonds, and hooks that apply blocks and deletions to them.

use kith_kernel::{Actor, Ctx, UserId};
use kith_store::{Error, Tx};

use super::super::model::{
    ActiveBond, BondError, BondHistoryEntry, BondId, FormerBond, Pair, PartnerRequestId, RequestStatus,
    restorable_until,
};
use super::super::{events, queries, rows};
use super::expiring::{audit_context, expire};

/// Returns the former bond of a pair if it can be restored at the time of `ctx`.
pub fn find_restorable(tx: &Tx<'_>, ctx: &Ctx, pair: Pair) -> Result<Option<FormerBond>, Error> {
    let former = rows::find_former(tx, pair)?;
    Ok(former.filter(|former| restorable_until(former.ended_at) >= ctx.now))
}

/// Forms the bond for the request `accepted`, or restores the former bond of the pair. Fills the partner
/// slots of both users and supersedes all their other pending requests. The caller must have locked both
/// users.
pub fn form_bond(
    tx: &Tx<'_>,
    ctx: &Ctx,
    pair: Pair,
    accepted: PartnerRequestId,
) -> Result<BondId, BondError> {
    let former = find_restorable(tx, ctx, pair)?;
    let id = former.map_or_else(|| ctx.new_id(BondId), |former| former.id);
    match &former {
        Some(former) => rows::restore_bond(tx, former, ctx.now)?,
        None => rows::insert_bond(tx, id, pair, ctx.now)?,
    }
    if !rows::fill_slots(tx, id, pair)? {
        return Err(BondError::SlotOccupied);
    }
    let [a, b] = pair.users();
    rows::delete_refusals(tx, a, b, true)?;
    supersede_others(tx, ctx, pair, accepted, id)?;
    match &former {
        Some(_) => {
            tx.audit(ctx, "bond.restored", id);
            tx.emit(ctx, events::bond_restored(id, pair));
        }
        None => {
            tx.audit(ctx, "bond.created", id);
            tx.emit(ctx, events::bond_created(id, pair));
        }
    }
    Ok(id)
}

/// Marks `accepted` as accepted and supersedes all other pending requests of both users.
fn supersede_others(
    tx: &Tx<'_>,
    ctx: &Ctx,
    pair: Pair,
    accepted: PartnerRequestId,
    bond: BondId,
) -> Result<(), BondError> {
    let decided = rows::decide_pending(tx, accepted, bond, pair, ctx.now)?;
    let (accepted, closed): (Vec<_>, Vec<_>) =
        decided.into_iter().partition(|parties| parties.request == accepted);
    if accepted.is_empty() {
        return Err(BondError::NotPending(RequestStatus::Superseded));
    }
    for parties in accepted {
        tx.audit(ctx, "partner_request.accepted", parties.request);
        tx.emit(ctx, events::request_accepted(parties));
    }
    // Requests of other users are audited with the system as actor, so that the caller's activity does not
    // reveal them.
    let others = ctx.with_actor(Actor::System("bonds"));
    for parties in closed {
        let is_caller = |user| Some(user) == ctx.actor.user_id();
        let own = is_caller(parties.from) || parties.to.is_some_and(is_caller);
        tx.audit(if own { ctx } else { &others }, "partner_request.superseded", parties.request);
        tx.emit(ctx, events::request_closed(parties, pair.users().contains(&parties.from)));
    }
    Ok(())
}

/// Ends the active bond of `user` for both partners.
///
/// # Errors
/// Returns [`BondError::NotBonded`] if the user has no active bond.
pub fn break_up(
    tx: &Tx<'_>,
    ctx: &Ctx,
    user: UserId,
    reason: Option<&str>,
) -> Result<BondHistoryEntry, BondError> {
    let bond = lock_active_bond(tx, user)?.ok_or(BondError::NotBonded)?;
    end_active_bond(tx, ctx, bond, user, reason)?;
    queries::get_history(tx, user, bond.id, ctx.now)
}

/// Locks `user` and their partner, if any, and returns their active bond.
fn lock_active_bond(tx: &Tx<'_>, user: UserId) -> Result<Option<ActiveBond>, Error> {
    let users_to_lock = |bond: Option<ActiveBond>| bond.map_or(vec![user], |bond| bond.users.to_vec());
    let seen = rows::find_active_bond(tx, user)?;
    tx.lock("user", users_to_lock(seen))?;
    let bond = rows::find_active_bond(tx, user)?;
    if bond != seen {
        // Another transaction changed the bond meanwhile. If both transactions deadlock, the store repeats
        // this one.
        tx.lock("user", users_to_lock(bond))?;
        return rows::find_active_bond(tx, user);
    }
    Ok(bond)
}

fn end_active_bond(
    tx: &Tx<'_>,
    ctx: &Ctx,
    bond: ActiveBond,
    by: UserId,
    reason: Option<&str>,
) -> Result<(), Error> {
    rows::end_bond(tx, &bond, by, reason, ctx.now)?;
    tx.audit(ctx, "bond.ended", bond.id);
    tx.emit(ctx, events::bond_ended(bond.id, bond.users));
    Ok(())
}

/// Deletion hook: ends the active bond and all pending requests of `user`.
///
/// # Errors
/// Returns the store's error if a statement fails.
pub fn end_all_for_user(tx: &Tx<'_>, ctx: &Ctx, user: UserId) -> Result<(), Error> {
    if let Some(bond) = lock_active_bond(tx, user)? {
        end_active_bond(tx, ctx, bond, user, None)?;
    }
    for parties in rows::end_pending(tx, user, ctx.now)? {
        if parties.from == user {
            tx.audit(ctx, "partner_request.cancelled", parties.request);
            tx.emit(ctx, events::request_cancelled(parties));
        } else {
            tx.audit(ctx, "partner_request.superseded", parties.request);
            tx.emit(ctx, events::request_closed(parties, false));
        }
    }
    Ok(())
}

/// Unblock hook. Once neither user blocks the other, expires the requests between them that were withheld
/// because of the block, so that both can send new ones. The caller must have locked both users.
///
/// # Errors
/// Returns the store's error if a statement fails.
pub fn handle_unblock(tx: &Tx<'_>, ctx: &Ctx, one: UserId, other: UserId) -> Result<(), Error> {
    for (from, to) in [(one, other), (other, one)] {
        while let Some(withheld) = rows::find_withheld(tx, from, to, ctx.now)? {
            // Audited with the system as actor: the sender must not learn who blocked or unblocked them.
            expire(tx, &ctx.with_actor(Actor::System("bonds")), withheld.id)?;
        }
    }
    Ok(())
}

/// Block hook. Ends the bond of both users and cancels the blocker's pending request. Withholds the pending
/// request of the blocked user: the blocker no longer sees it, its sender still sees it as pending. The
/// caller must have locked both users.
///
/// # Errors
/// Returns the store's error if a statement fails.
pub fn handle_block(tx: &Tx<'_>, ctx: &Ctx, blocker: UserId, blocked: UserId) -> Result<(), Error> {
    let Ok(pair) = Pair::new(blocker, blocked) else { return Ok(()) };
    if let Some(bond) = rows::find_active_bond(tx, blocker)?.filter(|bond| bond.users == pair.users()) {
        end_active_bond(tx, ctx, bond, blocker, None)?;
    }
    match rows::find_pending_between(tx, pair, ctx.now)? {
        Some(own) if own.from == blocker => {
            rows::withdraw_request(tx, own.request, ctx.now)?;
            tx.audit(&audit_context(ctx, own), "partner_request.cancelled", own.request);
            tx.emit(ctx, events::request_withdrawn(own));
        }
        Some(theirs) => {
            rows::withhold_request(tx, theirs)?;
            tx.audit(ctx, "partner_request.withheld", theirs.request);
        }
        None => {}
    }
    Ok(())
}
