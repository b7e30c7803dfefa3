//! Types of invites. An invite is a code that lets another user send a partner request.

use std::fmt;
use std::time::Duration;

use kith_kernel::{Timestamp, days, id_type};
use serde::Serialize;
use utoipa::ToSchema;

/// Time after which an unused invite expires.
pub const INVITE_LIFETIME: Duration = days(7);

/// Digits of Crockford's base 32 (<https://www.crockford.com/base32.html>), without I, L, O and U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const LENGTH: usize = 10;

id_type! {
    /// Invite ID. The code cannot be derived from it.
    InviteId
}

/// Keyed hashes of an invite code: with the current secret and, while secrets are rotated, with the previous
/// one.
#[derive(Clone, Copy, Debug)]
pub struct CodeHashes {
    pub present: [u8; 32],
    pub previous: Option<[u8; 32]>,
}

/// Secret invite code: 10 characters, 50 bits of entropy. Its `Debug` output is `***`, so that logs cannot
/// contain it.
#[derive(Clone, PartialEq, Eq)]
pub struct InviteCode(String);

impl InviteCode {
    /// Builds a code from random bytes. Each byte contributes 5 bits.
    pub fn from_random(bytes: [u8; LENGTH]) -> Self {
        Self(bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect())
    }

    /// Parses a code as typed by a user. Letter case and hyphens are ignored, O is read as 0, and I and L
    /// are read as 1. Returns `None` if the text cannot be a code.
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

    /// Returns the 10 characters of the code.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for InviteCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// New invite. Its code is returned only once.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct NewInvite {
    /// Invite ID.
    pub id: InviteId,
    /// Invite code: 10 characters of Crockford's base 32.
    pub code: String,
    /// Link with the code, built from the server setting `partners.invite_link`.
    pub link: String,
    /// Time at which the invite expires.
    pub expires_at: Timestamp,
}

/// Invite of the caller that can still be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Invite {
    /// Invite ID. It can be used in place of the code to revoke the invite.
    pub id: InviteId,
    /// Time at which the invite was created.
    pub created_at: Timestamp,
    /// Time at which the invite expires.
    pub expires_at: Timestamp,
}

/// Preview of an invite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct InvitePreview {
    /// Display name of the user who created the invite.
    pub display_name: String,
    /// Time at which the invite expires.
    pub expires_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invite_code_may_have_lower_case_hyphens_and_lookalikes() {
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
