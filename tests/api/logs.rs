//! Tests of the request log: one line per request, with its id and without secrets.

use std::net::SocketAddr;
use std::process::Command;

use hyper::Method;
use hyper::header::HeaderName;
use kith_store::testing::TestDatabase;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{
    Client, Engine, Kith, SERVE, X_REQUEST_ID, failing_stderr, kith, kith_on, successful_stdout,
};

const PASSWORD: &str = "a-secret-that-nobody-logs";
const EMAIL: &str = "ada.of.the.log@example.org";
const REGISTER: &str = "/api/v1/auth/register";
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Registers a user under `request_id`, uses the token, and returns all log lines.
async fn log_of(format: &str, request_id: &str) -> Vec<String> {
    let database = TestDatabase::sqlite();
    let mut command = kith(database.folder().expect("a folder"), SERVE);
    command.env("KITH__LOG__FORMAT", format).env("KITH__LOG__LEVEL", "trace");
    let kith = Kith::start(command);
    let client = Client::new([kith.addr]);
    let body = json!({ "email": EMAIL, "password": PASSWORD, "display_name": "Ada" });
    let response = client.with_header(X_REQUEST_ID, request_id).post(REGISTER, body).await.expect(201);
    let token = response["access_token"].as_str().expect("a token");
    client
        .with_token(token)
        .with_header(X_REQUEST_ID, "the-last-request")
        .with_header(HeaderName::from_static("traceparent"), TRACEPARENT)
        .get("/api/v1/me")
        .await
        .expect(200);
    client.with_token("a.forged.token").get("/api/v1/me").await.expect_problem(401, "unauthenticated");
    let mut lines = kith.log_up_to(&["the-last-request"]);
    lines.extend(kith.log_up_to(&["/api/v1/me", "401"]));
    let refresh_token = response["refresh_token"].as_str().expect("a token");
    for secret in [PASSWORD, EMAIL, token, refresh_token, "a.forged.token"] {
        assert!(!lines.iter().any(|line| line.contains(secret)), "{secret} is in {lines:#?}");
    }
    lines
}

/// Proves the readiness requirement API-06.
#[tokio::test]
async fn each_request_is_logged_as_json() {
    let lines = log_of("json", "test-json-log").await;
    let all: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let mut found: Vec<_> = all.iter().filter(|line| line["request_id"] == "test-json-log").collect();
    assert_eq!(found.len(), 1, "{found:#?}");
    let line = found.remove(0);
    for (key, value) in [
        ("level", json!("INFO")),
        ("target", json!("kith::request")),
        ("method", json!("POST")),
        ("route", json!(REGISTER)),
        ("status", json!(201)),
    ] {
        assert_eq!(line[key], value, "{line:#}");
    }
    assert!(line["timestamp"].is_string() && line["micros"].is_u64(), "{line:#}");
    assert!(line.get("trace_id").is_none(), "{line:#}");
    let traced = all.iter().find(|line| line["request_id"] == "the-last-request").expect("a line");
    assert_eq!(traced["trace_id"], TRACEPARENT[3..35]);
}

/// Proves the readiness requirement API-06.
#[tokio::test]
async fn each_request_is_logged_in_pretty_format() {
    let lines = log_of("pretty", "test-pretty-log").await;
    let found: Vec<_> = lines.iter().filter(|line| line.contains("test-pretty-log")).collect();
    let [line] = found[..] else { panic!("{found:#?}") };
    assert!(serde_json::from_str::<Value>(line).is_err(), "{line}");
    for part in ["INFO", "kith::request", r#"method="POST""#, &format!("route={REGISTER:?}"), "status=201"] {
        assert!(line.contains(part), "{part} is missing in {line}");
    }
}

