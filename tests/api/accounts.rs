//! Tests of accounts over HTTP: registration, log-in, refresh, and rejected input.

use std::time::Duration;

use futures_util::future::join_all;
use hyper::header::AUTHORIZATION;
use kith_kernel::{days, minutes, seconds};
use serde_json::{Value, json};

use crate::support::{PASSWORD, TestApp, TestResponse, TestUser, on_every_engine};

const REGISTER: &str = "/api/v1/auth/register";
const LOGIN: &str = "/api/v1/auth/login";
const REFRESH: &str = "/api/v1/auth/refresh";
const ME: &str = "/api/v1/me";

on_every_engine! {
    registration_works_on_all_nodes,
    duplicate_address_is_rejected,
    registration_reports_every_field_error,
    wrong_credentials_are_indistinguishable,
    used_refresh_token_is_valid_for_15_seconds,
    reuse_of_older_refresh_token_revokes_session,
    concurrent_refreshes_return_same_pair,
    session_without_refresh_expires,
    invalid_tokens_are_rejected,
    unicode_and_ascii_domain_are_one_address,
    invisible_text_is_rejected,
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_else(|| panic!("{key} is missing in {value:#}"))
}

/// Proves the readiness requirements ACC-01, ACC-02, ACC-05.
async fn registration_works_on_all_nodes(app: &TestApp) {
    let body =
        json!({ "email": " Ada@Example.org ", "password": PASSWORD, "display_name": " Ada  Lovelace " });
    let registered = app.anonymous().post(REGISTER, body).await.expect(201);
    assert_eq!(
        registered["user"],
        json!({
            "id": registered["user"]["id"], "email": "Ada@Example.org", "display_name": "Ada  Lovelace",
            "role": "user", "nickname": null, "theme": null, "locale": null, "time_zone": null, "pronouns": null,
            "created_at": app.now(), "email_verified": false, "email_verified_at": null,
        })
    );
    assert_eq!(registered["token_type"], "Bearer");
    assert_eq!(registered["expires_in"], 15 * 60);

    let log_in = json!({ "email": "ADA@example.ORG", "password": PASSWORD });
    let logged_in = app.anonymous().post(LOGIN, log_in).await.expect(200);
    assert_eq!(logged_in["user"], registered["user"]);

    let refresh = json!({ "refresh_token": logged_in["refresh_token"] });
    let refreshed = app.anonymous().post(REFRESH, refresh).await.expect(200);
    for sign_in in [&registered, &logged_in, &refreshed] {
        let client = app.anonymous().with_token(text(sign_in, "access_token"));
        // Twice, because the client alternates between the nodes.
        for _ in 0..2 {
            assert_eq!(client.get(ME).await.expect(200), registered["user"]);
        }
    }
}

async fn duplicate_address_is_rejected(app: &TestApp) {
    app.user("zoe\u{301}").await;
    let before = app.footprint().await;
    for taken in ["zoe\u{301}@example.org", "zo\u{e9}@example.org", "ZO\u{c9}@EXAMPLE.org"] {
        let body = json!({ "email": taken, "password": PASSWORD, "display_name": "Zoe" });
        app.anonymous().post(REGISTER, body).await.expect_problem(409, "email_taken");
    }
    assert_eq!(app.footprint().await, before);
}

/// Proves the readiness requirement API-08.
async fn registration_reports_every_field_error(app: &TestApp) {
    let footprint = app.footprint().await;
    let register = async |body: Value| app.anonymous().post(REGISTER, body).await.expect_faults();
    let faults = |list: &[(&str, &str)]| -> Vec<(String, String)> {
        list.iter().map(|(pointer, code)| ((*pointer).to_owned(), (*code).to_owned())).collect()
    };
    assert_eq!(
        register(json!({ "email": "nobody", "password": "short", "display_name": "\u{202e}" })).await,
        faults(&[
            ("/email", "not_an_email"),
            ("/password", "too_short"),
            ("/display_name", "forbidden_character")
        ])
    );
    assert_eq!(
        register(json!({
            "email": format!("{}@example.org", "a".repeat(250)), "password": "x".repeat(257),
            "display_name": "x".repeat(81),
        }))
        .await,
        faults(&[("/email", "too_long"), ("/password", "too_long"), ("/display_name", "too_long")])
    );
    assert_eq!(
        register(json!({ "email": "ada@example.org", "password": PASSWORD })).await,
        faults(&[("/display_name", "missing")])
    );
    assert_eq!(
        register(json!({ "email": 5, "password": PASSWORD, "display_name": "Ada" })).await,
        faults(&[("/email", "wrong_type")])
    );
    let with_more =
        json!({ "email": "ada@example.org", "password": PASSWORD, "display_name": "Ada", "role": "admin" });
    assert_eq!(register(with_more).await, faults(&[("/role", "unknown_field")]));
    assert_eq!(app.footprint().await, footprint);
}

