//! Types of accounts and the validation of their fields, without database access.

mod email;
mod password;

use std::time::Duration;

use kith_kernel::{FieldError, Problem, Text, TextRules, Timestamp, UserId, id_type};
use kith_platform::Client;
use kith_platform::auth::Role;
use kith_platform::http::StateMismatch;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;

pub use email::Email;
pub use password::Password;

const DISPLAY_NAME: TextRules = TextRules { min: 1, max: 80, newlines: false };

id_type! {
    /// Session ID. A session lasts from a log-in on one device until it is ended or expires.
    SessionId
}

/// Public part of a user's account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct UserSummary {
    /// User ID.
    pub id: UserId,
    /// Display name.
    pub display_name: String,
}

/// Account and profile of the signed-in user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct User {
    /// User ID.
    pub id: UserId,
    /// E-mail address as entered at registration.
    pub email: String,
    /// `true` if the e-mail address is verified. Other users cannot find the account by an unverified
    /// address.
    pub email_verified: bool,
    /// Time at which the e-mail address was verified; `null` if it is not verified.
    #[schema(required = true)]
    pub email_verified_at: Option<Timestamp>,
    /// Display name, 1 to 80 characters.
    pub display_name: String,
    /// Role on this server. It decides which permissions the user has.
    pub role: Role,
    /// Nickname that the user chose for themselves, 1 to 40 characters; `null` if not set.
    #[schema(required = true)]
    pub nickname: Option<String>,
    /// Theme of the app, 1 to 40 characters; `null` if not set. The app defines the values.
    #[schema(required = true)]
    pub theme: Option<String>,
    /// Language and region as a BCP 47 tag; `null` if not set.
    #[schema(required = true, example = "de-AT")]
    pub locale: Option<String>,
    /// Time zone as a name of the IANA time zone database; `null` if not set.
    #[schema(required = true, example = "Europe/Vienna")]
    pub time_zone: Option<String>,
    /// Pronouns, 1 to 40 characters; `null` if not set.
    #[schema(required = true, example = "they/them")]
    pub pronouns: Option<String>,
    /// Time at which the account was created.
    pub created_at: Timestamp,
}

impl User {
    /// Creates a user with an unverified address and an empty profile.
    pub fn new(id: UserId, email: String, display_name: String, role: Role, created_at: Timestamp) -> Self {
        Self {
            id,
            email,
            email_verified: false,
            email_verified_at: None,
            display_name,
            role,
            nickname: None,
            theme: None,
            locale: None,
            time_zone: None,
            pronouns: None,
            created_at,
        }
    }
}

/// Status of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AccountStatus {
    /// The account can be used.
    Active,
    /// Suspended by a moderator or an administrator. Log-in is rejected.
    Suspended,
    /// Deleted by its owner. The account can be restored until it is purged.
    Deleted,
}

/// Account as administrators and moderators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Account {
    /// User ID.
    pub id: UserId,
    /// E-mail address as entered at registration; empty if it was released.
    pub email: String,
    /// Time at which the e-mail address was verified; `null` if it is not verified.
    #[schema(required = true)]
    pub email_verified_at: Option<Timestamp>,
    /// Display name.
    pub display_name: String,
    /// Role on this server.
    pub role: Role,
    /// Status of the account.
    pub status: AccountStatus,
    /// Time at which the account was created.
    pub created_at: Timestamp,
    /// Time of the suspension; `null` if the account is not suspended.
    #[schema(required = true)]
    pub suspended_at: Option<Timestamp>,
    /// Time after which the account is purged; `null` unless its owner deleted it.
    #[schema(required = true)]
    pub purge_at: Option<Timestamp>,
}

/// Open session of the caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Session {
    /// Session ID.
    pub id: SessionId,
    /// `true` for the session that made this request.
    pub current: bool,
    /// Time of the log-in that started the session.
    pub created_at: Timestamp,
    /// Time of the last token refresh, or of the log-in if there was none.
    pub refreshed_at: Timestamp,
    /// Time at which the session expires unless it is refreshed: 30 days after the last refresh.
    pub expires_at: Timestamp,
    /// IP address of the client at log-in.
    pub address: String,
    /// `User-Agent` header of the client at log-in; `null` if the client sent none.
    #[schema(required = true)]
    pub user_agent: Option<String>,
}

/// Client that sent a request, as recorded in sessions and audit entries.
#[derive(Clone, Debug)]
pub struct ClientInfo {
    /// IP address.
    pub address: String,
    /// `User-Agent` header, if the client sent one.
    pub user_agent: Option<String>,
}