/// Proves the readiness requirement OBS-01.
#[tokio::test]
async fn log_level_changes_at_runtime() {
    let database = TestDatabase::sqlite();
    let folder = database.folder().expect("a folder");
    let mut command = kith(folder, SERVE);
    command.env("KITH__LOG__LEVEL", "warn");
    let server = Kith::start(command);
    let client = Client::new([server.addr]);
    let ask = async |id: &str| client.with_header(X_REQUEST_ID, id).get("/livez").await.expect(200);
    let log_level = |args: &[&str]| kith(folder, &[&["log-level"], args].concat());

    assert_eq!(successful_stdout(log_level(&[])), "warn\n");
    ask("at-level-warn").await;
    assert_eq!(successful_stdout(log_level(&["warn,kith=info"])), "warn,kith=info\n");
    ask("at-level-info").await;
    let lines = server.log_up_to(&["at-level-info"]);
    assert_eq!(lines.len(), 1, "{lines:#?}");
    for bad in ["inof", "info,", "kith=loud"] {
        assert!(failing_stderr(log_level(&[bad])).contains("must be a level such as"), "{bad}");
    }
    assert_eq!(successful_stdout(log_level(&[])), "warn,kith=info\n");
    let _ = successful_stdout(log_level(&["error"]));
    ask("at-level-error").await;
    let _ = successful_stdout(log_level(&["info"]));
    ask("at-level-info-again").await;
    let lines = server.log_up_to(&["at-level-info-again"]);
    assert!(!lines.iter().any(|line| line.contains("at-level-error")), "{lines:#?}");

    let elsewhere = tempfile::tempdir().expect("a folder");
    assert!(failing_stderr(kith(elsewhere.path(), &["log-level"])).contains("no server runs on"));
}

/// Prefix of every secret and personal detail that [`plant`] sends.
const MARK: &str = "m4rked";

/// Proves the readiness requirement OBS-02.
#[tokio::test]
async fn secrets_and_personal_data_are_not_logged_on_sqlite() {
    let database = TestDatabase::sqlite();
    secrets_and_personal_data_are_not_logged(kith(database.folder().expect("a folder"), SERVE)).await;
}

/// Proves the readiness requirement OBS-02.
#[tokio::test]
async fn secrets_and_personal_data_are_not_logged_on_postgres() {
    if !Engine::Postgres.is_chosen() {
        return;
    }
    let (database, elsewhere) = (Engine::Postgres.database().await, TestDatabase::sqlite());
    secrets_and_personal_data_are_not_logged(kith_on(
        &database,
        elsewhere.folder().expect("a folder"),
        SERVE,
    ))
    .await;
}

async fn secrets_and_personal_data_are_not_logged(mut command: Command) {
    command.env("KITH__LOG__LEVEL", "trace").env("KITH__LOG__FORMAT", "json");
    let kith = Kith::start(command);
    let client = Client::new([kith.addr]);
    let found = plant(&client, kith.addr).await;
    let metrics = client.with_header(X_REQUEST_ID, "the-last-request").get("/api/metrics").await.expect(200);
    let lines = kith.log_up_to(&["the-last-request"]);
    let requests = lines.iter().filter(|line| line.contains("kith::request")).count();
    assert!(requests > found.len(), "{requests} requests were logged");
    let metrics = metrics.as_str().expect("text").to_owned();
    for text in lines.iter().chain(&found).chain([&metrics]) {
        assert!(!text.to_lowercase().contains(MARK), "{text}");
    }
}

