//! Tests of purges of deleted accounts: what they remove, their limits, and their manifests.

use std::time::Duration;

use hyper::header::{HeaderName, USER_AGENT};
use kith_kernel::{days, minutes};
use serde_json::{Value, json};

use crate::account_deletion::{ask, count_actions, credentials, leave, manifest, purges};
use crate::support::{Client, PASSWORD, REQUESTS, TestApp, TestUser, on_every_engine};

const LOGIN: &str = "/api/v1/auth/login";
const ME: &str = "/api/v1/me";
const MILLISECOND: Duration = Duration::from_millis(1);
const REGISTER: &str = "/api/v1/auth/register";
const RESTORE: &str = "/api/v1/auth/restore";

on_every_engine! {
    with crate::account_deletion::behind_a_proxy_and_careful;
    purge_removes_all_personal_data,
    purges_beyond_limit_wait_for_next_run,
    clock_jump_does_not_end_grace_period,
    mass_purge_of_established_accounts_is_throttled,
    failing_purge_does_not_block_others,
    purge_requires_manifest,
}

const MARKERS: [&str; 7] =
    ["m4rkmail", "M4rkname", "m4rkmessage", "m4rkagent", "203.0.113.77", "m4rknick", "m4rkitem"];

/// Creates a user whose personal data all contain a marker.
async fn marked(app: &TestApp, marked: &Client, others: [&TestUser; 2]) -> TestUser {
    let email = "M4rkmail@example.org";
    let body = json!({ "email": email, "password": PASSWORD, "display_name": "M4rkname" });
    let registered = marked.post(REGISTER, body).await.expect(201);
    let id = registered["user"]["id"].as_str().expect("an id").to_owned();
    let client = marked.with_token(registered["access_token"].as_str().expect("a token"));
    let profile =
        json!({ "nickname": "m4rknick", "theme": "m4rktheme", "locale": "de-AT", "pronouns": "m4rkpron" });
    client.send(hyper::Method::PATCH, ME, profile.to_string().into()).await.expect(200);
    let item = json!({ "data": { "title": "m4rkitem", "date": "2026-02-14", "remind_minutes_before": [0] } });
    client.post("/api/v1/spaces/me/dates", item).await.expect(201);
    let keyed = client.with_header(kith_platform::idempotency::IDEMPOTENCY_KEY, "m4rkkey");
    for to in others {
        let body = json!({ "to": { "user_id": to.id }, "message": "m4rkmessage" });
        keyed
            .with_header(kith_platform::idempotency::IDEMPOTENCY_KEY, &to.id)
            .post(REQUESTS, body)
            .await
            .expect(201);
    }
    ask(others[0], &app.sign_in("m4rkmail").await, "yes").await;
    marked.post(LOGIN, credentials(email)).await.expect(200);
    marked
        .post(LOGIN, json!({ "email": email, "password": "wrong" }))
        .await
        .expect_problem(401, "invalid_credentials");
    let new = json!({ "current_password": PASSWORD, "new_password": PASSWORD });
    client.post("/api/v1/me/password", new).await.expect(204);
    let away =
        client.send(hyper::Method::DELETE, ME, json!({ "password": PASSWORD }).to_string().into()).await;
    away.expect(202);
    marked.post(RESTORE, credentials(email)).await.expect(200);
    let user = app.sign_in("m4rkmail").await;
    assert_eq!(user.id, id);
    user
}

/// ACC-11: after the purge no column contains a marker, and the audit chain is still intact.
async fn purge_removes_all_personal_data(app: &TestApp) {
    let admin = app.admin("root").await;
    let (ben, eve) = (app.user("ben").await, app.user("eve").await);
    let client = app.anonymous().with_header(USER_AGENT, "m4rkagent/1");
    let client = client.with_header(HeaderName::from_static("x-forwarded-for"), "203.0.113.77");
    let ada = marked(app, &client, [&ben, &eve]).await;
    let suspension = format!("/api/v1/admin/users/{}/suspension", ada.id);
    admin.put(&suspension, json!({ "reason": "m4rkmessage" })).await.expect(200);
    admin.delete(&suspension, Value::Null).await.expect(200);
    let ada = app.sign_in("m4rkmail").await;
    for marker in MARKERS {
        assert_ne!(
            app.rows_with(&[marker]).await,
            [] as [String; 0],
            "{marker} was not stored before the purge"
        );
    }
    leave(&ada).await;
    app.advance(days(14));
    app.run_maintenance().await;
    assert_eq!(app.rows_with(&MARKERS).await, [] as [String; 0]);
    assert!(!std::fs::read_to_string(manifest(app, &ada)).expect("a manifest").contains("m4rk"));
    app.db().verify_audit().await.expect("the audit chain is valid");
    // Other users still see an anonymous record of the purged user.
    let ben = app.sign_in("ben").await;
    let seen = ben.get(REQUESTS).await.expect(200);
    let gone = json!({ "id": ada.id, "display_name": "Deleted account" });
    assert!(
        seen["items"].as_array().expect("items").iter().any(|request| request["from"] == gone),
        "{seen:#}"
    );
}

