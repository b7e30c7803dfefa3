//! Tests of behaviour that is common to all requests: request ids, the problem format, limits, and agreement
//! with the OpenAPI document.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::Method;
use hyper::body::Bytes;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, IF_NONE_MATCH};
use kith_bonds::bonds::BondSettings;
use kith_kernel::seconds;
use kith_platform::config::Config;
use serde_json::{Value, json};

use crate::support::{Engine, PASSWORD, TestApp, X_REQUEST_ID, on_every_engine, restore_limits};

const REGISTER: &str = "/api/v1/auth/register";

on_every_engine! {
    request_ids_are_echoed_or_generated,
    malformed_bodies_are_rejected,
    unknown_paths_return_problems,
    openapi_document_lists_operations,
    non_public_operations_require_token,
    compressed_bodies_are_limited,
    unchanged_resource_returns_304,
}

/// Proves the readiness requirement API-06.
async fn request_ids_are_echoed_or_generated(app: &TestApp) {
    let echoed = async |sent: &str| {
        let response = app.anonymous().with_header(X_REQUEST_ID, sent).get("/api/v1/me").await;
        let echo = response.header("x-request-id").expect("an id").to_owned();
        assert_eq!(response.expect_problem(401, "unauthenticated")["request_id"], echo);
        echo
    };
    for sane in ["12345678", "my-app_1.2", &"x".repeat(64)] {
        assert_eq!(echoed(sane).await, sane);
    }
    for hostile in ["short", "has space", "quote\"quote", "a;b;c;d;e", &"x".repeat(65)] {
        let made = echoed(hostile).await;
        assert_ne!(made, hostile);
        assert!(made.len() == 32 && made.bytes().all(|byte| byte.is_ascii_hexdigit()), "{made}");
    }
    let made = app.anonymous().get("/livez").await;
    assert!(made.header("x-request-id").is_some_and(|id| id.len() == 32));
}

