//! Textual form of API keys: `kith_`, the encoded id, `_`, and the encoded secret with its checksum.
//!
//! The encoded id has 26 characters, and the encoded secret with its checksum has 58. The encoding is
//! lower-case base 32 with the extended hex alphabet (RFC 4648, section 7), without padding. Every key
//! matches `kith_[0-9a-v]{26}_[0-9a-v]{58}`. The checksum is the CRC-32 (ISO 3309) of id and secret. It lets
//! scanners recognize keys, and detects typing errors without a database read.

use data_encoding::BASE32_DNSSEC;
use kith_kernel::ApiKeyId;
use kith_kernel::uuid::Uuid;
use sha2::{Digest, Sha256};

/// Prefix of every key.
const PREFIX: &str = "kith_";
const ID_BYTES: usize = 16;
const SECRET_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 4;

/// Complete API key with its secret. `Debug` output omits the secret, so that it cannot be logged.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ApiKeyText {
    /// Id that the key contains. It is not authenticated yet.
    pub id: ApiKeyId,
    secret: [u8; SECRET_BYTES],
}

/// Error for a text that is not a well-formed key, or whose checksum is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InvalidApiKey;

/// Returns true if `text` begins with the prefix of API keys.
pub(crate) fn is_api_key(text: &str) -> bool {
    text.starts_with(PREFIX)
}

/// Returns the public part of a key: `kith_` and its encoded id.
pub(crate) fn public_prefix(id: ApiKeyId) -> String {
    format!("{PREFIX}{}", BASE32_DNSSEC.encode(id.0.as_bytes()))
}

impl ApiKeyText {
    /// Creates a key from its id and secret.
    pub fn new(id: ApiKeyId, secret: [u8; SECRET_BYTES]) -> Self {
        Self { id, secret }
    }

    /// Returns the complete key. Only the response that creates the key may contain it.
    pub fn reveal(&self) -> String {
        let checked = [&self.secret[..], &self.checksum()].concat();
        format!("{}_{}", public_prefix(self.id), BASE32_DNSSEC.encode(&checked))
    }

    /// Parses a text returned by [`ApiKeyText::reveal`]. Any other representation of the same key is
    /// rejected.
    ///
    /// # Errors
    /// Returns [`InvalidApiKey`] if the text is malformed or its checksum is wrong.
    pub fn parse(text: &str) -> Result<Self, InvalidApiKey> {
        let (id, secret) =
            text.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')).ok_or(InvalidApiKey)?;
        let id: [u8; ID_BYTES] = decode(id).ok_or(InvalidApiKey)?;
        let checked: [u8; SECRET_BYTES + CHECKSUM_BYTES] = decode(secret).ok_or(InvalidApiKey)?;
        let (secret, checksum) = checked.split_first_chunk::<SECRET_BYTES>().ok_or(InvalidApiKey)?;
        let key = Self::new(ApiKeyId(Uuid::from_bytes(id)), *secret);
        if key.checksum() == *checksum { Ok(key) } else { Err(InvalidApiKey) }
    }

    /// Returns the digest that the database stores. One round of SHA-256 is enough: slow hash functions
    /// protect secrets that people choose, but this secret consists of 256 random bits.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.secret).into()
    }

    fn checksum(&self) -> [u8; CHECKSUM_BYTES] {
        let mut crc = crc32fast::Hasher::new();
        crc.update(self.id.0.as_bytes());
        crc.update(&self.secret);
        crc.finalize().to_be_bytes()
    }
}

impl std::fmt::Debug for ApiKeyText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}_***", public_prefix(self.id))
    }
}

/// Decodes a text of exactly `N` bytes. Rejects upper-case digits, so that every key has only one textual
/// form.
fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != BASE32_DNSSEC.encode_len(N) || text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    BASE32_DNSSEC.decode(text.as_bytes()).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> ApiKeyText {
        ApiKeyText::new(ApiKeyId(Uuid::from_u128(7)), [9; SECRET_BYTES])
    }

    #[test]
    fn key_round_trips_in_documented_format() {
        let text = key().reveal();
        assert_eq!(ApiKeyText::parse(&text), Ok(key()));
        assert_eq!(
            text,
            "kith_0000000000000000000000000s_144gi289144gi289144gi289144gi289144gi289144gi289144mckmkks"
        );
        assert!(text.starts_with(&format!("{}_", public_prefix(key().id))) && is_api_key(&text));
        let digits = |part: &str, length| {
            part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'v'))
        };
        let parts: Vec<_> = text.split('_').collect();
        assert!(parts.len() == 3 && digits(parts[1], 26) && digits(parts[2], 58), "{text}");
    }

    #[test]
    fn checksum_detects_typing_errors() {
        let text = key().reveal();
        for at in 0..text.len() {
            for digit in [b'0', b'1', b'V', b'_', b' '] {
                let mut typed = text.clone().into_bytes();
                if typed[at] == digit {
                    continue;
                }
                typed[at] = digit;
                let typed = String::from_utf8(typed).unwrap();
                assert_eq!(ApiKeyText::parse(&typed), Err(InvalidApiKey), "{typed}");
            }
        }
        for cut in ["", "kith_", "kith__", &text[..text.len() - 1], &format!("{text}0"), &text.to_uppercase()]
        {
            assert_eq!(ApiKeyText::parse(cut), Err(InvalidApiKey), "{cut}");
        }
    }

    #[test]
    fn debug_output_and_digest_hide_the_secret() {
        let key = key();
        assert_eq!(format!("{key:?}"), "kith_0000000000000000000000000s_***");
        assert_ne!(key.digest(), key.secret);
        assert_ne!(key.digest(), ApiKeyText::new(key.id, [8; SECRET_BYTES]).digest());
    }
}
