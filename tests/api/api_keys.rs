//! Tests of API keys: scopes, expiry, revocation and storage.

use std::time::{Duration, Instant};

use hyper::Method;
use hyper::header::HeaderName;
use kith_kernel::{days, seconds};
use kith_platform::idempotency::IDEMPOTENCY_KEY;
use kith_store::{Error, params};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{
    API_KEYS, ApiKey, Client, Engine, PASSWORD, TestApp, TestUser, X_REQUEST_ID, latency_bound,
    on_every_engine,
};

const FACTS: &str = "/api/v1/admin/facts";
const LOG_LEVEL: &str = "/api/v1/admin/log-level";
const USERS: &str = "/api/v1/admin/users";
/// Maximum time until all nodes apply a change.
const PROPAGATION_LIMIT: Duration = Duration::from_secs(1);

on_every_engine! {
    key_is_shown_once_and_stored_as_digest,
    key_is_limited_to_its_scopes,
    key_creation_reports_every_field_error,
    expired_key_is_rejected,
    revoked_key_is_rejected_on_all_nodes_within_a_second,
    key_requires_creator_permission,
    key_revocation_rejects_request_whose_body_arrives_later,
    last_use_is_recorded_per_minute,
    idempotency_keys_are_scoped_to_api_key,
    invalid_key_errors_are_specific_but_safe,
    keys_are_listed_newest_first_and_purged_with_creator,
}

fn path(key: &ApiKey) -> String {
    format!("{API_KEYS}/{}", key.id)
}

async fn show(admin: &TestUser, key: &ApiKey) -> Value {
    admin.get(&path(key)).await.expect(200)
}

/// Proves the readiness requirement ACC-13.
async fn key_is_shown_once_and_stored_as_digest(app: &TestApp) {
    let admin = app.admin("ada").await;
    let client = admin.signed_in().await.with_header(X_REQUEST_ID, "test-key-made");
    let body = json!({ "name": " nightly  build ", "scopes": ["jobs.work", "facts.read", "jobs.work"] });
    let made = client.post(API_KEYS, body).await.expect(201);
    let key = made["key"].as_str().expect("a key");
    let prefix = made["prefix"].as_str().expect("a prefix");
    assert!(prefix.len() == 31 && key.starts_with(&format!("{prefix}_")) && key.len() == 90, "{made:#}");
    assert_eq!(made["scopes"], json!(["facts.read", "jobs.work"]));
    assert_eq!((made["name"].as_str(), made["status"].as_str()), (Some("nightly  build"), Some("active")));
    assert_eq!(made["created_by"], admin.id);

    let id = made["id"].as_str().expect("an id");
    let shown = admin.get(&format!("{API_KEYS}/{id}")).await.expect(200);
    let mut expected = made.clone();
    expected.as_object_mut().expect("an object").remove("key");
    assert_eq!(shown, expected);
    assert_eq!(admin.get(API_KEYS).await.expect(200)["items"], json!([expected]));

    let secret = key.rsplit('_').next().expect("a secret");
    assert_eq!(app.rows_with(&[secret, key]).await, [""; 0]);
    let kept = admin.get(FACTS).await.expect(200)["modules"]["api_keys.stored"].clone();
    assert_eq!(kept, json!({ "keys": 1, "digests": 1 }));
    let audit: Vec<_> =
        app.audit().await.into_iter().filter(|line| line.request_id == "test-key-made").collect();
    assert_eq!(audit.len(), 1);
    assert_eq!((&*audit[0].action, &*audit[0].object), ("api_key.created", id));
    assert_eq!(audit[0].actor, format!("user:{}", admin.id));
}