/// Proves the readiness requirements API-05, API-09.
async fn malformed_bodies_are_rejected(app: &TestApp) {
    let footprint = app.footprint().await;
    let post =
        async |body: &[u8]| app.anonymous().send(Method::POST, REGISTER, Bytes::copy_from_slice(body)).await;
    let good = json!({ "email": "ada@example.org", "password": PASSWORD, "display_name": "Ada" }).to_string();
    let deep = format!(r#"{{"more": {}{}}}"#, "[".repeat(5_000), "]".repeat(5_000));
    for malformed in ["{", "nonsense", &good[..good.len() - 1], &format!("{good} {good}")] {
        post(malformed.as_bytes()).await.expect_problem(400, "malformed_request");
    }
    post(b"{\"email\": \"\xff\"}").await.expect_problem(400, "malformed_request");
    for not_an_object in ["[]", "5", "\"ada\"", "null", "true", &deep] {
        post(not_an_object.as_bytes()).await.expect_problem(422, "validation_failed");
    }
    let doubled = good.replacen('{', r#"{"email": "eve@example.org","#, 1);
    assert_eq!(post(doubled.as_bytes()).await.expect_faults(), [("/email".into(), "duplicate_field".into())]);
    // An array with the right values in the right order is rejected too, because it is not an object.
    let listed = json!(["ada@example.org", PASSWORD, "Ada"]).to_string();
    post(listed.as_bytes()).await.expect_problem(422, "validation_failed");

    let large = json!({ "email": "x".repeat(300_000), "password": PASSWORD, "display_name": "Ada" });
    app.anonymous().post(REGISTER, large.clone()).await.expect_problem(413, "body_too_large");
    // The limit applies even to requests that need no body, and to unknown paths.
    for unwanted in ["/livez", "/api/v1/me", "/api/v1/nothing"] {
        let large = Bytes::from(large.to_string());
        let response = app.anonymous().send(Method::GET, unwanted, large).await;
        response.expect_problem(413, "body_too_large");
    }
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/xml"] {
        let client = app.anonymous().with_header(CONTENT_TYPE, kind);
        let response = client.send(Method::POST, REGISTER, Bytes::from(good.clone())).await;
        response.expect_problem(415, "unsupported_media_type");
    }
    app.anonymous().post(REGISTER, Value::Null).await.expect_problem(415, "unsupported_media_type");
    assert_eq!(app.footprint().await, footprint);
}

/// Proves the readiness requirement API-05.
async fn unknown_paths_return_problems(app: &TestApp) {
    for path in ["/api", "/api/v1/nothing", "/api/v1/auth/register/more", "/etc/passwd", "/%2e%2e/secret"] {
        app.anonymous().get(path).await.expect_problem(404, "not_found");
    }
    for (method, path, allowed) in [
        (Method::GET, REGISTER, "POST"),
        (Method::DELETE, "/api/v1/auth/login", "POST"),
        (Method::PUT, REGISTER, "POST"),
    ] {
        let response = app.anonymous().send(method, path, Bytes::new()).await;
        assert_eq!(response.header("allow"), Some(allowed), "{path}");
        response.expect_problem(405, "method_not_allowed");
    }
}

/// Proves the readiness requirement API-02.
async fn openapi_document_lists_operations(app: &TestApp) {
    let document = app.anonymous().get("/openapi.json").await.expect(200);
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")));
    for (path, method) in [
        (REGISTER, "post"),
        ("/api/v1/auth/login", "post"),
        ("/api/v1/auth/refresh", "post"),
        ("/api/v1/me", "get"),
        ("/api/v1/partners/requests", "post"),
        ("/api/v1/partners/requests", "get"),
        ("/api/v1/partners/requests/{id}/accept", "post"),
        ("/api/v1/partners/current", "get"),
        ("/livez", "get"),
        ("/readyz", "get"),
        ("/api/health", "get"),
        ("/api/metrics", "get"),
    ] {
        assert!(document["paths"][path][method].is_object(), "{method} {path}");
    }
    let text = document.to_string();
    for reference in text.split(r##""$ref":"#"##).skip(1) {
        let pointer = reference.split('"').next().expect("a pointer");
        assert!(document.pointer(pointer).is_some(), "{pointer} does not exist in the document");
    }
}

/// Operations that need no token.
const PUBLIC: &[&str] = &[
    "DELETE /dev/clock",
    "GET /",
    "GET /.well-known/jwks.json",
    "GET /api-docs",
    "GET /api/health",
    "GET /api/metrics",
    "GET /api/v1/ping",
    "GET /dev/clock",
    "GET /dev/limits",
    "GET /dev/outbox",
    "GET /docs",
    "GET /docs/{file}",
    "GET /first-admin",
    "GET /first-admin.js",
    "GET /livez",
    "GET /openapi.json",
    "GET /readyz",
    "GET /swagger",
    "POST /api/v1/auth/first-admin",
    "POST /api/v1/auth/login",
    "POST /api/v1/auth/logout",
    "POST /api/v1/auth/refresh",
    "POST /api/v1/auth/register",
    "POST /api/v1/auth/restore",
    "POST /dev/clock",
    "POST /dev/verify-email",
    "PUT /dev/limits",
];

/// ACC-03: every operation is listed as public above, or rejects callers without a valid token.
async fn non_public_operations_require_token(app: &TestApp) {
    let document = app.anonymous().get("/openapi.json").await.expect(200);
    let mut public = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            let method: Method = method.to_uppercase().parse().expect("a method");
            if operation["security"] == json!([]) {
                public.push(format!("{method} {path}"));
                continue;
            }
            let path = path.replace("{id}", "01900000-0000-7000-8000-000000000000");
            for client in [app.anonymous(), &app.anonymous().with_token("a.b.c")] {
                let response = client.send(method.clone(), &path, Bytes::from_static(b"{}")).await;
                response.expect_problem(401, "unauthenticated");
            }
        }
    }
    public.sort_unstable();
    assert_eq!(public, PUBLIC);
}

fn gzip(bytes: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).expect("a buffer with room");
    encoder.finish().expect("a buffer with room").into()
}

