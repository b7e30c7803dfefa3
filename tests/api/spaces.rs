//! Tests of spaces: items, access while a bond is active, after it ended, and after a restoration.

use futures_util::future::join_all;
use hyper::Method;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderName, IF_MATCH, IF_NONE_MATCH};
use kith_kernel::days;
use kith_kernel::uuid::Uuid;
use serde_json::{Value, json};

use crate::support::{PASSWORD, TestApp, TestResponse, TestUser, item, on_every_engine};

const NOTES: &str = "/api/v1/spaces/me/notes";
const SHARED: &str = "/api/v1/spaces/bond/notes";

on_every_engine! {
    items_can_be_created_read_changed_and_deleted,
    merge_patch_changes_named_fields,
    stale_item_edit_is_rejected,
    one_of_concurrent_edits_wins,
    invalid_items_are_rejected,
    shared_space_is_frozen_on_breakup_and_restored_with_bond,
    no_space_write_follows_end_of_bond,
    either_partner_can_export_shared_space,
    shared_items_survive_author_purge,
    page_of_large_items_is_truncated_and_continues,
    large_export_is_complete_json,
}

pub async fn send(
    who: &TestUser,
    method: Method,
    path: &str,
    header: (HeaderName, &str),
    body: Value,
) -> TestResponse {
    let client = who.signed_in().await.with_header(header.0, header.1);
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    client.send(method, path, body).await
}

pub fn etag(response: &TestResponse) -> String {
    response.header("etag").expect("an ETag").to_owned()
}

async fn items_can_be_created_read_changed_and_deleted(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    let made = ada.post(NOTES, json!({ "data": { "text": "milk", "done": false } })).await;
    let (tag, made) = (etag(&made), made.expect(201));
    let path = format!("{NOTES}/{}", made["id"].as_str().expect("an id"));
    let now = app.now();
    let expected = json!({
        "id": made["id"], "collection": "notes", "data": { "text": "milk", "done": false }, "version": 1,
        "created_at": now, "created_by": ada.id, "updated_at": now, "updated_by": ada.id,
    });
    assert_eq!(made, expected);

    let read = ada.get(&path).await;
    assert_eq!(etag(&read), tag, "a write returns the same ETag as a read");
    assert_eq!(read.expect(200), made);
    send(&ada, Method::GET, &path, (IF_NONE_MATCH, &tag), Value::Null).await.expect(304);

    app.advance(days(1));
    let replaced = ada.put(&path, json!({ "data": { "text": "bread" } })).await.expect(200);
    assert_eq!((&replaced["data"], &replaced["version"]), (&json!({ "text": "bread" }), &json!(2)));
    assert_eq!((&replaced["created_at"], &replaced["updated_at"]), (&json!(now), &json!(app.now())));
    let footprint = app.footprint().await;
    assert_eq!(ada.put(&path, json!({ "data": { "text": "bread" } })).await.expect(200), replaced);
    assert_eq!(app.footprint().await, footprint, "writing the same data changes nothing");
    send(&ada, Method::GET, &path, (IF_NONE_MATCH, &tag), Value::Null).await.expect(200);

    let elsewhere = path.replace("/notes/", "/other/");
    ada.get(&elsewhere).await.expect_problem(404, "not_found");
    for stranger in [&path, &format!("{NOTES}/{}", Uuid::nil()), &format!("{NOTES}/x")] {
        ben.get(stranger).await.expect_problem(404, "not_found");
        ben.put(stranger, json!({ "data": {} })).await.expect_problem(404, "not_found");
        ben.delete(stranger, Value::Null).await.expect_problem(404, "not_found");
    }
    ada.delete(&path, Value::Null).await.expect(204);
    ada.get(&path).await.expect_problem(404, "not_found");
    ada.delete(&path, Value::Null).await.expect_problem(404, "not_found");
    assert_eq!(ada.get(NOTES).await.expect(200), json!({ "items": [], "next_cursor": null }));
}

