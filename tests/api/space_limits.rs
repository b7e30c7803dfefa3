//! Tests of space limits, and of exact counts under concurrent writes.

use futures_util::future::join_all;
use kith_bonds::spaces::SpaceSettings;
use kith_platform::config::Config;
use kith_store::Error;
use serde_json::{Value, json};

use crate::support::{TestApp, item, on_every_engine};

const SHARED: &str = "/api/v1/spaces/bond/notes";

on_every_engine! {
    with super::small;
    space_limits_are_enforced,
    counts_are_exact_under_concurrent_writes,
    exports_per_day_are_limited,
}

pub fn small(config: &mut Config) {
    config.change_section::<SpaceSettings>(|spaces| {
        spaces.max_item_bytes = 100;
        spaces.max_items = 20;
        spaces.max_collections = 3;
        spaces.max_bytes = 400;
    });
    config.limits.exports_per_day = 2;
}

/// Compares the counts of every collection with its items.
async fn recount(app: &TestApp) {
    let counts = app.db().read(|q| {
        q.all(
            "SELECT COALESCE(c.space, i.space), COALESCE(c.items, 0), COALESCE(c.bytes, 0), COALESCE(i.items, 0),
                    COALESCE(i.bytes, 0)
             FROM space_collections c
             FULL JOIN (SELECT space, collection, COUNT(*) AS items, CAST(SUM(bytes) AS BIGINT) AS bytes
                        FROM space_items GROUP BY space, collection) i
               ON i.space = c.space AND i.collection = c.collection",
            &[],
            |row| {
                let counted: (i64, i64) = (row.get(1)?, row.get(2)?);
                let held: (i64, i64) = (row.get(3)?, row.get(4)?);
                Ok::<_, Error>((row.get::<String>(0)?, counted, held))
            },
        )
    });
    for (space, counted, held) in counts.await.expect("counts") {
        assert_eq!(counted, held, "{space}");
    }
}

async fn space_limits_are_enforced(app: &TestApp) {
    let ada = app.user("ada").await;
    let notes = "/api/v1/spaces/me/notes";
    let of = |bytes: usize| json!({ "t": "x".repeat(bytes - r#"{"t":""}"#.len()) });
    let detail = |problem: Value| problem["detail"].as_str().expect("text").to_owned();
    let exact = item(&ada, notes, of(100)).await;
    let footprint = app.footprint().await;
    let refused = ada.post(notes, json!({ "data": of(101) })).await.expect_problem(413, "item_too_large");
    assert!(detail(refused).contains("100 bytes"));
    ada.put(&exact, json!({ "data": of(101) })).await.expect_problem(413, "item_too_large");
    assert_eq!(app.footprint().await, footprint);

    for _ in 0..3 {
        item(&ada, notes, of(100)).await;
    }
    let refused = ada.post(notes, json!({ "data": {} })).await.expect_problem(409, "space_full");
    assert!(detail(refused).contains("400 bytes"));
    // Writes that need no additional space are accepted.
    ada.put(&exact, json!({ "data": { "u": "y".repeat(92) } })).await.expect(200);
    ada.put(&exact, json!({ "data": of(90) })).await.expect(200);
    let one = item(&ada, "/api/v1/spaces/me/one", json!({})).await;
    item(&ada, "/api/v1/spaces/me/two", json!({})).await;
    let three = "/api/v1/spaces/me/three";
    let refused = ada.post(three, json!({ "data": {} })).await.expect_problem(409, "space_full");
    assert!(detail(refused).contains("3 collections"));
    ada.delete(&one, Value::Null).await.expect(204);
    item(&ada, three, json!({})).await;
    ada.delete(&exact, Value::Null).await.expect(204);
    for _ in 0..15 {
        item(&ada, three, json!({})).await;
    }
    let refused = ada.post(three, json!({ "data": {} })).await.expect_problem(409, "space_full");
    assert!(detail(refused).contains("20 items"));
    recount(app).await;
}

/// Both partners write at the same moment on both nodes. Exactly as many writes succeed as the limit of 20
/// items allows.
async fn counts_are_exact_under_concurrent_writes(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    ada.partners().bond_with(&ben).await;
    for _ in 0..3 {
        let writes = (0..30).map(|n| {
            let who = [&ada, &ben][n % 2];
            who.post(SHARED, json!({ "data": { "n": n } }))
        });
        let responses = join_all(writes).await;
        let made: Vec<_> = responses.iter().filter(|response| response.status == 201).collect();
        assert!(
            responses.iter().all(|response| response.status == 201 || response.body["code"] == "space_full")
        );
        assert_eq!(made.len(), 20);
        recount(app).await;
        // One of two concurrent deletions of an item succeeds.
        let paths: Vec<_> = made
            .iter()
            .map(|response| format!("{SHARED}/{}", response.body["id"].as_str().expect("an id")))
            .collect();
        let deletes =
            paths.iter().flat_map(|path| [ada.delete(path, Value::Null), ben.delete(path, Value::Null)]);
        let responses = join_all(deletes).await;
        assert_eq!(responses.iter().filter(|response| response.status == 204).count(), 20);
        assert_eq!(responses.iter().filter(|response| response.status == 404).count(), 20);
        recount(app).await;
    }
    assert_eq!(app.count("space_collections", "collection = $1", "notes").await, 0);
}

async fn exports_per_day_are_limited(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    let bond = ada.partners().bond_with(&ben).await;
    // Each node counts separately.
    for _ in 0..app.node_count() {
        ada.get("/api/v1/me/export").await.expect(200);
    }
    for _ in 0..app.node_count() {
        ada.get(&format!("/api/v1/spaces/bonds/{bond}/export")).await.expect(200);
    }
    let refused = ada.get("/api/v1/me/export").await;
    assert_eq!(refused.header("retry-after"), Some("43200"));
    refused.expect_problem(429, "rate_limited");
    ben.get("/api/v1/me/export").await.expect(200);
    app.advance(kith_kernel::hours(12));
    ada.get("/api/v1/me/export").await.expect(200);
}
