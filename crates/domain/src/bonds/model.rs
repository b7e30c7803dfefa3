//! What a request and a bond are made of. Nothing here reaches a database.

use std::time::Duration;

use kith_kernel::{Ctx, FieldError, Text, TextRules, Timestamp, UserId, days, id_type};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;

use crate::accounts::Person;

const MESSAGE: TextRules = TextRules { min: 0, max: 500, newlines: true };

/// A request that nobody answers for this long has expired.
const REQUEST_LIFETIME: Duration = days(14);

id_type! {
    /// A question of one person to another: will you be my partner?
    PartnerRequestId
    /// What two people are to each other once both wanted it.
    BondId
}

/// How far a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RequestStatus {
    /// Waits for its receiver.
    Pending,
    /// The receiver said yes, or asked the same.
    Accepted,
    /// The receiver said no.
    Rejected,
    /// The sender took it back.
    Cancelled,
    /// Nobody answered in time.
    Expired,
    /// One of the two has found a partner otherwise.
    Superseded,
}

impl RequestStatus {
    /// As the database and the API write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Accepted => "accepted",
            Self::Rejected => "rejected",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Superseded => "superseded",
        }
    }

    /// Reads what [`RequestStatus::as_str`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Pending, Self::Accepted, Self::Rejected, Self::Cancelled, Self::Expired, Self::Superseded]
            .into_iter()
            .find(|status| status.as_str() == text)
    }
}

/// Which side of a request somebody stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RequestDirection {
    /// They were asked.
    Incoming,
    /// They asked.
    Outgoing,
}

/// A request, as it stands at the moment it was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct PartnerRequest {
    /// Of this request.
    #[schema(value_type = String, format = Uuid)]
    pub id: PartnerRequestId,
    /// Who asks.
    pub from: Person,
    /// Who is asked.
    pub to: Person,
    /// How far it has come.
    pub status: RequestStatus,
    /// What the sender wrote with it.
    #[schema(required = true)]
    pub message: Option<String>,
    /// When it was sent.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// From this moment on it can no longer be accepted.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    /// Until when accepting it would bring the pair's former bond back; null where there is none to bring back.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    pub restorable_until: Option<Timestamp>,
    /// The bond that came of it; only in the answer to a request that is accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bond: Option<Bond>,
}

impl PartnerRequest {
    /// What `draft` makes of the way the two stand to each other.
    pub fn new(ctx: &Ctx, standing: &Standing, draft: &Draft, status: RequestStatus) -> Self {
        Self {
            id: ctx.new_id(PartnerRequestId),
            from: standing.sender.clone(),
            to: standing.receiver.clone(),
            status,
            message: draft.message.clone(),
            created_at: ctx.now,
            expires_at: ctx.now + REQUEST_LIFETIME,
            restorable_until: None,
            bond: None,
        }
    }
}

/// A bond, as one of its two sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Bond {
    /// Of this bond; the same after a restoration.
    #[schema(value_type = String, format = Uuid)]
    pub id: BondId,
    /// The other one.
    pub partner: Person,
    /// When it was first formed.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// When it last came back after a breakup.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    pub restored_at: Option<Timestamp>,
    /// How often it came back.
    pub restorations: i64,
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

/// What somebody wants to ask, before it is known whether they may.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Whom.
    pub to: UserId,
    /// In which words.
    pub message: Option<String>,
}

impl Draft {
    /// Cleans and checks the message; an empty one is none.
    ///
    /// # Errors
    /// As for [`Text::parse`].
    pub fn new(to: UserId, message: Option<&str>) -> Result<Self, FieldError> {
        let message = message.map(|text| Text::parse(text, MESSAGE, "/message")).transpose()?;
        let message = message.map(Text::into_string).filter(|text| !text.is_empty());
        Ok(Self { to, message })
    }
}

/// How the sender of a request stands to its receiver.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Who asks.
    pub sender: Person,
    /// Who is asked.
    pub receiver: Person,
    /// Whether the sender has a partner.
    pub sender_bonded: bool,
    /// The request that holds the pair's key, whichever of the two sent it. It may have expired meanwhile.
    pub pending: Option<PartnerRequest>,
}

/// Why a command about bonds was refused. Nothing was changed.
#[derive(Debug, Error)]
pub enum BondError {
    /// One cannot be one's own partner.
    #[error("sender and receiver are the same")]
    ToSelf,
    /// Nobody has this id.
    #[error("there is no such receiver")]
    ReceiverNotFound,
    /// It does not exist, or not for this person.
    #[error("there is no such request")]
    RequestNotFound,
    /// Only the receiver may do this.
    #[error("only the receiver may do this")]
    OnlyReceiver,
    /// A request to the same person waits already, in other words.
    #[error("a request to this person is pending")]
    AlreadyPending,
    /// The request has been decided otherwise.
    #[error("the request is {}", .0.as_str())]
    NotPending(RequestStatus),
    /// One of the two has a partner.
    #[error("the slot is occupied")]
    SlotOccupied,
    /// The sender has made too many requests.
    #[error("too many requests were made")]
    TooMany {
        /// After which another may be made.
        wait: Duration,
    },
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

    #[test]
    fn statuses_read_back() {
        for text in ["pending", "accepted", "rejected", "cancelled", "expired", "superseded"] {
            assert_eq!(RequestStatus::parse(text).unwrap().as_str(), text);
            assert_eq!(serde_json::to_value(RequestStatus::parse(text)).unwrap(), text);
        }
        assert_eq!(RequestStatus::parse("PENDING"), None);
    }

    #[test]
    fn messages_are_cleaned_and_bounded() {
        let message = |text: &str| Draft::new(BEN, Some(text)).map(|draft| draft.message);
        assert_eq!(message(" two\nlines ").unwrap().as_deref(), Some("two\nlines"));
        assert_eq!(message("   ").unwrap(), None);
        assert!(message(&"é".repeat(500)).is_ok());
        assert_eq!(message(&"é".repeat(501)).unwrap_err().code, "too_long");
        assert_eq!(message("\u{202E}evil").unwrap_err().pointer, "/message");
    }
}
