//! What the binary logs of a request: one line, with the request's id, and nothing that is secret.

use kith_store::testing::TestDatabase;
use serde_json::{Value, json};

use crate::support::{Client, Kith, SERVE, X_REQUEST_ID, kith};

const PASSWORD: &str = "a-secret-that-nobody-logs";
const EMAIL: &str = "ada.of.the.log@example.org";
const REGISTER: &str = "/api/v1/auth/register";

/// Registers somebody under the id `request_id`, has the access token used, and returns all that was logged.
async fn log_of(format: &str, request_id: &str) -> Vec<String> {
    let database = TestDatabase::sqlite();
    let mut command = kith(database.folder().expect("a folder"), SERVE);
    command.env("KITH__LOG__FORMAT", format).env("KITH__LOG__LEVEL", "trace");
    let kith = Kith::start(command);
    let client = Client::new([kith.addr]);
    let body = json!({ "email": EMAIL, "password": PASSWORD, "display_name": "Ada" });
    let answer = client.with_header(X_REQUEST_ID, request_id).post(REGISTER, body).await.expect(201);
    let token = answer["access_token"].as_str().expect("a token");
    client
        .with_token(token)
        .with_header(X_REQUEST_ID, "the-last-request")
        .get("/api/v1/me")
        .await
        .expect(200);
    client.with_token("a.forged.token").get("/api/v1/me").await.expect_problem(401, "unauthenticated");
    let mut lines = kith.log_up_to(&["the-last-request"]);
    lines.extend(kith.log_up_to(&["/api/v1/me", "401"]));
    let refresh_token = answer["refresh_token"].as_str().expect("a token");
    for secret in [PASSWORD, EMAIL, token, refresh_token, "a.forged.token"] {
        assert!(!lines.iter().any(|line| line.contains(secret)), "{secret} is in {lines:#?}");
    }
    lines
}

/// API-06.
#[tokio::test]
async fn a_line_of_json_tells_of_each_request() {
    let lines = log_of("json", "test-json-log").await;
    let lines = lines.iter().map(|line| serde_json::from_str(line).expect("JSON"));
    let mut told: Vec<Value> = lines.filter(|line: &Value| line["request_id"] == "test-json-log").collect();
    assert_eq!(told.len(), 1, "{told:#?}");
    let line = told.remove(0);
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
}

/// API-06.
#[tokio::test]
async fn a_pretty_line_tells_of_each_request() {
    let lines = log_of("pretty", "test-pretty-log").await;
    let told: Vec<_> = lines.iter().filter(|line| line.contains("test-pretty-log")).collect();
    let [line] = told[..] else { panic!("{told:#?}") };
    assert!(serde_json::from_str::<Value>(line).is_err(), "{line}");
    for part in ["INFO", "kith::request", r#"method="POST""#, &format!("route={REGISTER:?}"), "status=201"] {
        assert!(line.contains(part), "no {part} in {line}");
    }
}