/// Proves the readiness requirement API-09.
async fn compressed_bodies_are_limited(app: &TestApp) {
    let footprint = app.footprint().await;
    let zipping = app.anonymous().with_header(CONTENT_ENCODING, "gzip");
    let post = async |body: &[u8]| zipping.send(Method::POST, REGISTER, gzip(body)).await;
    let bomb = gzip(&vec![b' '; 20 << 20]);
    assert!(bomb.len() * 1_000 < 20 << 20, "{}", bomb.len());
    zipping.send(Method::POST, REGISTER, bomb).await.expect_problem(413, "body_too_large");
    let deep = format!("{{\"a\": {}", "[".repeat(10_000));
    post(deep.as_bytes()).await.expect_problem(422, "validation_failed");
    let plain = zipping.send(Method::POST, REGISTER, Bytes::from_static(b"{}")).await;
    plain.expect_problem(400, "malformed_request");
    for unread in ["br", "deflate", "zstd", "gzip, gzip"] {
        let client = app.anonymous().with_header(CONTENT_ENCODING, unread);
        let response = client.send(Method::POST, REGISTER, gzip(b"{}")).await;
        assert_eq!(response.header("accept-encoding"), Some("gzip"), "{unread}");
        response.expect_problem(415, "unsupported_encoding");
    }
    assert_eq!(app.footprint().await, footprint);
    let good = json!({ "email": "ada@example.org", "password": PASSWORD, "display_name": "Ada" });
    post(good.to_string().as_bytes()).await.expect(201);
}

async fn unchanged_resource_returns_304(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    let requests = "/api/v1/partners/requests";
    let tag = async |path: &str| {
        let response = ada.get(path).await;
        assert_eq!(response.header("cache-control"), Some("private, no-cache"), "{path}");
        response.header("etag").expect("a tag").to_owned()
    };
    for path in ["/api/v1/me", requests, "/api/v1/partners/current"] {
        let known = tag(path).await;
        let knowing = ada.signed_in().await.with_header(IF_NONE_MATCH, &known);
        // Twice, because requests alternate between the nodes of a pair.
        for _ in 0..2 {
            let response = knowing.get(path).await;
            assert_eq!((response.header("etag"), response.header("content-type")), (Some(&*known), None));
            assert_eq!(response.expect(304), Value::Null, "{path}");
        }
    }
    let before = tag(requests).await;
    ben.post(requests, json!({ "to": { "user_id": ada.id } })).await.expect(201);
    assert_ne!(tag(requests).await, before);
    ada.signed_in().await.with_header(IF_NONE_MATCH, &before).get(requests).await.expect(200);
    // An ETag of one user never yields a 304 for another.
    ben.signed_in()
        .await
        .with_header(IF_NONE_MATCH, &tag("/api/v1/me").await)
        .get("/api/v1/me")
        .await
        .expect(200);
    app.anonymous()
        .with_header(IF_NONE_MATCH, "*")
        .get("/api/v1/me")
        .await
        .expect_problem(401, "unauthenticated");
}

/// SEC-25: the default limits are those of `defaults.toml`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn default_limits_are_enforced() {
    let usual = Config::default().limits;
    let lists_per_minute = Config::default().section::<BondSettings>().lists_per_minute;
    let app = TestApp::start_with(Engine::Sqlite, Engine::Sqlite.database().await, restore_limits).await;
    let ada = app.user("ada").await.signed_in().await;
    let anonymous = app.anonymous();
    let failed_login = json!({ "email": "nobody@example.org", "password": "wrong horse" });
    let failed_login = Bytes::from(failed_login.to_string());
    for (client, method, path, limit) in [
        (anonymous, Method::POST, "/api/v1/auth/login", usual.auth_per_minute),
        (anonymous, Method::POST, "/api/v1/auth/refresh", usual.auth_per_minute),
        (&ada, Method::GET, "/api/v1/partners/requests", lists_per_minute),
        (&ada, Method::GET, "/api/v1/partners/current", lists_per_minute),
        (anonymous, Method::GET, "/api/v1/ping", usual.requests_per_minute),
        (anonymous, Method::GET, "/api/v1/nothing", usual.requests_per_minute),
    ] {
        let ask = async || {
            let body = if method == Method::GET { Bytes::new() } else { failed_login.clone() };
            client.send(method.clone(), path, body).await
        };
        for n in 1..=limit {
            let response = ask().await;
            assert_ne!(response.status, 429, "{path}: request {n} of {limit} is allowed");
            let left = format!(";r={};", limit - n);
            assert!(
                response.header("ratelimit").is_some_and(|header| header.contains(&left)),
                "{path}: {left}"
            );
        }
        let refused = ask().await;
        assert_eq!(refused.header("retry-after"), Some("1"), "{path}");
        refused.expect_problem(429, "rate_limited");
        app.advance(seconds(1));
        assert_ne!(ask().await.status, 429, "{path}: a request is allowed one second later");
    }
    assert_eq!(app.metric("kith_http_requests_limited_total{policy=\"auth\"}").await, 2.0);
    app.stop().await;
}
