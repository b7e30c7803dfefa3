//! Tests of account deletion: immediate effects, grace period, restoration, and data export.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use kith_accounts::accounts::AccountSettings;
use kith_kernel::days;
use kith_platform::config::Config;
use serde_json::{Value, json};

use crate::support::{PASSWORD, REQUESTS, TestApp, TestUser, on_every_engine};

const ME: &str = "/api/v1/me";
const EXPORT: &str = "/api/v1/me/export";
const REGISTER: &str = "/api/v1/auth/register";
const LOGIN: &str = "/api/v1/auth/login";
const RESTORE: &str = "/api/v1/auth/restore";
const REFRESH: &str = "/api/v1/auth/refresh";
const CURRENT: &str = "/api/v1/partners/current";
const MILLISECOND: Duration = Duration::from_millis(1);

on_every_engine! {
    with super::behind_a_proxy_and_careful;
    deleted_account_is_purged_after_grace_period,
    deletion_ends_sessions_bond_and_requests,
    undoing_deletion_restores_account_but_not_bond,
    invalid_deletion_and_restore_requests_are_rejected,
    export_contains_exactly_own_data,
    last_administrator_cannot_leave,
    concurrent_deletions_leave_one_administrator,
}

pub fn behind_a_proxy_and_careful(config: &mut Config) {
    config.server.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")];
    config.change_section::<AccountSettings>(|accounts| accounts.max_purged_per_run = 2);
}

pub fn credentials(email: &str) -> Value {
    json!({ "email": email, "password": PASSWORD })
}

pub async fn leave(who: &TestUser) -> Value {
    who.delete(ME, json!({ "password": PASSWORD })).await.expect(202)
}

pub async fn ask(from: &TestUser, to: &TestUser, message: &str) -> Value {
    let body = json!({ "to": { "user_id": to.id }, "message": message });
    from.post(REQUESTS, body).await.expect(201)
}

pub fn purges(app: &TestApp) -> PathBuf {
    app.parts().config.data.folder.join("purges")
}

pub fn manifest(app: &TestApp, who: &TestUser) -> PathBuf {
    purges(app).join(format!("{}.json", who.id))
}

pub async fn count_actions(app: &TestApp, action: &str) -> usize {
    app.audit().await.into_iter().filter(|line| line.action == action).count()
}

/// ACC-11: the account is purged when its grace period ends, exact to the millisecond. Then its manifest is
/// on disk with restricted permissions, and the address can be registered again.
async fn deleted_account_is_purged_after_grace_period(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    ask(&ada, &ben, "a word").await;
    let deleted = leave(&ada).await;
    assert_eq!(deleted["delete_at"], json!(app.now() + days(14)));
    app.anonymous().post(LOGIN, credentials(&ada.email)).await.expect_problem(403, "account_deleted");

    app.advance(days(14) - MILLISECOND);
    app.run_maintenance().await;
    app.anonymous().post(RESTORE, credentials(&ada.email)).await.expect(200);
    leave(&ada).await;
    let again = json!({ "email": ada.email, "password": "another horse", "display_name": "Another Ada" });
    app.anonymous().post(REGISTER, again.clone()).await.expect_problem(409, "email_taken");

    app.advance(days(14));
    app.run_maintenance().await;
    for path in [RESTORE, LOGIN] {
        let response = app.anonymous().post(path, credentials(&ada.email)).await;
        response.expect_problem(401, "invalid_credentials");
    }
    let path = manifest(app, &ada);
    let mode = |path: &PathBuf| std::fs::metadata(path).expect("a file").permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&purges(app))), (0o600, 0o700));
    let kept: Value = serde_json::from_slice(&std::fs::read(path).expect("a manifest")).expect("JSON");
    assert_eq!(
        kept,
        json!({
            "user_id": ada.id, "at": app.now(),
            "rows": {
                "accounts": { "account": 1, "sessions": 0 }, "blocks": { "blocks": 0 },
                "bonds": { "messages": 1, "reasons": 0 }, "nicknames": { "nicknames": 0 },
                "platform": { "api_keys": 0 }, "spaces": { "items": 0, "shared_items": 0 },
            },
        })
    );
    assert_eq!(count_actions(app, "account.purged").await, 1);
    app.run_maintenance().await;
    assert_eq!(count_actions(app, "account.purged").await, 1);

    let registered = app.anonymous().post(REGISTER, again).await.expect(201);
    assert_ne!(registered["user"]["id"], ada.id.as_str());
}

