//! What may happen between two people, decided from what is known. Pure: no database, no clock.

use std::time::Duration;

use kith_kernel::{Timestamp, UserId, days, hours, minutes};

use super::model::{Asked, BondError, PartnerRequest, RequestStatus, WhoMayAsk};
use kith_accounts::accounts::Person;

/// A request that nobody answers for this long has expired.
pub const REQUEST_LIFETIME: Duration = days(14);
/// Live invites that one person may have.
pub const INVITES_MOST: i64 = 5;
/// Codes that lead nowhere which a person, or a client network, may try within [`MISSES_WITHIN`].
pub const MISSES_MOST: i64 = 10;
/// See [`MISSES_MOST`].
pub const MISSES_WITHIN: Duration = minutes(1);

/// How long to wait after the first, the second and the third refusal.
const WAITS: [Duration; 3] = [hours(24), days(7), days(30)];
/// Refusals are forgotten if none was added for this long.
const REFUSALS_REMEMBERED: Duration = days(365);
/// A request that follows on one that was taken back within this time notifies nobody.
const SILENT_WITHIN: Duration = hours(24);

/// What a request counts as at `now`, whatever the database still says: nobody needs to tidy for it to expire.
pub fn status_at(stored: RequestStatus, expires_at: Timestamp, now: Timestamp) -> RequestStatus {
    match stored {
        RequestStatus::Pending if now >= expires_at => RequestStatus::Expired,
        other => other,
    }
}

/// How many requests somebody may make within a sliding window of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tier {
    /// Requests.
    pub most: i64,
    /// The window.
    pub within: Duration,
}

/// What holds for everybody.
pub const TIERS: &[Tier] = &[
    Tier { most: 5, within: minutes(1) },
    Tier { most: 20, within: hours(1) },
    Tier { most: 100, within: days(1) },
];

/// Whether another request may be made at `now`, after those made at `recent`, the newest first.
///
/// # Errors
/// [`BondError::TooMany`] says how long to wait.
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

/// How often one person was refused by another, since that other one last asked or accepted. Forgotten a year after the last
/// step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// Rejections, and requests that the sender took back or that expired.
    pub steps: i64,
    /// Time of the last step.
    pub stepped_at: Option<Timestamp>,
    /// Until when the last rejection makes the sender wait.
    pub wait_until: Option<Timestamp>,
    /// The last time that the sender took one back.
    pub cancelled_at: Option<Timestamp>,
}

impl Refusals {
    /// One more rejection at `now`: the more steps there were, the longer the wait.
    #[must_use]
    pub fn and_rejected(self, now: Timestamp) -> Self {
        let before = self.remembered_at(now);
        let step = usize::try_from(before.steps).unwrap_or(usize::MAX);
        // Behind the last wait only the other one may ask.
        let wait_until = WAITS.get(step).map(|wait| now + *wait);
        Self { steps: before.steps + 1, stepped_at: Some(now), wait_until, ..before }
    }

    /// Counts a cancellation at `now`. It lengthens the wait after the next rejection, starts no wait of its own, and never
    /// reaches the step at which only the other user may ask.
    #[must_use]
    pub fn and_cancelled(self, now: Timestamp) -> Self {
        Self { cancelled_at: Some(now), ..self.and_expired(now) }
    }

    /// Counts a request that expired at `at`, with the same bounds as a cancellation.
    #[must_use]
    pub fn and_expired(self, at: Timestamp) -> Self {
        let before = self.remembered_at(at);
        let longest = i64::try_from(WAITS.len()).unwrap_or(i64::MAX);
        let steps = (before.steps + 1).min(longest).max(before.steps);
        Self { steps, stepped_at: before.stepped_at.max(Some(at)), ..before }
    }

    /// Refusals that still count at `now`.
    fn remembered_at(self, now: Timestamp) -> Self {
        let is_forgotten = self.stepped_at.is_some_and(|at| now.since(at) >= REFUSALS_REMEMBERED);
        if is_forgotten { Self::default() } else { self }
    }

    /// Whether they may be asked again at `now`.
    ///
    /// # Errors
    /// [`BondError::TooSoon`], [`BondError::OnlyTheyMayAsk`].
    pub fn may_ask(self, now: Timestamp) -> Result<(), BondError> {
        let refusals = self.remembered_at(now);
        if usize::try_from(refusals.steps).is_ok_and(|steps| steps > WAITS.len()) {
            return Err(BondError::OnlyTheyMayAsk);
        }
        match refusals.wait_until.map(|until| until.since(now)) {
            None | Some(Duration::ZERO) => Ok(()),
            Some(wait) => Err(BondError::TooSoon { wait }),
        }
    }

    /// Whether a request at `now` comes so soon after one that was taken back that nobody need hear of it.
    pub fn silences(self, now: Timestamp) -> bool {
        self.cancelled_at.is_some_and(|at| now.since(at) < SILENT_WITHIN)
    }
}

/// How the sender of a request stands to its receiver.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Who asks.
    pub sender: Person,
    /// Who is asked; none if nobody is there, or a door is shut between the two.
    pub receiver: Option<Person>,
    /// Whether the sender has a partner.
    pub sender_bonded: bool,
    /// Who may ask the receiver.
    pub who_may_ask: WhoMayAsk,
    /// Whether an address finds the receiver.
    pub found_by_email: bool,
    /// What holds the pair's key, or the sender's own, as the sender sees it. It may have expired meanwhile.
    pub pending: Option<PartnerRequest>,
    /// Whether the sender is told to wait for what a block took out of the receiver's sight.
    pub withheld: bool,
    /// How often the sender was refused, not counting what they asked by address.
    pub refusals: Refusals,
    /// How often what they asked by address was refused, of which they are not told.
    pub refusals_by_email: Refusals,
    /// When the last bond of the two ended that can still come back.
    pub former_ended_at: Option<Timestamp>,
}

/// How the sender comes to the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By their id.
    Id,
    /// By their address: nothing else that the sender asked may show.
    Address,
    /// By an invite of theirs, which is as good as being asked.
    Invite,
}

/// What sending comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Sending<'s> {
    /// A new request. One that has expired, or that the sender made by address and must not meet here, still holds the
    /// pair's key and makes way first.
    New {
        /// The one that makes way.
        before: Option<&'s PartnerRequest>,
    },
    /// The same is pending already.
    Repeated(&'s PartnerRequest),
    /// Something is pending as far as the sender is told.
    Withheld,
    /// The other one has asked: both want it.
    Crossed(&'s PartnerRequest),
}

/// Whether somebody may ask, and what comes of it. That the receiver has a partner is not told.
///
/// # Errors
/// What is in the way.
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

/// What comes of a request to an address whose owner is known: nothing that the sender could tell from a request to an
/// address that nobody has, but for a bond that both want.
pub fn reach<'s>(standing: &'s Standing, message: Option<&str>, now: Timestamp) -> Option<Sending<'s>> {
    if !standing.found_by_email {
        return None;
    }
    may_send(standing, Way::Address, message, now)
        .ok()
        .filter(|sending| !matches!(sending, Sending::Repeated(_)))
}

/// What accepting comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Deciding {
    /// The request is decided now.
    Now,
    /// It was decided so before, by the same person.
    Repeated,
}

/// Whether `user` may accept (`wanted` is [`RequestStatus::Accepted`]) or reject a request. That both have a free slot is
/// for the database to say.
///
/// # Errors
/// [`BondError::OnlyReceiver`], [`BondError::RequestNotFound`], [`BondError::NotPending`].
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

/// Whether `user` may take a request back.
///
/// # Errors
/// [`BondError::OnlySender`], [`BondError::NotPending`].
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
