//! Tests of item lists: newest first, or by declared fields, in the same order on every database.

use std::cmp::Ordering;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{TestApp, TestUser, item, on_every_engine};

const BOOKS: &str = "/api/v1/spaces/me/books";
const DECLARED: &str = "/api/v1/admin/collections/books";

on_every_engine! {
    items_are_listed_newest_first_with_links,
    lists_are_ordered_by_declared_fields,
    undeclared_fields_are_rejected,
    existing_items_are_indexed_in_background,
    concurrent_writes_are_indexed_by_new_fields,
}

/// Reads all pages of a list and returns the field `n` of each item.
async fn walk(who: &TestUser, query: &str, limit: usize) -> Vec<i64> {
    let mut path = format!("{BOOKS}?limit={limit}{query}");
    let mut all = Vec::new();
    loop {
        let response = who.get(&path).await;
        let link =
            response.header("link").map(|link| link[1..].split('>').next().expect("a link").to_owned());
        let page = response.expect(200);
        let items = page["items"].as_array().expect("items");
        assert!(items.len() <= limit);
        all.extend(items.iter().map(|item| item["data"]["n"].as_i64().expect("a number")));
        assert_eq!(link.is_some(), !page["next_cursor"].is_null());
        match link {
            Some(next) => path = next,
            None => return all,
        }
    }
}

fn filter(conditions: Value) -> String {
    let text: String = conditions.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect();
    format!("&filter={text}")
}

async fn items_are_listed_newest_first_with_links(app: &TestApp) {
    let ada = app.user("ada").await;
    for n in 0..7 {
        item(&ada, BOOKS, json!({ "n": n })).await;
        item(&ada, "/api/v1/spaces/me/others", json!({ "n": 100 + n })).await;
    }
    // Two nodes create ids in any order while the test's clock stands still, so the order is not compared.
    let mut walked = walk(&ada, "", 3).await;
    assert_eq!(walked, walk(&ada, "", 100).await);
    walked.sort_unstable();
    assert_eq!(walked, [0, 1, 2, 3, 4, 5, 6]);
    ada.get(&format!("{BOOKS}?limit=0")).await.expect_problem(400, "malformed_request");
    ada.get(&format!("{BOOKS}?cursor=x")).await.expect_problem(400, "malformed_request");
}

/// Returns values of a field, in the order in which lists must sort them.
fn values() -> Vec<Value> {
    let nothing = json!({});
    let given = [
        json!(null),
        json!(false),
        json!(true),
        json!(-1e300),
        json!(-2),
        json!(-1.5),
        json!(0),
        json!(0.5),
        json!(9_007_199_254_740_992_i64),
        json!(9_007_199_254_740_993_i64),
        json!(1e17),
        json!(""),
        json!("A"),
        json!("Zebra"),
        json!("a"),
        json!("a b"),
        json!("ab"),
        json!("ä"),
        json!("日本"),
        json!("𝄞"),
        json!([1]),
    ];
    let given = given.map(|value| json!({ "v": value, "deep": { "er": value } }));
    std::iter::once(nothing).chain(given).collect()
}

/// Each value occurs twice. Equal values are ordered by id.
async fn lists_are_ordered_by_declared_fields(app: &TestApp) {
    let (admin, ada, ben) = (app.admin("admin").await, app.user("ada").await, app.user("ben").await);
    admin.put(DECLARED, json!({ "fields": ["v", "/deep/er", "kind"] })).await.expect(200);
    let values = values();
    let mut ids = Vec::new();
    for round in 0..2 {
        // Inserts the values in another order.
        for at in (0..values.len()).map(|n| n * 7 % values.len()) {
            let mut data = values[at].clone();
            data["n"] = json!(at);
            data["kind"] = json!(["one", "other"][round]);
            ids.push((at, item(&ada, BOOKS, data).await));
        }
    }
    item(&ben, BOOKS, json!({ "v": 0, "n": 0 })).await;
    ids.sort_unstable();
    let sorted: Vec<_> = (0..values.len() as i64).flat_map(|n| [n, n]).collect();
    let reversed: Vec<_> = sorted.iter().rev().copied().collect();
    for field in ["v", "/deep/er"] {
        for limit in [1, 5, 100] {
            assert_eq!(
                walk(&ada, &format!("&order={field}"), limit).await,
                sorted,
                "order by {field}, pages of {limit}"
            );
            assert_eq!(
                walk(&ada, &format!("&order=-{field}"), limit).await,
                reversed,
                "order by {field}, pages of {limit}"
            );
        }
    }
    for (at, value) in values.iter().enumerate().filter(|(_, value)| !value["v"].is_array()) {
        if value.get("v").is_none() {
            continue;
        }
        let equal = filter(json!({ "v": value["v"] }));
        assert_eq!(walk(&ada, &equal, 1).await, [at as i64; 2], "{value}");
        let one = filter(json!({ "v": value["v"], "kind": "one" }));
        assert_eq!(walk(&ada, &one, 100).await, [at as i64], "{value}");
    }
    let like = |at: usize, other: usize| {
        (values[at]["v"].is_number() && values[other]["v"].is_number())
            || (values[at]["v"].is_string() && values[other]["v"].is_string())
    };
    for at in (0..values.len()).filter(|at| like(*at, *at)) {
        for (comparison, holds) in [
            ("gt", Ordering::is_gt as fn(Ordering) -> bool),
            ("gte", Ordering::is_ge),
            ("lt", Ordering::is_lt),
            ("lte", Ordering::is_le),
        ] {
            let query = filter(json!({ "v": { comparison: values[at]["v"] } }));
            let expected: Vec<_> = sorted
                .iter()
                .copied()
                .filter(|n| like(at, *n as usize) && holds(n.cmp(&(at as i64))))
                .collect();
            assert_eq!(walk(&ada, &format!("{query}&order=v"), 100).await, expected, "{comparison} {at}");
            let mut newest_first = walk(&ada, &query, 3).await;
            newest_first.sort_unstable();
            assert_eq!(newest_first, expected, "{comparison} {at}");
        }
    }
    let between = filter(json!({ "v": { "gte": 0, "lt": 1e17 }, "kind": "one" }));
    assert_eq!(walk(&ada, &format!("{between}&order=-v"), 2).await, [10, 9, 8, 7]);

    // A filter finds an item by its current content.
    let path = &ids[0].1;
    ada.put(path, json!({ "data": { "v": "moved", "n": 99 } })).await.expect(200);
    assert_eq!(walk(&ada, &filter(json!({ "v": "moved" })), 100).await, [99]);
    ada.delete(path, Value::Null).await.expect(204);
    assert_eq!(walk(&ada, &filter(json!({ "v": "moved" })), 100).await, [0; 0]);
}

