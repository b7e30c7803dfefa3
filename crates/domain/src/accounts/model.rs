//! What an account is made of, and what its fields accept. Nothing here reaches a database.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use email_address::{EmailAddress, Options};
use kith_kernel::{FieldError, Text, TextRules, Timestamp, UserId, id_type};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
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
    #[schema(value_type = String, format = Uuid)]
    pub id: UserId,
    /// The name they chose.
    pub display_name: String,
}

/// Somebody as they see themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct User {
    /// Of the account.
    #[schema(value_type = String, format = Uuid)]
    pub id: UserId,
    /// As it was typed.
    pub email: String,
    /// The name they chose.
    pub display_name: String,
    /// When the account was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
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
        if EmailAddress::parse_with_options(&typed, options).is_err() {
            return Err(FieldError::new(pointer, "not_an_email", "An address like name@example.org."));
        }
        let key = Self::key_of(&typed);
        Ok(Self { typed, key })
    }

    /// The key of any text, whether or not it is an address: what a log-in looks for.
    pub fn key_of(input: &str) -> String {
        input.trim().nfc().flat_map(char::to_lowercase).nfc().collect()
    }
}

/// A password as it goes to the hash. It has no `Debug`, so that no log can hold it.
pub struct Password(String);

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
        Ok(password)
    }

    /// For the hash, and for nothing else.
    pub fn into_string(self) -> String {
        self.0
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

/// The secret that renews a session. Whoever holds it is the user, so the database keeps only its hash.
#[derive(Clone)]
pub struct RefreshToken([u8; 32]);

impl RefreshToken {
    /// From bytes nobody can guess.
    pub fn new(secret: [u8; 32]) -> Self {
        Self(secret)
    }

    /// Reads what [`RefreshToken::reveal`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok().map(Self)
    }

    /// For the answer, and for nothing else.
    pub fn reveal(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// What the database keeps. One round is enough: the secret is as long as the hash.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0).into()
    }
}

/// A session that was started or renewed, and the secret that renews it next.
pub struct OpenSession {
    /// Of the session.
    pub id: SessionId,
    /// Whose it is.
    pub user_id: UserId,
    /// Told once, to the one who asked.
    pub refresh_token: RefreshToken,
}

/// Why a command about accounts was refused.
#[derive(Debug, Error)]
pub enum AccountError {
    /// Somebody has registered with this address.
    #[error("the address is taken")]
    EmailTaken,
    /// The address, the password or both are wrong; nobody learns which.
    #[error("the credentials are wrong")]
    InvalidCredentials,
    /// The refresh token was never ours, is spent or has expired.
    #[error("the refresh token is not valid")]
    InvalidRefreshToken,
    /// The account behind a token was deleted.
    #[error("the account is gone")]
    Gone,
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
    }

    #[test]
    fn what_is_not_an_address_is_refused() {
        for hostile in
            ["ada", "ada@", "@example.org", "ada@localhost", "a b@example.org", "Ada <ada@example.org>"]
        {
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
        assert_eq!(code(&"é".repeat(8)), Ok(()));
        assert_eq!(code(&"é".repeat(256)), Ok(()));
        assert_eq!(code(&"é".repeat(257)), Err("too_long"));
        assert_eq!(Password::typed("cafe\u{301}").into_string(), Password::typed("café").into_string());
    }

    #[test]
    fn a_refresh_token_reads_back_and_hides_behind_its_hash() {
        let token = RefreshToken::new([7; 32]);
        assert_eq!(RefreshToken::parse(&token.reveal()).unwrap().hash(), token.hash());
        assert_ne!(token.hash(), [7; 32]);
        assert!(RefreshToken::parse("short").is_none());
    }
}