/// ACC-11: at most two accounts are purged per run here (`accounts.max_purged_per_run`). The others are
/// purged in the next runs, earliest due first.
async fn purges_beyond_limit_wait_for_next_run(app: &TestApp) {
    let users = app.register_users("user", 5).await;
    for who in &users {
        leave(who).await;
        app.advance(MILLISECOND);
    }
    app.advance(days(14));
    for (purged, backlog) in [(2, 3), (4, 1), (5, 0), (5, 0)] {
        app.parts().run_maintenance().await.expect("maintenance of one node");
        assert_eq!(count_actions(app, "account.purged").await, purged);
        let oldest = users[..purged].iter().all(|who| manifest(app, who).exists());
        assert!(oldest, "the accounts with the earliest due time are purged first");
        let health = app.anonymous().get("/api/health").await.expect(200);
        let check = &health["checks"]["purges:backlog"][0];
        assert_eq!(check["observedValue"], if backlog > 0 { json!(backlog) } else { Value::Null }, "{check}");
        assert_eq!(check["status"], if backlog > 0 { "warn" } else { "pass" });
    }
    assert!(app.metric("kith_purges_delayed_total{purge=\"accounts\"}").await >= 2.0);
}

/// Regression: a clock that was 40 days ahead for a minute caused a purge of recently deleted accounts.
async fn clock_jump_does_not_end_grace_period(app: &TestApp) {
    const FORTY_DAYS_MS: i64 = 40 * 86_400_000;
    let ada = app.user("ada").await;
    app.user("ben").await;
    leave(&ada).await;
    app.advance(minutes(1));
    app.run_maintenance().await;
    app.jump_wall_clock(FORTY_DAYS_MS);
    // Ben deletes his account while the clock is wrong. No maintenance run has seen the deletion with the
    // correct clock.
    leave(&app.sign_in("ben").await).await;
    for _ in 0..3 {
        app.advance(minutes(1));
        app.run_maintenance().await;
    }
    assert_eq!(count_actions(app, "account.purged").await, 0);
    app.jump_wall_clock(-FORTY_DAYS_MS);
    app.run_maintenance().await;
    app.anonymous().post(RESTORE, credentials(&ada.email)).await.expect(200);

    // Opposite case: the account is deleted while the clock is 40 days behind, and then the clock is
    // corrected.
    app.jump_wall_clock(-FORTY_DAYS_MS);
    leave(&app.sign_in("ada").await).await;
    app.jump_wall_clock(FORTY_DAYS_MS);
    app.run_maintenance().await;
    app.advance(days(14) - MILLISECOND);
    app.run_maintenance().await;
    assert_eq!(count_actions(app, "account.purged").await, 0);
    app.advance(MILLISECOND);
    app.run_maintenance().await;
    assert_eq!(
        count_actions(app, "account.purged").await,
        1,
        "the account is purged after 14 days of running time"
    );
}

