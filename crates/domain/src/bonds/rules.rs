//! What may happen between two people, decided from what is known. Pure: no database, no clock.

use kith_kernel::{Timestamp, UserId};

use super::model::{BondError, PartnerRequest, RequestStatus, Standing};

/// What a request counts as at `now`, whatever the database still says: nobody needs to tidy for it to expire.
pub fn status_at(stored: RequestStatus, expires_at: Timestamp, now: Timestamp) -> RequestStatus {
    match stored {
        RequestStatus::Pending if now >= expires_at => RequestStatus::Expired,
        other => other,
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
