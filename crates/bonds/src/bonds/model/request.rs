//! Requests: who asks whom, how, and how far it has come.

use kith_kernel::{FieldError, Text, TextRules, Timestamp, UserId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Bond, InviteCode, PartnerRequestId};
use kith_accounts::accounts::{Email, Person};

const MESSAGE: TextRules = TextRules { min: 0, max: 500, newlines: true };

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

/// A request, as one of its two sees it at the moment it was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct PartnerRequest {
    /// Of this request.
    pub id: PartnerRequestId,
    /// Who asks, by the name they had when they did.
    pub from: Person,
    /// Who is asked.
    pub to: Asked,
    /// How far it has come. Who asks by address is told only if it is accepted.
    pub status: RequestStatus,
    /// What the sender wrote with it.
    #[schema(required = true)]
    pub message: Option<String>,
    /// When it was sent.
    pub created_at: Timestamp,
    /// From this moment on it can no longer be accepted.
    pub expires_at: Timestamp,
    /// Until when accepting it brings the pair's former bond back; null where there is none to bring back.
    #[schema(required = true)]
    pub restorable_until: Option<Timestamp>,
    /// The bond that came of it; only in the answer to a request that is accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bond: Option<Bond>,
}

/// Who is asked, as far as the viewer knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Asked {
    /// Somebody.
    Person(Person),
    /// Whoever has this address, if anybody.
    Address {
        /// As it was typed.
        email: String,
    },
}

/// Whom somebody wants to ask.
#[derive(Clone, Debug)]
pub enum Receiver {
    /// By id.
    User(UserId),
    /// By address.
    Email(Email),
    /// Whoever handed out this code.
    Invite(InviteCode),
}

/// What somebody wants to ask, before it is known whether they may.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Whom.
    pub to: Receiver,
    /// In which words.
    pub message: Option<String>,
}

impl Draft {
    /// Cleans and checks the message; an empty one is none.
    ///
    /// # Errors
    /// As for [`Text::parse`].
    pub fn new(to: Receiver, message: Option<&str>) -> Result<Self, FieldError> {
        let message = message.map(|text| Text::parse(text, MESSAGE, "/message")).transpose()?;
        let message = message.map(Text::into_string).filter(|text| !text.is_empty());
        Ok(Self { to, message })
    }
}

/// A request and its two: all that an event about it says, and whom to lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parties {
    /// The request.
    pub request: PartnerRequestId,
    /// Who asked.
    pub from: UserId,
    /// Who was asked, if they can see it.
    pub to: Option<UserId>,
    /// Whether the sender asked by address, and learns of nothing but an acceptance.
    pub by_email: bool,
}

/// Who may ask somebody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum WhoMayAsk {
    /// Whoever knows their id.
    #[default]
    Anyone,
    /// Only those who have an invite of theirs.
    Invited,
    /// Nobody at all.
    Nobody,
}

impl WhoMayAsk {
    /// As the database and the API write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Anyone => "anyone",
            Self::Invited => "invited",
            Self::Nobody => "nobody",
        }
    }

    /// Reads what [`WhoMayAsk::as_str`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Anyone, Self::Invited, Self::Nobody].into_iter().find(|one| one.as_str() == text)
    }
}

/// How somebody wants to be approached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Settings {
    /// Who may ask you to be their partner.
    pub who_may_ask: WhoMayAsk,
    /// Whether a request to your e-mail address finds you. The sender is not told.
    pub found_by_email: bool,
    /// Whether names and texts stay out of notifications.
    pub discreet: bool,
}

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReportReason {
    /// It threatens, insults or presses.
    Harassment,
    /// It advertises.
    Spam,
    /// See the note.
    Other,
}

impl ReportReason {
    /// As the database and the API write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Harassment => "harassment",
            Self::Spam => "spam",
            Self::Other => "other",
        }
    }
}

/// Somebody's report of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct RequestReport {
    /// Of the report.
    pub id: kith_kernel::uuid::Uuid,
    /// When it was made.
    pub created_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use kith_kernel::uuid::Uuid;

    use super::*;

    #[test]
    fn statuses_read_back() {
        for text in ["pending", "accepted", "rejected", "cancelled", "expired", "superseded"] {
            assert_eq!(RequestStatus::parse(text).unwrap().as_str(), text);
            assert_eq!(serde_json::to_value(RequestStatus::parse(text)).unwrap(), text);
        }
        assert_eq!(RequestStatus::parse("PENDING"), None);
        for text in ["anyone", "invited", "nobody"] {
            assert_eq!(serde_json::to_value(WhoMayAsk::parse(text)).unwrap(), text);
        }
        for reason in [ReportReason::Harassment, ReportReason::Spam, ReportReason::Other] {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }

    #[test]
    fn messages_are_cleaned_and_bounded() {
        let ben = || Receiver::User(UserId(Uuid::from_u128(2)));
        let message = |text: &str| Draft::new(ben(), Some(text)).map(|draft| draft.message);
        assert_eq!(message(" two\nlines ").unwrap().as_deref(), Some("two\nlines"));
        assert_eq!(message("   ").unwrap(), None);
        assert!(message(&"é".repeat(500)).is_ok());
        assert_eq!(message(&"é".repeat(501)).unwrap_err().code, "too_long");
        assert_eq!(message("\u{202E}evil").unwrap_err().pointer, "/message");
    }
}
