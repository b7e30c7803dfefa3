//! Tests of archived spaces: they are removed from the live tables, can be exported until they are purged,
//! and are purged in batches.

use std::time::Duration;

use kith_kernel::days;
use serde_json::{Value, json};

use crate::support::{TestApp, item, on_every_engine};

const SHARED: &str = "/api/v1/spaces/bond/notes";

on_every_engine! {
    with |config: &mut kith_platform::config::Config| {
        config.change_section::<kith_bonds::spaces::SpaceSettings>(|spaces| spaces.max_purged_per_run = 3);
    };
    archived_space_is_exportable_then_purged,
    purges_beyond_limit_wait_for_next_run,
}

async fn archived_space_is_exportable_then_purged(app: &TestApp) {
    let users = app.register_users("person", 4).await;
    let [ada, ben, eve, dan] = &users[..] else { unreachable!() };
    let (bond, other) = (ada.partners().bond_with(ben).await, eve.partners().bond_with(dan).await);
    for n in 0..3 {
        item(ada, SHARED, json!({ "n": n })).await;
        item(eve, SHARED, json!({ "n": n })).await;
    }
    let date =
        json!({ "title": "x", "date": "2026-01-02", "repeat": "weekly", "remind_minutes_before": [0] });
    item(ada, "/api/v1/spaces/bond/dates", date).await;
    let path = format!("/api/v1/spaces/bonds/{bond}/export");
    let before = ada.get(&path).await.expect(200);
    for one in [ada, eve] {
        one.partners().break_up().await;
    }
    app.advance(days(30));
    app.run_maintenance().await;
    let key = format!("bond:{bond}");
    assert_eq!(app.count("space_items", "space = $1", &key).await, 4, "the bond can still be restored");
    assert_eq!(eve.partners().bond_with(dan).await, other);

    app.advance(Duration::from_millis(1));
    let archived_at = app.now();
    tokio::join!(app.run_maintenance(), app.run_maintenance());
    for table in ["space_items", "space_item_fields", "space_reminders", "space_collections"] {
        assert_eq!(app.count(table, "space = $1", &key).await, 0, "{table}");
    }
    assert_eq!(app.count("archived_space_items", "space = $1", &key).await, 4);
    let after = ben.get(&path).await.expect(200);
    assert_eq!((&after["items"], &after["archived_at"]), (&before["items"], &json!(archived_at)));
    eve.get(&path).await.expect_problem(404, "not_found");
    let footprint = app.footprint().await;
    app.run_maintenance().await;
    assert_eq!(app.footprint().await, footprint);
    assert_eq!(eve.get(SHARED).await.expect(200)["items"].as_array().expect("items").len(), 3);

    // When the retention period has ended, a purge is scheduled after a grace period. Nothing is purged at
    // once.
    app.advance(days(365) - Duration::from_millis(1));
    app.run_maintenance().await;
    app.advance(days(14));
    assert_eq!(app.count("archived_spaces", "bond_id = $1 AND purge_at IS NULL", &bond).await, 1);
    app.run_maintenance().await;
    app.advance(days(14) - Duration::from_millis(1));
    app.run_maintenance().await;
    assert_eq!(ada.get(&path).await.expect(200)["items"], before["items"]);
    app.advance(Duration::from_millis(1));
    app.run_maintenance().await;
    ada.get(&path).await.expect_problem(404, "not_found");
    assert_eq!(app.count("archived_space_items", "space = $1", &key).await, 0);
    let manifest = app.parts().config.data.folder.join("purges").join(format!("bond-{bond}.json"));
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(manifest).expect("a manifest")).expect("JSON");
    assert_eq!((&manifest["bond_id"], &manifest["archived_space_items"]), (&json!(bond), &json!(4)));
    let purged = app.audit().await.iter().filter(|line| line.action == "space.purged").count();
    assert_eq!(purged, 1);
}

/// At most three archives are scheduled for purge, and at most three are purged, in each run here
/// (`spaces.max_purged_per_run`). The others wait for the next run, and health reports the backlog.
async fn purges_beyond_limit_wait_for_next_run(app: &TestApp) {
    let users = app.register_users("person", 8).await;
    for pair in users.chunks(2) {
        pair[0].partners().bond_with(&pair[1]).await;
        item(&pair[0], SHARED, json!({})).await;
        pair[0].partners().break_up().await;
    }
    app.archive().await;
    // Runs maintenance on one node.
    let run = async || app.parts().run_maintenance().await.expect("maintenance");
    app.advance(days(365));
    let held = async || app.count("archived_spaces", "purge_at > 0 AND bond_id <> $1", "").await;
    let backlog = async || {
        let health = app.anonymous().get("/api/health").await.expect(200);
        health["checks"]["purges:backlog"][0]["observedValue"].clone()
    };
    run().await;
    assert_eq!((held().await, backlog().await), (3, json!(1)));
    run().await;
    assert_eq!((held().await, backlog().await), (4, Value::Null));
    // A jump of the clock does not end a grace period.
    app.jump_wall_clock(20 * 86_400_000);
    run().await;
    assert_eq!(app.count("archived_space_items", "space <> $1", "").await, 4);
    app.jump_wall_clock(-20 * 86_400_000);
    app.advance(days(14));
    run().await;
    assert_eq!((app.count("archived_space_items", "space <> $1", "").await, backlog().await), (1, json!(1)));
    run().await;
    assert_eq!(app.count("archived_space_items", "space <> $1", "").await, 0);
}
