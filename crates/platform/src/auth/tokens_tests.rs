//! Tests of access tokens: issued tokens are accepted, and forged tokens are rejected.

use std::sync::Arc;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::EncodingKey;
use kith_kernel::{Actor, ManualClock, RequestId, minutes, seconds};
use serde_json::{Value, json};

use super::*;
use crate::auth::signing_keys::SigningKey;
use crate::config::Config;
use crate::testing::{TestServer, sources};

const NOW: Timestamp = Timestamp::from_millis(1_767_225_600_500);
const USER: UserId = UserId(Uuid::from_u128(7));
const SESSION: Uuid = Uuid::from_u128(8);

fn tokens(seed: u8) -> Tokens {
    let key = SigningKey::new("key-1", &[seed; 32], Timestamp::EPOCH, None).unwrap();
    Tokens::with_keys(KeySet::new(vec![key], 0), &Config::default().auth)
}

fn verify(tokens: &Tokens, token: &str, now: Timestamp) -> Option<Claims> {
    match tokens.verify_in_memory(token, now) {
        TokenVerification::Valid(claims) => Some(claims),
        TokenVerification::Invalid | TokenVerification::Expired | TokenVerification::UnknownKey => None,
    }
}

fn ctx() -> Ctx {
    let clock = Arc::new(ManualClock::at(NOW));
    Ctx::new(sources(&clock), Actor::Anonymous, RequestId::accept("request-1").unwrap())
}

/// Returns the header and payload of a valid token. Tests change them to create forged tokens.
fn genuine() -> (Value, Value) {
    let header = json!({ "typ": "at+jwt", "alg": "EdDSA", "kid": "key-1" });
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

/// Signs the header and payload with the key derived from `seed`.
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
fn issued_token_is_accepted_with_its_claims() {
    let tokens = tokens(1);
    let token = tokens.issue(&ctx(), USER, SESSION);
    let claims = verify(&tokens, &token, NOW).unwrap();
    assert_eq!((claims.user_id, claims.session), (USER, SESSION));
    assert_eq!(verify(&tokens, &token, NOW), Some(claims), "the token is verified from the cache");
    let header = decode_header(&token).unwrap();
    assert_eq!((header.alg, header.kid.as_deref()), (Algorithm::EdDSA, Some("key-1")));
    assert_ne!(token, tokens.issue(&ctx_later(), USER, SESSION));
}

fn ctx_later() -> Ctx {
    let mut ctx = ctx();
    ctx.now = NOW + seconds(1);
    ctx
}

#[test]
fn token_validity_bounds_hold_for_cached_tokens() {
    let tokens = tokens(1);
    let token = tokens.issue(&ctx(), USER, SESSION);
    // Times in tokens are whole seconds. The token was issued half a second after `issued`.
    let issued = Timestamp::from_millis(1_767_225_600_000);
    let ends = issued + seconds(15 * 60);
    for _ in 0..2 {
        assert!(verify(&tokens, &token, ends - Duration::from_millis(1)).is_some());
        assert_eq!(verify(&tokens, &token, ends), None);
        assert!(verify(&tokens, &token, issued - NOT_YET_VALID_LEEWAY).is_some());
        assert_eq!(verify(&tokens, &token, issued - NOT_YET_VALID_LEEWAY - Duration::from_millis(1)), None);
    }
}

#[test]
fn forged_tokens_are_rejected() {
    let tokens = tokens(1);
    let (header, payload) = genuine();
    let token = sign(1, &header, &payload);
    assert!(
        verify(&tokens, &token, NOW).is_some(),
        "the helper that forges tokens can produce a valid token"
    );
    let (text, signature) = token.rsplit_once('.').unwrap();
    let none = with(&header, "alg", "none");
    let public = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap().public_key().as_ref().to_vec();
    let hs = Header { kid: Some("key-1".into()), typ: Some(TYPE.into()), ..Header::new(Algorithm::HS256) };
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
        ("another key, named by x5u", sign(2, &with(&header, "x5u", "https://evil.example/c.pem"), &payload)),
        ("a path as kid", sign(2, &with(&header, "kid", "../../../../dev/null"), &payload)),
        ("SQL as kid", sign(2, &with(&header, "kid", "x' UNION SELECT 'AAAA' --"), &payload)),
        ("an ID token", sign(1, &with(&header, "typ", "JWT"), &payload)),
        ("no type", sign(1, &without(&header, "typ"), &payload)),
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
            assert_eq!(verify(&tokens, &token, NOW), None, "{what}");
        }
    }
}

async fn load(app: &App) -> Tokens {
    Tokens::load(&app.db, &app.sources, &app.keyring, &app.config.auth).await.unwrap()
}

#[tokio::test]
async fn concurrent_nodes_create_one_signing_key() {
    let test = TestServer::start(|_| {}).await;
    let app = &test.app;
    let (one, other) = tokio::join!(load(app), load(app));
    let token = one.issue(&ctx(), USER, SESSION);
    assert!(other.verify(app, &token, NOW).await.unwrap().is_ok());
    signing_keys::create_first(&app.db, &app.sources, &app.keyring).await.unwrap();
    let keys = load(app).await;
    assert_eq!(kids(&keys, NOW).len(), 1, "a signing key in use is not replaced");
}

