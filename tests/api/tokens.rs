//! Tests of forged access tokens over HTTP. Some are made with what an attacker can have, others with the
//! server's own signing key.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::Duration;

use aws_lc_rs::signature::KeyPair as _;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hyper::header::AUTHORIZATION;
use kith_kernel::{Random as _, SeededRandom, Timestamp, minutes, seconds};
use kith_store::testing::TestDatabase;
use serde_json::{Value, json};

use crate::support::forge::{Key, part, read, with, without};
use crate::support::{Engine, PASSWORD, TestApp, TestUser, note_trials, on_every_engine};

const ME: &str = "/api/v1/me";
const LOGIN: &str = "/api/v1/auth/login";
const LOOK_UPS: &str = "kith_security_events_total{kind=\"signing_keys_reloaded\"}";
const MILLISECOND: Duration = Duration::from_millis(1);
/// Number of mutated tokens per engine.
const MUTATIONS: usize = 1_500;

on_every_engine! {
    forged_tokens_are_rejected,
    token_is_valid_until_expiry,
    malformed_authorization_headers_are_rejected,
    mutated_tokens_are_rejected,
}

async fn sign_in(app: &TestApp, user: &TestUser) -> Value {
    let body = json!({ "email": user.email, "password": PASSWORD });
    app.anonymous().post(LOGIN, body).await.expect(200)
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_else(|| panic!("{key} is missing"))
}