/// Sends marked secrets and personal data in every part of accepted and rejected requests. Returns the
/// rejections.
async fn plant(client: &Client, addr: SocketAddr) -> Vec<String> {
    let (email, password) = ("m4rked@example.org", "m4rked-password");
    let client = [
        ("user-agent", "m4rked-agent"),
        ("cookie", "session=m4rked"),
        ("referer", "https://m4rked.example.org/"),
        ("x-api-key", "m4rked-key"),
        ("x-forwarded-for", "m4rked, 192.0.2.7"),
        ("x-request-id", "m4rked id"),
        ("traceparent", "00-m4rked-01"),
        ("if-none-match", "\"m4rked\""),
        ("origin", "https://m4rked.example.org"),
    ]
    .into_iter()
    .fold(client.clone(), |client, (name, value)| client.with_header(HeaderName::from_static(name), value));
    let mut found = Vec::new();
    let mut refused = |response: crate::support::TestResponse| {
        assert!(response.status >= 400, "{response:#?}");
        found.push(format!("{:?} {}", response.headers, response.body));
    };

    let user = json!({ "email": email, "password": password, "display_name": "M4rked Name" });
    let ada = client.post(REGISTER, user.clone()).await.expect(201);
    refused(client.post(REGISTER, user).await);
    let log_in = |email: &str, password: &str| json!({ "email": email, "password": password });
    client.post("/api/v1/auth/login", log_in(email, password)).await.expect(200);
    refused(client.post("/api/v1/auth/login", log_in(email, "m4rked-wrong")).await);
    refused(client.post("/api/v1/auth/login", log_in("m4rked-nobody@example.org", password)).await);
    refused(client.post("/api/v1/auth/refresh", json!({ "refresh_token": "m4rked-token" })).await);
    refused(client.with_token("m4rked.m4rked.m4rked").get("/api/v1/me").await);
    refused(
        client.with_header(HeaderName::from_static("authorization"), "Basic m4rked").get("/api/v1/me").await,
    );
    for key in ["kith_m4rked", "kith_m4rked_m4rked", "KITH_m4rked_m4rked"] {
        refused(client.with_token(key).get("/api/v1/me").await);
        refused(client.with_token(key).get("/api/v1/admin/facts").await);
    }

    let signed_in = client.with_token(ada["access_token"].as_str().expect("a token"));
    let request = json!({ "to": { "email": "m4rked-bob@example.org" }, "message": "m4rked words" });
    signed_in.post("/api/v1/partners/requests", request).await;
    for body in [
        json!({ "email": "m4rked", "password": 7, "display_name": ["m4rked"] }),
        json!({ "email": { "m4rked": "m4rked" }, "password": "m4rked", "display_name": "m4rked\u{202e}" }),
        json!("m4rked"),
        json!(["m4rked"]),
        json!({ "email": email, "password": "m4rked".repeat(1_000), "display_name": "m4rked".repeat(100) }),
    ] {
        refused(client.post(REGISTER, body.clone()).await);
        refused(signed_in.post("/api/v1/partners/requests", body).await);
    }
    for body in ["m4rked", "{\"email\": \"m4rked", "{\"email\": \"m4rked\" m4rked}", "\u{0}m4rked"] {
        refused(client.send(Method::POST, REGISTER, body.as_bytes().to_vec().into()).await);
    }
    for path in [
        "/api/v1/partners/requests?limit=m4rked",
        "/api/v1/partners/requests?cursor=m4rked",
        "/api/v1/partners/requests?status=m4rked&direction=m4rked",
    ] {
        refused(signed_in.get(path).await);
    }
    refused(signed_in.post("/api/v1/partners/requests/m4rked/accept", Value::Null).await);
    for head in [
        "GET /m4rked/m4rked?token=m4rked&email=m4rked@example.org HTTP/1.1\r\nHost: m4rked\r\n",
        "M4RKED /api/v1/me HTTP/1.1\r\nHost: kith\r\n",
        "GET /api/v1/me HTTP/1.1\r\nHost: kith\r\nm4rked\r\n",
        "GET m4rked\r\n",
        "POST /api/v1/auth/login?m4rked HTTP/1.1\r\nHost: kith\r\nContent-Length: 10000000\r\n",
        "POST /api/v1/auth/login HTTP/1.1\r\nHost: kith\r\nContent-Type: application/m4rked\r\nContent-Length: 6\r\n\r\nm4rked",
        "POST /api/v1/auth/login HTTP/1.1\r\nHost: kith\r\nContent-Length: m4rked\r\n",
        "POST /api/v1/auth/login HTTP/1.1\r\nHost: kith\r\nTransfer-Encoding: chunked\r\n\r\nm4rked\r\n",
    ] {
        found.push(raw(addr, &format!("{head}Connection: close\r\n\r\n")).await);
    }
    found
}

/// Sends raw bytes and returns the response.
async fn raw(addr: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.expect("a connection");
    stream.write_all(request.as_bytes()).await.expect("the server accepts the request");
    let mut response = Vec::new();
    // A reset also ends the connection.
    let _ = stream.read_to_end(&mut response).await;
    String::from_utf8_lossy(&response).into_owned()
}
