//! Rules of requests and bonds as pure functions, without database or clock access.

use std::time::Duration;

use kith_kernel::{Timestamp, UserId, days, hours, minutes};

use super::model::{BondError, PartnerRequest, RequestPolicy, RequestRecipient, RequestStatus};
use kith_accounts::accounts::UserSummary;

/// Time after which a pending request expires.
pub const REQUEST_LIFETIME: Duration = days(14);
/// Maximum number of usable invites per user.
pub const MAX_INVITES: i64 = 5;
/// Maximum number of failed attempts with invite codes per user and per client network within
/// [`FAILED_ATTEMPTS_WINDOW`].
pub const MAX_FAILED_ATTEMPTS: i64 = 10;
/// Period over which [`MAX_FAILED_ATTEMPTS`] is counted.
pub const FAILED_ATTEMPTS_WINDOW: Duration = minutes(1);

/// Waiting times after the first, second and third rejection.
const REJECTION_COOLDOWNS: [Duration; 3] = [hours(24), days(7), days(30)];
/// Time since the last refusal after which all refusals are forgotten.
const REFUSALS_RETENTION: Duration = days(365);
/// Time after a cancellation within which a new request sends no notification.
const SILENT_WINDOW: Duration = hours(24);

/// Returns the status of a request at `now`: a stored pending request counts as expired from `expires_at` on.
pub fn status_at(stored: RequestStatus, expires_at: Timestamp, now: Timestamp) -> RequestStatus {
    match stored {
        RequestStatus::Pending if now >= expires_at => RequestStatus::Expired,
        other => other,
    }
}

/// Maximum number of new requests per sender in a sliding window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateTier {
    /// Maximum number of requests.
    pub max_requests: i64,
    /// Length of the window.
    pub window: Duration,
}

/// Limits that apply to all senders.
pub const RATE_TIERS: &[RateTier] = &[
    RateTier { max_requests: 5, window: minutes(1) },
    RateTier { max_requests: 20, window: hours(1) },
    RateTier { max_requests: 100, window: days(1) },
];

/// Checks the limits for a new request at `now`. `recent` contains the times of earlier requests, newest
/// first.
///
/// # Errors
/// Returns [`BondError::TooManyRequests`] with the time until the next request is allowed.
pub fn check_rate_tiers(tiers: &[RateTier], recent: &[Timestamp], now: Timestamp) -> Result<(), BondError> {
    let wait = |tier: &RateTier| {
        let first = usize::try_from(tier.max_requests - 1).ok().and_then(|at| recent.get(at))?;
        Some((*first + tier.window).since(now))
    };
    match tiers.iter().filter_map(wait).max() {
        None | Some(Duration::ZERO) => Ok(()),
        Some(wait) => Err(BondError::TooManyRequests { wait }),
    }
}

/// Refusals of one user's requests by another user. A refusal is a rejection, cancellation or expiry. The
/// counter starts again when the other user sends or accepts a request, or a year after the last refusal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RefusalHistory {
    /// Number of rejections, cancellations and expiries.
    pub steps: i64,
    /// Time of the last rejection, cancellation or expiry.
    pub last_step_at: Option<Timestamp>,
    /// End of the waiting time after the last rejection.
    pub wait_until: Option<Timestamp>,
    /// Time of the last cancellation.
    pub cancelled_at: Option<Timestamp>,
}

impl RefusalHistory {
    /// Adds a rejection at `now`. The waiting time after it depends on the number of earlier refusals.
    #[must_use]
    pub fn with_rejection(self, now: Timestamp) -> Self {
        let before = self.effective_at(now);
        let step = usize::try_from(before.steps).unwrap_or(usize::MAX);
        // After the last waiting time, only the recipient can send a request.
        let wait_until = REJECTION_COOLDOWNS.get(step).map(|wait| now + *wait);
        Self { steps: before.steps + 1, last_step_at: Some(now), wait_until, ..before }
    }

    /// Adds a cancellation at `now`. It lengthens the waiting time after the next rejection, but starts none
    /// itself. However many requests were cancelled, the sender can still send one.
    #[must_use]
    pub fn with_cancellation(self, now: Timestamp) -> Self {
        Self { cancelled_at: Some(now), ..self.with_expiry(now) }
    }

