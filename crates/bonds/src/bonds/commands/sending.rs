//! Commands that send partner requests by user ID, invite code or e-mail address.

use kith_kernel::uuid::Uuid;
use kith_kernel::{Ctx, UserId};
use kith_store::{Tx, TxOutcome};
use sha2::{Digest as _, Sha256};

use super::super::events;
use super::super::model::{
    BondError, Pair, PartnerRequest, PartnerRequestId, Recipient, RequestDraft, RequestParties,
    RequestRecipient, RequestStatus, restorable_until,
};
use super::super::rows::{self, NewRequest, UsableInvite};
use super::super::rules::{self, AddressingMode, REQUEST_LIFETIME, RateTier, SendContext, SendDecision};
use super::bonding::form_bond;
use super::expiring::{audit_context, expire};
use super::invites::{self, InviteAttempt};
use kith_accounts::accounts::{self, Email, UserSummary};

/// Result of sending a request.
pub enum SendOutcome {
    /// New request. If the recipient had sent one too, it is accepted and contains the new bond.
    New(PartnerRequest),
    /// Identical request that the sender sent before. Nothing was changed.
    Repeated(PartnerRequest),
}

/// Limits that apply to a sender.
#[derive(Clone, Debug)]
pub struct SendingLimits {
    /// Maximum numbers of new requests per time window.
    pub tiers: &'static [RateTier],
    /// Attempt to use an invite code, if the request contains a code.
    pub attempt: Option<InviteAttempt>,
}

/// Sends a partner request, subject to `limits`.
///
/// # Errors
/// Returns the [`BondError`] of the rule that rejects the request. If the request contains an invite code
/// that cannot be used, the failed attempt is counted nevertheless.
pub fn send(
    tx: &Tx<'_>,
    ctx: &Ctx,
    sender: UserId,
    draft: &RequestDraft,
    limits: &SendingLimits,
) -> TxOutcome<SendOutcome, BondError> {
    let sent = match &draft.to {
        Recipient::User(recipient) => send_to_user(tx, ctx, sender, *recipient, draft, limits.tiers, None),
        Recipient::Email(email) => send_to_email(tx, ctx, sender, email, draft, limits.tiers),
        Recipient::Invite(_) => {
            let Some(attempt) = &limits.attempt else {
                return TxOutcome::Rollback(BondError::InviteNotFound);
            };
            match find_repeated_redemption(tx, ctx, sender, attempt, draft) {
                Ok(None) => {}
                Ok(Some(existing)) => return TxOutcome::Commit(SendOutcome::Repeated(existing)),
                Err(error) => return TxOutcome::Rollback(error),
            }
            return invites::redeem_code(tx, ctx, sender, attempt, |invite| {
                send_to_user(tx, ctx, sender, invite.inviter, draft, limits.tiers, Some(invite))
            });
        }
    };
    match sent {
        Ok(sent) => TxOutcome::Commit(sent),
        Err(error) => TxOutcome::Rollback(error),
    }
}

/// Sends a request to a user whose ID is known, including the owner of an invite.
fn send_to_user(
    tx: &Tx<'_>,
    ctx: &Ctx,
    sender: UserId,
    recipient: UserId,
    draft: &RequestDraft,
    tiers: &[RateTier],
    invite: Option<&UsableInvite>,
) -> Result<SendOutcome, BondError> {
    let pair = Pair::new(sender, recipient)?;
    tx.lock("user", pair.users())?;
    if let Some(widest) = widest(tiers) {
        rows::prefetch_recently_sent(tx, sender, widest.max_requests)?;
    }
    let context = rows::find_send_context(tx, sender, recipient, pair, ctx.now)?;
    let context = context.ok_or(BondError::RecipientNotFound)?;
    let mode = if invite.is_some() { AddressingMode::Invite } else { AddressingMode::Id };
    let decision = match rules::decide_send(&context, mode, draft.message.as_deref(), ctx.now) {
        Err(BondError::SlotOccupied) => {
            return find_repeated(tx, ctx, sender, draft).map(SendOutcome::Repeated);
        }
        Ok(SendDecision::Repeated(request)) => return Ok(SendOutcome::Repeated(request.clone())),
        Ok(SendDecision::Withheld) => return find_withheld(tx, ctx, sender, recipient, draft),
        other => other?,
    };
    check_rate_tiers(tx, ctx, sender, tiers)?;
    if let Some(invite) = invite {
        invites::spend_invite(tx, ctx, invite, sender)?;
    }
    create_request(tx, ctx, pair, &context, draft, decision).map(SendOutcome::New)
}