/// Patches are merged as RFC 7396 describes, with `application/merge-patch+json` and with `application/json`.
async fn merge_patch_changes_named_fields(app: &TestApp) {
    let ada = app.user("ada").await;
    let path = item(&ada, NOTES, json!({ "a": 1, "b": { "c": 2, "d": 3 }, "list": [1, 2] })).await;
    let patch = json!({ "data": { "a": null, "b": { "c": null, "e": 4 }, "list": [5] } });
    let kind = (CONTENT_TYPE, "application/merge-patch+json");
    let patched = send(&ada, Method::PATCH, &path, kind, patch).await.expect(200);
    assert_eq!(patched["data"], json!({ "b": { "d": 3, "e": 4 }, "list": [5] }));
    let body = json!({ "data": { "f": true } });
    let again = ada.send(Method::PATCH, &path, Bytes::from(body.to_string())).await.expect(200);
    assert_eq!((&again["data"]["f"], &again["version"]), (&json!(true), &json!(3)));
    let kind = (CONTENT_TYPE, "text/plain");
    let refused = send(&ada, Method::PATCH, &path, kind, body).await;
    refused.expect_problem(415, "unsupported_media_type");
}

async fn stale_item_edit_is_rejected(app: &TestApp) {
    let ada = app.user("ada").await;
    let path = item(&ada, NOTES, json!({ "n": 0 })).await;
    let old = etag(&ada.get(&path).await);
    let new = send(&ada, Method::PUT, &path, (IF_MATCH, &old), json!({ "data": { "n": 1 } })).await;
    let (new, _) = (etag(&new), new.expect(200));
    let footprint = app.footprint().await;
    for (method, body) in [
        (Method::PUT, json!({ "data": { "n": 2 } })),
        (Method::PATCH, json!({ "data": { "n": 2 } })),
        (Method::DELETE, Value::Null),
    ] {
        let refused = send(&ada, method, &path, (IF_MATCH, &old), body).await;
        refused.expect_problem(412, "precondition_failed");
    }
    assert_eq!(app.footprint().await, footprint);
    assert_eq!(ada.get(&path).await.expect(200)["data"]["n"], 1);
    send(&ada, Method::DELETE, &path, (IF_MATCH, &new), Value::Null).await.expect(204);
}

/// Exactly one of two concurrent edits with the same ETag succeeds, on one node and on two nodes.
async fn one_of_concurrent_edits_wins(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    ada.partners().bond_with(&ben).await;
    let path = item(&ada, SHARED, json!({ "n": 0 })).await;
    for round in 1..=20 {
        let tag = etag(&ada.get(&path).await);
        let edit = |who, by: &'static str| {
            let (path, tag) = (path.clone(), tag.clone());
            async move {
                send(who, Method::PUT, &path, (IF_MATCH, &tag), json!({ "data": { "n": round, "by": by } }))
                    .await
            }
        };
        let (one, other) = tokio::join!(edit(&ada, "ada"), edit(&ben, "ben"));
        let mut statuses = [one.status, other.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 412], "round {round}");
        let winner = if one.status == 200 { one } else { other };
        assert_eq!(ada.get(&path).await.expect(200), winner.body);
        assert_eq!(winner.body["version"], 1 + round);
    }
}

async fn invalid_items_are_rejected(app: &TestApp) {
    let ada = app.user("ada").await;
    let footprint = app.footprint().await;
    let deep = (0..40).fold(json!(1), |inner, _| json!([inner]));
    for (body, pointer, code) in [
        (json!({ "data": [] }), "/data", "wrong_type"),
        (json!({ "data": null }), "/data", "wrong_type"),
        (json!({}), "/data", "missing"),
        (json!({ "data": {}, "id": "x" }), "/id", "unknown_field"),
        (json!({ "data": { "a": deep } }), "/data", "too_deep"),
        (json!({ "data": { "a\0": 1 } }), "/data", "forbidden_character"),
        (json!({ "data": { "a": ["\0"] } }), "/data/a/0", "forbidden_character"),
    ] {
        let faults = ada.post(NOTES, body.clone()).await.expect_faults();
        assert_eq!(faults, [(pointer.to_owned(), code.to_owned())], "{body}");
    }
    for path in ["/api/v1/spaces/me/Notes", "/api/v1/spaces/me/a.b", "/api/v1/spaces/you/notes"] {
        ada.post(path, json!({ "data": {} })).await.expect_problem(404, "not_found");
        ada.get(path).await.expect_problem(404, "not_found");
    }
    let long = format!("/api/v1/spaces/me/{}", "x".repeat(41));
    ada.get(&long).await.expect_problem(404, "not_found");
    assert_eq!(app.footprint().await, footprint);
}

