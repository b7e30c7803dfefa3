//! Tests of the user's own account: profile, password and sessions.

use hyper::header::{ETAG, HeaderName, IF_MATCH, USER_AGENT};
use hyper::{Method, body::Bytes};
use kith_kernel::{days, hours, minutes};
use kith_platform::config::Config;
use kith_store::{Error, params};
use serde_json::{Value, json};

use crate::support::{Client, PASSWORD, TestApp, TestResponse, TestUser, on_every_engine};

const ME: &str = "/api/v1/me";
const LOGIN: &str = "/api/v1/auth/login";
const REFRESH: &str = "/api/v1/auth/refresh";
const SESSIONS: &str = "/api/v1/auth/sessions";
/// Bcrypt hash of `PASSWORD`, as another system would have created it.
const BCRYPT: &str = "$2b$04$nrehJ0ffNwf.nYTIgz9ZvuBjWNUHaDHUFnYSyPQsVXWyc2BTy06mO";

on_every_engine! {
    with super::behind_a_proxy;
    profile_patch_changes_single_fields,
    stale_edit_is_rejected,
    password_change_ends_other_sessions,
    sessions_are_listed_and_ended,
    login_beyond_session_limit_ends_oldest_session,
    bcrypt_hash_is_verified_and_rehashed,
}

fn behind_a_proxy(config: &mut Config) {
    config.server.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")];
}

async fn patch(client: &Client, body: Value) -> TestResponse {
    client.send(Method::PATCH, ME, Bytes::from(body.to_string())).await
}

async fn sign_in(client: &Client, who: &TestUser) -> Value {
    client.post(LOGIN, json!({ "email": who.email, "password": PASSWORD })).await.expect(200)
}

fn token(app: &TestApp, sign_in: &Value) -> Client {
    app.anonymous().with_token(sign_in["access_token"].as_str().expect("a token"))
}

/// ACC-05: fields that the patch does not contain are unchanged, and null clears a field (RFC 7396).
async fn profile_patch_changes_single_fields(app: &TestApp) {
    let ada = app.user("ada").await;
    let client = ada.signed_in().await;
    let all = json!({
        "display_name": " Ada ", "nickname": "Countess", "theme": "dark", "locale": "DE_at",
        "time_zone": "europe/vienna", "pronouns": "she/her",
    });
    let mut expected = client.get(ME).await.expect(200);
    for (key, value) in [
        ("nickname", "Countess"),
        ("theme", "dark"),
        ("locale", "de-AT"),
        ("time_zone", "Europe/Vienna"),
        ("pronouns", "she/her"),
    ] {
        expected[key] = value.into();
    }
    expected["display_name"] = "Ada".into();
    assert_eq!(patch(&client, all.clone()).await.expect(200), expected);
    let before = app.footprint().await;
    for same in [all, json!({}), json!({ "theme": "dark" })] {
        assert_eq!(patch(&client, same).await.expect(200), expected);
    }
    for (bad, pointer, code) in [
        (json!({ "display_name": null }), "/display_name", "wrong_type"),
        (json!({ "display_name": "" }), "/display_name", "too_short"),
        (json!({ "nickname": "x".repeat(41) }), "/nickname", "too_long"),
        (json!({ "theme": "\u{202e}" }), "/theme", "forbidden_character"),
        (json!({ "locale": "klingon!" }), "/locale", "not_a_locale"),
        (json!({ "time_zone": "Mars/Base" }), "/time_zone", "not_a_time_zone"),
        (json!({ "pronouns": "" }), "/pronouns", "too_short"),
        (json!({ "role": "admin" }), "/role", "unknown_field"),
        (json!({ "email": "eve@example.org" }), "/email", "unknown_field"),
        (json!({ "nickname": 5 }), "/nickname", "wrong_type"),
    ] {
        // The valid part is not stored either.
        let mut body = bad.clone();
        body["theme"] = body.get("theme").cloned().unwrap_or_else(|| "light".into());
        let faults = patch(&client, body).await.expect_faults();
        assert_eq!(faults, [(pointer.to_owned(), code.to_owned())], "{bad}");
    }
    assert_eq!(client.get(ME).await.expect(200), expected);
    assert_eq!(app.footprint().await, before);
    expected["nickname"] = Value::Null;
    expected["theme"] = "light".into();
    assert_eq!(patch(&client, json!({ "nickname": null, "theme": "light" })).await.expect(200), expected);
}