/// ACC-11: deletion ends the user's sessions, bond and requests, and the other users concerned are notified.
async fn deletion_ends_sessions_bond_and_requests(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    let (eve, dan) = (app.user("eve").await, app.user("dan").await);
    ask(&ada, &dan, "first").await;
    ask(&eve, &ada, "me too").await;
    let elsewhere = app.anonymous().post(LOGIN, credentials(&ada.email)).await.expect(200);
    let before = app.events().await.len();
    leave(&ada).await;
    let events = app.events().await.split_off(before);
    let recipients = |kind: &str, who: &TestUser| {
        let of_kind = |event: &&kith_store::SequencedEvent| event.event.kind == kind;
        events
            .iter()
            .filter(of_kind)
            .any(|event| event.event.recipients.iter().any(|id| id.to_string() == who.id))
    };
    assert!(recipients("partner_request.cancelled", &dan) && recipients("partner_request.closed", &eve));
    check_signed_out(app, &ada, &elsewhere).await;
    for (who, status) in [(&dan, "cancelled"), (&eve, "superseded")] {
        let seen = who.get(REQUESTS).await.expect(200);
        assert_eq!(seen["items"][0]["status"], status, "{seen:#}");
    }
    // The deleted user cannot be found.
    let body = json!({ "to": { "user_id": ada.id } });
    ben.post(REQUESTS, body).await.expect_problem(404, "not_found");

    ask(&ben, &eve, "us").await;
    ask(&eve, &ben, "us").await;
    ask(&dan, &eve, "or me").await;
    let before = app.events().await.len();
    leave(&eve).await;
    let events = app.events().await.split_off(before);
    let ended = events
        .iter()
        .find(|event| event.event.kind == "bond.ended")
        .expect("an event for the end of the bond");
    assert!(ended.event.recipients.iter().any(|id| id.to_string() == ben.id), "{ended:?}");
    assert_eq!(ben.get(CURRENT).await.expect(200)["bond"], Value::Null);
    ask(&ben, &dan, "then you").await;
    app.db().verify_audit().await.expect("the audit chain is valid");
}

async fn check_signed_out(app: &TestApp, who: &TestUser, elsewhere: &Value) {
    let here = who.signed_in().await;
    let there = app.anonymous().with_token(elsewhere["access_token"].as_str().expect("a token"));
    for client in [here, there] {
        app.wait_until_on_all_nodes(async || client.get(ME).await.status == 401).await;
    }
    let body = json!({ "refresh_token": elsewhere["refresh_token"] });
    app.anonymous().post(REFRESH, body).await.expect_problem(401, "invalid_refresh_token");
}

/// ACC-11: undoing a deletion restores the account, but not the bond.
async fn undoing_deletion_restores_account_but_not_bond(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    ask(&ada, &ben, "us").await;
    let bond = ask(&ben, &ada, "us").await["bond"].clone();
    ada.send(hyper::Method::PATCH, ME, json!({ "nickname": "Countess" }).to_string().into())
        .await
        .expect(200);
    let profile = ada.get(ME).await.expect(200);
    leave(&ada).await;
    app.advance(days(13));
    let back = app.anonymous().post(RESTORE, credentials(&ada.email)).await.expect(200);
    assert_eq!(back["user"], profile);
    let ada = app.sign_in("ada").await;
    for who in [&ada, &ben] {
        assert_eq!(who.get(CURRENT).await.expect(200)["bond"], Value::Null, "{bond}");
    }
    assert_eq!(count_actions(app, "account.restored").await, 1);
    // The account is not purged at the original time, and cannot be restored twice.
    app.advance(days(2));
    app.run_maintenance().await;
    app.sign_in("ada").await;
    app.anonymous().post(RESTORE, credentials(&ada.email)).await.expect_problem(409, "account_not_deleted");
    ask(&app.sign_in("ben").await, &ada, "again?").await;
}

