//! Tokens that must be believed, and every kind of forgery that must not.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kith_kernel::{Actor, ManualClock, RequestId, seconds};
use serde_json::{Value, json};

use super::*;
use crate::config::Config;
use crate::testing::{TestServer, sources};

const NOW: Timestamp = Timestamp::from_millis(1_767_225_600_500);
const USER: UserId = UserId(Uuid::from_u128(7));
const SESSION: Uuid = Uuid::from_u128(8);

fn tokens(seed: u8) -> Tokens {
    let key = SigningKey { id: "key-1".to_owned(), seed: vec![seed; 32] };
    Tokens::with_key(&key, &Config::default().auth)
}

fn ctx() -> Ctx {
    let clock = Arc::new(ManualClock::at(NOW));
    Ctx::new(sources(&clock), Actor::Anonymous, RequestId::accept("request-1").unwrap())
}

/// The parts of a genuine token, to be forged.
fn genuine() -> (Value, Value) {
    let header = json!({ "typ": "JWT", "alg": "EdDSA", "kid": "key-1" });
    let now_s = NOW.as_millis() / 1_000;
    let payload = json!({
        "iss": "kith", "aud": "kith", "sub": USER, "sid": SESSION, "jti": SESSION,
        "iat": now_s, "nbf": now_s, "exp": now_s + 900,
    });
    (header, payload)
}

fn part(json: &Value) -> String {
    URL_SAFE_NO_PAD.encode(json.to_string())
}

/// Signs whatever is said with the key of `seed`.
fn sign(seed: u8, header: &Value, payload: &Value) -> String {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
    let text = format!("{}.{}", part(header), part(payload));
    let signature = URL_SAFE_NO_PAD.encode(pair.sign(text.as_bytes()));
    format!("{text}.{signature}")
}

fn with(json: &Value, key: &str, value: impl Into<Value>) -> Value {
    let mut json = json.clone();
    json[key] = value.into();
    json
}

fn without(json: &Value, key: &str) -> Value {
    let mut json = json.clone();
    json.as_object_mut().unwrap().remove(key);
    json
}

#[test]
fn what_was_issued_is_believed_and_says_for_whom() {
    let tokens = tokens(1);
    let token = tokens.issue(&ctx(), USER, SESSION);
    let claims = tokens.verify(&token, NOW).unwrap();
    assert_eq!((claims.user_id, claims.session), (USER, SESSION));
    assert_eq!(tokens.verify(&token, NOW), Some(claims), "from the cache");
    let header = jsonwebtoken::decode_header(&token).unwrap();
    assert_eq!((header.alg, header.kid.as_deref()), (Algorithm::EdDSA, Some("key-1")));
    assert_ne!(token, tokens.issue(&ctx_later(), USER, SESSION));
}

fn ctx_later() -> Ctx {
    let mut ctx = ctx();
    ctx.now = NOW + seconds(1);
    ctx
}

#[test]
fn a_token_is_valid_up_to_its_last_millisecond_also_when_it_is_cached() {
    let tokens = tokens(1);
    let token = tokens.issue(&ctx(), USER, SESSION);
    // Times in a token are whole seconds: it was issued half a second into one.
    let issued = Timestamp::from_millis(1_767_225_600_000);
    let ends = issued + seconds(15 * 60);
    for _ in 0..2 {
        assert!(tokens.verify(&token, ends - std::time::Duration::from_millis(1)).is_some());
        assert_eq!(tokens.verify(&token, ends), None);
        assert!(tokens.verify(&token, issued - NOT_YET_VALID_LEEWAY).is_some());
        assert_eq!(
            tokens.verify(&token, issued - NOT_YET_VALID_LEEWAY - std::time::Duration::from_millis(1)),
            None
        );
    }
}

#[test]
fn forged_tokens_are_not_believed() {
    let tokens = tokens(1);
    let (header, payload) = genuine();
    let token = sign(1, &header, &payload);
    assert!(tokens.verify(&token, NOW).is_some(), "the forger's tools work");
    let (text, signature) = token.rsplit_once('.').unwrap();
    let none = with(&header, "alg", "none");
    let public = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap().public_key().as_ref().to_vec();
    let hs = Header { kid: Some("key-1".into()), ..Header::new(Algorithm::HS256) };
    let foreign = with(&header, "jwk", json!({ "kty": "OKP", "crv": "Ed25519", "x": "AAAA" }));
    let forged = [
        ("no signature", format!("{text}.")),
        ("no dots", "token".to_owned()),
        ("empty", String::new()),
        ("alg none", format!("{}.{}.", part(&none), part(&payload))),
        ("alg none, old signature", format!("{}.{}.{signature}", part(&none), part(&payload))),
        ("the public key as a secret", encode(&hs, &payload, &EncodingKey::from_secret(&public)).unwrap()),
        ("another key", sign(2, &header, &payload)),
        ("another key, named by jku", sign(2, &with(&header, "jku", "https://evil.example/keys"), &payload)),
        ("another key, brought along", sign(2, &foreign, &payload)),
        ("another kid", sign(1, &with(&header, "kid", "key-2"), &payload)),
        ("no kid", sign(1, &without(&header, "kid"), &payload)),
        (
            "another user",
            format!("{}.{}.{signature}", part(&header), part(&with(&payload, "sub", SESSION.to_string()))),
        ),
        ("another issuer", sign(1, &header, &with(&payload, "iss", "evil"))),
        ("another audience", sign(1, &header, &with(&payload, "aud", "evil"))),
        ("no issuer", sign(1, &header, &without(&payload, "iss"))),
        ("no audience", sign(1, &header, &without(&payload, "aud"))),
        ("no end", sign(1, &header, &without(&payload, "exp"))),
        ("no beginning", sign(1, &header, &without(&payload, "nbf"))),
        ("an end far back", sign(1, &header, &with(&payload, "exp", 1))),
        ("an end below all numbers", sign(1, &header, &with(&payload, "exp", i64::MIN))),
        ("a beginning far ahead", sign(1, &header, &with(&payload, "nbf", i64::MAX))),
        ("a user that is none", sign(1, &header, &with(&payload, "sub", "admin"))),
        ("far too long", sign(1, &with(&header, "cty", "x".repeat(4_096)), &payload)),
    ];
    for (what, token) in forged {
        for _ in 0..2 {
            assert_eq!(tokens.verify(&token, NOW), None, "{what}");
        }
    }
}

#[tokio::test]
async fn nodes_that_start_at_once_agree_on_one_key() {
    let test = TestServer::start(|_| {}).await;
    let app = &test.app;
    let (one, other) = tokio::join!(
        Tokens::load(&app.db, &app.sources, &app.config.auth),
        Tokens::load(&app.db, &app.sources, &app.config.auth),
    );
    let token = one.unwrap().issue(&ctx(), USER, SESSION);
    assert!(other.unwrap().verify(&token, NOW).is_some());
    let (one, other) = tokio::join!(make(&app.db, &app.sources), make(&app.db, &app.sources));
    assert_eq!(one.unwrap().id, other.unwrap().id, "a key that is in use is not replaced");
}