/// Proves the readiness requirement API-07.
async fn stale_edit_is_rejected(app: &TestApp) {
    let ada = app.user("ada").await;
    let client = ada.signed_in().await;
    let tag = async || client.get(ME).await.header(ETAG.as_str()).expect("a tag").to_owned();
    let meant_for = |tag: &str| client.with_header(IF_MATCH, tag);
    let first = tag().await;
    patch(&meant_for(&first), json!({ "theme": "dark" })).await.expect(200);
    let before = app.footprint().await;
    let late = patch(&meant_for(&first), json!({ "theme": "light" })).await;
    late.expect_problem(412, "precondition_failed");
    patch(&meant_for("\"other\""), json!({ "theme": "light" }))
        .await
        .expect_problem(412, "precondition_failed");
    assert_eq!(app.footprint().await, before);
    assert_eq!(client.get(ME).await.expect(200)["theme"], "dark");
    patch(&meant_for(&format!("\"other\", {}", tag().await)), json!({ "theme": "light" })).await.expect(200);
    patch(&meant_for("*"), json!({ "theme": "dark" })).await.expect(200);

    // One of two concurrent edits of the same version is rejected.
    let read = tag().await;
    let reader = meant_for(&read);
    let (one, other) = tokio::join!(
        patch(&reader, json!({ "nickname": "one" })),
        patch(&reader, json!({ "nickname": "other" }))
    );
    let mut statuses = [one.status, other.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 412]);
}

/// Proves the readiness requirements ACC-08, DRV-03.
async fn password_change_ends_other_sessions(app: &TestApp) {
    let ada = app.user("ada").await;
    let here = ada.signed_in().await;
    let elsewhere = sign_in(app.anonymous(), &ada).await;
    let there = token(app, &elsewhere);
    let change = |new: &str| json!({ "current_password": PASSWORD, "new_password": new });
    assert_eq!(
        here.post("/api/v1/me/password", change("short")).await.expect_faults(),
        [("/new_password".to_owned(), "too_short".to_owned())]
    );
    there.get(ME).await.expect(200);
    here.post("/api/v1/me/password", change("another horse")).await.expect(204);
    app.wait_until_on_all_nodes(async || there.get(ME).await.status == 401).await;
    let refresh = json!({ "refresh_token": elsewhere["refresh_token"] });
    app.anonymous().post(REFRESH, refresh).await.expect_problem(401, "invalid_refresh_token");
    here.get(ME).await.expect(200);
    let old = json!({ "email": ada.email, "password": PASSWORD });
    app.anonymous().post(LOGIN, old).await.expect_problem(401, "invalid_credentials");
    let new = json!({ "email": ada.email, "password": "another horse" });
    app.anonymous().post(LOGIN, new).await.expect(200);
}