/// Returns forged tokens with a description of each.
async fn corpus(app: &TestApp, key: &Key, session: &Value, address: &str) -> Vec<(String, String)> {
    let token = text(session, "access_token");
    let (header, payload) = (read(token, 0), read(token, 1));
    let (signed, signature) = token.rsplit_once('.').expect("a signature");
    let (mut all, other) = (Vec::new(), key.other());
    let mut add = |what: &str, token: String| all.push((what.to_owned(), token));
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let none = with(&header, "alg", alg);
        add("alg none", format!("{}.{}.", part(&none), part(&payload)));
        add("alg none, with the old signature", format!("{}.{}.{signature}", part(&none), part(&payload)));
    }
    let public = key.pair().public_key().as_ref().to_vec();
    let jwk = URL_SAFE_NO_PAD.encode(&public);
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(&public));
    for secret in [public.as_slice(), jwk.as_bytes(), pem.as_bytes(), b"", b"secret"] {
        add("the public key as an HMAC secret", key.sign_hs256(secret, &payload));
    }
    for alg in ["HS256", "RS256", "ES256", "PS256", "EdDSA2", "eddsa"] {
        add("signed well, but said to be otherwise", key.sign(&with(&header, "alg", alg), &payload));
    }
    let kids = [
        "../../../../dev/null".to_owned(),
        "/proc/self/environ".to_owned(),
        "x' UNION SELECT 'AAAA' --".to_owned(),
        "'; DROP TABLE signing_keys; --".to_owned(),
        "k".repeat(1_200),
        "k".repeat(4_000),
        "\u{0}\r\nX-Injected: yes\u{1b}[31m".to_owned(),
        String::new(),
        key.id.to_uppercase(),
        format!("{} ", key.id),
    ];
    for kid in kids {
        add("a foreign kid", other.sign(&with(&header, "kid", kid), &payload));
    }
    for kid in [json!(null), json!(5), json!([key.id]), json!({ "kid": key.id })] {
        add("a kid that is no text", key.sign(&with(&header, "kid", kid), &payload));
    }
    let foreign = URL_SAFE_NO_PAD.encode(other.pair().public_key().as_ref());
    let brought = json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "x": foreign, "kid": key.id });
    for kid in [key.id.as_str(), "elsewhere"] {
        let header = with(&header, "kid", kid);
        for name in ["jku", "x5u"] {
            let url = format!("http://{address}/keys");
            add(name, other.sign(&with(&header, name, url), &payload));
        }
        add("jwk", other.sign(&with(&header, "jwk", brought.clone()), &payload));
        add("x5c", other.sign(&with(&header, "x5c", json!([foreign])), &payload));
    }
    add("another key", other.sign(&header, &payload));
    add("crit", key.sign(&with(&header, "crit", json!(["exp"])), &payload));
    add("crit, unencoded", key.sign(&with(&with(&header, "crit", json!(["b64"])), "b64", false), &payload));
    for kind in ["JWT", "jwt", "id_token", "", "application/at+jwt "] {
        add("another type", key.sign(&with(&header, "typ", kind), &payload));
    }
    for name in ["typ", "kid", "alg"] {
        add("a header that lacks something", key.sign(&without(&header, name), &payload));
    }
    for name in ["iss", "aud", "sub", "sid", "jti", "nbf", "exp"] {
        add("a payload that lacks something", key.sign(&header, &without(&payload, name)));
        add("a payload with another type", key.sign(&header, &with(&payload, name, json!({}))));
    }
    let now_s = app.now().as_millis() / 1_000;
    let claims = [
        ("iss", json!("evil")),
        ("iss", json!("")),
        ("aud", json!("evil")),
        ("aud", json!(["kith", "evil"])),
        ("nbf", json!(now_s + 10)),
        ("nbf", json!(i64::MAX)),
        ("exp", json!(now_s)),
        ("exp", json!(now_s - 1)),
        ("exp", json!(i64::MIN)),
        ("exp", json!(1e300)),
        ("sid", json!(key.id)),
        ("sub", json!(key.id)),
        ("sub", json!("admin")),
    ];
    for (name, value) in claims {
        add(&format!("{name} {value}"), key.sign(&header, &with(&payload, name, value)));
    }
    let admin = app.user("victim").await.id;
    let stolen = with(&payload, "sub", admin);
    add("another's id, with one's own session", key.sign(&header, &stolen));
    add("another's id, with the old signature", format!("{}.{}.{signature}", part(&header), part(&stolen)));
    let longer = part(&with(&header, "cty", "x"));
    add("another header, with the old signature", format!("{longer}.{}.{signature}", part(&payload)));
    add("no signature", format!("{signed}."));
    add("no signature and no dot", signed.to_owned());
    add("a signature of zeros", format!("{signed}.{}", URL_SAFE_NO_PAD.encode([0; 64])));
    add("a refresh token", text(session, "refresh_token").to_owned());
    add("a device token", text(session, "device_token").to_owned());
    add("far too long", key.sign(&with(&header, "cty", "x".repeat(4_000)), &payload));
    all
}

/// Returns a listener to which the server must not connect.
fn trap() -> TcpListener {
    let trap = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    trap.set_nonblocking(true).expect("a socket");
    trap
}

/// ACC-03, SEC-01: all forged tokens are rejected, no URL in a token is fetched, and keys are read from the
/// database at most once a second.
async fn forged_tokens_are_rejected(app: &TestApp) {
    let (ada, key, trap) = (app.user("ada").await, Key::of(app).await, trap());
    let session = sign_in(app, &ada).await;
    let token = text(&session, "access_token");
    let again = key.sign(&read(token, 0), &read(token, 1));
    for _ in 0..app.node_count() {
        app.anonymous().with_token(&again).get(ME).await.expect(200);
    }
    let address = trap.local_addr().expect("an address").to_string();
    let mut corpus = corpus(app, &key, &session, &address).await;
    corpus.push(("another server's".to_owned(), token_of_other_server().await));
    let nodes = f64::from(u32::try_from(app.node_count()).expect("a small number of nodes"));
    for round in 1..=2 {
        let before = app.footprint().await;
        for (what, token) in &corpus {
            for _ in 0..app.node_count() {
                let response = app.anonymous().with_token(token).get(ME).await;
                assert_eq!(response.status, 401, "{what} returned {response:#?}");
                response.expect_problem(401, "unauthenticated");
            }
        }
        assert_eq!(app.footprint().await, before);
        let look_ups = app.metric(LOOK_UPS).await;
        assert!(look_ups == f64::from(round) * nodes, "{look_ups} look-ups in second {round}");
        app.advance(seconds(1));
    }
    let connected = trap.accept().expect_err("no connection is made");
    assert_eq!(connected.kind(), ErrorKind::WouldBlock, "{connected}");
    note_trials("SEC-01", "a forged token is rejected without an outgoing request", corpus.len());
    println!("{} forged tokens, none accepted", corpus.len());
}

