//! Leaving: what ends at once, what is held and can be undone, and what is purged for good.

use std::time::Duration;

use kith_kernel::days;
use serde_json::json;

use crate::support::{PASSWORD, TestApp, on_every_engine};

const ME: &str = "/api/v1/me";
const LOGIN: &str = "/api/v1/auth/login";
const RESTORE: &str = "/api/v1/auth/restore";

on_every_engine! {
    a_deleted_account_is_held_and_then_purged,
}

/// To the millisecond; a manifest is on the disk.
async fn a_deleted_account_is_held_and_then_purged(app: &TestApp) {
    let ada = app.user("ada").await;
    let deleted = ada.delete(ME, json!({ "password": PASSWORD })).await.expect(202);
    assert_eq!(deleted["delete_at"], json!(app.now() + days(14)));
    let credentials = json!({ "email": ada.email, "password": PASSWORD });
    app.anonymous().post(LOGIN, credentials.clone()).await.expect_problem(403, "account_deleted");

    app.advance(days(14) - Duration::from_millis(1));
    app.upkeep().await;
    app.anonymous().post(RESTORE, credentials.clone()).await.expect(200);
    ada.delete(ME, json!({ "password": PASSWORD })).await.expect(202);

    app.advance(days(14));
    app.upkeep().await;
    app.anonymous().post(RESTORE, credentials.clone()).await.expect_problem(401, "invalid_credentials");
    app.anonymous().post(LOGIN, credentials).await.expect_problem(401, "invalid_credentials");
    let manifest = app.parts().config.data.folder.join("purges").join(format!("{}.json", ada.id));
    let manifest = std::fs::read_to_string(manifest).expect("a manifest");
    assert!(manifest.contains(&ada.id), "{manifest}");
}
