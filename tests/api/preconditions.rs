//! Tests of conditional writes (RFC 9110, 13.1): `If-Match` on a missing resource, `If-None-Match` on an
//! existing one.

use hyper::Method;
use hyper::header::{HeaderName, IF_MATCH, IF_NONE_MATCH};
use serde_json::{Value, json};

use crate::support::{Client, TestApp, TestResponse, on_every_engine};

on_every_engine! {
    if_match_fails_on_missing_resource,
    if_none_match_fails_on_existing_resource,
}

async fn send(
    client: &Client,
    method: Method,
    path: &str,
    condition: (HeaderName, &str),
    body: &Value,
) -> TestResponse {
    let (name, value) = condition;
    let text = if body.is_null() { String::new() } else { body.to_string() };
    client.with_header(name, value).send(method, path, text.into()).await
}

const SCHEDULE: &str = "/api/v1/schedules/nightly";
const COLLECTION: &str = "/api/v1/admin/collections/books";

fn schedule() -> Value {
    json!({ "queue": "reports", "kind": "report", "schedule": "@daily" })
}

async fn if_match_fails_on_missing_resource(app: &TestApp) {
    let admin = app.admin("ada").await;
    let client = admin.signed_in().await;
    let footprint = app.footprint().await;
    for (path, body) in [(SCHEDULE, schedule()), (COLLECTION, json!({ "fields": ["title"] }))] {
        for tag in ["*", "\"abc\""] {
            let put = send(&client, Method::PUT, path, (IF_MATCH, tag), &body).await;
            put.expect_problem(412, "precondition_failed");
            let delete = send(&client, Method::DELETE, path, (IF_MATCH, tag), &Value::Null).await;
            delete.expect_problem(412, "precondition_failed");
        }
        admin.delete(path, Value::Null).await.expect_problem(404, "not_found");
    }
    assert_eq!(app.footprint().await, footprint);
}

async fn if_none_match_fails_on_existing_resource(app: &TestApp) {
    let admin = app.admin("ada").await;
    let client = admin.signed_in().await;
    for (path, body, status) in
        [(SCHEDULE, schedule(), 201), (COLLECTION, json!({ "fields": ["title"] }), 200)]
    {
        send(&client, Method::PUT, path, (IF_NONE_MATCH, "*"), &body).await.expect(status);
        let footprint = app.footprint().await;
        let put = send(&client, Method::PUT, path, (IF_NONE_MATCH, "*"), &body).await;
        put.expect_problem(412, "precondition_failed");
        let delete = send(&client, Method::DELETE, path, (IF_NONE_MATCH, "*"), &Value::Null).await;
        delete.expect_problem(412, "precondition_failed");
        assert_eq!(app.footprint().await, footprint, "{path}");
    }
    let items = "/api/v1/spaces/me/books";
    let item = admin.post(items, json!({ "data": { "title": "Emma" } })).await.expect(201);
    let item = format!("{items}/{}", item["id"].as_str().expect("an id"));
    for (path, methods) in
        [(&*item, &[Method::PUT, Method::PATCH, Method::DELETE][..]), ("/api/v1/me", &[Method::PATCH])]
    {
        let shown = admin.get(path).await;
        let tag = shown.header("etag").expect("an ETag").to_owned();
        let footprint = app.footprint().await;
        for method in methods {
            let body = match (path, method) {
                (_, &Method::DELETE) => Value::Null,
                ("/api/v1/me", _) => json!({ "display_name": "Someone" }),
                _ => json!({ "data": { "title": "Other" } }),
            };
            for none in ["*", &tag, &format!("W/{tag}")] {
                let response = send(&client, method.clone(), path, (IF_NONE_MATCH, none), &body).await;
                response.expect_problem(412, "precondition_failed");
            }
        }
        assert_eq!(app.footprint().await, footprint, "{path}");
    }
    let other = json!({ "data": { "title": "Other" } });
    send(&client, Method::PUT, &item, (IF_NONE_MATCH, "\"abc\""), &other).await.expect(200);
}
