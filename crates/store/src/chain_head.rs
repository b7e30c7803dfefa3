//! Head of the audit chain, and its text form.

use std::fmt;
use std::str::FromStr;

/// Number of links of an audit chain, and the hash of the last link. Its text form is `links:hash`, with the
/// hash in hexadecimal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditHead {
    /// Number of links.
    pub links: i64,
    /// Hash of the last link; all zeros if there is none.
    pub hash: [u8; 32],
}

impl fmt::Display for AuditHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.links, hex(&self.hash))
    }
}

/// Formats a hash in hexadecimal.
pub(crate) fn hex(hash: &[u8; 32]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Parses 64 hexadecimal digits into a hash. Returns `None` if the text is anything else.
pub(crate) fn parse_hex(digits: &str) -> Option<[u8; 32]> {
    if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut hash = [0; 32];
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(hash)
}

impl FromStr for AuditHead {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "expected the number of links, a colon and 64 hexadecimal digits";
        let (links, digits) = text.split_once(':').ok_or(WRONG)?;
        let links = links.parse().ok().filter(|links: &i64| *links >= 0).ok_or(WRONG)?;
        Ok(Self { links, hash: parse_hex(digits).ok_or(WRONG)? })
    }
}
