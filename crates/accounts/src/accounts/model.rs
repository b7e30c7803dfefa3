//! Types of accounts and the validation of their fields. No database access.

use email_address::{EmailAddress, Options};
use idna::AsciiDenyList;
use idna::uts46::{DnsLength, Hyphens, Uts46};
use std::time::Duration;

use kith_kernel::{FieldError, Problem, Text, TextRules, Timestamp, UserId, id_type};
use kith_platform::Client;
use kith_platform::auth::Role;
use kith_platform::http::Changed;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use unicode_normalization::UnicodeNormalization as _;
use utoipa::ToSchema;

const EMAIL: TextRules = TextRules { min: 3, max: 254, newlines: false };
const DISPLAY_NAME: TextRules = TextRules { min: 1, max: 80, newlines: false };
const PASSWORD_LENGTH: std::ops::RangeInclusive<usize> = 8..=256;

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
    /// Time at which the e-mail address was verified; `null` if it is not.
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
    /// Active.
    Active,
    /// Suspended by a moderator or an administrator. Log-in is rejected.
    Suspended,
    /// Deleted by its owner and held until it is purged.
    Deleted,
}

/// Account as administrators and moderators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Account {
    /// User ID.
    pub id: UserId,
    /// E-mail address as entered at registration; empty if it was released.
    pub email: String,
    /// Time at which the e-mail address was verified; `null` if it is not.
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
    /// `User-Agent` header of the client at log-in; `null` if it sent none.
    #[schema(required = true)]
    pub user_agent: Option<String>,
}

/// Client that sent a request, as recorded in sessions and audit entries.
#[derive(Clone, Debug)]
pub struct ClientInfo {
    /// IP address.
    pub address: String,
    /// `User-Agent` header, if sent.
    pub user_agent: Option<String>,
}

impl ClientInfo {
    /// Returns the origin as details of an audit entry.
    pub fn details(&self) -> serde_json::Value {
        serde_json::json!({ "address": self.address, "user_agent": self.user_agent })
    }
}

impl From<Client> for ClientInfo {
    fn from(client: Client) -> Self {
        Self { address: client.address.ip().to_string(), user_agent: client.user_agent }
    }
}

/// Account with what a log-in needs to know about it.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// User that owns the credentials.
    pub user: User,
    /// Password hash as a PHC string, or a bcrypt hash.
    pub password_hash: String,
    /// Version of the password. It increases by one with each change.
    pub password_version: i64,
    /// `true` if the account is suspended.
    pub is_suspended: bool,
    /// Time after which the account is purged, if its owner deleted it.
    pub purge_at: Option<Timestamp>,
}

/// E-mail address that is valid for registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Email {
    /// Address as typed, normalized to NFC and trimmed.
    pub address: String,
    /// Comparison key: two addresses with the same key are the same mailbox.
    pub key: String,
}

impl Email {
    /// Parses and normalizes an address. `pointer` names the field in the error.
    ///
    /// # Errors
    /// Returns a [`FieldError`] with the code `not_an_email`, or one of [`Text::parse`].
    pub fn parse(input: &str, pointer: &'static str) -> Result<Self, FieldError> {
        let address = Text::parse(input, EMAIL, pointer)?.into_string();
        let options = Options::default().with_required_tld().without_display_text().without_domain_literal();
        let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
        // A quoted local part is rejected: `"ada"@example.org` is the mailbox of `ada@example.org` (RFC 5321,
        // 4.1.2).
        let is_quoted = address.starts_with('"');
        if is_quoted
            || EmailAddress::parse_with_options(&address, options).is_err()
            || ascii_domain(domain).is_none()
        {
            return Err(FieldError::new(
                pointer,
                "not_an_email",
                "Expected an e-mail address such as name@example.org.",
            ));
        }
        let key = Self::comparison_key(&address);
        Ok(Self { address, key })
    }