/// A bond's items are accessible only while the bond is active, and to no other bond.
async fn shared_space_is_frozen_on_breakup_and_restored_with_bond(app: &TestApp) {
    let users = app.register_users("person", 4).await;
    let [ada, ben, eve, dan] = &users[..] else { unreachable!() };
    ada.post(SHARED, json!({ "data": {} })).await.expect_problem(409, "not_bonded");
    ada.get(SHARED).await.expect_problem(409, "not_bonded");
    let bond = ada.partners().bond_with(ben).await;
    eve.partners().bond_with(dan).await;
    let path = item(ada, SHARED, json!({ "song": "ours" })).await;
    let kept = ben.get(&path).await.expect(200);
    assert_eq!((&kept["data"]["song"], &kept["created_by"]), (&json!("ours"), &json!(ada.id)));
    let changed = ben.put(&path, json!({ "data": { "song": "another" } })).await.expect(200);
    assert_eq!((&changed["created_by"], &changed["updated_by"]), (&json!(ada.id), &json!(ben.id)));
    eve.get(&path).await.expect_problem(404, "not_found");
    eve.put(&path, json!({ "data": {} })).await.expect_problem(404, "not_found");
    assert_eq!(eve.get(SHARED).await.expect(200)["items"], json!([]));

    ben.partners().break_up().await;
    let footprint = app.footprint().await;
    for former in [ada, ben] {
        former.get(&path).await.expect_problem(409, "not_bonded");
        former.get(SHARED).await.expect_problem(409, "not_bonded");
        former.post(SHARED, json!({ "data": {} })).await.expect_problem(409, "not_bonded");
        former.put(&path, json!({ "data": {} })).await.expect_problem(409, "not_bonded");
        former.delete(&path, Value::Null).await.expect_problem(409, "not_bonded");
    }
    assert_eq!(app.footprint().await, footprint);

    app.advance(days(30));
    assert_eq!(ben.partners().bond_with(ada).await, bond);
    assert_eq!(ada.get(&path).await.expect(200), changed);
    ada.partners().break_up().await;
    // A new bond starts with an empty space.
    ada.partners().bond_with(&app.user("finn").await).await;
    ada.get(&path).await.expect_problem(404, "not_found");
}

/// After the event that ends a bond, its space has no further events, even if writes run concurrently.
async fn no_space_write_follows_end_of_bond(app: &TestApp) {
    let mut written = 0;
    for round in 0..8 {
        let users = app.register_users(&format!("round{round}-"), 2).await;
        let [ada, ben] = &users[..] else { unreachable!() };
        let bond = ada.partners().bond_with(ben).await;
        let writes = join_all((0..12).map(|n| [ada, ben][n % 2].post(SHARED, json!({ "data": { "n": n } }))));
        let (responses, ()) = tokio::join!(writes, ben.partners().break_up());
        for response in responses {
            match response.status {
                201 => written += 1,
                _ => drop(response.expect_problem(409, "not_bonded")),
            }
        }
        let events = app.events().await;
        let mut of_bond = events.iter().filter(|one| one.event.subject == bond);
        assert_eq!(of_bond.next_back().expect("an event").event.kind, "bond.ended", "round {round}");
    }
    assert!(written > 0);
}

async fn either_partner_can_export_shared_space(app: &TestApp) {
    let (ada, ben, eve) = (app.user("ada").await, app.user("ben").await, app.user("eve").await);
    let bond = ada.partners().bond_with(&ben).await;
    item(&ada, SHARED, json!({ "n": 1 })).await;
    item(&ben, "/api/v1/spaces/bond/photos", json!({ "n": 2 })).await;
    item(&ada, NOTES, json!({ "n": 3 })).await;
    let path = format!("/api/v1/spaces/bonds/{bond}/export");
    let export = ada.get(&path).await.expect(200);
    assert_eq!((&export["bond_id"], &export["archived_at"]), (&json!(bond), &Value::Null));
    let data: Vec<_> =
        export["items"].as_array().expect("items").iter().map(|item| &item["data"]["n"]).collect();
    assert_eq!(data.len(), 2);
    ada.partners().break_up().await;
    for partner in [&ada, &ben] {
        assert_eq!(partner.get(&path).await.expect(200), export);
    }
    eve.get(&path).await.expect_problem(404, "not_found");
    let nothing = format!("/api/v1/spaces/bonds/{}/export", Uuid::nil());
    ada.get(&nothing).await.expect_problem(404, "not_found");
    let all = ada.get("/api/v1/me/export").await.expect(200);
    assert_eq!(all["modules"]["spaces"]["me"][0]["data"], json!({ "n": 3 }));
    assert_eq!(all["modules"]["spaces"]["bonds"], json!([export]));
}