/// ACC-02, DRV-02: rejected log-ins do not reveal whether an address is known, and each one is audited.
async fn wrong_credentials_are_indistinguishable(app: &TestApp) {
    let ada = app.user("ada").await;
    let log_in = async |email: &str, password: &str| {
        let body = json!({ "email": email, "password": password });
        let mut problem = app.anonymous().post(LOGIN, body).await.expect_problem(401, "invalid_credentials");
        problem["request_id"].take();
        problem
    };
    let wrong_password = log_in(&ada.email, "wrong horse").await;
    assert_eq!(log_in("nobody@example.org", PASSWORD).await, wrong_password);
    assert_eq!(log_in("not an address", PASSWORD).await, wrong_password);

    let refusals: Vec<_> =
        app.audit().await.into_iter().filter(|line| line.action == "session.refused").collect();
    assert!(refusals.iter().all(|line| line.actor == "anonymous"), "{refusals:?}");
    let mut objects: Vec<_> = refusals.iter().map(|line| line.object.as_str()).collect();
    objects.sort_unstable();
    assert_eq!(objects, [ada.id.as_str(), "unknown", "unknown"]);
}

async fn signed_in(app: &TestApp, user: &TestUser) -> Value {
    let log_in = json!({ "email": user.email, "password": PASSWORD });
    app.anonymous().post(LOGIN, log_in).await.expect(200)
}

async fn refresh(app: &TestApp, token: &Value) -> TestResponse {
    app.anonymous().post(REFRESH, json!({ "refresh_token": token })).await
}

/// DRV-01: a client that did not receive the response can use the refresh token again within 15 seconds and
/// gets the same pair of tokens. Later reuse ends the session.
async fn used_refresh_token_is_valid_for_15_seconds(app: &TestApp) {
    let ada = app.user("ada").await;
    let first = signed_in(app, &ada).await["refresh_token"].clone();
    let second = refresh(app, &first).await.expect(200);
    app.advance(seconds(15));
    let again = refresh(app, &first).await.expect(200);
    assert_eq!(again["refresh_token"], second["refresh_token"]);
    let third = refresh(app, &second["refresh_token"]).await.expect(200);
    let client = app.anonymous().with_token(text(&third, "access_token"));
    client.get(ME).await.expect(200);

    app.advance(seconds(15) + Duration::from_millis(1));
    refresh(app, &second["refresh_token"]).await.expect_problem(401, "invalid_refresh_token");
    refresh(app, &third["refresh_token"]).await.expect_problem(401, "invalid_refresh_token");
    app.wait_until_on_all_nodes(async || client.get(ME).await.status == 401).await;
    let reused = app.audit().await.into_iter().filter(|line| line.action == "session.refresh_reused");
    assert_eq!(reused.count(), 1);
}

async fn reuse_of_older_refresh_token_revokes_session(app: &TestApp) {
    let ada = app.user("ada").await;
    let first = signed_in(app, &ada).await["refresh_token"].clone();
    let second = refresh(app, &first).await.expect(200)["refresh_token"].clone();
    let third = refresh(app, &second).await.expect(200)["refresh_token"].clone();
    refresh(app, &first).await.expect_problem(401, "invalid_refresh_token");
    refresh(app, &third).await.expect_problem(401, "invalid_refresh_token");
    for foreign in [json!(""), json!("AAAA"), json!("x".repeat(75))] {
        refresh(app, &foreign).await.expect_problem(401, "invalid_refresh_token");
    }
}

async fn concurrent_refreshes_return_same_pair(app: &TestApp) {
    let ada = app.user("ada").await;
    let mut token = signed_in(app, &ada).await["refresh_token"].clone();
    for _ in 0..20 {
        let responses = join_all((0..4).map(|_| refresh(app, &token))).await;
        let tokens: Vec<_> =
            responses.into_iter().map(|response| response.expect(200)["refresh_token"].clone()).collect();
        assert!(tokens.iter().all(|other| *other == tokens[0] && *other != token), "{tokens:?}");
        token = tokens[0].clone();
    }
}

async fn session_without_refresh_expires(app: &TestApp) {
    let ada = app.user("ada").await;
    let log_in = json!({ "email": ada.email, "password": PASSWORD });
    let session = app.anonymous().post(LOGIN, log_in).await.expect(200);
    app.advance(days(30) - seconds(1));
    let body = json!({ "refresh_token": session["refresh_token"] });
    let session = app.anonymous().post(REFRESH, body).await.expect(200);
    app.advance(days(30));
    let body = json!({ "refresh_token": session["refresh_token"] });
    app.anonymous().post(REFRESH, body).await.expect_problem(401, "invalid_refresh_token");
}

