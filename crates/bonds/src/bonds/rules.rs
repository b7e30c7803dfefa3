//! Rules of requests and bonds. Pure functions: no database access, no clock.

use std::time::Duration;

use kith_kernel::{Timestamp, UserId, days, hours, minutes};

use super::model::{Asked, BondError, PartnerRequest, RequestStatus, WhoMayAsk};
use kith_accounts::accounts::Person;

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
pub struct Tier {
    /// Maximum number of requests.
    pub most: i64,
    /// Length of the window.
    pub within: Duration,
}

/// Limits for all senders.
pub const RATE_TIERS: &[Tier] = &[
    Tier { most: 5, within: minutes(1) },
    Tier { most: 20, within: hours(1) },
    Tier { most: 100, within: days(1) },
];

/// Checks the limits for a new request at `now`. `recent` contains the times of earlier requests, newest
/// first.
///
/// # Errors
/// Returns [`BondError::TooMany`] with the time until the next request is allowed.
pub fn may_create(tiers: &[Tier], recent: &[Timestamp], now: Timestamp) -> Result<(), BondError> {
    let wait = |tier: &Tier| {
        let first = usize::try_from(tier.most - 1).ok().and_then(|at| recent.get(at))?;
        Some((*first + tier.within).since(now))
    };
    match tiers.iter().filter_map(wait).max() {
        None | Some(Duration::ZERO) => Ok(()),
        Some(wait) => Err(BondError::TooMany { wait }),
    }
}

/// Refusals of one user's requests by another user, since the latter last sent a request or accepted one.
/// Forgotten a year after the last step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// Number of rejections, cancellations and expiries.
    pub steps: i64,
    /// Time of the last rejection, cancellation or expiry.
    pub stepped_at: Option<Timestamp>,
    /// End of the wait after the last rejection.
    pub wait_until: Option<Timestamp>,
    /// Time of the last cancellation.
    pub cancelled_at: Option<Timestamp>,
}

impl Refusals {
    /// Adds a rejection at `now`. The wait depends on the number of steps before.
    #[must_use]
    pub fn and_rejected(self, now: Timestamp) -> Self {
        let before = self.remembered_at(now);
        let step = usize::try_from(before.steps).unwrap_or(usize::MAX);
        // After the last wait, only the recipient can send a request.
        let wait_until = REJECTION_COOLDOWNS.get(step).map(|wait| now + *wait);
        Self { steps: before.steps + 1, stepped_at: Some(now), wait_until, ..before }
    }

    /// Adds a cancellation at `now`. It lengthens the wait after the next rejection, starts no wait of its
    /// own, and never reaches the step at which only the other user may send a request.
    #[must_use]
    pub fn and_cancelled(self, now: Timestamp) -> Self {
        Self { cancelled_at: Some(now), ..self.and_expired(now) }
    }

    /// Adds a request that expired at `at`, with the same bounds as a cancellation.
    #[must_use]
    pub fn and_expired(self, at: Timestamp) -> Self {
        let before = self.remembered_at(at);
        let longest = i64::try_from(REJECTION_COOLDOWNS.len()).unwrap_or(i64::MAX);
        let steps = (before.steps + 1).min(longest).max(before.steps);
        Self { steps, stepped_at: before.stepped_at.max(Some(at)), ..before }
    }

    /// Returns the refusals that still count at `now`.
    fn remembered_at(self, now: Timestamp) -> Self {
        let is_forgotten = self.stepped_at.is_some_and(|at| now.since(at) >= REFUSALS_RETENTION);
        if is_forgotten { Self::default() } else { self }
    }

    /// Checks that a request may be sent at `now`.
    ///
    /// # Errors
    /// Returns [`BondError::TooSoon`] during a wait, [`BondError::OnlyTheyMayAsk`] after the last step.
    pub fn may_ask(self, now: Timestamp) -> Result<(), BondError> {
        let refusals = self.remembered_at(now);
        if usize::try_from(refusals.steps).is_ok_and(|steps| steps > REJECTION_COOLDOWNS.len()) {
            return Err(BondError::OnlyTheyMayAsk);
        }
        match refusals.wait_until.map(|until| until.since(now)) {
            None | Some(Duration::ZERO) => Ok(()),
            Some(wait) => Err(BondError::TooSoon { wait }),
        }
    }

    /// Returns `true` if a request at `now` must not send a notification, because it follows a cancellation
    /// too soon.
    pub fn silences(self, now: Timestamp) -> bool {
        self.cancelled_at.is_some_and(|at| now.since(at) < SILENT_WINDOW)
    }
}

