//! Tests of the API paths of the first version of Bond Mate. They behave like the new paths and share their
//! limits.

use serde_json::{Value, json};

use crate::support::{TestApp, on_every_engine};

const OLD: &str = "/api/enhanced-partners";

on_every_engine! {
    with |config: &mut kith_platform::config::Config| config.change_section(|partners: &mut kith_bonds::bonds::BondSettings| partners.lists_per_minute = 10);
    old_paths_support_whole_flow,
    old_paths_share_limits_with_new_paths,
}

/// Proves the readiness requirements PRT-01, PRT-09.
async fn old_paths_support_whole_flow(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    let sent = ada.post(&format!("{OLD}/request"), json!({ "partnerId": ben.id })).await.expect(201);
    let id = sent["id"].as_str().expect("an id").to_owned();
    let waiting = ben.get(&format!("{OLD}/requests?direction=incoming")).await.expect(200);
    assert_eq!(waiting["items"][0]["id"], sent["id"]);
    ben.post(&format!("{OLD}/requests/{id}/reject"), Value::Null).await.expect(200);
    let again = ben.post(&format!("{OLD}/request"), json!({ "partnerId": ada.id, "message": "Hm." })).await;
    let id = again.expect(201)["id"].as_str().expect("an id").to_owned();
    ben.post(&format!("{OLD}/requests/{id}/cancel"), Value::Null).await.expect(200);
    let third = ben.post(&format!("{OLD}/request"), json!({ "partnerId": ada.id })).await.expect(201);
    let id = third["id"].as_str().expect("an id").to_owned();
    let accepted = ada.post(&format!("{OLD}/requests/{id}/accept"), Value::Null).await.expect(200);
    let current = ada.get(&format!("{OLD}/current")).await.expect(200);
    assert_eq!(current["bond"]["id"], accepted["bond"]["id"]);
    let by_address = json!({ "email": "somebody@example.org" });
    ada.post(&format!("{OLD}/request"), by_address.clone()).await.expect_problem(409, "slot_occupied");
    ada.post(&format!("{OLD}/breakup"), json!({ "reason": "no" })).await.expect(200);
    assert_eq!(
        ben.get(&format!("{OLD}/history")).await.expect(200)["items"][0]["id"],
        accepted["bond"]["id"]
    );
    ada.post(&format!("{OLD}/request"), by_address).await.expect(201);
    for bad in
        [json!({}), json!({ "partnerId": ben.id, "email": "a@example.org" }), json!({ "partnerId": null })]
    {
        ada.post(&format!("{OLD}/request"), bad).await.expect_faults();
    }

    let nickname = format!("/api/nicknames/{}", ben.id);
    ada.put(&nickname, json!({ "nickname": "Bear" })).await.expect(200);
    assert_eq!(ada.get(&nickname).await.expect(200)["nickname"], "Bear");
    assert_eq!(ada.get(&format!("/api/v1{}", &nickname[4..])).await.expect(200)["nickname"], "Bear");
    assert_eq!(ada.get("/api/nicknames").await.expect(200)["items"][0]["user_id"], json!(ben.id));
    assert_eq!(ben.get("/api/nicknames").await.expect(200)["items"], json!([]));
    ada.delete(&nickname, Value::Null).await.expect(204);
    ada.get(&nickname).await.expect_problem(404, "not_found");
}

/// SEC-03: the old path and the new path of an operation share one limit.
async fn old_paths_share_limits_with_new_paths(app: &TestApp) {
    let ada = app.user("ada").await;
    let mut answered = 0;
    for _ in 0..20 {
        for path in [&format!("{OLD}/current"), "/api/v1/partners/current"] {
            answered += usize::from(ada.get(path).await.status == 200);
        }
    }
    // Each node counts separately.
    assert_eq!(answered, 10 * app.node_count());
}