async fn invalid_deletion_and_restore_requests_are_rejected(app: &TestApp) {
    let ada = app.user("ada").await;
    ada.delete(ME, json!({ "password": "wrong horse" })).await.expect_problem(403, "wrong_password");
    ada.delete(ME, json!({})).await.expect_faults();
    ada.get(ME).await.expect(200);
    leave(&ada).await;
    let wrong = json!({ "email": ada.email, "password": "wrong horse" });
    app.anonymous().post(RESTORE, wrong).await.expect_problem(401, "invalid_credentials");
    // The grace period ends on time even if maintenance has not run yet.
    app.advance(days(14));
    let late = app.anonymous().post(RESTORE, credentials(&ada.email)).await;
    late.expect_problem(403, "account_deleted");
}

/// Proves the readiness requirement ACC-12.
async fn export_contains_exactly_own_data(app: &TestApp) {
    let (ada, ben, eve) = (app.user("ada").await, app.user("ben").await, app.user("eve").await);
    ben.send(hyper::Method::PATCH, ME, json!({ "nickname": "bensnick" }).to_string().into())
        .await
        .expect(200);
    ask(&ben, &eve, "between us").await;
    let sent = ask(&ada, &ben, "will you?").await;
    let received = ask(&eve, &ada, "or me?").await;
    // Ids of the same millisecond are unordered between two nodes.
    app.advance(MILLISECOND);
    let crossed = ask(&ben, &ada, "I would").await;
    let response = ada.get(EXPORT).await;
    assert!(response.header("content-type").is_some_and(|kind| kind.starts_with("application/json")));
    let export = response.expect(200);
    assert_eq!((&export["user_id"], &export["exported_at"]), (&json!(ada.id), &json!(app.now())));
    let with_parts = app.parts().modules.iter().filter(|module| module.personal.is_some());
    let with_parts: BTreeSet<_> = with_parts.map(|module| module.name).collect();
    let modules = export["modules"].as_object().expect("modules");
    assert_eq!(modules.keys().map(String::as_str).collect::<BTreeSet<_>>(), with_parts, "{export:#}");

    assert_eq!(modules["accounts"]["profile"], ada.get(ME).await.expect(200));
    assert_eq!(modules["accounts"]["sessions"].as_array().map(Vec::len), Some(1));
    let ids = |list: &str| {
        let items = modules["bonds"][list].as_array().expect("a list").iter();
        let mut ids: Vec<_> = items.map(|item| item["id"].clone()).collect();
        ids.reverse();
        ids
    };
    assert_eq!(ids("requests_sent"), [sent["id"].clone()]);
    assert_eq!(ids("requests_received"), [received["id"].clone(), crossed["id"].clone()]);
    assert_eq!(ids("bonds"), [crossed["bond"]["id"].clone()]);
    let text = export.to_string();
    for own in ["will you?", "I would", "or me?", &ada.email] {
        assert!(text.contains(own), "{own} is missing in {export:#}");
    }
    for others in ["between us", "bensnick", &ben.email, &eve.email, "argon2"] {
        assert!(!text.contains(others), "{others} is in {export:#}");
    }
    app.anonymous().get(EXPORT).await.expect_problem(401, "unauthenticated");
}

/// Proves the readiness requirement ACC-09.
async fn last_administrator_cannot_leave(app: &TestApp) {
    let root = app.admin("root").await;
    let body = json!({ "password": PASSWORD });
    root.delete(ME, body.clone()).await.expect_problem(409, "last_admin");
    root.get(ME).await.expect(200);
    let second = app.admin("second").await;
    leave(&root).await;
    second.delete(ME, body).await.expect_problem(409, "last_admin");
}

async fn concurrent_deletions_leave_one_administrator(app: &TestApp) {
    for n in 0..10 {
        let (one, other) = (app.admin(&format!("one{n}")).await, app.admin(&format!("other{n}")).await);
        let body = json!({ "password": PASSWORD });
        let (first, second) = tokio::join!(one.delete(ME, body.clone()), other.delete(ME, body.clone()));
        let mut statuses = [first.status, second.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [202, 409]);
        let stays = if first.status == 409 { one } else { other };
        // Removes the remaining administrator for the next round.
        app.db()
            .write(move |tx| {
                tx.exec("UPDATE users SET role = 'user' WHERE id = $1", kith_store::params![stays.id])
            })
            .await
            .map_err(|error: kith_store::Error| error)
            .expect("a row");
    }
}