/// DRV-03: a user can end one session, all other sessions, or all sessions, but never those of other users.
async fn sessions_are_listed_and_ended(app: &TestApp) {
    let (ada, eve) = (app.user("ada").await, app.user("eve").await);
    app.advance(hours(1));
    let phone = app.anonymous().with_header(USER_AGENT, "phone/1");
    let phone = phone.with_header(HeaderName::from_static("x-forwarded-for"), "203.0.113.7");
    let first = sign_in(&phone, &ada).await;
    app.advance(minutes(1));
    let (second, third) = (sign_in(app.anonymous(), &ada).await, sign_in(app.anonymous(), &ada).await);
    let (first_client, second_client) = (token(app, &first), token(app, &second));
    let list = async |client: &Client| {
        client.get(SESSIONS).await.expect(200)["items"].as_array().expect("items").clone()
    };
    let open = list(&second_client).await;
    assert_eq!(open.iter().filter(|session| session["current"] == true).count(), 1);
    let of_phone: Vec<_> = open.iter().filter(|session| session["user_agent"] == "phone/1").collect();
    let [of_phone] = of_phone[..] else { panic!("{open:#?}") };
    assert_eq!(of_phone["address"], "203.0.113.7");
    assert_eq!((open.len(), &of_phone["current"]), (4, &json!(false)));
    assert_eq!(of_phone["expires_at"], json!(app.now() - minutes(1) + days(30)));

    let path = format!("{SESSIONS}/{}", of_phone["id"].as_str().expect("an id"));
    let end = async |client: &Client, path: &str| client.send(Method::DELETE, path, Bytes::new()).await;
    end(&eve.signed_in().await, &path).await.expect_problem(404, "not_found");
    list(&first_client).await;
    end(&second_client, &path).await.expect(204);
    app.wait_until_on_all_nodes(async || first_client.get(ME).await.status == 401).await;
    end(&second_client, &path).await.expect_problem(404, "not_found");

    let third_client = token(app, &third);
    end(&second_client, &format!("{SESSIONS}?keep_current=true")).await.expect(204);
    app.wait_until_on_all_nodes(async || third_client.get(ME).await.status == 401).await;
    assert_eq!(list(&second_client).await.len(), 1);
    end(&second_client, SESSIONS).await.expect(204);
    app.wait_until_on_all_nodes(async || second_client.get(ME).await.status == 401).await;
    for ended in [first, second, third] {
        let body = json!({ "refresh_token": ended["refresh_token"] });
        app.anonymous().post(REFRESH, body).await.expect_problem(401, "invalid_refresh_token");
    }
    eve.get(ME).await.expect(200);
}

async fn login_beyond_session_limit_ends_oldest_session(app: &TestApp) {
    let ada = app.user("ada").await;
    let oldest = ada.signed_in().await;
    for _ in 0..49 {
        app.advance(std::time::Duration::from_millis(1));
        sign_in(app.anonymous(), &ada).await;
    }
    oldest.get(ME).await.expect(200);
    app.advance(std::time::Duration::from_millis(1));
    let newest = token(app, &sign_in(app.anonymous(), &ada).await);
    app.wait_until_on_all_nodes(async || oldest.get(ME).await.status == 401).await;
    let open = newest.get(SESSIONS).await.expect(200);
    assert_eq!(open["items"].as_array().map(Vec::len), Some(50));
}

/// ACC-04: imported accounts keep their password and get a new hash at the first log-in.
async fn bcrypt_hash_is_verified_and_rehashed(app: &TestApp) {
    let ada = app.user("ada").await;
    set_hash(app, &ada, BCRYPT).await;
    let wrong = json!({ "email": ada.email, "password": "wrong horse" });
    app.anonymous().post(LOGIN, wrong.clone()).await.expect_problem(401, "invalid_credentials");
    assert_eq!(hash(app, &ada).await, BCRYPT);
    sign_in(app.anonymous(), &ada).await;
    let rehashed = hash(app, &ada).await;
    assert!(rehashed.starts_with("$argon2id$"), "{rehashed}");
    sign_in(app.anonymous(), &ada).await;
    assert_eq!(hash(app, &ada).await, rehashed);
    app.anonymous().post(LOGIN, wrong).await.expect_problem(401, "invalid_credentials");

    // Any other successful password check also renews the hash.
    set_hash(app, &ada, BCRYPT).await;
    let change = json!({ "current_password": PASSWORD, "new_password": "another horse" });
    ada.post("/api/v1/me/password", change).await.expect(204);
    let new = json!({ "email": ada.email, "password": "another horse" });
    app.anonymous().post(LOGIN, new).await.expect(200);
}

async fn set_hash(app: &TestApp, who: &TestUser, hash: &'static str) {
    let id = who.id.clone();
    let sql = "UPDATE users SET password_hash = $2 WHERE id = $1";
    let done = app.db().write(move |tx| tx.exec(sql, params![id, hash])).await;
    assert_eq!(done.map_err(|error: Error| error).expect("a row"), 1);
}

async fn hash(app: &TestApp, who: &TestUser) -> String {
    let id = who.id.clone();
    let sql = "SELECT password_hash FROM users WHERE id = $1";
    let found = app.db().read(move |q| q.one(sql, params![id], |row| row.get::<String>(0))).await;
    found.map_err(|error: Error| error).expect("the database responds").expect("a row")
}