/// Everything that decides on a request from a sender to a recipient.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Sender.
    pub sender: Person,
    /// Recipient; `None` if they do not exist or one of both has blocked the other.
    pub receiver: Option<Person>,
    /// `true` if the sender has a partner.
    pub sender_bonded: bool,
    /// Users who can send requests to the recipient.
    pub who_may_ask: WhoMayAsk,
    /// `true` if requests to the recipient's e-mail address reach them.
    pub found_by_email: bool,
    /// Pending request that holds the pair's key, as the sender sees it. It may have expired.
    pub pending: Option<PartnerRequest>,
    /// `true` if the sender has a request to the recipient that is withheld because of a block and still
    /// looks pending.
    pub withheld: bool,
    /// Refusals of the sender's requests, except those by e-mail address.
    pub refusals: Refusals,
    /// Refusals of the sender's requests by e-mail address, which the sender does not know of.
    pub refusals_by_email: Refusals,
    /// End of the pair's last bond that is not archived.
    pub former_ended_at: Option<Timestamp>,
}

/// Way in which the sender names the recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By user ID.
    Id,
    /// By e-mail address. Other requests of the sender to the same user must not become visible.
    Address,
    /// By an invite of the recipient, which counts as their consent to be asked.
    Invite,
}

/// Decision on a new request.
#[derive(Debug, PartialEq, Eq)]
pub enum Sending<'s> {
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
pub fn may_send<'s>(
    standing: &'s Standing,
    way: Way,
    message: Option<&str>,
    now: Timestamp,
) -> Result<Sending<'s>, BondError> {
    if standing.sender_bonded {
        return Err(BondError::SlotOccupied);
    }
    let before = match &standing.pending {
        None => None,
        Some(request) if request.status != RequestStatus::Pending => Some(request),
        Some(request) if request.from.id != standing.sender.id => return Ok(Sending::Crossed(request)),
        Some(request) if way != Way::Address && matches!(request.to, Asked::Address { .. }) => Some(request),
        Some(request) if request.message.as_deref() == message => return Ok(Sending::Repeated(request)),
        Some(_) => return Err(BondError::AlreadyPending),
    };
    // Redeeming an invite always creates a new request.
    if standing.withheld && way == Way::Id {
        return Ok(Sending::Withheld);
    }
    if standing.receiver.is_none() {
        return Err(BondError::ReceiverNotFound);
    }
    match (standing.who_may_ask, way) {
        (WhoMayAsk::Nobody, Way::Invite) => return Err(BondError::InviteNotFound),
        (WhoMayAsk::Nobody | WhoMayAsk::Invited, Way::Id | Way::Address) => return Err(BondError::NotOpen),
        (WhoMayAsk::Anyone, Way::Id) => standing.refusals.may_ask(now)?,
        (WhoMayAsk::Anyone, Way::Address) => {
            standing.refusals.may_ask(now)?;
            standing.refusals_by_email.may_ask(now)?;
        }
        (WhoMayAsk::Anyone | WhoMayAsk::Invited, Way::Invite) => {}
    }
    Ok(Sending::New { before })
}

/// Decides on a request to an e-mail address with a known owner. Returns `None` if the request reaches no
/// one. Unless it forms a bond, the sender cannot tell the result from that for an unknown address.
pub fn reach<'s>(standing: &'s Standing, message: Option<&str>, now: Timestamp) -> Option<Sending<'s>> {
    if !standing.found_by_email {
        return None;
    }
    may_send(standing, Way::Address, message, now)
        .ok()
        .filter(|sending| !matches!(sending, Sending::Repeated(_)))
}

/// Decision on accepting, rejecting or cancelling a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Deciding {
    /// Apply the decision.
    Now,
    /// Return the request unchanged: the same user decided the same before.
    Repeated,
}

/// Checks that `user` may accept (`wanted` is [`RequestStatus::Accepted`]) or reject a request. The database
/// checks that both slots are free.
///
/// # Errors
/// Returns [`BondError::OnlyReceiver`] for the sender, [`BondError::NotPending`] if the request has another
/// final status.
pub fn may_answer(
    request: &PartnerRequest,
    user: UserId,
    wanted: RequestStatus,
) -> Result<Deciding, BondError> {
    if user == request.from.id {
        return Err(BondError::OnlyReceiver);
    }
    decide(request.status, wanted)
}

/// Checks that `user` may cancel a request.
///
/// # Errors
/// Returns [`BondError::OnlySender`] for the recipient, [`BondError::NotPending`] if the request has another
/// final status.
pub fn may_cancel(request: &PartnerRequest, user: UserId) -> Result<Deciding, BondError> {
    if user != request.from.id {
        return Err(BondError::OnlySender);
    }
    decide(request.status, RequestStatus::Cancelled)
}

fn decide(status: RequestStatus, wanted: RequestStatus) -> Result<Deciding, BondError> {
    match status {
        RequestStatus::Pending => Ok(Deciding::Now),
        status if status == wanted => Ok(Deciding::Repeated),
        decided => Err(BondError::NotPending(decided)),
    }
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
