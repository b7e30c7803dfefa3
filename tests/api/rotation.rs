//! Tests of signing key rotation under load: no request fails, unless the old key is revoked.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use kith_kernel::{Timestamp, minutes};
use kith_platform::auth::Rotation;
use serde_json::{Value, json};

use crate::support::forge::{Key, read, with};
use crate::support::{PASSWORD, TestApp, TestUser, latency_bound, on_every_engine};

const ME: &str = "/api/v1/me";
const LOGIN: &str = "/api/v1/auth/login";
const REFRESH: &str = "/api/v1/auth/refresh";
const JWKS: &str = "/.well-known/jwks.json";
const MILLISECOND: Duration = Duration::from_millis(1);
/// Number of concurrent users.
const PEOPLE: usize = 4;

on_every_engine! {
    requests_succeed_during_key_rotation,
    emergency_rotation_invalidates_tokens,
}

/// Users who log in, send requests and refresh until the load ends.
struct Load {
    users: Vec<TestUser>,
    rounds: Vec<AtomicUsize>,
    ends: AtomicBool,
}

impl Load {
    async fn new(app: &TestApp) -> Self {
        let users = app.register_users("person", PEOPLE).await;
        Self {
            rounds: users.iter().map(|_| AtomicUsize::new(0)).collect(),
            users,
            ends: AtomicBool::new(false),
        }
    }

