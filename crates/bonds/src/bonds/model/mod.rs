//! What requests, bonds and invites are made of. Nothing here reaches a database.

mod bond;
mod invite;
mod request;

use std::time::Duration;

use kith_kernel::{UserId, id_type};
use thiserror::Error;

pub use bond::{Bond, Breakup, Former, History, Living, REASON, restorable_until};
pub use invite::{CodeHashes, INVITE_LIFETIME, Invite, InviteCode, InviteId, InvitePreview, NewInvite};
pub use request::{
    Asked, Draft, Parties, PartnerRequest, Receiver, ReportReason, RequestDirection, RequestReport,
    RequestStatus, Settings, WhoMayAsk,
};

id_type! {
    /// A question of one person to another: will you be my partner?
    PartnerRequestId
    /// What two people are to each other once both wanted it.
    BondId
}

/// Two different people, in the order of their ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair([UserId; 2]);

impl Pair {
    /// The pair of `one` and `other`.
    ///
    /// # Errors
    /// [`BondError::ToSelf`] if they are the same.
    pub fn of(one: UserId, other: UserId) -> Result<Self, BondError> {
        match one.cmp(&other) {
            std::cmp::Ordering::Less => Ok(Self([one, other])),
            std::cmp::Ordering::Equal => Err(BondError::ToSelf),
            std::cmp::Ordering::Greater => Ok(Self([other, one])),
        }
    }

    /// Both, the smaller id first.
    pub fn users(self) -> [UserId; 2] {
        self.0
    }

    /// What at most one pending request may hold, whichever of the two sent it.
    pub fn key(self) -> String {
        let [smaller, larger] = self.0;
        format!("{smaller}:{larger}")
    }
}

/// Why a command about bonds was refused. Nothing was changed.
#[derive(Debug, Error)]
pub enum BondError {
    /// One cannot be one's own partner.
    #[error("sender and receiver are the same")]
    ToSelf,
    /// Nobody has this id, or a door is shut between the two: which of these is not told.
    #[error("there is no such receiver")]
    ReceiverNotFound,
    /// It does not exist, or not for this person.
    #[error("there is no such request")]
    RequestNotFound,
    /// It does not exist, or is not this person's.
    #[error("there is no such bond")]
    BondNotFound,
    /// Only the receiver may do this.
    #[error("only the receiver may do this")]
    OnlyReceiver,
    /// Only the sender may do this.
    #[error("only the sender may do this")]
    OnlySender,
    /// A request to the same person waits already, in other words.
    #[error("a request to this person is pending")]
    AlreadyPending,
    /// The request has been decided otherwise.
    #[error("the request is {}", .0.as_str())]
    NotPending(RequestStatus),
    /// One of the two has a partner.
    #[error("the slot is occupied")]
    SlotOccupied,
    /// Whoever breaks up must have a partner.
    #[error("there is no partner")]
    NotBonded,
    /// The receiver does not want to be asked, or only by those they invited.
    #[error("the receiver is not open to requests")]
    NotOpen,
    /// The receiver has said no, and it is too soon to ask again.
    #[error("it is too soon to ask again")]
    TooSoon {
        /// After which it is not.
        wait: Duration,
    },
    /// The receiver has said no so often that only they may ask now.
    #[error("only the other one may ask")]
    OnlyTheyMayAsk,
    /// The sender has made too many requests.
    #[error("too many requests were made")]
    TooMany {
        /// After which another may be made.
        wait: Duration,
    },
    /// It was never made, is spent, taken back or has expired, or a door is shut: which of these is not told.
    #[error("there is no such invite")]
    InviteNotFound,
    /// Too many codes were tried that lead nowhere.
    #[error("too many codes were tried")]
    TooManyMisses {
        /// After which another may be tried.
        wait: Duration,
    },
    /// The inviter has as many live invites as one may have.
    #[error("too many invites are live")]
    TooManyInvites,
    /// The receiver accepts on condition that the former bond is restored, and its restoration window has passed.
    #[error("the former bond cannot come back")]
    RestorationExpired,
    /// There are no words in the request that could be reported.
    #[error("the request has no message")]
    NothingToReport,
    /// The database's own.
    #[error(transparent)]
    Store(#[from] kith_store::Error),
}

#[cfg(test)]
mod tests {
    use kith_kernel::uuid::Uuid;

    use super::*;

    const ADA: UserId = UserId(Uuid::from_u128(1));
    const BEN: UserId = UserId(Uuid::from_u128(2));

    #[test]
    fn a_pair_is_the_same_from_both_sides() {
        let pair = Pair::of(ADA, BEN).unwrap();
        assert_eq!(Pair::of(BEN, ADA).unwrap(), pair);
        assert_eq!(pair.users(), [ADA, BEN]);
        assert_eq!(pair.key(), format!("{ADA}:{BEN}"));
        assert!(matches!(Pair::of(ADA, ADA), Err(BondError::ToSelf)));
    }
}