    /// Adds a request that expired at `at`. An expiry has the same effect on waiting times as a
    /// cancellation.
    #[must_use]
    pub fn with_expiry(self, at: Timestamp) -> Self {
        let before = self.effective_at(at);
        let longest = i64::try_from(REJECTION_COOLDOWNS.len()).unwrap_or(i64::MAX);
        let steps = (before.steps + 1).min(longest).max(before.steps);
        Self { steps, last_step_at: before.last_step_at.max(Some(at)), ..before }
    }

    /// Returns these refusals, or none if they are forgotten at `now`.
    fn effective_at(self, now: Timestamp) -> Self {
        let is_forgotten = self.last_step_at.is_some_and(|at| now.since(at) >= REFUSALS_RETENTION);
        if is_forgotten { Self::default() } else { self }
    }

    /// Checks that a request may be sent at `now`.
    ///
    /// # Errors
    /// Returns [`BondError::CooldownActive`] during a waiting time, and
    /// [`BondError::OnlyRecipientCanRequest`] after the fourth refusal.
    pub fn check_cooldown(self, now: Timestamp) -> Result<(), BondError> {
        let refusals = self.effective_at(now);
        if usize::try_from(refusals.steps).is_ok_and(|steps| steps > REJECTION_COOLDOWNS.len()) {
            return Err(BondError::OnlyRecipientCanRequest);
        }
        match refusals.wait_until.map(|until| until.since(now)) {
            None | Some(Duration::ZERO) => Ok(()),
            Some(wait) => Err(BondError::CooldownActive { wait }),
        }
    }

    /// Returns `true` if a request at `now` must not send a notification, because the sender cancelled
    /// another one less than 24 hours ago.
    pub fn suppresses_notification(self, now: Timestamp) -> bool {
        self.cancelled_at.is_some_and(|at| now.since(at) < SILENT_WINDOW)
    }
}

/// Data that decides whether a sender may send a request to a recipient.
#[derive(Clone, Debug)]
pub struct SendContext {
    /// Sender.
    pub sender: UserSummary,
    /// Recipient; `None` if they do not exist or one of the two users has blocked the other.
    pub recipient: Option<UserSummary>,
    /// `true` if the sender has a partner.
    pub is_sender_bonded: bool,
    /// Users who can send requests to the recipient.
    pub accepts_requests_from: RequestPolicy,
    /// `true` if the recipient receives requests that are sent to their e-mail address.
    pub discoverable_by_email: bool,
    /// Stored pending request between both users, in either direction, as the sender sees it. It may have
    /// expired.
    pub pending: Option<PartnerRequest>,
    /// `true` if a request of the sender is withheld because the recipient has blocked them. The sender
    /// still sees it as pending.
    pub has_withheld_request: bool,
    /// Refusals of the sender's requests, except those by e-mail address.
    pub refusals: RefusalHistory,
    /// Refusals of the sender's requests by e-mail address. The sender must not learn of them.
    pub email_refusals: RefusalHistory,
    /// End time of the pair's last bond; `None` if there is none or it is archived.
    pub former_ended_at: Option<Timestamp>,
}

/// Way in which the sender specifies the recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressingMode {
    /// By user ID.
    Id,
    /// By e-mail address. The result must not reveal which user has the address.
    Address,
    /// By an invite of the recipient. The invite counts as the recipient's consent to receive a request.
    Invite,
}