impl ClientInfo {
    /// Returns the address and user agent as details of an audit entry.
    pub fn details(&self) -> serde_json::Value {
        serde_json::json!({ "address": self.address, "user_agent": self.user_agent })
    }
}

impl From<Client> for ClientInfo {
    fn from(client: Client) -> Self {
        Self { address: client.address.ip().to_string(), user_agent: client.user_agent }
    }
}

/// Account with the data that a log-in needs.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// User who owns the account.
    pub user: User,
    /// Password hash as a PHC string, or a bcrypt hash.
    pub password_hash: String,
    /// Version of the password. It increases by one with each change.
    pub password_version: i64,
    /// `true` if the account is suspended.
    pub is_suspended: bool,
    /// Time after which the account is purged; `None` unless its owner deleted it.
    pub purge_at: Option<Timestamp>,
}

/// Checks and normalizes the fields of a registration.
///
/// # Errors
/// Returns a 422 problem that lists all invalid fields.
pub fn validate_registration(
    email: &str,
    password: &str,
    name: &str,
) -> Result<(Email, Password, String), Problem> {
    let email = Email::parse(email, "/email");
    let password = Password::parse_new(password, "/password");
    let name = parse_display_name(name, "/display_name");
    match (email, password, name) {
        (Ok(email), Ok(password), Ok(name)) => Ok((email, password, name)),
        (email, password, name) => {
            let faults = [email.err(), password.err(), name.err()];
            Err(Problem::invalid(faults.into_iter().flatten().collect()))
        }
    }
}

/// Checks and normalizes a display name of 1 to 80 characters.
///
/// # Errors
/// Returns the error of [`Text::parse`].
pub fn parse_display_name(input: &str, pointer: &'static str) -> Result<String, FieldError> {
    Text::parse(input, DISPLAY_NAME, pointer).map(Text::into_string)
}

/// Account to be created.
pub struct NewAccount {
    /// E-mail address. The insertion fails if another account has it.
    pub email: Email,
    /// Display name, checked by [`parse_display_name`].
    pub display_name: String,
    /// Password hash as a PHC string.
    pub password_hash: String,
}

/// Error of a command or query about accounts.
#[derive(Debug, Error)]
pub enum AccountError {
    /// The e-mail address belongs to another account.
    #[error("another account has this e-mail address")]
    EmailTaken,
    /// [`AccountError::EmailTaken`] was returned too often for this address.
    #[error("too many registrations with this e-mail address")]
    TooManyTakenResponses {
        /// Time until the next attempt is allowed.
        wait: Duration,
    },
    /// The address is unknown or the password is wrong. The response does not reveal which.
    #[error("invalid credentials")]
    InvalidCredentials,
    /// Too many failed attempts in a row.
    #[error("locked out")]
    Locked {
        /// Time until the next attempt is allowed.
        wait: Duration,
    },
    /// A signed-in user entered a wrong current password.
    #[error("the password is wrong")]
    WrongPassword,
    /// The account is suspended.
    #[error("the account is suspended")]
    Suspended,
    /// The account was deleted by its owner and is not purged yet.
    #[error("the account is deleted")]
    Deleted {
        /// Time after which the account is purged.
        purge_at: Timestamp,
    },
    /// The account to restore is not deleted.
    #[error("the account is not deleted")]
    NotDeleted,
    /// The refresh token is malformed, forged, already used or expired.
    #[error("the refresh token is not valid")]
    InvalidRefreshToken,
    /// The caller's account has been deleted since the token was issued.
    #[error("the account has been deleted")]
    CallerDeleted,
    /// No account has this ID or address.
    #[error("the account does not exist")]
    NotFound,
    /// The user has no open session with this ID.
    #[error("the session does not exist")]
    SessionNotFound,
    /// Administrators cannot apply this action to their own account.
    #[error("not allowed on the caller's own account")]
    SelfAction,
    /// The account's role is not below the caller's role.
    #[error("the role of the account is not below the caller's")]
    RoleTooHigh,
    /// A verified address cannot be released.
    #[error("the e-mail address is verified")]
    EmailVerified,
    /// The account's address is not verified, so the account may belong to another person.
    #[error("the address is not verified")]
    EmailNotVerified,
    /// The last active administrator cannot lose the role, be suspended or be deleted.
    #[error("this is the last administrator")]
    LastAdmin,
    /// The first-administrator link is unknown or expired, or an administrator exists.
    #[error("the link is not valid")]
    InvalidLink,
    /// The profile has changed since the caller read it.
    #[error(transparent)]
    ProfileChanged(#[from] StateMismatch),
    /// The database operation failed.
    #[error(transparent)]
    Store(#[from] kith_store::Error),
}