/// The author's own items are purged. Shared items stay, without the author's id.
async fn shared_items_survive_author_purge(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    let bond = ada.partners().bond_with(&ben).await;
    let shared = item(&ada, SHARED, json!({ "n": 1 })).await;
    ben.put(&shared, json!({ "data": { "n": 2 } })).await.expect(200);
    item(
        &ada,
        "/api/v1/spaces/me/dates",
        json!({ "title": "x", "date": "2030-01-01", "remind_minutes_before": [0] }),
    )
    .await;
    ada.delete("/api/v1/me", json!({ "password": PASSWORD })).await.expect(202);
    app.advance(days(14));
    app.run_maintenance().await;
    let path = format!("/api/v1/spaces/bonds/{bond}/export");
    let export = ben.get(&path).await.expect(200);
    let kept = &export["items"][0];
    assert_eq!(
        (&kept["created_by"], &kept["updated_by"], &kept["data"]["n"]),
        (&Value::Null, &json!(ben.id), &json!(2))
    );
    for table in ["space_items", "space_item_fields", "space_reminders", "space_collections"] {
        assert_eq!(app.count(table, "space = $1", &format!("me:{}", ada.id)).await, 0, "{table}");
    }
    let manifest = app.parts().config.data.folder.join("purges").join(format!("{}.json", ada.id));
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(manifest).expect("a manifest")).expect("JSON");
    assert_eq!(manifest["rows"]["spaces"], json!({ "items": 1, "shared_items": 1 }));
}

/// Creates `count` numbered items of 60 kB each.
async fn large_items(who: &TestUser, path: &str, count: usize) {
    for n in 0..count {
        item(who, path, json!({ "n": n, "text": "x".repeat(60_000) })).await;
    }
}

/// Returns the numbers of the items in ascending order. The items of two nodes are listed in any order,
/// because the test's clock stands still.
fn numbers(items: &Value) -> Vec<u64> {
    let items = items.as_array().expect("items");
    let mut numbers: Vec<_> =
        items.iter().map(|item| item["data"]["n"].as_u64().expect("a number")).collect();
    numbers.sort_unstable();
    numbers
}

async fn page_of_large_items_is_truncated_and_continues(app: &TestApp) {
    let ada = app.user("ada").await;
    large_items(&ada, NOTES, 40).await;
    let mut seen = Vec::new();
    let mut path = format!("{NOTES}?limit=100");
    loop {
        let page = ada.get(&path).await;
        let has_link = page.header("link").is_some();
        let page = page.expect(200);
        let found = numbers(&page["items"]);
        assert!((1..=17).contains(&found.len()), "{} items of 60 kB", found.len());
        seen.extend(found);
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        assert!(has_link);
        path = format!("{NOTES}?limit=100&cursor={cursor}");
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..40).collect::<Vec<_>>());
}

async fn large_export_is_complete_json(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    let (cleo, dora) = (app.user("cleo").await, app.user("dora").await);
    large_items(&ada, NOTES, 20).await;
    // An ended bond, an active one, and an empty one in between.
    for (n, partner) in [&ben, &cleo, &dora].into_iter().enumerate() {
        let bond = ada.partners().bond_with(partner).await;
        if n != 1 {
            large_items(&ada, SHARED, 18).await;
            item(&ada, "/api/v1/spaces/bond/others", json!({ "n": 18 })).await;
        }
        let path = format!("/api/v1/spaces/bonds/{bond}/export");
        let export = ada.get(&path).await.expect(200);
        assert_eq!(export["bond_id"], json!(bond));
        let expected = if n == 1 { Vec::new() } else { (0..=18).collect() };
        assert_eq!(numbers(&export["items"]), expected);
        if n < 2 {
            ada.partners().break_up().await;
        }
    }
    let export = ada.get("/api/v1/me/export").await;
    assert_eq!(export.header("etag"), None, "the streamed export has no ETag");
    let export = export.expect(200);
    let spaces = &export["modules"]["spaces"];
    assert_eq!(numbers(&spaces["me"]), (0..20).collect::<Vec<_>>());
    let bonds = spaces["bonds"].as_array().expect("bonds");
    let held: Vec<_> = bonds.iter().map(|bond| numbers(&bond["items"]).len()).collect();
    assert_eq!(held, [19, 0, 19], "bonds are in id order");
    assert_eq!(export["modules"]["bonds"]["bonds"].as_array().expect("bonds").len(), 3);
    let small = ben.get("/api/v1/me/export").await;
    assert_eq!(small.expect(200)["modules"]["spaces"]["me"], json!([]));
}
