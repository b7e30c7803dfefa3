//! What an account is made of, and what its fields accept. Nothing here reaches a database.

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
    /// A sign-in on one device, from the password to its end.
    SessionId
}

/// Somebody as others see them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Person {
    /// Of the account.
    pub id: UserId,
    /// The name they chose.
    pub display_name: String,
}

/// Somebody as they see themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct User {
    /// Of the account.
    pub id: UserId,
    /// As it was typed.
    pub email: String,
    /// Whether the address is proven to be theirs. Nobody is found by an address that is not.
    pub email_verified: bool,
    /// When it was proven.
    #[schema(required = true)]
    pub email_verified_at: Option<Timestamp>,
    /// The name they chose.
    pub display_name: String,
    /// What they are here.
    pub role: Role,
    /// What they like to be called.
    #[schema(required = true)]
    pub nickname: Option<String>,
    /// How their app looks.
    #[schema(required = true)]
    pub theme: Option<String>,
    /// Their language and region, as a BCP 47 tag.
    #[schema(required = true, example = "de-AT")]
    pub locale: Option<String>,
    /// Where their day begins, as the IANA database names it.
    #[schema(required = true, example = "Europe/Vienna")]
    pub time_zone: Option<String>,
    /// Pronouns to refer to them by.
    #[schema(required = true, example = "they/them")]
    pub pronouns: Option<String>,
    /// When the account was made.
    pub created_at: Timestamp,
}

impl User {
    /// New user, whose profile says nothing but the name.
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

/// Whether an account may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AccountStatus {
    /// It may.
    Active,
    /// Shut out by a moderator.
    Suspended,
    /// Deleted by its owner, and held until it is purged.
    Deleted,
}

/// An account, as those see it who look after the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Account {
    /// Of the account.
    pub id: UserId,
    /// As it was typed; empty if it was released.
    pub email: String,
    /// When the address was proven to be theirs, if it was.
    #[schema(required = true)]
    pub email_verified_at: Option<Timestamp>,
    /// The name they chose.
    pub display_name: String,
    /// What they are here.
    pub role: Role,
    /// Whether it may be used.
    pub status: AccountStatus,
    /// When the account was made.
    pub created_at: Timestamp,
    /// When it was suspended, if it is.
    #[schema(required = true)]
    pub suspended_at: Option<Timestamp>,
    /// When it will be purged, if its owner deleted it.
    #[schema(required = true)]
    pub purge_at: Option<Timestamp>,
}

/// An open session, as its owner sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Session {
    /// Of the session.
    pub id: SessionId,
    /// Whether it is the one that asks.
    pub current: bool,
    /// When it began.
    pub created_at: Timestamp,
    /// When it last got a pair of tokens.
    pub refreshed_at: Timestamp,
    /// When it ends unless it is renewed.
    pub expires_at: Timestamp,
    /// The client's address when it began.
    pub address: String,
    /// What the client said of itself.
    #[schema(required = true)]
    pub user_agent: Option<String>,
}

/// Where a request came from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The client's address.
    pub address: String,
    /// What it said of itself.
    pub user_agent: Option<String>,
}

impl Origin {
    /// For the details of an audit entry.
    pub fn details(&self) -> serde_json::Value {
        serde_json::json!({ "address": self.address, "user_agent": self.user_agent })
    }
}

impl From<Client> for Origin {
    fn from(client: Client) -> Self {
        Self { address: client.address.ip().to_string(), user_agent: client.user_agent }
    }
}

/// An account, and how it stands to signing in.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Whose.
    pub user: User,
    /// What their password is checked against.
    pub password_hash: String,
    /// Which password of theirs it is.
    pub password_version: i64,
    /// Whether a moderator has shut them out.
    pub suspended: bool,
    /// When it will be purged, if it was deleted.
    pub purge_at: Option<Timestamp>,
}

/// An e-mail address that can be registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Email {
    /// As it was typed, cleaned.
    pub typed: String,
    /// What makes two addresses the same.
    pub key: String,
}

impl Email {
    /// Cleans and checks an address; `pointer` names the field in the error.
    ///
    /// # Errors
    /// The fault found: `not_an_email`, or one of [`Text::parse`].
    pub fn parse(input: &str, pointer: &'static str) -> Result<Self, FieldError> {
        let typed = Text::parse(input, EMAIL, pointer)?.into_string();
        let options = Options::default().with_required_tld().without_display_text().without_domain_literal();
        let domain = typed.rsplit_once('@').map_or("", |(_, domain)| domain);
        // `"ada"@example.org` is the mailbox of `ada@example.org` (RFC 5321, 4.1.2).
        let is_quoted = typed.starts_with('"');
        if is_quoted
            || EmailAddress::parse_with_options(&typed, options).is_err()
            || ascii_domain(domain).is_none()
        {
            return Err(FieldError::new(pointer, "not_an_email", "An address like name@example.org."));
        }
        let key = Self::key_of(&typed);
        Ok(Self { typed, key })
    }

