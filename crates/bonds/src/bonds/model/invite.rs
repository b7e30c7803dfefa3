//! Invites: a code that somebody hands out, so that whoever has it may ask them.

use std::fmt;
use std::time::Duration;

use kith_kernel::{Timestamp, days, id_type};
use serde::Serialize;
use utoipa::ToSchema;

/// A code that nobody uses for this long has expired.
pub const INVITE_LIFETIME: Duration = days(7);

/// Crockford's base 32 (<https://www.crockford.com/base32.html>): no I, L, O, U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const LENGTH: usize = 10;

id_type! {
    /// Of an invite; it says nothing about the code.
    InviteId
}

/// Keyed hashes of an invite's code, under the present secret and, while secrets are rotated, under the previous one.
#[derive(Clone, Copy, Debug)]
pub struct CodeHashes {
    pub present: [u8; 32],
    pub previous: Option<[u8; 32]>,
}

/// Ten characters, 50 bits: the secret itself. No log can hold it.
#[derive(Clone, PartialEq, Eq)]
pub struct InviteCode(String);

impl InviteCode {
    /// The code of these random bytes.
    pub fn from_random(bytes: [u8; LENGTH]) -> Self {
        Self(bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect())
    }

    /// Reads a code as people type it: in any case, with hyphens, O for 0, I and L for 1. None if it cannot be one.
    pub fn parse(text: &str) -> Option<Self> {
        let digit = |c: char| match c.to_ascii_uppercase() {
            'O' => Some('0'),
            'I' | 'L' => Some('1'),
            c => ALPHABET.iter().any(|digit| char::from(*digit) == c).then_some(c),
        };
        let code: String =
            text.chars().filter(|c| *c != '-').take(LENGTH + 1).map(digit).collect::<Option<_>>()?;
        (code.len() == LENGTH).then_some(Self(code))
    }

    /// The characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for InviteCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// An invite that was just made. The code is told this once.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct NewInvite {
    /// Of the invite.
    pub id: InviteId,
    /// Ten characters of Crockford's base 32, for people to type.
    pub code: String,
    /// The same for people to follow, as `partners.invite_link` shapes it.
    pub link: String,
    /// From this moment on it can no longer be used.
    pub expires_at: Timestamp,
}

/// An invite of one's own that can still be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Invite {
    /// Of the invite; also good for taking it back.
    pub id: InviteId,
    /// When it was made.
    pub created_at: Timestamp,
    /// From this moment on it can no longer be used.
    pub expires_at: Timestamp,
}

/// What somebody learns from a code before they use it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct InvitePreview {
    /// Of the one who hands it out.
    pub display_name: String,
    /// From this moment on it can no longer be used.
    pub expires_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_as_people_type_them() {
        let code = InviteCode::from_random([0, 1, 10, 31, 32, 255, 7, 8, 9, 11]);
        assert_eq!(code.as_str(), "01AZ0Z789B");
        for typed in ["01AZ0Z789B", "o1az0z789b", "OlAZ0-Z789b", "-0iaz-oz78-9b-"] {
            assert_eq!(InviteCode::parse(typed).as_ref(), Some(&code), "{typed}");
        }
        for other in ["", "01AZ0Z789", "01AZ0Z789BB", "01AZ0Z789U", "01AZ0Z789é", "01AZ0Z 789B"] {
            assert_eq!(InviteCode::parse(other), None, "{other}");
        }
        assert_eq!(format!("{code:?}"), "***");
    }
}
