//! Rules of requests and bonds. Pure functions: no database access, no clock.

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
/// Window of [`MAX_FAILED_ATTEMPTS`].
pub const FAILED_ATTEMPTS_WINDOW: Duration = minutes(1);

/// Waits after the first, second and third rejection.
const REJECTION_COOLDOWNS: [Duration; 3] = [hours(24), days(7), days(30)];
/// Time without a further refusal after which refusals are forgotten.
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

/// Limit of new requests per sender in a sliding window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateTier {
    /// Maximum number of requests.
    pub max_requests: i64,
    /// Length of the window.
    pub window: Duration,
}

/// Limits for all senders.
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

/// Refusals of one user's requests by another user, since the latter last sent a request or accepted one.
/// Forgotten a year after the last step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RefusalHistory {
    /// Number of rejections, cancellations and expiries.
    pub steps: i64,
    /// Time of the last rejection, cancellation or expiry.
    pub last_step_at: Option<Timestamp>,
    /// End of the wait after the last rejection.
    pub wait_until: Option<Timestamp>,
    /// Time of the last cancellation.
    pub cancelled_at: Option<Timestamp>,
}

impl RefusalHistory {
    /// Adds a rejection at `now`. The wait depends on the number of steps before.
    #[must_use]
    pub fn with_rejection(self, now: Timestamp) -> Self {
        let before = self.effective_at(now);
        let step = usize::try_from(before.steps).unwrap_or(usize::MAX);
        // After the last wait, only the recipient can send a request.
        let wait_until = REJECTION_COOLDOWNS.get(step).map(|wait| now + *wait);
        Self { steps: before.steps + 1, last_step_at: Some(now), wait_until, ..before }
    }

    /// Adds a cancellation at `now`. It lengthens the wait after the next rejection, starts no wait of its
    /// own, and never reaches the step at which only the other user may send a request.
    #[must_use]
    pub fn with_cancellation(self, now: Timestamp) -> Self {
        Self { cancelled_at: Some(now), ..self.with_expiry(now) }
    }

    /// Adds a request that expired at `at`, with the same bounds as a cancellation.
    #[must_use]
    pub fn with_expiry(self, at: Timestamp) -> Self {
        let before = self.effective_at(at);
        let longest = i64::try_from(REJECTION_COOLDOWNS.len()).unwrap_or(i64::MAX);
        let steps = (before.steps + 1).min(longest).max(before.steps);
        Self { steps, last_step_at: before.last_step_at.max(Some(at)), ..before }
    }

    /// Returns the refusals that still count at `now`.
    fn effective_at(self, now: Timestamp) -> Self {
        let is_forgotten = self.last_step_at.is_some_and(|at| now.since(at) >= REFUSALS_RETENTION);
        if is_forgotten { Self::default() } else { self }
    }

    /// Checks that a request may be sent at `now`.
    ///
    /// # Errors
    /// Returns [`BondError::CooldownActive`] during a wait, [`BondError::OnlyRecipientCanRequest`] after the
    /// last step.
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

    /// Returns `true` if a request at `now` must not send a notification, because it follows a cancellation
    /// too soon.
    pub fn suppresses_notification(self, now: Timestamp) -> bool {
        self.cancelled_at.is_some_and(|at| now.since(at) < SILENT_WINDOW)
    }
}

/// Everything that decides on a request from a sender to a recipient.
#[derive(Clone, Debug)]
pub struct SendContext {
    /// Sender.
    pub sender: UserSummary,
    /// Recipient; `None` if they do not exist or one of both has blocked the other.
    pub recipient: Option<UserSummary>,
    /// `true` if the sender has a partner.
    pub is_sender_bonded: bool,
    /// Users who can send requests to the recipient.
    pub accepts_requests_from: RequestPolicy,
    /// `true` if requests to the recipient's e-mail address reach them.
    pub discoverable_by_email: bool,
    /// Pending request that holds the pair's key, as the sender sees it. It may have expired.
    pub pending: Option<PartnerRequest>,
    /// `true` if the sender has a request to the recipient that is withheld because of a block and still
    /// looks pending.
    pub has_withheld_request: bool,
    /// Refusals of the sender's requests, except those by e-mail address.
    pub refusals: RefusalHistory,
    /// Refusals of the sender's requests by e-mail address, which the sender does not know of.
    pub email_refusals: RefusalHistory,
    /// End of the pair's last bond that is not archived.
    pub former_ended_at: Option<Timestamp>,
}

/// Way in which the sender names the recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressingMode {
    /// By user ID.
    Id,
    /// By e-mail address. Other requests of the sender to the same user must not become visible.
    Address,
    /// By an invite of the recipient, which counts as their consent to a request.
    Invite,
}

/// Decision on a new request.
#[derive(Debug, PartialEq, Eq)]
pub enum SendDecision<'s> {
    /// Create a request.
    New {
        /// Earlier request that still holds the pair's key and is removed first: it has expired, or was sent
        /// by e-mail address.
        before: Option<&'s PartnerRequest>,
    },
    /// Return the identical pending request.
    Repeated(&'s PartnerRequest),
    /// Return the withheld request, which still looks pending to the sender.
    Withheld,
    /// Accept the pending request of the recipient: both want the bond.
    Crossed(&'s PartnerRequest),
}

/// Decides on a new request. It does not depend on whether the recipient has a partner.
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
    // Redeeming an invite always creates a new request.
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

/// Decides on a request to an e-mail address with a known owner. Returns `None` if the request reaches no
/// one. Unless it forms a bond, the sender cannot tell the result from that for an unknown address.
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
    /// Apply the decision.
    Now,
    /// Return the request unchanged: the same user decided the same before.
    Repeated,
}

/// Checks that `user` may accept (`wanted` is [`RequestStatus::Accepted`]) or reject a request. The database
/// checks that both slots are free.
///
/// # Errors
/// Returns [`BondError::OnlyRecipient`] for the sender, [`BondError::NotPending`] if the request has another
/// final status.
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
/// Returns [`BondError::OnlySender`] for the recipient, [`BondError::NotPending`] if the request has another
/// final status.
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