/// Sends a request to an e-mail address. The sender always gets a pending request. They cannot tell whether
/// an account has the address, can be found by it or accepts requests. A request without a recipient stays
/// pending until it expires.
fn send_to_email(
    tx: &Tx<'_>,
    ctx: &Ctx,
    sender: UserId,
    email: &Email,
    draft: &RequestDraft,
    tiers: &[RateTier],
) -> Result<SendOutcome, BondError> {
    let owner = accounts::find_email_owner(tx, &email.key)?;
    // Only the owner of a verified address can be found by it. The same queries run whether or not the
    // address is known, so that their duration reveals nothing.
    let found = owner.filter(|owner| owner.is_verified && owner.user != sender);
    let recipient = found.map_or_else(|| placeholder_user_id(email), |owner| owner.user);
    let pair = Pair::new(sender, recipient)?;
    tx.lock("user", pair.users())?;
    let context = rows::find_send_context(tx, sender, recipient, pair, ctx.now)?;
    let context = context.ok_or(BondError::RecipientNotFound)?;
    if owner.is_some_and(|owner| owner.user == sender) {
        return Err(BondError::SelfRequest);
    }
    let existing = rows::find_pending_by_address(tx, sender, &email.key, ctx.now)?;
    if context.is_sender_bonded {
        return find_repeated(tx, ctx, sender, draft).map(SendOutcome::Repeated);
    }
    match existing {
        Some(existing) if existing.status == RequestStatus::Pending => {
            return return_repeated(existing, draft);
        }
        Some(expired) => expire(tx, ctx, expired.id)?,
        None => {}
    }
    check_rate_tiers(tx, ctx, sender, tiers)?;
    match rules::decide_send_by_email(&context, draft.message.as_deref(), ctx.now) {
        Some(decision) => create_request(tx, ctx, pair, &context, draft, decision),
        None => create_undelivered_request(tx, ctx, &context.sender, draft),
    }
    .map(SendOutcome::New)
}

/// Returns a user ID to lock for an address without an account. It depends on the address, so that requests
/// to different unknown addresses do not wait for each other.
fn placeholder_user_id(email: &Email) -> UserId {
    let digest: [u8; 32] = Sha256::digest(&email.key).into();
    let (first, _) = digest.split_first_chunk::<16>().expect("32 is more than 16");
    UserId(Uuid::from_bytes(*first))
}

fn return_repeated(existing: PartnerRequest, draft: &RequestDraft) -> Result<SendOutcome, BondError> {
    if existing.message == draft.message {
        Ok(SendOutcome::Repeated(existing))
    } else {
        Err(BondError::AlreadyPending)
    }
}

/// Checks the limits on new requests. Counts stored requests, so that the limits hold across restarts and
/// nodes.
fn check_rate_tiers(tx: &Tx<'_>, ctx: &Ctx, sender: UserId, tiers: &[RateTier]) -> Result<(), BondError> {
    let Some(widest) = widest(tiers) else { return Ok(()) };
    let recent = rows::list_recently_sent(tx, sender, ctx.now - widest.window, widest.max_requests)?;
    rules::check_rate_tiers(tiers, &recent, ctx.now)
}

fn widest(tiers: &[RateTier]) -> Option<&RateTier> {
    tiers.iter().max_by_key(|tier| tier.window)
}

/// Creates a request that its recipient can see. If the recipient has sent a request too, forms the bond at
/// once.
fn create_request(
    tx: &Tx<'_>,
    ctx: &Ctx,
    pair: Pair,
    context: &SendContext,
    draft: &RequestDraft,
    decision: SendDecision<'_>,
) -> Result<PartnerRequest, BondError> {
    let recipient = context.recipient.as_ref().ok_or(BondError::RecipientNotFound)?;
    let crossed = match decision {
        SendDecision::New { before } => {
            before.map_or(Ok(()), |before| remove_earlier_request(tx, ctx, before))?;
            None
        }
        SendDecision::Crossed(theirs) => Some(theirs.id),
        SendDecision::Repeated(_) | SendDecision::Withheld => return Err(BondError::AlreadyPending),
    };
    let mut request = build_request(ctx, context, recipient, draft, crossed.is_some());
    let parties = request_parties(&request, Some(recipient.id), draft);
    let silent = context.refusals.suppresses_notification(ctx.now)
        || context.email_refusals.suppresses_notification(ctx.now);
    tx.audit(ctx, "partner_request.created", request.id);
    tx.emit(ctx, events::request_created(parties, silent && crossed.is_none()));
    let bond = crossed.map(|theirs| form_bond(tx, ctx, pair, theirs)).transpose()?;
    let new = NewRequest { request: &request, draft, recipient: Some(recipient), pair: Some(pair), bond };
    if !rows::insert_request(tx, &new)? {
        return Err(BondError::AlreadyPending);
    }
    match bond {
        None => rows::delete_refusals(tx, context.sender.id, recipient.id, false)?,
        Some(_) => {
            tx.audit(ctx, "partner_request.accepted", request.id);
            tx.emit(ctx, events::request_accepted(parties));
            request.bond = rows::find_bond_of_request(tx, request.id, request.from.id)?;
        }
    }
    Ok(request)
}

/// Removes the earlier request that blocks a new one between the same users. If it has expired, records the
/// expiry. If it is pending, it was sent by e-mail address and is cancelled.
fn remove_earlier_request(tx: &Tx<'_>, ctx: &Ctx, before: &PartnerRequest) -> Result<(), BondError> {
    if before.status != RequestStatus::Pending {
        return Ok(expire(tx, ctx, before.id)?);
    }
    // The sender must not learn that the address of the earlier request belongs to this user.
    if let Some(parties) = rows::find_parties(tx, before.id)? {
        rows::withdraw_request(tx, before.id, ctx.now)?;
        tx.audit(&audit_context(ctx, parties), "partner_request.cancelled", before.id);
        tx.emit(ctx, events::request_withdrawn(parties));
    }
    Ok(())
}