/// ACC-13: an action with a key is attributed to the key, not to its creator.
async fn key_is_limited_to_its_scopes(app: &TestApp) {
    let admin = app.admin("ada").await;
    let key = app.api_key(&admin, &["logs.write"]).await;
    assert_eq!(key.client.get(LOG_LEVEL).await.expect(200)["level"], "info");
    key.client.get(FACTS).await.expect_problem(403, "forbidden");
    key.client.get("/api/v1/me").await.expect_problem(403, "api_key_not_accepted");
    // The scheme of `Authorization` is case-insensitive.
    let lower = app
        .anonymous()
        .with_header(HeaderName::from_static("authorization"), &format!("bearer {}", key.text));
    lower.get(LOG_LEVEL).await.expect(200);
    let put = key.client.with_header(X_REQUEST_ID, "test-by-key");
    let body = json!({ "level": "info" }).to_string();
    put.send(Method::PUT, LOG_LEVEL, body.into()).await.expect(200);
    let by_key: Vec<_> =
        app.audit().await.into_iter().filter(|line| line.request_id == "test-by-key").collect();
    assert_eq!(by_key.len(), 1);
    assert_eq!(
        (&*by_key[0].actor, &*by_key[0].action),
        (&*format!("api_key:{}", key.id), "log_level.changed")
    );
    let page = admin.get(&format!("/api/v1/audit?actor=api_key:{}", key.id)).await.expect(200);
    assert_eq!(page["items"].as_array().expect("entries").len(), 1);
}

async fn key_creation_reports_every_field_error(app: &TestApp) {
    let admin = app.admin("ada").await;
    let footprint = app.footprint().await;
    let past = app.now();
    for (body, faults) in [
        (json!({ "name": "", "scopes": [] }), vec![("/name", "too_short"), ("/scopes", "too_short")]),
        (
            json!({ "name": "a", "scopes": ["jobs.read", "jobs.everything"] }),
            vec![("/scopes/1", "unknown_scope")],
        ),
        (json!({ "name": "a", "scopes": ["users.set_role"] }), vec![("/scopes/0", "people_only")]),
        (json!({ "name": "a", "scopes": ["users.suspend"] }), vec![("/scopes/0", "people_only")]),
        (json!({ "name": "a", "scopes": ["api_keys.write"] }), vec![("/scopes/0", "people_only")]),
        (
            json!({ "name": "a", "scopes": ["jobs.read"], "expires_at": past }),
            vec![("/expires_at", "in_the_past")],
        ),
    ] {
        let found = admin.post(API_KEYS, body).await.expect_faults();
        let found: Vec<_> = found.iter().map(|(pointer, code)| (&**pointer, &**code)).collect();
        assert_eq!(found, faults);
    }
    admin.delete(&format!("{API_KEYS}/{}", admin.id), Value::Null).await.expect_problem(404, "not_found");
    assert_eq!(app.footprint().await, footprint);
}

async fn expired_key_is_rejected(app: &TestApp) {
    let admin = app.admin("ada").await;
    let key = app.api_key_until(&admin, &["facts.read"], Some(app.now() + seconds(90))).await;
    for _ in 0..app.node_count() {
        key.client.get(FACTS).await.expect(200);
    }
    app.advance(seconds(89));
    key.client.get(FACTS).await.expect(200);
    app.advance(seconds(1));
    for _ in 0..app.node_count() {
        key.client.get(FACTS).await.expect_problem(401, "unauthenticated");
    }
    assert_eq!(show(&admin, &key).await["status"], "expired");
}

#[expect(clippy::disallowed_methods, reason = "revoking is about real time")]
fn real_now() -> Instant {
    Instant::now()
}

async fn is_in(key: &ApiKey, node: usize) -> bool {
    let status = key.client.at(node).get(FACTS).await.status;
    assert!(status == 200 || status == 401, "{status}");
    status == 200
}

