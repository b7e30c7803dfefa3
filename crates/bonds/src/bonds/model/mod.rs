//! Types of partner requests, bonds and invites, without database access.

mod bond;
mod invite;
mod request;

use std::time::Duration;

use kith_kernel::{UserId, id_type};
use thiserror::Error;

pub use bond::{ActiveBond, Bond, BondHistoryEntry, Breakup, FormerBond, REASON, restorable_until};
pub use invite::{CodeHashes, INVITE_LIFETIME, Invite, InviteCode, InviteId, InvitePreview, NewInvite};
pub use request::{
    PartnerRequest, PartnerSettings, Recipient, ReportReason, RequestDirection, RequestDraft, RequestParties,
    RequestPolicy, RequestRecipient, RequestReport, RequestStatus,
};

id_type! {
    /// Partner request ID.
    PartnerRequestId
    /// Bond ID.
    BondId
}

/// Two different users, ordered by ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair([UserId; 2]);

impl Pair {
    /// Creates the pair of two users, in either order.
    ///
    /// # Errors
    /// Returns [`BondError::SelfRequest`] if both are the same user.
    pub fn new(one: UserId, other: UserId) -> Result<Self, BondError> {
        match one.cmp(&other) {
            std::cmp::Ordering::Less => Ok(Self([one, other])),
            std::cmp::Ordering::Equal => Err(BondError::SelfRequest),
            std::cmp::Ordering::Greater => Ok(Self([other, one])),
        }
    }

    /// Returns both users, smaller ID first.
    pub fn users(self) -> [UserId; 2] {
        self.0
    }

    /// Returns the key of the pair: `smaller:larger`. At most one pending request can have this key.
    pub fn key(self) -> String {
        let [smaller, larger] = self.0;
        format!("{smaller}:{larger}")
    }
}

/// Error of a command or query about bonds. If it is returned, nothing was changed.
#[derive(Debug, Error)]
pub enum BondError {
    /// Sender and recipient are the same user.
    #[error("sender and recipient are the same user")]
    SelfRequest,
    /// No user has this ID, or one of the two users has blocked the other. The response does not reveal
    /// which.
    #[error("recipient not found")]
    RecipientNotFound,
    /// The request does not exist, or the caller cannot see it.
    #[error("request not found")]
    RequestNotFound,
    /// The bond does not exist, or the caller is not one of its users.
    #[error("bond not found")]
    BondNotFound,
    /// Only the recipient of the request can accept, reject or report it.
    #[error("only the recipient may do this")]
    OnlyRecipient,
    /// Only the sender of the request can cancel it.
    #[error("only the sender may do this")]
    OnlySender,
    /// A request to the same recipient with another message is already pending.
    #[error("a request to this user is pending")]
    AlreadyPending,
    /// The request is no longer pending; it has this status.
    #[error("the request is {}", .0.as_str())]
    NotPending(RequestStatus),
    /// The sender has a partner, or on acceptance one of the two users has a partner.
    #[error("the slot is occupied")]
    SlotOccupied,
    /// The caller has no partner.
    #[error("the user has no active bond")]
    NotBonded,
    /// The recipient accepts requests by invite only, or no requests.
    #[error("the recipient does not accept requests")]
    RequestsNotAccepted,
    /// The recipient has rejected a request of the sender, and the wait after it is not over.
    #[error("the request cooldown is active")]
    CooldownActive {
        /// Time until the next request is allowed.
        wait: Duration,
    },
    /// The recipient has rejected so many requests that only the recipient can send one now.
    #[error("only the recipient can send a request")]
    OnlyRecipientCanRequest,
    /// The sender has reached a limit on new requests.
    #[error("too many requests")]
    TooManyRequests {
        /// Time until the next request is allowed.
        wait: Duration,
    },
    /// The invite does not exist, is redeemed, revoked or expired, or one of the two users has blocked the
    /// other. The response does not reveal which.
    #[error("invite not found")]
    InviteNotFound,
    /// Too many attempts with codes that cannot be used.
    #[error("too many invalid invite codes")]
    TooManyFailedAttempts {
        /// Time until the next attempt is allowed.
        wait: Duration,
    },
    /// The inviter has the maximum number of usable invites.
    #[error("too many usable invites")]
    TooManyInvites,
    /// The request was to be accepted only as a restoration, but the pair has no bond that can be restored.
    #[error("the former bond cannot be restored")]
    RestorationExpired,
    /// The request has no message to report.
    #[error("the request has no message")]
    NothingToReport,
    /// The database operation failed.
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
    fn pair_is_symmetric() {
        let pair = Pair::new(ADA, BEN).unwrap();
        assert_eq!(Pair::new(BEN, ADA).unwrap(), pair);
        assert_eq!(pair.users(), [ADA, BEN]);
        assert_eq!(pair.key(), format!("{ADA}:{BEN}"));
        assert!(matches!(Pair::new(ADA, ADA), Err(BondError::SelfRequest)));
    }
}