/// Creates a request that no user receives. Its sender sees it as pending until it expires.
fn create_undelivered_request(
    tx: &Tx<'_>,
    ctx: &Ctx,
    sender: &UserSummary,
    draft: &RequestDraft,
) -> Result<PartnerRequest, BondError> {
    let Recipient::Email(email) = &draft.to else { return Err(BondError::RecipientNotFound) };
    let request = PartnerRequest {
        id: ctx.new_id(PartnerRequestId),
        from: sender.clone(),
        to: RequestRecipient::Address { email: email.address.clone() },
        status: RequestStatus::Pending,
        message: draft.message.clone(),
        created_at: ctx.now,
        expires_at: ctx.now + REQUEST_LIFETIME,
        restorable_until: None,
        bond: None,
    };
    tx.audit(ctx, "partner_request.created", request.id);
    tx.emit(ctx, events::request_created(request_parties(&request, None, draft), false));
    let new = NewRequest { request: &request, draft, recipient: None, pair: None, bond: None };
    if !rows::insert_request(tx, &new)? {
        return Err(BondError::AlreadyPending);
    }
    Ok(request)
}

/// Builds the new request as its sender sees it.
fn build_request(
    ctx: &Ctx,
    context: &SendContext,
    recipient: &UserSummary,
    draft: &RequestDraft,
    accepted: bool,
) -> PartnerRequest {
    let (to, restorable) = match &draft.to {
        Recipient::Email(email) if !accepted => {
            (RequestRecipient::Address { email: email.address.clone() }, None)
        }
        _ => (RequestRecipient::User(recipient.clone()), context.former_ended_at.map(restorable_until)),
    };
    PartnerRequest {
        id: ctx.new_id(PartnerRequestId),
        from: context.sender.clone(),
        to,
        status: if accepted { RequestStatus::Accepted } else { RequestStatus::Pending },
        message: draft.message.clone(),
        created_at: ctx.now,
        expires_at: ctx.now + REQUEST_LIFETIME,
        restorable_until: restorable.filter(|until| !accepted && *until >= ctx.now),
        bond: None,
    }
}

fn request_parties(request: &PartnerRequest, to: Option<UserId>, draft: &RequestDraft) -> RequestParties {
    let is_by_email = matches!(draft.to, Recipient::Email(_));
    RequestParties { request: request.id, from: request.from.id, to, is_by_email }
}

/// Returns the request that led to the sender's active bond, if `draft` repeats it. A sender with a partner
/// cannot send any other request: it is rejected with [`BondError::SlotOccupied`].
fn find_repeated(
    tx: &Tx<'_>,
    ctx: &Ctx,
    sender: UserId,
    draft: &RequestDraft,
) -> Result<PartnerRequest, BondError> {
    let existing = rows::find_request_of_bond(tx, sender, ctx.now)?;
    let is_same = |(request, email_key): &(PartnerRequest, Option<String>)| {
        let same_recipient = match (&draft.to, &request.to) {
            (Recipient::User(user), RequestRecipient::User(person)) => *user == person.id,
            (Recipient::Email(email), _) => email_key.as_ref() == Some(&email.key),
            _ => false,
        };
        same_recipient && request.message == draft.message
    };
    let (mut request, _) = existing.filter(is_same).ok_or(BondError::SlotOccupied)?;
    request.bond = rows::find_bond_of_request(tx, request.id, sender)?;
    Ok(request)
}

/// Returns the pending request that the sender has already made with the same invite code and message, if
/// any.
fn find_repeated_redemption(
    tx: &Tx<'_>,
    ctx: &Ctx,
    sender: UserId,
    attempt: &InviteAttempt,
    draft: &RequestDraft,
) -> Result<Option<PartnerRequest>, BondError> {
    let Some(inviter) = rows::find_inviter_of_spent(tx, attempt.code, sender)? else { return Ok(None) };
    let pair = Pair::new(sender, inviter)?;
    let pending = rows::find_pending_between(tx, pair, ctx.now)?;
    let pending = pending.filter(|parties| parties.from == sender && !parties.is_by_email);
    let Some(pending) = pending else { return Ok(None) };
    let existing = rows::find_request(tx, pending.request, sender, ctx.now)?;
    Ok(existing.filter(|existing| existing.message == draft.message))
}

/// Returns the sender's earlier request, which is withheld because the recipient has blocked the sender.
fn find_withheld(
    tx: &Tx<'_>,
    ctx: &Ctx,
    sender: UserId,
    recipient: UserId,
    draft: &RequestDraft,
) -> Result<SendOutcome, BondError> {
    let withheld =
        rows::find_withheld(tx, sender, recipient, ctx.now)?.ok_or(BondError::RecipientNotFound)?;
    return_repeated(withheld, draft)
}