async fn revoked_key_is_rejected_on_all_nodes_within_a_second(app: &TestApp) {
    let admin = app.admin("ada").await;
    let mut longest = Duration::ZERO;
    for here in 0..app.node_count() {
        let key = app.api_key(&admin, &["facts.read"]).await;
        for node in 0..app.node_count() {
            // A key created on one node is accepted on all, the second time from the cache.
            assert!(is_in(&key, node).await && is_in(&key, node).await);
        }
        let admin = admin.signed_in().await.at(here);
        admin.send(Method::DELETE, &path(&key), Default::default()).await.expect(204);
        let revoked = real_now();
        assert!(!is_in(&key, here).await, "the key is accepted on the node that revoked it");
        for there in (0..app.node_count()).filter(|node| *node != here) {
            while is_in(&key, there).await {
                assert!(
                    revoked.elapsed() < latency_bound(PROPAGATION_LIMIT),
                    "the key is still accepted after {:?}",
                    revoked.elapsed()
                );
            }
            longest = longest.max(revoked.elapsed());
        }
        let footprint = app.footprint().await;
        admin.send(Method::DELETE, &path(&key), Default::default()).await.expect(204);
        assert_eq!(app.footprint().await, footprint, "a repeated revocation changes nothing");
        assert_eq!(admin.get(&path(&key)).await.expect(200)["status"], "revoked");
    }
    println!("other nodes rejected the key after at most {longest:?}");
}

/// A key never has more permissions than its creator.
async fn key_requires_creator_permission(app: &TestApp) {
    let (root, maker) = (app.admin("root").await, app.admin("maker").await);
    let key = app.api_key(&maker, &["facts.read", "users.read"]).await;
    let counts = async |wanted: bool| {
        app.wait_until_on_all_nodes(async || (key.client.get(FACTS).await.status == 200) == wanted).await;
    };
    let role = async |role: &str| {
        root.put(&format!("{USERS}/{}/role", maker.id), json!({ "role": role })).await.expect(200);
    };
    counts(true).await;
    // A moderator may read accounts, but not create keys.
    role("moderator").await;
    counts(false).await;
    key.client.get(USERS).await.expect_problem(401, "unauthenticated");
    role("admin").await;
    counts(true).await;
    root.put(&format!("{USERS}/{}/suspension", maker.id), json!({})).await.expect(200);
    counts(false).await;
    root.delete(&format!("{USERS}/{}/suspension", maker.id), Value::Null).await.expect(200);
    counts(true).await;
    let again = app.sign_in("maker").await;
    again.delete("/api/v1/me", json!({ "password": PASSWORD })).await.expect(202);
    counts(false).await;
}

/// A request is authorized when it is executed, not when its headers arrive.
async fn key_revocation_rejects_request_whose_body_arrives_later(app: &TestApp) {
    let admin = app.admin("ada").await;
    let key = app.api_key(&admin, &["logs.write"]).await;
    let body = json!({ "level": "info" }).to_string();
    let head = format!(
        "PUT {LOG_LEVEL} HTTP/1.1\r\nHost: kith\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        key.text,
        body.len()
    );
    let mut slow = TcpStream::connect(app.addr()).await.expect("a connection");
    slow.write_all(head.as_bytes()).await.expect("the head");
    key.client.at(0).get(LOG_LEVEL).await.expect(200);
    admin.delete(&path(&key), Value::Null).await.expect(204);
    app.wait_until_on_all_nodes(async || key.client.get(LOG_LEVEL).await.status == 401).await;
    let footprint = app.footprint().await;
    slow.write_all(body.as_bytes()).await.expect("the body");
    let mut response = String::new();
    slow.read_to_string(&mut response).await.expect("an answer");
    assert!(response.starts_with("HTTP/1.1 401"), "{response}");
    assert_eq!(app.footprint().await, footprint);
}

