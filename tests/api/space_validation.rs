//! Tests of validation of space items against the schemas of their collections.

use hyper::Method;
use hyper::body::Bytes;
use hyper::header::IF_MATCH;
use kith_kernel::uuid::Uuid;
use serde_json::{Value, json};

use crate::spaces::{etag, send};
use crate::support::{TestApp, item, on_every_engine};

const NOTES: &str = "/api/v1/spaces/me/notes";

on_every_engine! {
    schema_applies_to_later_writes,
    expensive_schema_does_not_block_other_writes,
    item_is_validated_against_the_schema_of_its_transaction,
    pending_validation_does_not_block_other_writes,
    item_with_too_many_values_is_rejected,
}

async fn schema_applies_to_later_writes(app: &TestApp) {
    const BOOKS: &str = "/api/v1/admin/collections/books";
    const MINE: &str = "/api/v1/spaces/me/books";
    let (admin, ada) = (app.admin("admin").await, app.user("ada").await);
    let old = item(&ada, MINE, json!({ "pages": "many" })).await;
    admin.get(BOOKS).await.expect_problem(404, "not_found");
    let schema = json!({ "properties": { "pages": { "type": "integer" } }, "required": ["pages"] });
    let declared = admin.put(BOOKS, json!({ "schema": schema, "fields": ["pages"] })).await;
    let (tag, declared) = (etag(&declared), declared.expect(200));
    assert_eq!(
        declared,
        json!({ "name": "books", "schema": schema, "fields": ["pages"], "updated_at": app.now() })
    );
    assert_eq!(admin.get(BOOKS).await.expect(200), declared);
    let listed = ada.get("/api/v1/collections").await.expect(200);
    assert_eq!(listed, json!({ "items": [declared], "next_cursor": null }));

    let faults = ada.post(MINE, json!({ "data": { "pages": "many" } })).await.expect_faults();
    assert_eq!(faults, [("/data/pages".to_owned(), "not_as_declared".to_owned())]);
    ada.post(MINE, json!({ "data": {} })).await.expect_problem(422, "validation_failed");
    ada.post(MINE, json!({ "data": { "pages": 300 } })).await.expect(201);
    // Existing items stay valid until they are written again.
    assert_eq!(ada.get(&old).await.expect(200)["data"]["pages"], "many");
    let patch = Bytes::from(json!({ "data": { "more": 1 } }).to_string());
    ada.send(Method::PATCH, &old, patch).await.expect_problem(422, "validation_failed");

    let footprint = app.footprint().await;
    admin.put(BOOKS, json!({ "schema": schema, "fields": ["pages"] })).await.expect(200);
    for (body, pointer, code) in [
        (json!({ "schema": { "type": "objekt" } }), "/schema", "not_a_schema"),
        (json!({ "schema": { "$ref": "http://127.0.0.1/x" } }), "/schema", "not_a_schema"),
        (json!({ "fields": ["a", "b", "c", "d", "e"] }), "/fields", "too_many"),
        (json!({ "fields": ["a", "a"] }), "/fields/1", "duplicate"),
        (json!({ "fields": [""] }), "/fields/0", "invalid"),
    ] {
        assert_eq!(admin.put(BOOKS, body).await.expect_faults(), [(pointer.to_owned(), code.to_owned())]);
    }
    admin.put("/api/v1/admin/collections/dates", json!({})).await.expect_problem(409, "collection_built_in");
    assert_eq!(app.footprint().await, footprint);

    admin.put(BOOKS, json!({})).await.expect(200);
    let stale = send(&admin, Method::PUT, BOOKS, (IF_MATCH, &tag), json!({ "fields": ["a"] })).await;
    stale.expect_problem(412, "precondition_failed");
    admin.delete(BOOKS, Value::Null).await.expect(204);
    admin.delete(BOOKS, Value::Null).await.expect_problem(404, "not_found");
    assert_eq!(ada.get("/api/v1/collections").await.expect(200)["items"], json!([]));
    ada.post(MINE, json!({ "data": {} })).await.expect(201);
}

/// Recursive schema with two node kinds, for which naive evaluation takes 2^depth steps.
fn two_kinds_of_nodes() -> Value {
    let node = |kind: &str| {
        let kind = json!({ "type": "string", "maxLength": kind.len() });
        json!({ "type": "object", "required": ["k", "c"], "properties": { "k": kind, "c": { "$ref": "#/$defs/node" } } })
    };
    json!({ "properties": { "tree": { "$ref": "#/$defs/node" } }, "$defs": {
        "node": { "anyOf": [{ "type": "null" }, { "$ref": "#/$defs/left" }, { "$ref": "#/$defs/right" }] },
        "left": node("left"), "right": node("right"),
    } })
}

