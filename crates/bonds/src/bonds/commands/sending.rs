//! Sends partner requests by user ID, invite or e-mail address, and records their expiry.

use kith_kernel::uuid::Uuid;
use kith_kernel::{Ctx, UserId};
use kith_store::{Outcome, Tx};
use sha2::{Digest as _, Sha256};

use super::super::events;
use super::super::model::{
    Asked, BondError, Draft, Pair, Parties, PartnerRequest, PartnerRequestId, Receiver, RequestStatus,
    restorable_until,
};
use super::super::rows::{self, LiveInvite, NewRequest};
use super::super::rules::{self, REQUEST_LIFETIME, Sending, Standing, Tier, Way};
use super::bonding::form_bond;
use super::expiring::{expire, untold};
use super::invites::{self, Tried};
use kith_accounts::accounts::{self, Email, Person};

/// Result of sending a request.
pub enum Sent {
    /// New request. If it crossed another one, it is accepted and has a bond.
    New(PartnerRequest),
    /// Identical request sent before. Nothing was changed.
    Repeated(PartnerRequest),
}

/// Limits that apply to a sender.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Limits on new requests.
    pub tiers: &'static [Tier],
    /// Attempt to use an invite code, if the request has one.
    pub tried: Option<Tried>,
}

/// Sends a partner request.
///
/// # Errors
/// Returns the [`BondError`] of the rule that rejects the request. An attempt with a code that cannot be used
/// is counted even so.
pub fn send(
    tx: &Tx<'_>,
    ctx: &Ctx,
    sender: UserId,
    draft: &Draft,
    rules: &Rules,
) -> Outcome<Sent, BondError> {
    let sent = match &draft.to {
        Receiver::User(receiver) => send_to(tx, ctx, sender, *receiver, draft, rules.tiers, None),
        Receiver::Email(email) => send_to_address(tx, ctx, sender, email, draft, rules.tiers),
        Receiver::Invite(_) => {
            let Some(tried) = &rules.tried else { return Outcome::Rollback(BondError::InviteNotFound) };
            match find_repeated_use(tx, ctx, sender, tried, draft) {
                Ok(None) => {}
                Ok(Some(known)) => return Outcome::Commit(Sent::Repeated(known)),
                Err(error) => return Outcome::Rollback(error),
            }
            return invites::use_code(tx, ctx, sender, tried, |invite| {
                send_to(tx, ctx, sender, invite.inviter, draft, rules.tiers, Some(invite))
            });
        }
    };
    match sent {
        Ok(sent) => Outcome::Commit(sent),
        Err(error) => Outcome::Rollback(error),
    }
}

/// Sends a request to a user whose ID is known.
fn send_to(
    tx: &Tx<'_>,
    ctx: &Ctx,
    sender: UserId,
    receiver: UserId,
    draft: &Draft,
    tiers: &[Tier],
    invite: Option<&LiveInvite>,
) -> Result<Sent, BondError> {
    let pair = Pair::of(sender, receiver)?;
    tx.lock("user", pair.users())?;
    let standing = rows::find_standing(tx, sender, receiver, pair, ctx.now)?;
    let standing = standing.ok_or(BondError::ReceiverNotFound)?;
    let way = if invite.is_some() { Way::Invite } else { Way::Id };
    let sending = match rules::may_send(&standing, way, draft.message.as_deref(), ctx.now) {
        Err(BondError::SlotOccupied) => return find_repeated(tx, ctx, sender, draft).map(Sent::Repeated),
        Ok(Sending::Repeated(request)) => return Ok(Sent::Repeated(request.clone())),
        Ok(Sending::Withheld) => return find_withheld(tx, ctx, sender, receiver, draft),
        other => other?,
    };
    check_tiers(tx, ctx, sender, tiers)?;
    if let Some(invite) = invite {
        invites::spend(tx, ctx, invite, sender)?;
    }
    make(tx, ctx, pair, &standing, draft, sending).map(Sent::New)
}