/// Returns a valid token of another server with the same secrets, but different keys.
async fn token_of_other_server() -> String {
    let other = TestApp::start(Engine::Sqlite, TestDatabase::sqlite()).await;
    let token = text(&sign_in(&other, &other.user("ada").await).await, "access_token").to_owned();
    other.anonymous().with_token(&token).get(ME).await.expect(200);
    other.stop().await;
    token
}

async fn is_good(app: &TestApp, token: &str) -> bool {
    let client = app.anonymous().with_token(token);
    let mut good = Vec::new();
    for _ in 0..app.node_count() {
        good.push(client.get(ME).await.status == 200);
    }
    assert!(good.iter().all(|one| *one == good[0]), "the nodes disagree: {good:?}");
    good[0]
}

async fn token_is_valid_until_expiry(app: &TestApp) {
    let key = Key::of(app).await;
    let ada = app.user("ada").await;
    let session = sign_in(app, &ada).await;
    let token = text(&session, "access_token");
    let (header, payload) = (read(token, 0), read(token, 1));
    let nbf_s = payload["nbf"].as_i64().expect("a time");
    let soon = key.sign(&header, &with(&with(&payload, "nbf", nbf_s + 3), "jti", json!(payload["sid"])));
    // The verifier's clock may be one second behind the signer's.
    assert!(!is_good(app, &soon).await);
    app.advance(seconds(2) - MILLISECOND);
    assert!(!is_good(app, &soon).await);
    app.advance(MILLISECOND);
    assert!(is_good(app, &soon).await);

    let ends = Timestamp::from_millis(nbf_s * 1_000) + minutes(15);
    assert_eq!(payload["exp"], ends.as_millis() / 1_000);
    app.advance(ends.since(app.now()) - MILLISECOND);
    for _ in 0..2 {
        assert!(is_good(app, token).await);
    }
    app.advance(MILLISECOND);
    for _ in 0..2 {
        assert!(!is_good(app, token).await, "a token in the cache is rejected after it expires");
    }
}

/// The case of the scheme and the number of spaces after it do not matter (RFC 9110, section 11). Any other
/// difference is rejected.
async fn malformed_authorization_headers_are_rejected(app: &TestApp) {
    let session = sign_in(app, &app.user("ada").await).await;
    let token = text(&session, "access_token");
    let sent = |value: &str| app.anonymous().with_header(AUTHORIZATION, value);
    for good in [format!("Bearer {token}"), format!("bearer   {token}"), format!("BEARER {token} ")] {
        sent(&good).get(ME).await.expect(200);
    }
    let (text, signature) = token.rsplit_once('.').expect("a signature");
    let bad = [
        format!("Bearer{token}"),
        format!("Bearer\t{token}"),
        format!("Bearer \t{token}"),
        format!("Bearer {token}="),
        format!("Bearer {token}=="),
        format!("Bearer {token}."),
        format!("Bearer {token}.{signature}"),
        format!("Bearer {token}, Bearer {token}"),
        format!("Bearer {token} {token}"),
        format!("Bearer \"{token}\""),
        format!("Bearer token={token}"),
        format!("Bearer Bearer {token}"),
        format!("Bearer {text} .{signature}"),
        format!("Bearer {text}.{}", other_last_bits(signature)),
        format!("Token {token}"),
        token.to_owned(),
    ];
    for bad in bad {
        sent(&bad).get(ME).await.expect_problem(401, "unauthenticated");
    }
    let good = sent(&format!("Bearer {token}"));
    for more in [format!("Bearer {token}"), "Bearer x.y.z".to_owned(), "Basic YTpi".to_owned()] {
        let twice = good.with_additional_header(AUTHORIZATION, &more);
        twice.get(ME).await.expect_problem(401, "unauthenticated");
        let twice = sent(&more).with_additional_header(AUTHORIZATION, &format!("Bearer {token}"));
        twice.get(ME).await.expect_problem(401, "unauthenticated");
    }
    for query in ["access_token", "token"] {
        let path = format!("{ME}?{query}={token}");
        app.anonymous().get(&path).await.expect_problem(401, "unauthenticated");
    }
}

