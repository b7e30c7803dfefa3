//! Signatures according to Standard Webhooks 1.0 (standardwebhooks.com): HMAC-SHA256 of id, time and body.
//! Secrets are generated here. Only [`SigningSecret::to_text`] reveals them.

use std::fmt;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};
use kith_kernel::{Random, Timestamp};
use thiserror::Error;

/// Header with the id of the webhook, which is the same for all attempts.
pub const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
/// Header with the time of the attempt, in Unix seconds.
pub const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
/// Header with the signatures, separated by spaces.
pub const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

const PREFIX: &str = "whsec_";
/// Minimum and maximum length of a secret in bytes, as the specification requires.
const MIN_SECRET_BYTES: usize = 24;
const MAX_SECRET_BYTES: usize = 64;
const NEW_SECRET_BYTES: usize = 32;

/// Secret that the sender and the receiver share.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningSecret(Vec<u8>);

/// Error for a text that is not a signing secret. It does not contain the text.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("a signing secret must be `whsec_` followed by the base64 of 24 to 64 bytes")]
pub struct InvalidSigningSecret;

impl SigningSecret {
    /// Generates a random secret of 32 bytes.
    pub fn generate(random: &dyn Random) -> Self {
        let mut bytes = vec![0; NEW_SECRET_BYTES];
        random.fill(&mut bytes);
        Self(bytes)
    }

    /// Parses a secret in the form `whsec_…`.
    ///
    /// # Errors
    /// Returns [`InvalidSigningSecret`] if the text has another form, or the secret does not have 24 to 64
    /// bytes.
    pub fn parse(text: &str) -> Result<Self, InvalidSigningSecret> {
        let bytes = text.strip_prefix(PREFIX).and_then(|base64| STANDARD.decode(base64).ok());
        Self::from_bytes(bytes.ok_or(InvalidSigningSecret)?)
    }

    /// Creates a secret from its bytes.
    ///
    /// # Errors
    /// Returns [`InvalidSigningSecret`] if there are fewer than 24 or more than 64 bytes.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, InvalidSigningSecret> {
        if (MIN_SECRET_BYTES..=MAX_SECRET_BYTES).contains(&bytes.len()) {
            Ok(Self(bytes))
        } else {
            Err(InvalidSigningSecret)
        }
    }

    /// Returns the bytes of the secret, to be encrypted.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the secret in the form `whsec_…`, to be given to the receiver.
    pub fn to_text(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(&self.0))
    }

    /// Returns the signature of one message in the form `v1,…`.
    pub fn sign(&self, id: &str, at: Timestamp, body: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &self.0));
        context.update(format!("{id}.{}.", unix_seconds(at)).as_bytes());
        context.update(body);
        format!("v1,{}", STANDARD.encode(context.sign()))
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Sets the three headers, with one signature per secret. Several secrets are given while a new secret
/// replaces an old one. `id` must not contain a dot.
///
/// # Panics
/// Panics if `id` contains characters that are not allowed in a header.
pub fn sign(headers: &mut HeaderMap, secrets: &[SigningSecret], id: &str, at: Timestamp, body: &[u8]) {
    debug_assert!(!id.contains('.'), "the signed parts are separated by dots");
    let signatures: Vec<_> = secrets.iter().map(|secret| secret.sign(id, at, body)).collect();
    let value = |text: &str| HeaderValue::from_str(text).expect("ASCII without controls");
    headers.insert(WEBHOOK_ID, value(id));
    headers.insert(WEBHOOK_TIMESTAMP, HeaderValue::from(unix_seconds(at)));
    headers.insert(WEBHOOK_SIGNATURE, value(&signatures.join(" ")));
}

fn unix_seconds(at: Timestamp) -> i64 {
    at.as_millis().div_euclid(1_000)
}

#[cfg(test)]
mod tests {
    use kith_kernel::SeededRandom;

    use super::*;

    /// Secret of the test vector in the reference libraries.
    const PUBLISHED: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn signature_matches_published_test_vector() {
        let secret = SigningSecret::parse(PUBLISHED).unwrap();
        let at = Timestamp::from_millis(1_614_265_330_000);
        let signed = secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", at, br#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert_eq!(secret.to_text(), PUBLISHED);
    }

    #[test]
    fn rotation_signs_with_both_secrets() {
        let random = SeededRandom::new(1);
        let (new, old) = (SigningSecret::generate(&random), SigningSecret::generate(&random));
        let (mut headers, at) = (HeaderMap::new(), Timestamp::from_millis(1_614_265_330_999));
        sign(&mut headers, &[new.clone(), old.clone()], "msg_1", at, b"{}");
        let expected = format!("{} {}", new.sign("msg_1", at, b"{}"), old.sign("msg_1", at, b"{}"));
        assert_eq!(headers[WEBHOOK_SIGNATURE], expected);
        assert_eq!(
            (&headers[WEBHOOK_ID], &headers[WEBHOOK_TIMESTAMP]),
            (&"msg_1".parse().unwrap(), &"1614265330".parse().unwrap())
        );
        assert_ne!(new, old);
    }

    #[test]
    fn secret_length_is_checked_and_debug_is_masked() {
        for (length, is_good) in [(0, false), (23, false), (24, true), (64, true), (65, false)] {
            let text = format!("whsec_{}", STANDARD.encode(vec![7; length]));
            assert_eq!(SigningSecret::parse(&text).is_ok(), is_good, "{length}");
        }
        for wrong in
            ["", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS!"]
        {
            let error = SigningSecret::parse(wrong).unwrap_err();
            assert!(wrong.len() < 7 || !error.to_string().contains(wrong));
        }
        let secret = SigningSecret::parse(PUBLISHED).unwrap();
        assert_eq!(format!("{secret:?}"), "***");
    }
}