/// If an unusually large share of the established accounts is due, they are purged slowly. New accounts are
/// purged without delay.
async fn mass_purge_of_established_accounts_is_throttled(app: &TestApp) {
    let stranger = app.user("stranger").await;
    leave(&stranger).await;
    insert_accounts(app, 100, 40).await;
    let set_deleted =
        "UPDATE users SET deleted_at = CAST($1 AS BIGINT), purge_at = CAST($1 AS BIGINT) + 1000 WHERE id IN
                       (SELECT id FROM users WHERE email_key LIKE 'old-%' ORDER BY id LIMIT $2)";
    let now = app.now();
    let deleted = app.db().write(move |tx| tx.exec(set_deleted, kith_store::params![now, 25_i64])).await;
    assert_eq!(deleted.map_err(|error: kith_store::Error| error).expect("rows"), 25);
    app.advance(days(14));
    app.parts().run_maintenance().await.expect("maintenance of one node");
    // The run has purged the new account and one established account.
    assert_eq!(count_actions(app, "account.purged").await, 2);
    assert!(manifest(app, &stranger).exists());
    app.parts().run_maintenance().await.expect("maintenance of one node");
    assert_eq!(count_actions(app, "account.purged").await, 2, "20 a day");
    let health = app.anonymous().get("/api/health").await.expect(200);
    let check = &health["checks"]["purges:backlog"][0];
    assert!(check["output"].as_str().is_some_and(|text| text.contains("facts")), "{check}");
    let admin = app.admin("root").await;
    let facts = admin.get("/api/v1/admin/facts").await.expect(200);
    let fault = facts["modules"]["purges"].to_string();
    assert!(fault.contains("24 of 99 accounts") && fault.contains("accounts.max_purge_percent"), "{fault}");

    // Restores four established accounts, so that 20 remain. A backlog of at most 20 accounts is not slowed
    // down.
    let restore = "UPDATE users SET deleted_at = NULL, purge_at = NULL, purge_elapsed_ms = NULL WHERE id IN
                   (SELECT id FROM users WHERE email_key LIKE 'old-%' AND purge_at IS NOT NULL ORDER BY id LIMIT 4)";
    let restored = app.db().write(move |tx| tx.exec(restore, &[])).await;
    restored.map_err(|error: kith_store::Error| error).expect("a row");
    app.parts().run_maintenance().await.expect("maintenance of one node");
    assert_eq!(count_actions(app, "account.purged").await, 4, "the run purges two accounts");
}

/// Inserts `count` accounts that were created `age_days` days ago and never used.
async fn insert_accounts(app: &TestApp, count: usize, age_days: u64) {
    let created_at = app.now() - days(age_days);
    let ids: Vec<String> = (0..count).map(|_| app.new_id()).collect();
    let inserted = app.db().write(move |tx| {
        for id in &ids {
            tx.exec(
                "INSERT INTO users (id, email, email_key, display_name, password_hash, created_at)
                 VALUES ($1, 'old-' || $1, 'old-' || $1, 'Old', '', $2)",
                kith_store::params![*id, created_at],
            )?;
        }
        Ok::<_, kith_store::Error>(())
    });
    inserted.await.expect("accounts");
}

/// A purge that always fails, for example because the account has too much data for one transaction, does not
/// delay other purges.
async fn failing_purge_does_not_block_others(app: &TestApp) {
    let users = app.register_users("user", 3).await;
    for who in &users {
        leave(who).await;
        app.advance(MILLISECOND);
    }
    app.advance(days(14));
    // This purge fails, because its manifest exists already and cannot be inserted again.
    let id = users[0].id.clone();
    let taken = app.db().write(move |tx| {
        let sql = "INSERT INTO purges (user_id, purged_at, manifest) VALUES ($1, 0, '')";
        tx.exec(sql, kith_store::params![id])
    });
    taken.await.map_err(|error: kith_store::Error| error).expect("a row");
    app.parts().run_maintenance().await.expect_err("a run fails if one account is not purged");
    assert_eq!(count_actions(app, "account.purged").await, 2);
}

/// ACC-11: an account is not purged if its manifest cannot be written. The manifest is needed to repeat the
/// purge after a backup is restored.
async fn purge_requires_manifest(app: &TestApp) {
    let ada = app.user("ada").await;
    leave(&ada).await;
    // Maintenance may record purge times and its own run.
    app.run_maintenance().await;
    app.advance(days(14));
    std::fs::write(purges(app), "in the way").expect("a file");
    let before = app.dump().await;
    let refusal = app
        .parts()
        .run_maintenance()
        .await
        .expect_err("a run fails if the manifest cannot be written")
        .to_string();
    assert!(refusal.contains("nothing was purged"), "{refusal}");
    let gone: Vec<_> = {
        let now = app.dump().await;
        const RUNS: [&str; 5] =
            ["consumers: ", "observed_time: ", "purge_runs: ", "sequencer: ", "sqlite_sequence: "];
        let is_run = |row: &String| RUNS.iter().any(|table| row.starts_with(table));
        before.into_iter().filter(|row| !is_run(row) && !now.contains(row)).collect()
    };
    assert_eq!(gone, [] as [String; 0]);
    assert_ne!(app.rows_with(&[&ada.email]).await, [] as [String; 0]);
    std::fs::remove_file(purges(app)).expect("a file");
    app.run_maintenance().await;
    assert_eq!(app.rows_with(&[&ada.email]).await, [] as [String; 0]);
}