async fn expensive_schema_does_not_block_other_writes(app: &TestApp) {
    let (admin, ada) = (app.admin("admin").await, app.user("ada").await);
    let declare = async |name: &str, schema: &Value| {
        admin.put(&format!("/api/v1/admin/collections/{name}"), json!({ "schema": schema })).await
    };
    declare("trees", &two_kinds_of_nodes()).await.expect(200);
    let tree = (0..28).fold(json!(5), |child, _| json!({ "k": "left", "c": child }));
    let trees = "/api/v1/spaces/me/trees";
    let faults = ada.post(trees, json!({ "data": { "tree": tree } })).await.expect_faults();
    assert_eq!(faults, [("/data/tree".to_owned(), "not_as_declared".to_owned())]);
    let tree = (0..28).fold(Value::Null, |child, _| json!({ "k": "left", "c": child }));
    ada.post(trees, json!({ "data": { "tree": tree } })).await.expect(201);

    let patterns = (0..40).map(|n| (format!("p{n}"), json!({ "pattern": "(?:a{500}){400}" })));
    let patterns = json!({ "properties": patterns.collect::<serde_json::Map<_, _>>() });
    let faults = declare("patterns", &patterns).await.expect_faults();
    assert_eq!(faults, [("/schema".to_owned(), "not_a_schema".to_owned())]);

    // The evaluation budget of a request is exhausted, and the error names it.
    declare("texts", &json!({ "properties": { "text": { "pattern": "(?:a?){300}a{300}b" } } }))
        .await
        .expect(200);
    let text = json!({ "data": { "text": "a".repeat(60_000) } });
    let faults = ada.post("/api/v1/spaces/me/texts", text).await.expect_faults();
    assert_eq!(faults, [("/data".to_owned(), "schema_too_costly".to_owned())]);
}

/// Keeps all validation threads busy until the returned senders are dropped.
async fn occupy_validation(app: &TestApp) -> Vec<std::sync::mpsc::Sender<()>> {
    let mut held = Vec::new();
    for _ in 0..2 {
        let (go, wait) = std::sync::mpsc::channel();
        let (started, starts) = tokio::sync::oneshot::channel();
        let compute = app.parts().compute.clone();
        tokio::spawn(async move {
            let hold = move || {
                let _ = started.send(());
                let _ = wait.recv();
            };
            compute.run(Uuid::nil(), hold).await
        });
        starts.await.expect("the task has started");
        held.push(go);
    }
    held
}

async fn item_is_validated_against_the_schema_of_its_transaction(app: &TestApp) {
    const BOOKS: &str = "/api/v1/admin/collections/books";
    if app.node_count() > 1 {
        // The other node would validate the item, because only one node is kept busy.
        return;
    }
    let (admin, ada) = (app.admin("admin").await, app.user("ada").await);
    admin.put(BOOKS, json!({ "schema": { "required": ["title"] } })).await.expect(200);
    let held = occupy_validation(app).await;
    let first = app.parts().clone();
    let create = ada.post("/api/v1/spaces/me/books", json!({ "data": { "title": 1 } }));
    let change = async {
        let schema = json!({ "properties": { "title": { "type": "string" } } }).to_string();
        let change = move |tx: &kith_store::Tx<'_>| {
            tx.exec(
                "UPDATE collection_declarations SET schema = $1 WHERE name = 'books'",
                kith_store::params![schema],
            )
        };
        while first.compute.queued() == 0 {
            tokio::task::yield_now().await;
        }
        first.db.write(change).await.expect("a change");
        drop(held);
    };
    let (created, ()) = tokio::join!(create, change);
    assert_eq!(created.expect_faults(), [("/data/title".to_owned(), "not_as_declared".to_owned())]);
}

async fn pending_validation_does_not_block_other_writes(app: &TestApp) {
    if app.node_count() > 1 {
        return;
    }
    let (admin, ada) = (app.admin("admin").await, app.user("ada").await);
    let schema = json!({ "schema": { "required": ["title"] } });
    admin.put("/api/v1/admin/collections/books", schema).await.expect(200);
    let held = occupy_validation(app).await;
    let waiting = ada.post("/api/v1/spaces/me/books", json!({ "data": { "title": 1 } }));
    let others = async {
        while app.parts().compute.queued() == 0 {
            tokio::task::yield_now().await;
        }
        ada.post(NOTES, json!({ "data": { "text": "milk" } })).await.expect(201);
        drop(held);
    };
    let (created, ()) = tokio::join!(waiting, others);
    created.expect(201);
}

async fn item_with_too_many_values_is_rejected(app: &TestApp) {
    let ada = app.user("ada").await;
    // The data object, the field name and the array are three more values.
    let of = |values: usize| json!({ "data": { "list": vec![0; values] } });
    let made = ada.post(NOTES, of(9_997)).await.expect(201);
    let faults = ada.post(NOTES, of(9_998)).await.expect_faults();
    assert_eq!(faults, [("/data".to_owned(), "too_many_values".to_owned())]);
    let patch = Bytes::from(json!({ "data": { "more": 1 } }).to_string());
    let path = format!("{NOTES}/{}", made["id"].as_str().expect("an id"));
    let faults = ada.send(Method::PATCH, &path, patch).await.expect_faults();
    assert_eq!(faults, [("/data".to_owned(), "too_many_values".to_owned())]);
    let schema = json!({ "schema": { "x": vec![0; 9_998] } });
    let faults =
        app.admin("admin").await.put("/api/v1/admin/collections/notes", schema).await.expect_faults();
    assert_eq!(faults, [("/schema".to_owned(), "too_many_values".to_owned())]);
    assert_eq!(app.count("space_items", "collection = $1", "notes").await, 1);
}