/// Returns another base64url text of the same 64 bytes: the last four bits are unused.
fn other_last_bits(signature: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (head, last) = signature.split_at(signature.len() - 1);
    let at = ALPHABET.iter().position(|byte| *byte == last.as_bytes()[0]).expect("base64url");
    format!("{head}{}", char::from(ALPHABET[at ^ 1]))
}

/// SEC-01: no mutation of a valid token is accepted. The mutations are the same in each run.
async fn mutated_tokens_are_rejected(app: &TestApp) {
    let session = sign_in(app, &app.user("ada").await).await;
    let other = sign_in(app, &app.user("ben").await).await;
    let (token, other) = (text(&session, "access_token"), text(&other, "access_token"));
    let random = SeededRandom::new(20_260_101);
    let mut seen = HashSet::new();
    while seen.len() < MUTATIONS {
        let mutant = mutate(&random, token, other);
        if mutant == token || mutant == other || !seen.insert(mutant.clone()) {
            continue;
        }
        let response = app.anonymous().with_token(&mutant).get(ME).await;
        assert_eq!(response.status, 401, "{mutant} was accepted");
    }
    assert!(is_good(app, token).await && is_good(app, other).await);
    note_trials("SEC-01", "an altered token is rejected", MUTATIONS);
}

/// Applies one to three mutations.
fn mutate(random: &SeededRandom, token: &str, other: &str) -> String {
    let mut bytes = token.as_bytes().to_vec();
    for _ in 0..=draw(random, 3) {
        mutate_once(random, &mut bytes, other);
    }
    String::from_utf8(bytes).expect("ASCII")
}

fn mutate_once(random: &SeededRandom, bytes: &mut Vec<u8>, other: &str) {
    // Printable without space, because a header value loses spaces at its ends.
    let any = u8::try_from(0x21 + draw(random, 0x5e)).expect("ASCII");
    let at = draw(random, bytes.len().max(1));
    match draw(random, 8) {
        0 if !bytes.is_empty() => bytes[at] = any,
        1 if !bytes.is_empty() => drop(bytes.remove(at)),
        2 => bytes.insert(at, any),
        3 => bytes.truncate(at),
        4 if at > 0 => bytes.swap(at - 1, at),
        5 if !bytes.is_empty() => bytes[at] = other_case(bytes[at]),
        6 => {
            let mut parts: Vec<_> = bytes.split(|byte| *byte == b'.').map(<[u8]>::to_vec).collect();
            let from: Vec<_> = other.split('.').collect();
            let which = draw(random, parts.len());
            from[which % from.len()].as_bytes().clone_into(&mut parts[which]);
            *bytes = parts.join(&b'.');
        }
        _ => {
            let tail = bytes.split_off(at);
            bytes.splice(0..0, tail);
        }
    }
}

fn other_case(byte: u8) -> u8 {
    if byte.is_ascii_lowercase() { byte.to_ascii_uppercase() } else { byte.to_ascii_lowercase() }
}

/// Returns a random number below `end`.
fn draw(random: &SeededRandom, end: usize) -> usize {
    let mut bytes = [0; 8];
    random.fill(&mut bytes);
    usize::from_le_bytes(bytes) % end
}
