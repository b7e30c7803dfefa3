//! What may happen between two people, decided from what is known. Pure: no database, no clock.

use std::time::Duration;

use kith_kernel::{Timestamp, UserId, days, hours, minutes};

use super::model::{BondError, PartnerRequest, RequestStatus, Standing};

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

/// What sending comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Sending<'s> {
    /// A new request. One that has expired still holds the pair's key and makes way first.
    New {
        /// The one that makes way.
        lapsed: Option<&'s PartnerRequest>,
    },
    /// The same is pending already.
    Repeated(&'s PartnerRequest),
    /// The other one has asked: both want it.
    Crossed(&'s PartnerRequest),
}

/// Whether a sender without a partner may ask, and what comes of it. That the receiver has one is not told.
pub fn may_send<'s>(standing: &'s Standing, message: Option<&str>) -> Result<Sending<'s>, BondError> {
    if standing.sender_bonded {
        return Err(BondError::SlotOccupied);
    }
    match &standing.pending {
        None => Ok(Sending::New { lapsed: None }),
        Some(request) if request.status != RequestStatus::Pending => {
            Ok(Sending::New { lapsed: Some(request) })
        }
        Some(request) if request.from.id != standing.sender.id => Ok(Sending::Crossed(request)),
        Some(request) if request.message.as_deref() == message => Ok(Sending::Repeated(request)),
        Some(_) => Err(BondError::AlreadyPending),
    }
}

/// What accepting comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Accepting {
    /// The request is accepted now.
    Now,
    /// It was accepted before, by the same person.
    Repeated,
}

/// Whether `user` may accept `request`. That both have a free slot is for the database to say.
pub fn may_accept(request: &PartnerRequest, user: UserId) -> Result<Accepting, BondError> {
    if user == request.from.id {
        return Err(BondError::OnlyReceiver);
    }
    if user != request.to.id {
        return Err(BondError::RequestNotFound);
    }
    match request.status {
        RequestStatus::Pending => Ok(Accepting::Now),
        RequestStatus::Accepted => Ok(Accepting::Repeated),
        decided => Err(BondError::NotPending(decided)),
    }
}

#[cfg(test)]
mod tests {
    use kith_kernel::uuid::Uuid;

    use super::super::model::PartnerRequestId;
    use super::*;
    use crate::accounts::Person;

    const EXPIRY: Timestamp = Timestamp::from_millis(1_000);
    const BEFORE: Timestamp = Timestamp::from_millis(999);
    const ADA: UserId = UserId(Uuid::from_u128(1));
    const BEN: UserId = UserId(Uuid::from_u128(2));
    const EVE: UserId = UserId(Uuid::from_u128(3));

    fn person(id: UserId) -> Person {
        Person { id, display_name: "somebody".into() }
    }

    /// What Ada asked Ben, as it reads at `now`.
    fn request(stored: RequestStatus, now: Timestamp) -> PartnerRequest {
        PartnerRequest {
            id: PartnerRequestId(Uuid::from_u128(4)),
            from: person(ADA),
            to: person(BEN),
            status: status_at(stored, EXPIRY, now),
            message: Some("hello".into()),
            created_at: Timestamp::EPOCH,
            expires_at: EXPIRY,
            restorable_until: None,
            bond: None,
        }
    }

    /// PRT-02: every status, from both sides of the expiry, by everybody.
    #[test]
    fn who_may_accept_what_and_when() {
        use RequestStatus::*;
        const ACCEPTED: &str = "accepted now";
        const REPEATED: &str = "accepted before";
        #[rustfmt::skip]
        let receiver = [
            (Pending,    BEFORE, ACCEPTED),                   (Pending,    EXPIRY, "the request is expired"),
            (Accepted,   BEFORE, REPEATED),                   (Accepted,   EXPIRY, REPEATED),
            (Rejected,   BEFORE, "the request is rejected"),   (Rejected,   EXPIRY, "the request is rejected"),
            (Cancelled,  BEFORE, "the request is cancelled"),  (Cancelled,  EXPIRY, "the request is cancelled"),
            (Expired,    BEFORE, "the request is expired"),    (Expired,    EXPIRY, "the request is expired"),
            (Superseded, BEFORE, "the request is superseded"), (Superseded, EXPIRY, "the request is superseded"),
        ];
        for (status, now, expected) in receiver {
            let outcome = |user| match may_accept(&request(status, now), user) {
                Ok(Accepting::Now) => ACCEPTED.to_owned(),
                Ok(Accepting::Repeated) => REPEATED.to_owned(),
                Err(error) => error.to_string(),
            };
            assert_eq!(outcome(BEN), expected, "receiver, {status:?} at {now}");
            assert_eq!(outcome(ADA), "only the receiver may do this", "sender, {status:?} at {now}");
            assert_eq!(outcome(EVE), "there is no such request", "stranger, {status:?} at {now}");
        }
    }