    /// Returns the comparison key of any text, valid address or not: NFC, lower case, the domain in its ASCII
    /// form (UTS #46), so that both spellings of an internationalized domain are one mailbox. All texts
    /// longer than 1,024 bytes share one key that no address has, because normalizing them could
    /// take seconds.
    pub fn comparison_key(input: &str) -> String {
        if input.trim().len() > MAX_ADDRESS_BYTES {
            return OVERSIZED_KEY.to_owned();
        }
        let fold = |text: &str| text.nfc().flat_map(char::to_lowercase).nfc().collect::<String>();
        let input = input.trim();
        match input.rsplit_once('@').and_then(|(local, domain)| Some((local, ascii_domain(domain)?))) {
            Some((local, domain)) => format!("{}@{domain}", fold(local)),
            None => fold(input),
        }
    }
}

/// Upper bound for the UTF-8 length of an address of 254 characters.
const MAX_ADDRESS_BYTES: usize = 1_024;
/// Key shared by all longer texts.
const OVERSIZED_KEY: &str = "too long";

/// Converts a domain to its ASCII form in lower case (UTS #46). `None` if it is not a valid domain.
fn ascii_domain(domain: &str) -> Option<String> {
    let (hyphens, length) = (Hyphens::CheckFirstLast, DnsLength::Verify);
    let ascii = Uts46::new().to_ascii(domain.as_bytes(), AsciiDenyList::STD3, hyphens, length);
    ascii.ok().map(std::borrow::Cow::into_owned)
}

/// Password normalized to NFC. Its `Debug` output is `***`, so that logs cannot contain it.
#[derive(Clone)]
pub struct Password(String);

/// Passwords of at least eight characters from the top of published lists of leaked passwords, in lower case.
const COMMON_PASSWORDS: &[&str] = &[
    "password",
    "password1",
    "password12",
    "password123",
    "passw0rd",
    "p@ssword",
    "p@ssw0rd",
    "12345678",
    "123456789",
    "1234567890",
    "0123456789",
    "0987654321",
    "987654321",
    "87654321",
    "12341234",
    "11223344",
    "123123123",
    "123454321",
    "1q2w3e4r",
    "1q2w3e4r5t",
    "q1w2e3r4",
    "qwertyui",
    "qwertyuiop",
    "qwerty12",
    "qwerty123",
    "qwertz123",
    "asdfghjk",
    "asdfghjkl",
    "zxcvbnm1",
    "abcdefgh",
    "abcd1234",
    "abc12345",
    "a1b2c3d4",
    "iloveyou",
    "iloveyou1",
    "letmein1",
    "letmein123",
    "welcome1",
    "welcome123",
    "admin123",
    "administrator",
    "changeme",
    "secret123",
    "sunshine",
    "princess",
    "football",
    "baseball",
    "superman",
    "trustno1",
    "starwars",
    "whatever",
    "computer",
    "internet",
    "michelle",
    "jennifer",
    "monkey123",
    "dragon123",
    "master123",
    "testtest",
    "test1234",
];

impl Password {
    /// Normalizes a password to NFC, so that all keyboards produce the same bytes. Checks nothing else.
    pub fn normalize(input: &str) -> Self {
        Self(input.nfc().collect())
    }

    /// Checks a new password: 8 to 256 code points, not a common password.
    ///
    /// # Errors
    /// Returns a [`FieldError`] with the code `too_short`, `too_long` or `too_common`.
    pub fn parse_new(input: &str, pointer: &'static str) -> Result<Self, FieldError> {
        let password = Self::normalize(input);
        let length = password.0.chars().count();
        if length < *PASSWORD_LENGTH.start() {
            return Err(FieldError::new(pointer, "too_short", "Expected at least 8 characters."));
        }
        if length > *PASSWORD_LENGTH.end() {
            return Err(FieldError::new(pointer, "too_long", "Expected at most 256 characters."));
        }
        if password.is_common() {
            let detail = "This password is too common. Choose another one.";
            return Err(FieldError::new(pointer, "too_common", detail));
        }
        Ok(password)
    }

    /// Returns `true` for the passwords in [`COMMON_PASSWORDS`] and for one character repeated.
    fn is_common(&self) -> bool {
        let folded = self.0.to_lowercase();
        let is_uniform = folded.chars().all(|c| folded.starts_with(c));
        is_uniform || COMMON_PASSWORDS.contains(&folded.as_str())
    }