async fn last_use_is_recorded_per_minute(app: &TestApp) {
    let admin = app.admin("ada").await;
    let key = app.api_key(&admin, &["facts.read"]).await;
    assert_eq!(show(&admin, &key).await["last_used_at"], Value::Null);
    let footprint = app.footprint().await;
    let used_at = async |at: kith_kernel::Timestamp| {
        app.wait_until_on_all_nodes(async || show(&admin, &key).await["last_used_at"] == json!(at)).await;
    };
    let first = app.now();
    key.client.at(0).get(FACTS).await.expect(200);
    used_at(first).await;
    app.advance(seconds(59));
    for node in 0..app.node_count() {
        key.client.at(node).get(FACTS).await.expect(200);
    }
    app.advance(seconds(1));
    let second = app.now();
    key.client.at(0).get(FACTS).await.expect(200);
    // The use at second 59 was not recorded. Otherwise this use, one second later, would not be recorded
    // either.
    used_at(second).await;
    assert_eq!(app.footprint().await, footprint, "using a key adds no audit entry and no event");
}

async fn idempotency_keys_are_scoped_to_api_key(app: &TestApp) {
    let admin = app.admin("ada").await;
    let (one, other) =
        (app.api_key(&admin, &["logs.write"]).await, app.api_key(&admin, &["logs.write"]).await);
    let put = async |client: &Client| {
        let body = json!({ "level": "info" }).to_string();
        client.with_header(IDEMPOTENCY_KEY, "once").send(Method::PUT, LOG_LEVEL, body.into()).await
    };
    let written = async |key: &ApiKey| {
        let actor = format!("api_key:{}", key.id);
        app.audit().await.into_iter().filter(|line| line.actor == actor).count()
    };
    for replayed in [None, Some("true"), Some("true")] {
        let response = put(&one.client).await;
        assert_eq!(response.header("idempotency-replayed"), replayed);
        response.expect(200);
    }
    assert_eq!(put(&other.client).await.header("idempotency-replayed"), None);
    assert_eq!((written(&one).await, written(&other).await), (1, 1));
    // A repeated request returns the same API key again. Until then the key is stored encrypted.
    let client = admin.signed_in().await.with_header(IDEMPOTENCY_KEY, "key");
    let body = json!({ "name": "a", "scopes": ["jobs.read"] });
    let made = client.post(API_KEYS, body.clone()).await.expect(201);
    assert_eq!(client.post(API_KEYS, body).await.expect(201), made);
    let secret = made["key"].as_str().expect("a key").rsplit('_').next().expect("a secret");
    assert_eq!(app.rows_with(&[secret]).await, [""; 0]);
}

async fn invalid_key_errors_are_specific_but_safe(app: &TestApp) {
    let admin = app.admin("ada").await;
    let (key, another) =
        (app.api_key(&admin, &["facts.read"]).await, app.api_key(&admin, &["facts.read"]).await);
    let refused = async |text: &str| {
        let client = app.anonymous().with_token(text);
        let detail = |problem: Value| problem["detail"].as_str().expect("text").to_owned();
        let of_allowed = detail(client.get(FACTS).await.expect_problem(401, "unauthenticated"));
        assert_eq!(detail(client.get("/api/v1/me").await.expect_problem(401, "unauthenticated")), of_allowed);
        of_allowed
    };
    for lost in [&key.text[..89], &key.text.to_lowercase().replace("kith_0", "kith_1"), "kith_", "kith_x_y"] {
        assert!(refused(lost).await.contains("checksum"), "{lost}");
    }
    // A well-formed key with an existing id and a wrong secret.
    let forged = forge(&key.text);
    let does_not_count = refused(&forged).await;
    assert!(does_not_count.contains("is not valid"), "{does_not_count}");
    admin.delete(&path(&another), Value::Null).await.expect(204);
    app.wait_until_on_all_nodes(async || another.client.get(FACTS).await.status == 401).await;
    assert_eq!(
        refused(&another.text).await,
        does_not_count,
        "the response does not reveal whether the key existed"
    );
    key.client.get(FACTS).await.expect(200);
}

/// Returns a key with the same id, another secret and a valid checksum.
fn forge(text: &str) -> String {
    use data_encoding::BASE32_DNSSEC as BASE32;
    let mut parts = text.splitn(3, '_').skip(1);
    let id = parts.next().expect("an id");
    let secret = [7; 32];
    let mut crc = crc32fast::Hasher::new();
    crc.update(&BASE32.decode(id.as_bytes()).expect("base 32"));
    crc.update(&secret);
    let checked = [&secret[..], &crc.finalize().to_be_bytes()].concat();
    format!("kith_{id}_{}", BASE32.encode(&checked))
}