    /// The key of any text, whether or not it is an address: what a log-in looks for. Of an internationalised domain it has
    /// the ASCII form, so that both spellings are one mailbox. All texts that are too long for an address have one key, which
    /// no address has: their normal form would cost seconds.
    pub fn key_of(input: &str) -> String {
        if input.trim().len() > MAX_ADDRESS_BYTES {
            return TOO_LONG.to_owned();
        }
        let fold = |text: &str| text.nfc().flat_map(char::to_lowercase).nfc().collect::<String>();
        let input = input.trim();
        match input.rsplit_once('@').and_then(|(local, domain)| Some((local, ascii_domain(domain)?))) {
            Some((local, domain)) => format!("{}@{domain}", fold(local)),
            None => fold(input),
        }
    }
}

/// Longer than any address of 254 characters in UTF-8.
const MAX_ADDRESS_BYTES: usize = 1_024;
/// The key of texts that are longer.
const TOO_LONG: &str = "too long";

/// The domain as DNS has it (UTS #46), in lower case; none if it is no domain.
fn ascii_domain(domain: &str) -> Option<String> {
    let (hyphens, length) = (Hyphens::CheckFirstLast, DnsLength::Verify);
    let ascii = Uts46::new().to_ascii(domain.as_bytes(), AsciiDenyList::STD3, hyphens, length);
    ascii.ok().map(std::borrow::Cow::into_owned)
}

/// A password as it goes to the hash. No log can hold it.
#[derive(Clone)]
pub struct Password(String);

/// Passwords of eight characters and more that every list of leaked passwords begins with, in lower case.
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
    /// Composed, so that every keyboard gives the same bytes.
    pub fn typed(input: &str) -> Self {
        Self(input.nfc().collect())
    }

    /// A password that may be chosen: 8 to 256 code points.
    ///
    /// # Errors
    /// `too_short` or `too_long`.
    pub fn chosen(input: &str, pointer: &'static str) -> Result<Self, FieldError> {
        let password = Self::typed(input);
        let length = password.0.chars().count();
        if length < *PASSWORD_LENGTH.start() {
            return Err(FieldError::new(pointer, "too_short", "At least 8 characters."));
        }
        if length > *PASSWORD_LENGTH.end() {
            return Err(FieldError::new(pointer, "too_long", "At most 256 characters."));
        }
        if password.is_common() {
            let detail = "This password is among the first that attackers try. Choose another one.";
            return Err(FieldError::new(pointer, "too_common", detail));
        }
        Ok(password)
    }

    /// Whether it is one of [`COMMON_PASSWORDS`], or one character repeated.
    fn is_common(&self) -> bool {
        let folded = self.0.to_lowercase();
        let is_uniform = folded.chars().all(|c| folded.starts_with(c));
        is_uniform || COMMON_PASSWORDS.contains(&folded.as_str())
    }

    /// For the hash, and for nothing else.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Cleans and checks what somebody wants to register with.
///
/// # Errors
/// A 422 that names every fault at once.
pub fn check_new(email: &str, password: &str, name: &str) -> Result<(Email, Password, String), Problem> {
    let email = Email::parse(email, "/email");
    let password = Password::chosen(password, "/password");
    let name = display_name(name, "/display_name");
    match (email, password, name) {
        (Ok(email), Ok(password), Ok(name)) => Ok((email, password, name)),
        (email, password, name) => {
            let faults = [email.err(), password.err(), name.err()];
            Err(Problem::invalid(faults.into_iter().flatten().collect()))
        }
    }
}

/// Cleans and checks a display name.
///
/// # Errors
/// As for [`Text::parse`].
pub fn display_name(input: &str, pointer: &'static str) -> Result<String, FieldError> {
    Text::parse(input, DISPLAY_NAME, pointer).map(Text::into_string)
}

/// An account about to be made.
pub struct NewAccount {
    /// Not taken yet, one hopes.
    pub email: Email,
    /// Cleaned and checked.
    pub display_name: String,
    /// A PHC string.
    pub password_hash: String,
}

