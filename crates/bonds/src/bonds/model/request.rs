//! Types of partner requests, of reports about them, and of partner settings.

use kith_kernel::{FieldError, Text, TextRules, Timestamp, UserId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Bond, InviteCode, PartnerRequestId};
use kith_accounts::accounts::{Email, UserSummary};

const MESSAGE: TextRules = TextRules { min: 0, max: 500, newlines: true };

/// Status of a partner request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RequestStatus {
    /// Waiting for the recipient's decision.
    Pending,
    /// Accepted by the recipient, or by the server because the recipient sent a request too.
    Accepted,
    /// Rejected by the recipient.
    Rejected,
    /// Cancelled by the sender.
    Cancelled,
    /// Not accepted, rejected or cancelled within 14 days.
    Expired,
    /// Closed because the sender or the recipient has formed a bond with another user.
    Superseded,
}

impl RequestStatus {
    /// Returns the name used in the database and in the API.
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

    /// Parses a name that [`RequestStatus::as_str`] returns.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Pending, Self::Accepted, Self::Rejected, Self::Cancelled, Self::Expired, Self::Superseded]
            .into_iter()
            .find(|status| status.as_str() == text)
    }
}

/// Direction of a request from the caller's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RequestDirection {
    /// The caller received the request.
    Incoming,
    /// The caller sent the request.
    Outgoing,
}

/// Partner request as the caller sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct PartnerRequest {
    /// Request ID.
    pub id: PartnerRequestId,
    /// Sender, with the display name at the time of the request.
    pub from: UserSummary,
    /// Recipient.
    pub to: RequestRecipient,
    /// Status. The sender of a request by e-mail address learns only of an acceptance. A rejected request
    /// stays `pending` for them until it expires.
    pub status: RequestStatus,
    /// Message of the sender; `null` if there is none.
    #[schema(required = true)]
    pub message: Option<String>,
    /// Time at which the request was sent.
    pub created_at: Timestamp,
    /// Time at which the request expires, 14 days after it was sent.
    pub expires_at: Timestamp,
    /// Last moment at which accepting the request restores the former bond of both users; `null` if no bond
    /// can be restored.
    #[schema(required = true)]
    pub restorable_until: Option<Timestamp>,
    /// Active bond that the request led to. Present only in responses that contain a single accepted
    /// request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bond: Option<Bond>,
}

/// Recipient of a request as the caller sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum RequestRecipient {
    /// Recipient whose user ID the caller knows.
    User(UserSummary),
    /// E-mail address to which the request was sent. The caller cannot tell whether an account has this
    /// address.
    Address {
        /// E-mail address as the sender entered it; empty after it has been deleted.
        email: String,
    },
}

/// Recipient of a request as the sender specifies them.
#[derive(Clone, Debug)]
pub enum Recipient {
    /// By user ID.
    User(UserId),
    /// By e-mail address.
    Email(Email),
    /// By an invite code that the recipient shared.
    Invite(InviteCode),
}

/// Request to be sent, before the rules are checked.
#[derive(Clone, Debug)]
pub struct RequestDraft {
    /// Recipient.
    pub to: Recipient,
    /// Message, if any.
    pub message: Option<String>,
}

impl RequestDraft {
    /// Creates a draft with a checked and normalized message of at most 500 characters. An empty message
    /// becomes `None`.
    ///
    /// # Errors
    /// Returns the error of [`Text::parse`].
    pub fn new(to: Recipient, message: Option<&str>) -> Result<Self, FieldError> {
        let message = message.map(|text| Text::parse(text, MESSAGE, "/message")).transpose()?;
        let message = message.map(Text::into_string).filter(|text| !text.is_empty());
        Ok(Self { to, message })
    }
}

/// Sender and recipient of a request. They form the payload of its events, and are locked to change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestParties {
    /// Request ID.
    pub request: PartnerRequestId,
    /// Sender.
    pub from: UserId,
    /// Recipient; `None` if no user receives the request.
    pub to: Option<UserId>,
    /// `true` if the request was sent to an e-mail address. Its sender then learns only of an acceptance.
    pub is_by_email: bool,
}

/// Users who can send partner requests to a user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RequestPolicy {
    /// Any user who knows the user's ID.
    #[default]
    Anyone,
    /// Only users with an invite of this user.
    Invited,
    /// No user.
    Nobody,
}

impl RequestPolicy {
    /// Returns the name used in the database and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Anyone => "anyone",
            Self::Invited => "invited",
            Self::Nobody => "nobody",
        }
    }

    /// Parses a name that [`RequestPolicy::as_str`] returns.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Anyone, Self::Invited, Self::Nobody].into_iter().find(|one| one.as_str() == text)
    }
}

/// Partner settings of the caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct PartnerSettings {
    /// Users who can send the caller partner requests.
    pub accepts_requests_from: RequestPolicy,
    /// `true` if the caller receives partner requests that are sent to their verified e-mail address.
    /// Senders cannot tell whether it is set. Default `false`.
    pub discoverable_by_email: bool,
    /// `true` to keep names and message texts out of notifications. Default `false`.
    pub discreet: bool,
}

/// Reason for reporting a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReportReason {
    /// Threats, insults or pressure.
    Harassment,
    /// Advertising.
    Spam,
    /// Another reason, explained in the note.
    Other,
}

impl ReportReason {
    /// Returns the name used in the database and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Harassment => "harassment",
            Self::Spam => "spam",
            Self::Other => "other",
        }
    }
}

/// Report of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct RequestReport {
    /// Report ID.
    pub id: kith_kernel::uuid::Uuid,
    /// Time of the report.
    pub created_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use kith_kernel::uuid::Uuid;

    use super::*;

    #[test]
    fn enum_names_round_trip() {
        for text in ["pending", "accepted", "rejected", "cancelled", "expired", "superseded"] {
            assert_eq!(RequestStatus::parse(text).unwrap().as_str(), text);
            assert_eq!(serde_json::to_value(RequestStatus::parse(text)).unwrap(), text);
        }
        assert_eq!(RequestStatus::parse("PENDING"), None);
        for text in ["anyone", "invited", "nobody"] {
            assert_eq!(serde_json::to_value(RequestPolicy::parse(text)).unwrap(), text);
        }
        for reason in [ReportReason::Harassment, ReportReason::Spam, ReportReason::Other] {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }

    #[test]
    fn message_is_normalized_and_limited() {
        let ben = || Recipient::User(UserId(Uuid::from_u128(2)));
        let message = |text: &str| RequestDraft::new(ben(), Some(text)).map(|draft| draft.message);
        assert_eq!(message(" two\nlines ").unwrap().as_deref(), Some("two\nlines"));
        assert_eq!(message("   ").unwrap(), None);
        assert!(message(&"é".repeat(500)).is_ok());
        assert_eq!(message(&"é".repeat(501)).unwrap_err().code, "too_long");
        assert_eq!(message("\u{202E}evil").unwrap_err().pointer, "/message");
    }
}