/// Sends a request to an e-mail address. The sender cannot tell whether an account has the address, can be
/// found by it or accepts requests: they always get a pending request. One that reaches no one stays pending
/// until it expires.
fn send_to_address(
    tx: &Tx<'_>,
    ctx: &Ctx,
    sender: UserId,
    email: &Email,
    draft: &Draft,
    tiers: &[Tier],
) -> Result<Sent, BondError> {
    let owner = accounts::find_address_owner(tx, &email.key)?;
    // Only verified addresses find their owner. The same queries run whether or not the address is known, so
    // that their duration reveals nothing.
    let found = owner.filter(|owner| owner.is_proven && owner.user != sender);
    let receiver = found.map_or_else(|| stand_in(email), |owner| owner.user);
    let pair = Pair::of(sender, receiver)?;
    tx.lock("user", pair.users())?;
    let standing = rows::find_standing(tx, sender, receiver, pair, ctx.now)?;
    let standing = standing.ok_or(BondError::ReceiverNotFound)?;
    if owner.is_some_and(|owner| owner.user == sender) {
        return Err(BondError::ToSelf);
    }
    let known = rows::find_pending_by_address(tx, sender, &email.key, ctx.now)?;
    if standing.sender_bonded {
        return find_repeated(tx, ctx, sender, draft).map(Sent::Repeated);
    }
    match known {
        Some(known) if known.status == RequestStatus::Pending => return repeat(known, draft),
        Some(lapsed) => expire(tx, ctx, lapsed.id)?,
        None => {}
    }
    check_tiers(tx, ctx, sender, tiers)?;
    match rules::reach(&standing, draft.message.as_deref(), ctx.now) {
        Some(sending) => make(tx, ctx, pair, &standing, draft, sending),
        None => make_withheld(tx, ctx, &standing.sender, draft),
    }
    .map(Sent::New)
}

/// Returns a user ID for an address without an account. It differs per address, so that such requests do not
/// wait for each other's locks.
fn stand_in(email: &Email) -> UserId {
    let digest: [u8; 32] = Sha256::digest(&email.key).into();
    let (first, _) = digest.split_first_chunk::<16>().expect("32 is more than 16");
    UserId(Uuid::from_bytes(*first))
}

fn repeat(known: PartnerRequest, draft: &Draft) -> Result<Sent, BondError> {
    if known.message == draft.message { Ok(Sent::Repeated(known)) } else { Err(BondError::AlreadyPending) }
}

/// Checks the limits over stored requests, in the transaction, so that they hold across restarts and nodes.
fn check_tiers(tx: &Tx<'_>, ctx: &Ctx, sender: UserId, tiers: &[Tier]) -> Result<(), BondError> {
    let Some(widest) = tiers.iter().max_by_key(|tier| tier.within) else { return Ok(()) };
    let recent = rows::list_recently_sent(tx, sender, ctx.now - widest.within, widest.most)?;
    rules::may_create(tiers, &recent, ctx.now)
}

/// Creates a request that its recipient can see, or forms the bond at once if the recipient has sent one too.
fn make(
    tx: &Tx<'_>,
    ctx: &Ctx,
    pair: Pair,
    standing: &Standing,
    draft: &Draft,
    sending: Sending<'_>,
) -> Result<PartnerRequest, BondError> {
    let receiver = standing.receiver.as_ref().ok_or(BondError::ReceiverNotFound)?;
    let crossed = match sending {
        Sending::New { before } => {
            before.map_or(Ok(()), |before| make_way(tx, ctx, before))?;
            None
        }
        Sending::Crossed(theirs) => Some(theirs.id),
        Sending::Repeated(_) | Sending::Withheld => return Err(BondError::AlreadyPending),
    };
    let mut request = draw_up(ctx, standing, receiver, draft, crossed.is_some());
    let parties = parties_of(&request, Some(receiver.id), draft);
    let silent = standing.refusals.silences(ctx.now) || standing.refusals_by_email.silences(ctx.now);
    tx.audit(ctx, "partner_request.created", request.id);
    tx.emit(ctx, events::request_created(parties, silent && crossed.is_none()));
    let bond = crossed.map(|theirs| form_bond(tx, ctx, pair, theirs)).transpose()?;
    let new = NewRequest { request: &request, draft, receiver: Some(receiver), pair: Some(pair), bond };
    if !rows::insert_request(tx, &new)? {
        return Err(BondError::AlreadyPending);
    }
    match bond {
        None => rows::forget_refusals(tx, standing.sender.id, receiver.id, false)?,
        Some(_) => {
            tx.audit(ctx, "partner_request.accepted", request.id);
            tx.emit(ctx, events::request_accepted(parties));
            request.bond = rows::find_bond_of_request(tx, request.id, request.from.id)?;
        }
    }
    Ok(request)
}

/// Removes an earlier request that holds the pair's key: expires it, or cancels one that was sent by e-mail
/// address.
fn make_way(tx: &Tx<'_>, ctx: &Ctx, before: &PartnerRequest) -> Result<(), BondError> {
    if before.status != RequestStatus::Pending {
        return Ok(expire(tx, ctx, before.id)?);
    }
    // The sender must not learn that the address of the earlier request belongs to this user.
    if let Some(parties) = rows::find_parties(tx, before.id)? {
        rows::withdraw_request(tx, before.id, ctx.now)?;
        tx.audit(&untold(ctx, parties), "partner_request.cancelled", before.id);
        tx.emit(ctx, events::request_withdrawn(parties));
    }
    Ok(())
}