/// Why a command about accounts was refused.
#[derive(Debug, Error)]
pub enum AccountError {
    /// Somebody has registered with this address.
    #[error("the address is taken")]
    EmailTaken,
    /// It was said too often that this address is taken.
    #[error("the address was tried too often")]
    TooManyTaken {
        /// After which it may ask again.
        wait: Duration,
    },
    /// The address, the password or both are wrong; nobody learns which.
    #[error("the credentials are wrong")]
    InvalidCredentials,
    /// Too many failures in a row.
    #[error("locked out")]
    Locked {
        /// After which it may be tried again.
        wait: Duration,
    },
    /// Whoever is signed in gave a wrong password.
    #[error("the password is wrong")]
    WrongPassword,
    /// The account is suspended.
    #[error("the account is suspended")]
    Suspended,
    /// The account was deleted by its owner and is held.
    #[error("the account is deleted")]
    Deleted {
        /// When it will be gone for good.
        purge_at: Timestamp,
    },
    /// There is nothing to take back: the account is not deleted.
    #[error("the account is not deleted")]
    NotDeleted,
    /// The refresh token was never ours, is spent or has expired.
    #[error("the refresh token is not valid")]
    InvalidRefreshToken,
    /// The account behind a token was deleted.
    #[error("the account is gone")]
    Gone,
    /// Nobody has this id.
    #[error("there is no such account")]
    NotFound,
    /// No open session of one's own has this id.
    #[error("there is no such session")]
    SessionNotFound,
    /// Nobody does this to themselves.
    #[error("not to oneself")]
    ToSelf,
    /// Those whose role is not below one's own are out of reach.
    #[error("the account's role is not below one's own")]
    OutOfReach,
    /// A proven address is its owner's.
    #[error("the address is proven")]
    EmailVerified,
    /// The address of the account is not verified: it may belong to another person.
    #[error("the address is not verified")]
    EmailNotVerified,
    /// Without an administrator nobody could make one.
    #[error("this is the last administrator")]
    LastAdmin,
    /// The link that makes the first administrator was never ours, has expired, or there is one already.
    #[error("the link is not valid")]
    InvalidLink,
    /// The profile is not what it was when it was read.
    #[error(transparent)]
    Changed(#[from] Changed),
    /// The database's own.
    #[error(transparent)]
    Store(#[from] kith_store::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_differ_in_case_or_composition_are_the_same() {
        let key = |input| Email::parse(input, "/email").unwrap().key;
        assert_eq!(key(" Ada@Example.ORG "), "ada@example.org");
        assert_eq!(key("e\u{301}va@example.org"), key("ÉVA@example.org"));
        assert_eq!(Email::key_of("\tADA@example.org"), "ada@example.org");
        let long = format!("a@{}", "\u{4e00}.".repeat(100_000));
        assert_eq!([Email::key_of(&long), Email::key_of(TOO_LONG)], [TOO_LONG, TOO_LONG]);
        assert!(Email::parse(TOO_LONG, "/email").is_err());
    }

    #[test]
    fn domain_and_its_ascii_form_are_the_same() {
        let key = |input| Email::parse(input, "/email").unwrap().key;
        for spelling in [
            "ada@bücher.example",
            "ADA@BÜCHER.example",
            "ada@bu\u{308}cher.example",
            "ada@xn--bcher-kva.example",
        ] {
            assert_eq!(key(spelling), "ada@xn--bcher-kva.example", "{spelling}");
            assert_eq!(Email::key_of(spelling), key(spelling));
            assert_eq!(Email::key_of(&key(spelling)), key(spelling));
        }
        assert_eq!(key("ada@ｅｘａｍｐｌｅ.org"), "ada@example.org");
        assert_eq!(key("ÉVA@straße.example"), "éva@xn--strae-oqa.example");
        // As it was typed it is shown.
        assert_eq!(Email::parse("Ada@Bücher.example", "/email").unwrap().typed, "Ada@Bücher.example");
        for text in ["", "@", "a@", "x@y＠z.org", "a@xn--a", "purged:1@2", "a@b@bücher.example"] {
            assert_eq!(Email::key_of(&Email::key_of(text)), Email::key_of(text), "{text}");
        }
    }

    #[test]
    fn what_is_not_an_address_is_refused() {
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
    fn passwords_are_counted_in_code_points() {
        let code = |input: &str| Password::chosen(input, "/password").map(|_| ()).map_err(|fault| fault.code);
        assert_eq!(code(&"é".repeat(7)), Err("too_short"));
        assert_eq!(code(&"éa".repeat(4)), Ok(()));
        assert_eq!(code(&"éa".repeat(128)), Ok(()));
        for common in ["password", "Password", "PASSWORD123", "12345678", "aaaaaaaa", "éééééééé", "P@ssw0rd"]
        {
            assert_eq!(code(common), Err("too_common"), "{common}");
        }
        assert_eq!(code("passwords are long"), Ok(()));
        assert_eq!(code(&"é".repeat(257)), Err("too_long"));
        assert_eq!(Password::typed("cafe\u{301}").into_string(), Password::typed("café").into_string());
    }
}