fn kids(tokens: &Tokens, now: Timestamp) -> Vec<String> {
    let json = serde_json::to_value(tokens.published(now)).unwrap();
    let text = |key: &Value| key["kid"].as_str().unwrap().to_owned();
    json["keys"].as_array().unwrap().iter().map(text).collect()
}

fn kid_of(token: &str) -> String {
    decode_header(token).unwrap().kid.unwrap()
}

/// ACC-04: a new key is first published and signs tokens later. The old key retires when its last token has
/// expired.
#[tokio::test]
async fn new_key_is_published_then_signs_then_old_key_retires() {
    let test = TestServer::start(|_| {}).await;
    let app = &test.app;
    let other_node = load(app).await;
    let ctx = |now| {
        let mut ctx = app.system_ctx("test");
        ctx.now = now;
        ctx
    };
    let before = app.sources.clock.now();
    let old = app.tokens.issue(&ctx(before), USER, SESSION);
    let rotation = app.tokens.rotate(app, &ctx(before), false).await.unwrap();
    assert_eq!(kids(&app.tokens, before), [kid_of(&old), rotation.key_id.clone()]);
    assert_eq!(kid_of(&app.tokens.issue(&ctx(before), USER, SESSION)), kid_of(&old));
    let again = app.tokens.rotate(app, &ctx(before), false).await.unwrap();
    assert!(again.is_pending && again.key_id == rotation.key_id, "{again:?}");

    // The cache lifetime of the key set is five minutes, and the margin is one minute.
    let signs = before + minutes(6);
    assert_eq!(rotation.signs_from, signs);
    let last = app.tokens.issue(&ctx(signs - seconds(1)), USER, SESSION);
    let new = app.tokens.issue(&ctx(signs), USER, SESSION);
    assert_eq!((kid_of(&last), kid_of(&new)), (kid_of(&old), rotation.key_id.clone()));
    // A node that missed the event reloads the keys when it finds an unknown key id.
    assert!(other_node.verify(app, &new, signs).await.unwrap().is_ok());
    let ends = signs + minutes(15) - seconds(2);
    assert!(app.tokens.verify(app, &last, ends).await.unwrap().is_ok());
    assert_eq!(kids(&app.tokens, rotation.previous_retire_at), [rotation.key_id]);
}

#[tokio::test]
async fn immediate_rotation_invalidates_old_tokens() {
    let test = TestServer::start(|_| {}).await;
    let (app, now) = (&test.app, test.app.sources.clock.now());
    let ctx = app.system_ctx("test");
    let old = app.tokens.issue(&ctx, USER, SESSION);
    assert!(app.tokens.verify(app, &old, now).await.unwrap().is_ok());
    app.tokens.rotate(app, &ctx, false).await.unwrap();
    let rotation = app.tokens.rotate(app, &ctx, true).await.unwrap();
    assert_eq!(
        app.tokens.verify(app, &old, now).await.unwrap(),
        Err(TokenError::Invalid),
        "a cached token is rejected after its key is removed"
    );
    let new = app.tokens.issue(&ctx, USER, SESSION);
    assert_eq!((kid_of(&new), kids(&app.tokens, now)), (rotation.key_id.clone(), vec![rotation.key_id]));
    assert!(app.tokens.verify(app, &new, now).await.unwrap().is_ok());
}

/// SEC-01: tokens with random key ids cause at most one database read per second.
#[tokio::test]
async fn unknown_key_ids_reload_at_most_once_per_second() {
    let test = TestServer::start(|_| {}).await;
    let (app, now) = (&test.app, test.app.sources.clock.now());
    let look_ups = || {
        let text = app.metrics.to_text();
        let line = text.lines().find(|line| line.contains("signing_keys_reloaded"));
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    };
    let (header, payload) = genuine();
    for n in 0..100 {
        let token = sign(1, &with(&header, "kid", format!("key-{n}")), &payload);
        assert_eq!(app.tokens.verify(app, &token, now).await.unwrap(), Err(TokenError::Invalid));
    }
    assert_eq!(look_ups(), 1);
    let token = sign(1, &header, &payload);
    let _ = app.tokens.verify(app, &token, now + seconds(1)).await.unwrap();
    assert_eq!(look_ups(), 2);
}

#[tokio::test]
async fn keys_sealed_under_unknown_secret_fail_start() {
    let test = TestServer::start(|_| {}).await;
    let app = &test.app;
    let mut other = app.config.auth.clone();
    other.jwt_secret = crate::config::Secret::new("another secret that is long enough");
    let keyring = Keyring::new(&other);
    let refused = Tokens::load(&app.db, &app.sources, &keyring, &other).await.err().unwrap();
    assert!(refused.to_string().contains("auth.jwt_secret"), "{refused}");
}