/// Creates a request that reaches no one.
fn make_withheld(
    tx: &Tx<'_>,
    ctx: &Ctx,
    sender: &Person,
    draft: &Draft,
) -> Result<PartnerRequest, BondError> {
    let Receiver::Email(email) = &draft.to else { return Err(BondError::ReceiverNotFound) };
    let request = PartnerRequest {
        id: ctx.new_id(PartnerRequestId),
        from: sender.clone(),
        to: Asked::Address { email: email.typed.clone() },
        status: RequestStatus::Pending,
        message: draft.message.clone(),
        created_at: ctx.now,
        expires_at: ctx.now + REQUEST_LIFETIME,
        restorable_until: None,
        bond: None,
    };
    tx.audit(ctx, "partner_request.created", request.id);
    tx.emit(ctx, events::request_created(parties_of(&request, None, draft), false));
    let new = NewRequest { request: &request, draft, receiver: None, pair: None, bond: None };
    if !rows::insert_request(tx, &new)? {
        return Err(BondError::AlreadyPending);
    }
    Ok(request)
}

/// Builds the request as its sender sees it.
fn draw_up(
    ctx: &Ctx,
    standing: &Standing,
    receiver: &Person,
    draft: &Draft,
    accepted: bool,
) -> PartnerRequest {
    let (to, restorable) = match &draft.to {
        Receiver::Email(email) if !accepted => (Asked::Address { email: email.typed.clone() }, None),
        _ => (Asked::Person(receiver.clone()), standing.former_ended_at.map(restorable_until)),
    };
    PartnerRequest {
        id: ctx.new_id(PartnerRequestId),
        from: standing.sender.clone(),
        to,
        status: if accepted { RequestStatus::Accepted } else { RequestStatus::Pending },
        message: draft.message.clone(),
        created_at: ctx.now,
        expires_at: ctx.now + REQUEST_LIFETIME,
        restorable_until: restorable.filter(|until| !accepted && *until >= ctx.now),
        bond: None,
    }
}

fn parties_of(request: &PartnerRequest, to: Option<UserId>, draft: &Draft) -> Parties {
    let by_email = matches!(draft.to, Receiver::Email(_));
    Parties { request: request.id, from: request.from.id, to, by_email }
}

/// Returns the request behind the sender's bond if `draft` repeats it. Any other request of a bonded sender
/// is rejected with [`BondError::SlotOccupied`].
fn find_repeated(tx: &Tx<'_>, ctx: &Ctx, sender: UserId, draft: &Draft) -> Result<PartnerRequest, BondError> {
    let known = rows::find_request_behind_bond(tx, sender, ctx.now)?;
    let is_same = |(request, email_key): &(PartnerRequest, Option<String>)| {
        let same_receiver = match (&draft.to, &request.to) {
            (Receiver::User(user), Asked::Person(person)) => *user == person.id,
            (Receiver::Email(email), _) => email_key.as_ref() == Some(&email.key),
            _ => false,
        };
        same_receiver && request.message == draft.message
    };
    let (mut request, _) = known.filter(is_same).ok_or(BondError::SlotOccupied)?;
    request.bond = rows::find_bond_of_request(tx, request.id, sender)?;
    Ok(request)
}

/// Returns the pending request that the sender made with the same code and message, if any.
fn find_repeated_use(
    tx: &Tx<'_>,
    ctx: &Ctx,
    sender: UserId,
    tried: &Tried,
    draft: &Draft,
) -> Result<Option<PartnerRequest>, BondError> {
    let Some(inviter) = rows::find_inviter_of_used(tx, tried.code, sender)? else { return Ok(None) };
    let pair = Pair::of(sender, inviter)?;
    let waiting = rows::find_pending_between(tx, pair, ctx.now)?;
    let waiting = waiting.filter(|parties| parties.from == sender && !parties.by_email);
    let Some(waiting) = waiting else { return Ok(None) };
    let known = rows::find_request(tx, waiting.request, sender, ctx.now)?;
    Ok(known.filter(|known| known.message == draft.message))
}

/// Returns the withheld request of the sender to a recipient who has blocked them since.
fn find_withheld(
    tx: &Tx<'_>,
    ctx: &Ctx,
    sender: UserId,
    receiver: UserId,
    draft: &Draft,
) -> Result<Sent, BondError> {
    let withheld = rows::find_withheld(tx, sender, receiver, ctx.now)?.ok_or(BondError::ReceiverNotFound)?;
    repeat(withheld, draft)
}