/// Decision on a new request.
#[derive(Debug, PartialEq, Eq)]
pub enum SendDecision<'s> {
    /// Create a request.
    New {
        /// Earlier request that must be removed first, because only one may exist per pair. It has expired,
        /// or was sent by e-mail address.
        before: Option<&'s PartnerRequest>,
    },
    /// Return the identical pending request.
    Repeated(&'s PartnerRequest),
    /// Return the sender's withheld request, which the sender still sees as pending.
    Withheld,
    /// Accept the pending request of the recipient and form the bond, because both users want it.
    Crossed(&'s PartnerRequest),
}

/// Decides on a new request. The decision does not depend on whether the recipient has a partner.
///
/// # Errors
/// Returns the [`BondError`] that rejects the request.
pub fn decide_send<'s>(
    context: &'s SendContext,
    mode: AddressingMode,
    message: Option<&str>,
    now: Timestamp,
) -> Result<SendDecision<'s>, BondError> {
    if context.is_sender_bonded {
        return Err(BondError::SlotOccupied);
    }
    let before = match &context.pending {
        None => None,
        Some(request) if request.status != RequestStatus::Pending => Some(request),
        Some(request) if request.from.id != context.sender.id => return Ok(SendDecision::Crossed(request)),
        Some(request)
            if mode != AddressingMode::Address && matches!(request.to, RequestRecipient::Address { .. }) =>
        {
            Some(request)
        }
        Some(request) if request.message.as_deref() == message => return Ok(SendDecision::Repeated(request)),
        Some(_) => return Err(BondError::AlreadyPending),
    };
    // An invite always creates a new request, even if an earlier request is withheld.
    if context.has_withheld_request && mode == AddressingMode::Id {
        return Ok(SendDecision::Withheld);
    }
    if context.recipient.is_none() {
        return Err(BondError::RecipientNotFound);
    }
    match (context.accepts_requests_from, mode) {
        (RequestPolicy::Nobody, AddressingMode::Invite) => return Err(BondError::InviteNotFound),
        (RequestPolicy::Nobody | RequestPolicy::Invited, AddressingMode::Id | AddressingMode::Address) => {
            return Err(BondError::RequestsNotAccepted);
        }
        (RequestPolicy::Anyone, AddressingMode::Id) => context.refusals.check_cooldown(now)?,
        (RequestPolicy::Anyone, AddressingMode::Address) => {
            context.refusals.check_cooldown(now)?;
            context.email_refusals.check_cooldown(now)?;
        }
        (RequestPolicy::Anyone | RequestPolicy::Invited, AddressingMode::Invite) => {}
    }
    Ok(SendDecision::New { before })
}

/// Decides on a request to an e-mail address with a known owner. Returns `None` if the owner must not
/// receive it. Unless the request forms a bond, the sender gets the same result as for an unknown address.
pub fn decide_send_by_email<'s>(
    context: &'s SendContext,
    message: Option<&str>,
    now: Timestamp,
) -> Option<SendDecision<'s>> {
    if !context.discoverable_by_email {
        return None;
    }
    decide_send(context, AddressingMode::Address, message, now)
        .ok()
        .filter(|decision| !matches!(decision, SendDecision::Repeated(_)))
}

/// Decision on accepting, rejecting or cancelling a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// Apply the change.
    Now,
    /// Return the request unchanged, because the user has already made the same decision.
    Repeated,
}

/// Checks that `user` may accept or reject a request; `wanted` is the new status. Whether both users are
/// without a partner is checked later, in the database.
///
/// # Errors
/// Returns [`BondError::OnlyRecipient`] if `user` is the sender, and [`BondError::NotPending`] if the
/// request already has a different final status.
pub fn decide_answer(
    request: &PartnerRequest,
    user: UserId,
    wanted: RequestStatus,
) -> Result<Decision, BondError> {
    if user == request.from.id {
        return Err(BondError::OnlyRecipient);
    }
    decide(request.status, wanted)
}

/// Checks that `user` may cancel a request.
///
/// # Errors
/// Returns [`BondError::OnlySender`] if `user` is the recipient, and [`BondError::NotPending`] if the
/// request already has a different final status.
pub fn decide_cancel(request: &PartnerRequest, user: UserId) -> Result<Decision, BondError> {
    if user != request.from.id {
        return Err(BondError::OnlySender);
    }
    decide(request.status, RequestStatus::Cancelled)
}

fn decide(status: RequestStatus, wanted: RequestStatus) -> Result<Decision, BondError> {
    match status {
        RequestStatus::Pending => Ok(Decision::Now),
        status if status == wanted => Ok(Decision::Repeated),
        decided => Err(BondError::NotPending(decided)),
    }
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