    /// Returns the plain text. Pass it only to the hash function.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
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
    /// E-mail address. Whether it is free is checked on insertion.
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
    #[error("the e-mail address is taken")]
    EmailTaken,
    /// [`AccountError::EmailTaken`] was returned too often for this address.
    #[error("too many registrations with this e-mail address")]
    TooManyTakenResponses {
        /// Time until the next attempt is allowed.
        wait: Duration,
    },
    /// The address is unknown or the password is wrong. The caller cannot tell which.
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
    #[error("there is no such account")]
    NotFound,
    /// The user has no open session with this ID.
    #[error("there is no such session")]
    SessionNotFound,
    /// Administrators cannot apply this action to their own account.
    #[error("not allowed on one's own account")]
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
    ProfileChanged(#[from] Changed),
    /// The database operation failed.
    #[error(transparent)]
    Store(#[from] kith_store::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn email_key_ignores_case_and_composition() {
        let key = |input| Email::parse(input, "/email").unwrap().key;
        assert_eq!(key(" Ada@Example.ORG "), "ada@example.org");
        assert_eq!(key("e\u{301}va@example.org"), key("ÉVA@example.org"));
        assert_eq!(Email::comparison_key("\tADA@example.org"), "ada@example.org");
        let long = format!("a@{}", "\u{4e00}.".repeat(100_000));
        assert_eq!(
            [Email::comparison_key(&long), Email::comparison_key(OVERSIZED_KEY)],
            [OVERSIZED_KEY, OVERSIZED_KEY]
        );
        assert!(Email::parse(OVERSIZED_KEY, "/email").is_err());
    }

    #[test]
    fn email_key_uses_ascii_form_of_domain() {
        let key = |input| Email::parse(input, "/email").unwrap().key;
        for spelling in [
            "ada@bücher.example",
            "ADA@BÜCHER.example",
            "ada@bu\u{308}cher.example",
            "ada@xn--bcher-kva.example",
        ] {
            assert_eq!(key(spelling), "ada@xn--bcher-kva.example", "{spelling}");
            assert_eq!(Email::comparison_key(spelling), key(spelling));
            assert_eq!(Email::comparison_key(&key(spelling)), key(spelling));
        }
        assert_eq!(key("ada@ｅｘａｍｐｌｅ.org"), "ada@example.org");
        assert_eq!(key("ÉVA@straße.example"), "éva@xn--strae-oqa.example");
        // The address is displayed as typed.
        assert_eq!(Email::parse("Ada@Bücher.example", "/email").unwrap().address, "Ada@Bücher.example");
        for text in ["", "@", "a@", "x@y＠z.org", "a@xn--a", "purged:1@2", "a@b@bücher.example"] {
            assert_eq!(
                Email::comparison_key(&Email::comparison_key(text)),
                Email::comparison_key(text),
                "{text}"
            );
        }
    }

    #[test]
    fn invalid_email_is_rejected() {
        for hostile in [
            "ada",
            "ada@",
            "@example.org",
            "ada@localhost",
            "a b@example.org",
            "\"ada\"@example.org",
            "\"a b\"@example.org",
            "Ada <ada@example.org>",
            "ada@xn--a.org",
            "ada@-a.org",
        ] {
            assert_eq!(Email::parse(hostile, "/email").unwrap_err().code, "not_an_email", "{hostile:?}");
        }
        let long = format!("{}@example.org", "a".repeat(243));
        assert_eq!(Email::parse(&long, "/email").unwrap_err().code, "too_long");
        assert_eq!(Email::parse("ada@example.org\0", "/email").unwrap_err().code, "forbidden_character");
    }

    #[test]
    fn password_length_is_counted_in_code_points() {
        let code =
            |input: &str| Password::parse_new(input, "/password").map(|_| ()).map_err(|fault| fault.code);
        assert_eq!(code(&"é".repeat(7)), Err("too_short"));
        assert_eq!(code(&"éa".repeat(4)), Ok(()));
        assert_eq!(code(&"éa".repeat(128)), Ok(()));
        for common in ["password", "Password", "PASSWORD123", "12345678", "aaaaaaaa", "éééééééé", "P@ssw0rd"]
        {
            assert_eq!(code(common), Err("too_common"), "{common}");
        }
        assert_eq!(code("passwords are long"), Ok(()));
        assert_eq!(code(&"é".repeat(257)), Err("too_long"));
        assert_eq!(
            Password::normalize("cafe\u{301}").into_string(),
            Password::normalize("café").into_string()
        );
    }
}