    /// Sends the requests of all users until the load ends. Panics on any response that is not a success.
    async fn run(&self, app: &TestApp) {
        join_all(self.users.iter().zip(&self.rounds).map(async |(user, rounds)| {
            while !self.ends.load(Ordering::Relaxed) {
                let session = sign_in(app, user, rounds.load(Ordering::Relaxed)).await;
                request_on_all_nodes(app, &session).await;
                let body = json!({ "refresh_token": session["refresh_token"] });
                let renewed = app.anonymous().post(REFRESH, body).await.expect(200);
                request_on_all_nodes(app, &renewed).await;
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        }))
        .await;
    }

    /// Waits until each user has completed another full round.
    async fn wait_for_round(&self) {
        let before: Vec<_> = self.rounds.iter().map(|rounds| rounds.load(Ordering::Relaxed)).collect();
        let behind = || {
            let pairs = self.rounds.iter().zip(&before);
            pairs.into_iter().any(|(now, before)| now.load(Ordering::Relaxed) < before + 2)
        };
        while behind() {
            tokio::task::yield_now().await;
        }
    }
}

async fn sign_in(app: &TestApp, user: &TestUser, n: usize) -> Value {
    let body = json!({ "email": user.email, "password": PASSWORD });
    let client = app.anonymous().at(n % app.node_count());
    client.post(LOGIN, body).await.expect(200)
}

fn token(session: &Value) -> &str {
    session["access_token"].as_str().expect("a token")
}

async fn request_on_all_nodes(app: &TestApp, session: &Value) {
    for node in 0..app.node_count() {
        app.anonymous().at(node).with_token(token(session)).get(ME).await.expect(200);
    }
}

/// Returns for each node whether it accepts the token.
async fn is_in(app: &TestApp, token: &str) -> Vec<bool> {
    let nodes = (0..app.node_count()).map(|node| app.anonymous().at(node).with_token(token));
    join_all(nodes.map(async |client| client.get(ME).await.status == 200)).await
}

/// Returns the id of the signing key.
fn kid(session: &Value) -> String {
    read(token(session), 0)["kid"].as_str().expect("a key").to_owned()
}

async fn published(app: &TestApp, node: usize) -> Vec<String> {
    let set = app.anonymous().at(node).get(JWKS).await.expect(200);
    let keys = set["keys"].as_array().expect("keys");
    keys.iter().map(|key| key["kid"].as_str().expect("a name").to_owned()).collect()
}

async fn rotate(app: &TestApp, at_once: bool) -> Rotation {
    let parts = app.parts();
    parts.tokens.rotate(parts, &parts.system_ctx("test"), at_once).await.expect("a rotation")
}

/// Waits for a condition that must hold within a second.
#[expect(clippy::disallowed_methods, reason = "the age of events is measured in real time")]
async fn within_a_second(holds: impl AsyncFn() -> bool) {
    let (began, bound) = (Instant::now(), latency_bound(Duration::from_secs(1)));
    while !holds().await {
        assert!(began.elapsed() < bound, "the condition does not hold after {:?}", began.elapsed());
    }
}

/// ACC-04: no request fails while a new key is published, starts to sign and replaces the old one. Each key
/// stays published as long as a token that it signed is valid.
async fn requests_succeed_during_key_rotation(app: &TestApp) {
    let load = Load::new(app).await;
    let change = async {
        load.wait_for_round().await;
        change_keys(app, &load).await;
        load.ends.store(true, Ordering::Relaxed);
    };
    tokio::join!(load.run(app), change);
    let rounds: usize = load.rounds.iter().map(|rounds| rounds.load(Ordering::Relaxed)).sum();
    println!("{} requests, none rejected", rounds * (2 + 2 * app.node_count()));
}

async fn change_keys(app: &TestApp, load: &Load) {
    let (ada, old) = (app.user("ada").await, Key::of(app).await);
    let session = sign_in(app, &ada, 0).await;
    // This token is valid for longer than any issued token, so it is rejected only when its key is retired.
    let payload = with(&read(token(&session), 1), "exp", json!(i64::MAX / 1_000));
    let endless = old.sign(&read(token(&session), 0), &payload);
    let rotation = rotate(app, false).await;
    let both = [old.id.clone(), rotation.key_id.clone()];
    assert_eq!(published(app, 0).await, both);
    within_a_second(async || published(app, app.node_count() - 1).await == both).await;
    load.wait_for_round().await;

    let to = async |moment: Timestamp| {
        app.advance(moment.since(app.now()));
        load.wait_for_round().await;
    };
    let all_kids = async || {
        let mut kids = Vec::new();
        for node in 0..app.node_count() {
            kids.push(kid(&sign_in(app, &ada, node).await));
        }
        kids
    };
    to(rotation.signs_from - MILLISECOND).await;
    assert!(
        all_kids().await.iter().all(|kid| *kid == old.id),
        "the new key signs before all verifiers can have it"
    );
    let last = sign_in(app, &ada, 0).await;
    to(rotation.signs_from).await;
    assert!(all_kids().await.iter().all(|kid| *kid == rotation.key_id), "the new key does not sign");
    let last_ends = read(token(&last), 1)["exp"].as_i64().expect("a time") * 1_000;
    for minute in [5, 10] {
        to(rotation.signs_from + minutes(minute)).await;
        assert!(is_in(app, token(&last)).await.iter().all(|is_in| *is_in), "{minute}");
    }
    to(Timestamp::from_millis(last_ends) - MILLISECOND).await;
    assert!(is_in(app, token(&last)).await.iter().all(|is_in| *is_in), "a token is valid until it expires");

    to(rotation.previous_retire_at - MILLISECOND).await;
    assert_eq!(published(app, 0).await, both);
    assert!(is_in(app, &endless).await.iter().all(|is_in| *is_in));
    to(rotation.previous_retire_at).await;
    for node in 0..app.node_count() {
        assert_eq!(published(app, node).await, [rotation.key_id.as_str()]);
    }
    assert!(is_in(app, &endless).await.iter().all(|is_in| !is_in), "a token of a retired key is rejected");
}

/// ACC-04: an emergency rotation invalidates tokens immediately on the node that executes it, and within a
/// second on the other node. Then new log-ins work on all nodes.
async fn emergency_rotation_invalidates_tokens(app: &TestApp) {
    let (ada, other) = (app.user("ada").await, app.node_count() - 1);
    let old: Vec<_> = [sign_in(app, &ada, 0).await, sign_in(app, &ada, 1).await].into();
    // Uses up the number of key look-ups that a node may do per second, so that it learns about the rotation
    // only from the event.
    let unknown = with(&read(token(&old[0]), 0), "kid", "unknown");
    let unknown = Key::of(app).await.sign(&unknown, &read(token(&old[0]), 1));
    assert!(is_in(app, &unknown).await.iter().all(|is_in| !is_in));
    for session in &old {
        request_on_all_nodes(app, session).await;
    }
    let rotation = rotate(app, true).await;
    for session in &old {
        assert!(!is_in(app, token(session)).await[0], "still accepted on the node that rotated the key");
    }
    within_a_second(async || published(app, other).await == [rotation.key_id.as_str()]).await;
    for session in &old {
        assert_eq!(is_in(app, token(session)).await, vec![false; app.node_count()]);
    }
    for node in 0..app.node_count() {
        request_on_all_nodes(app, &sign_in(app, &ada, node).await).await;
    }
    // Sessions stay valid. Only the access tokens are invalid.
    let body = json!({ "refresh_token": old[0]["refresh_token"] });
    request_on_all_nodes(app, &app.anonymous().post(REFRESH, body).await.expect(200)).await;
}