/// Proves the readiness requirements ACC-03, ACC-08.
async fn invalid_tokens_are_rejected(app: &TestApp) {
    let ada = app.user("ada").await;
    let log_in = json!({ "email": ada.email, "password": PASSWORD });
    let session = app.anonymous().post(LOGIN, log_in).await.expect(200);
    let token = text(&session, "access_token");
    let (signed, signature) = token.rsplit_once('.').expect("a signature");
    let flipped = if signature.starts_with('A') { "B" } else { "A" };
    let tampered = format!("{signed}.{flipped}{}", &signature[1..]);

    app.anonymous().get(ME).await.expect_problem(401, "unauthenticated");
    for bad in [
        "Bearer",
        "Bearer ",
        "Bearer x.y.z",
        &format!("Bearer {tampered}"),
        &format!("Basic {token}"),
        token,
        &format!("Bearer {signed}."),
    ] {
        let client = app.anonymous().with_header(AUTHORIZATION, bad);
        client.get(ME).await.expect_problem(401, "unauthenticated");
    }

    let client = app.anonymous().with_token(token);
    app.advance(minutes(15) - seconds(1));
    client.get(ME).await.expect(200);
    app.advance(seconds(1));
    client.get(ME).await.expect_problem(401, "unauthenticated");
}

/// Regression: the Unicode and the ASCII form of a domain could be registered as two accounts.
async fn unicode_and_ascii_domain_are_one_address(app: &TestApp) {
    let register = async |email: &str| {
        let body = json!({ "email": email, "password": PASSWORD, "display_name": "Ada" });
        app.anonymous().post(REGISTER, body).await
    };
    let log_in = async |email: &str| {
        app.anonymous().post(LOGIN, json!({ "email": email, "password": PASSWORD })).await
    };
    let ada = register("Ada@Bücher.example").await.expect(201);
    assert_eq!(ada["user"]["email"], "Ada@Bücher.example");
    for spelling in ["ada@xn--bcher-kva.example", "ada@BÜCHER.example", "ada@bu\u{308}cher.example"] {
        register(spelling).await.expect_problem(409, "email_taken");
        assert_eq!(log_in(spelling).await.expect(200)["user"]["id"], ada["user"]["id"], "{spelling}");
    }
    register("ben@xn--bcher-kva.example").await.expect(201);
    register("ben@bücher.example").await.expect_problem(409, "email_taken");
    app.anonymous()
        .post("/dev/verify-email", json!({ "email": "ada@xn--bcher-kva.example" }))
        .await
        .expect(200);
    // A request to the other form of the sender's own address is rejected as a request to the sender.
    let ada = app.anonymous().with_token(ada["access_token"].as_str().expect("a token"));
    let to_herself = json!({ "to": { "email": "ada@xn--bcher-kva.example" } });
    let problem =
        ada.post("/api/v1/partners/requests", to_herself).await.expect_problem(422, "validation_failed");
    assert_eq!(problem["errors"][0]["code"], "self");
    for wrong in ["ada@xn--a.example", "ada@-a.example", "ada@bücher"] {
        register(wrong).await.expect_problem(422, "validation_failed");
    }
    // E-mail keys that an earlier version has written are converted. The migration lists them.
    let former =
        "UPDATE users SET email_key = 'ada@bücher.example' WHERE email_key = 'ada@xn--bcher-kva.example'";
    let list = "INSERT INTO outdated_email_keys (user_id)
                SELECT id FROM users WHERE octet_length(email_key) <> length(email_key)";
    let made = app.db().write(move |tx| Ok([tx.exec(former, &[])?, tx.exec(list, &[])?])).await;
    assert_eq!(made.map_err(|error: kith_store::Error| error).expect("two rows"), [1, 1]);
    app.run_maintenance().await;
    log_in("ada@bücher.example").await.expect(200);
}

/// Regression: a name consisting only of U+200B was accepted and displayed as empty.
async fn invisible_text_is_rejected(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    for blank in ["\u{200B}", "\u{3164}", "\u{2800}", "\u{FE0F}\u{00AD}", "\u{200D} \u{200D}"] {
        let new = json!({ "email": "new@example.org", "password": PASSWORD, "display_name": blank });
        let to_ben = json!({ "to": { "user_id": ben.id }, "message": blank });
        let nickname = format!("/api/v1/nicknames/{}", ben.id);
        let patch = |body: Value| ada.send(hyper::Method::PATCH, ME, body.to_string().into());
        let date = json!({ "data": { "title": blank, "date": "2026-02-14" } });
        for (response, pointer) in [
            (app.anonymous().post(REGISTER, new).await, "/display_name"),
            (patch(json!({ "display_name": blank })).await, "/display_name"),
            (patch(json!({ "nickname": blank })).await, "/nickname"),
            (ada.put(&nickname, json!({ "nickname": blank })).await, "/nickname"),
            (ada.post("/api/v1/partners/requests", to_ben).await, "/message"),
            (ada.post("/api/v1/partners/breakup", json!({ "reason": blank })).await, "/reason"),
            (ada.post("/api/v1/spaces/me/dates", date).await, "/data/title"),
        ] {
            let problem = response.expect_problem(422, "validation_failed");
            let fault = &problem["errors"][0];
            assert_eq!((&fault["pointer"], &fault["code"]), (&json!(pointer), &json!("blank")), "{blank:?}");
        }
    }
    // The zero-width non-joiner (U+200C) is allowed within words.
    let name = json!({ "display_name": "نامه\u{200C}ای" });
    assert_eq!(
        ada.send(hyper::Method::PATCH, ME, name.to_string().into()).await.expect(200)["display_name"],
        name["display_name"]
    );
}