async fn undeclared_fields_are_rejected(app: &TestApp) {
    let (admin, ada) = (app.admin("admin").await, app.user("ada").await);
    let refused = async |query: &str| {
        let problem = ada.get(&format!("{BOOKS}?{query}")).await.expect_problem(400, "malformed_request");
        let fault = problem["errors"][0].clone();
        (fault["pointer"].as_str().expect("a pointer").to_owned(), fault["detail"].to_string())
    };
    assert!(refused("order=n").await.1.contains("no declared list fields"));
    admin.put(DECLARED, json!({ "fields": ["pages", "kind"] })).await.expect(200);
    let (place, detail) = refused("order=-n").await;
    assert!(place == "?order" && detail.contains("pages, kind"), "{place} {detail}");
    for bad in [json!({ "n": 1 }), json!({ "pages": [1] }), json!({ "pages": { "over": 1 } }), json!([])] {
        assert_eq!(refused(&filter(bad.clone())[1..]).await.0, "?filter", "{bad}");
    }
    assert_eq!(refused("filter=x").await.0, "?filter");
    assert_eq!(refused("sort=pages").await.0, "?sort");
    let dates = ada.get("/api/v1/spaces/me/dates?order=date").await.expect(200);
    assert_eq!(dates["items"], json!([]));
}

/// There are more items than one indexing batch. Lists by the new field are rejected until all items are
/// indexed.
async fn existing_items_are_indexed_in_background(app: &TestApp) {
    let (admin, ada) = (app.admin("admin").await, app.user("ada").await);
    for n in 0..230 {
        item(&ada, BOOKS, json!({ "n": n, "rank": 229 - n })).await;
    }
    admin.put(DECLARED, json!({ "fields": ["rank"] })).await.expect(200);
    let by_rank = format!("{BOOKS}?order=rank");
    ada.get(&by_rank).await.expect_problem(409, "collection_indexing");
    assert_eq!(walk(&ada, "", 100).await.len(), 230);
    app.run_maintenance().await;
    assert_eq!(walk(&ada, "&order=rank", 100).await, (0..230).rev().collect::<Vec<_>>());

    // Changing only the schema does not affect the index.
    admin.put(DECLARED, json!({ "fields": ["rank"], "schema": {} })).await.expect(200);
    ada.get(&by_rank).await.expect(200);
    admin.put(DECLARED, json!({ "fields": ["n"] })).await.expect(200);
    ada.get(&by_rank).await.expect_problem(400, "malformed_request");
    app.run_maintenance().await;
    assert_eq!(walk(&ada, "&order=n", 100).await, (0..230).collect::<Vec<_>>());
    admin.delete(DECLARED, Value::Null).await.expect(204);
    app.run_maintenance().await;
    assert_eq!(app.count("space_item_fields", "collection = $1", "books").await, 0);
    // After the field is declared again, earlier index entries are ignored.
    item(&ada, BOOKS, json!({ "n": 230 })).await;
    admin.put(DECLARED, json!({ "fields": ["n"] })).await.expect(200);
    ada.get(&format!("{BOOKS}?order=n")).await.expect_problem(409, "collection_indexing");
    app.run_maintenance().await;
    assert_eq!(walk(&ada, "&order=-n", 100).await, (0..=230).rev().collect::<Vec<_>>());
}

/// A write indexes its item immediately by newly declared fields, while the background indexing of existing
/// items runs.
async fn concurrent_writes_are_indexed_by_new_fields(app: &TestApp) {
    const EACH: i64 = 40;
    let admin = app.admin("admin").await;
    let users = app.register_users("person", 4).await;
    let mut paths = Vec::new();
    for who in &users {
        for n in 0..EACH {
            paths.push((who, n, item(who, BOOKS, json!({ "n": n, "rank": -n })).await));
        }
    }
    for round in 1..=6_i64 {
        let field = ["n", "rank"][round as usize % 2];
        admin.put(DECLARED, json!({ "fields": [field] })).await.expect(200);
        let value = |n: i64| (n * 7 + round) % EACH;
        let changes = paths.iter().map(async |(who, n, path)| {
            let changed = json!({ "n": value(*n), "rank": -value(*n), "round": round });
            who.put(path, json!({ "data": changed })).await.expect(200);
        });
        tokio::join!(join_all(changes), app.run_maintenance(), app.run_maintenance());
        app.run_maintenance().await;
        let order = ["&order=n", "&order=-rank"][round as usize % 2];
        for who in &users {
            assert_eq!(walk(who, order, 7).await, (0..EACH).collect::<Vec<_>>());
        }
    }
    assert_eq!(app.count("space_item_fields", "collection = $1", "books").await, 4 * EACH);
}