    /// SEC-03: the 6th within a minute, the 21st within an hour, the 101st within a day.
    #[test]
    fn a_window_slides_and_the_widest_that_is_full_decides() {
        let at = |second: u64| Timestamp::EPOCH + Duration::from_secs(second);
        let wait = |recent: &[Timestamp], now| match may_create(TIERS, recent, now) {
            Ok(()) => 0,
            Err(BondError::TooMany { wait }) => wait.as_millis(),
            Err(other) => panic!("{other}"),
        };
        let newest_first = |times: &[u64]| times.iter().rev().map(|second| at(*second)).collect::<Vec<_>>();
        let five = newest_first(&[0, 10, 20, 30, 40]);
        assert_eq!(wait(&five[1..], at(40)), 0);
        assert_eq!(wait(&five, at(40)), 20_000);
        assert_eq!(wait(&five, at(60) - Duration::from_millis(1)), 1);
        assert_eq!(wait(&five, at(60)), 0, "the first has left the window");
        let twenty = newest_first(&(0..20).map(|n| n * 60).collect::<Vec<_>>());
        assert_eq!(wait(&twenty, at(1_200)), (3_600 - 1_200) * 1_000);
        assert_eq!(wait(&twenty, at(3_600)), 0);
        let hundred = newest_first(&(0..100).map(|n| n * 600).collect::<Vec<_>>());
        assert_eq!(wait(&hundred, at(60_000)), (86_400 - 60_000) * 1_000);
        assert_eq!(wait(&hundred[1..], at(60_000)), 0);
        assert!(may_create(&[], &hundred, at(0)).is_ok());
    }

    fn sending(
        sender: UserId,
        sender_bonded: bool,
        pending: Option<PartnerRequest>,
        message: &str,
    ) -> String {
        let receiver = if sender == ADA { BEN } else { ADA };
        let standing =
            Standing { sender: person(sender), receiver: person(receiver), sender_bonded, pending };
        match may_send(&standing, Some(message)) {
            Ok(Sending::New { lapsed: None }) => "new".to_owned(),
            Ok(Sending::New { lapsed: Some(_) }) => "new, another makes way".to_owned(),
            Ok(Sending::Repeated(_)) => "repeated".to_owned(),
            Ok(Sending::Crossed(_)) => "crossed".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_sending_comes_to() {
        let live = || Some(request(RequestStatus::Pending, BEFORE));
        let lapsed = || Some(request(RequestStatus::Pending, EXPIRY));
        assert_eq!(sending(ADA, false, None, "hello"), "new");
        assert_eq!(sending(ADA, false, live(), "hello"), "repeated");
        assert_eq!(sending(ADA, false, live(), "other words"), "a request to this person is pending");
        assert_eq!(sending(BEN, false, live(), "me too"), "crossed");
        assert_eq!(sending(ADA, false, lapsed(), "hello"), "new, another makes way");
        assert_eq!(sending(BEN, false, lapsed(), "hello"), "new, another makes way");
    }

    #[test]
    fn a_bonded_sender_is_refused_whatever_is_pending() {
        for pending in [
            None,
            Some(request(RequestStatus::Pending, BEFORE)),
            Some(request(RequestStatus::Pending, EXPIRY)),
        ] {
            assert_eq!(sending(ADA, true, pending.clone(), "hello"), "the slot is occupied");
            assert_eq!(sending(BEN, true, pending, "hello"), "the slot is occupied");
        }
    }
}