async fn keys_are_listed_newest_first_and_purged_with_creator(app: &TestApp) {
    let (root, maker) = (app.admin("root").await, app.admin("maker").await);
    let mut ids = Vec::new();
    for _ in 0..3 {
        app.advance(Duration::from_millis(1));
        ids.insert(0, app.api_key(&maker, &["jobs.read"]).await.id);
    }
    let page = root.get(&format!("{API_KEYS}?limit=2")).await.expect(200);
    let next = page["next_cursor"].as_str().expect("a cursor");
    let rest = root.get(&format!("{API_KEYS}?limit=2&cursor={next}")).await.expect(200);
    let listed = [&page, &rest].map(|page| page["items"].as_array().expect("items").clone()).concat();
    assert_eq!(listed.iter().map(|key| key["id"].as_str().expect("an id")).collect::<Vec<_>>(), ids);
    let mine = maker.get("/api/v1/me/export").await.expect(200);
    assert_eq!(mine["modules"]["platform"]["api_keys"].as_array().expect("keys").len(), 3);

    maker.delete("/api/v1/me", json!({ "password": PASSWORD })).await.expect(202);
    app.advance(days(15));
    app.run_maintenance().await;
    assert_eq!(root.get(API_KEYS).await.expect(200)["items"], json!([]));
}

/// ACC-14, ACC-13: keys are subject to the same address restrictions as administration.
#[tokio::test]
async fn keys_obey_admin_address_restrictions() {
    let elsewhere = |config: &mut kith_platform::config::Config| {
        config.server.admin_addresses = vec!["192.0.2.0/24".parse().expect("a network")];
        config.server.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")];
    };
    TestApp::run(Engine::Sqlite, elsewhere, async |app| {
        let admin = app.admin("ada").await;
        let from = |client: &Client, address: &str| {
            client.with_header(HeaderName::from_static("x-forwarded-for"), address)
        };
        let listed = from(&admin.signed_in().await, "192.0.2.7");
        let body = json!({ "name": "a", "scopes": ["facts.read"] });
        let made = listed.post(API_KEYS, body).await.expect(201);
        let key = app.anonymous().with_token(made["key"].as_str().expect("a key"));
        from(&key, "192.0.2.8").get(FACTS).await.expect(200);
        from(&key, "198.51.100.1").get(FACTS).await.expect_problem(403, "address_not_listed");
        key.get(FACTS).await.expect_problem(403, "address_not_listed");
    })
    .await;
}

/// Operations reserved for users reject a key even if its scopes were extended in the database.
#[tokio::test]
async fn manually_widened_key_cannot_use_user_operations() {
    TestApp::run(
        Engine::Sqlite,
        |_| {},
        async |app| {
            let admin = app.admin("ada").await;
            let key = app.api_key(&admin, &["facts.read", "api_keys.read"]).await;
            let id = key.id.clone();
            let widen = app.db().write(move |tx| {
                tx.exec(
                    "UPDATE api_keys SET scopes = 'api_keys.write users.set_role' WHERE id = $1",
                    params![id],
                )
                .map(drop)
            });
            widen.await.map_err(|error: Error| error).expect("the direct update succeeds");
            // The key has not been used before, so its scopes are read from the database now.
            let body = json!({ "name": "a", "scopes": ["jobs.read"] });
            key.client.post(API_KEYS, body).await.expect_problem(403, "api_key_not_accepted");
            let role = format!("{USERS}/{}/role", admin.id);
            let body = json!({ "role": "user" }).to_string();
            key.client
                .send(Method::PUT, &role, body.into())
                .await
                .expect_problem(403, "api_key_not_accepted");
            key.client.get(FACTS).await.expect_problem(403, "forbidden");
        },
    )
    .await;
}
