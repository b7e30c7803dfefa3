//! Fuzz target for access tokens and API keys. See `crate::fuzzing`.

use std::sync::{Arc, LazyLock};

use http::{HeaderValue, Request, header};
use kith_kernel::uuid::Uuid;
use kith_kernel::{Actor, Ctx, ManualClock, RequestId, SeededIds, SeededRandom, Sources, Timestamp, UserId};

use super::api_keys::{ApiKeyText, is_api_key};
use super::caller::bearer;
use super::signing_keys::{KeySet, SigningKey};
use super::tokens::{TokenVerification, Tokens};
use crate::config::Config;

const NOW: Timestamp = Timestamp::from_millis(1_767_225_600_000);
const USER: UserId = UserId(Uuid::from_u128(7));
const SESSION: Uuid = Uuid::from_u128(8);

/// Token issuer with a single key, and the only token that it issued.
static ISSUED: LazyLock<(Tokens, String)> = LazyLock::new(|| {
    let key = SigningKey::new("key-1", &[1; 32], Timestamp::EPOCH, None).expect("a key");
    let tokens = Tokens::with_keys(KeySet::new(vec![key], 0), &Config::default().auth);
    let ids = Arc::new(SeededIds::new(SeededRandom::new(1)));
    let random = Arc::new(SeededRandom::new(2));
    let sources = Sources { clock: Arc::new(ManualClock::at(NOW)), ids, random };
    let ctx = Ctx::new(sources, Actor::Anonymous, RequestId::from_uuid(SESSION));
    let token = tokens.issue(&ctx, USER, SESSION);
    (tokens, token)
});

/// Checks that only the issued token is accepted, byte for byte, and that each API key has exactly one
/// textual form. An input that begins with `*` alters the issued token: each following group of three bytes
/// is a position (two bytes) and a mask to XOR with.
pub fn tokens(data: &[u8]) {
    let (tokens, issued) = &*ISSUED;
    let changed = data.strip_prefix(b"*").map(|changes| change(issued, changes));
    let Ok(text) = str::from_utf8(changed.as_deref().unwrap_or(data)) else { return };
    for at in [NOW, NOW - kith_kernel::hours(1), NOW + kith_kernel::hours(1)] {
        if let TokenVerification::Valid(claims) = tokens.verify_in_memory(text, at) {
            assert_eq!((text, at), (issued.as_str(), NOW));
            assert_eq!((claims.user_id, claims.session), (USER, SESSION));
        }
    }
    if let Ok(key) = ApiKeyText::parse(text) {
        assert!(is_api_key(text) && key.reveal() == text, "two texts for one key");
    }
    let Ok(value) = HeaderValue::from_str(text) else { return };
    let request = Request::builder().header(header::AUTHORIZATION, &value);
    let parts = request.body(()).expect("a request").into_parts().0;
    if let Some(token) = bearer(&parts) {
        assert!(text.len() > token.len() && text.ends_with(token) && !token.starts_with(' '));
        let twice =
            Request::builder().header(header::AUTHORIZATION, &value).header(header::AUTHORIZATION, value);
        assert_eq!(bearer(&twice.body(()).expect("a request").into_parts().0), None);
    }
}

fn change(token: &str, changes: &[u8]) -> Vec<u8> {
    let mut bytes = token.as_bytes().to_vec();
    for change in changes.chunks_exact(3) {
        let at = usize::from(u16::from_be_bytes([change[0], change[1]])) % bytes.len();
        bytes[at] ^= change[2];
    }
    bytes
}
