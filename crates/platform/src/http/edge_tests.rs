//! Tests over real connections of the processing that is common to all requests.

use std::sync::Arc;

use serde_json::Value;
use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tracing::subscriber::DefaultGuard;

use crate::telemetry::log;
use crate::testing::{TestServer, header, keep_second_subscriber, read_to_end, status};

/// Checks the members that every problem response has, and returns its body.
fn problem(answer: &str) -> Value {
    assert_eq!(header(answer, "content-type"), Some("application/problem+json"), "{answer}");
    let body: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(body["status"].to_string(), status(answer));
    assert_eq!(body["request_id"], header(answer, "x-request-id").unwrap());
    assert_eq!(body["type"], format!("urn:kith:problem:{}", body["code"].as_str().unwrap()));
    assert!(body["title"].is_string() && body["detail"].is_string(), "{body}");
    body
}

async fn post(test: &TestServer, path: &str, headers: &str, body: &str) -> String {
    let headers = format!("{headers}Content-Length: {}\r\n", body.len());
    let head = format!("POST {path} HTTP/1.1\r\nHost: kith\r\nConnection: close\r\n{headers}\r\n");
    test.raw(&(head + body)).await
}

const JSON: &str = "Content-Type: application/json\r\n";

#[tokio::test]
async fn valid_request_ids_are_kept_and_others_replaced() {
    let test = TestServer::start(|_| {}).await;
    let kept = test.send_request("GET /api/v1/ping", "X-Request-Id: my-app_1.2\r\n").await;
    assert_eq!(header(&kept, "x-request-id"), Some("my-app_1.2"));
    for hostile in ["short", "has a space in it", "quote\"quote", "\u{fc}mlaut-\u{fc}mlaut"] {
        let answer = test.send_request("GET /api/v1/ping", &format!("X-Request-Id: {hostile}\r\n")).await;
        let id = header(&answer, "x-request-id").unwrap();
        assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{hostile}: {id}");
    }
}

#[test]
fn host_accepts_name_or_address_with_optional_port() {
    let is_host = |value: &str| super::is_host(&value.parse().unwrap());
    for good in ["kith", "kith.example.org:443", "127.0.0.1:8080", "[::1]", "[::1]:8080", "kith:"] {
        assert!(is_host(good), "{good}");
    }
    for bad in
        ["", ":80", "kith:abc", "kith:+80", "kith:99999", "a@kith", "kith/path", "kith other", "[::1]x"]
    {
        assert!(!is_host(bad), "{bad}");
    }
}

#[test]
fn traceparent_is_parsed_per_w3c() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let read = |values: &[&str]| {
        let mut headers = http::HeaderMap::new();
        for value in values {
            headers.append("traceparent", value.parse().unwrap());
        }
        super::trace_id(&headers).map(str::to_owned)
    };
    let good = format!("00-{TRACE}-00f067aa0ba902b7-01");
    assert_eq!(read(&[&good]).as_deref(), Some(TRACE));
    assert_eq!(read(&[&format!("cc-{TRACE}-00f067aa0ba902b7-01-more")]).as_deref(), Some(TRACE));
    assert_eq!(read(&[&good, &good]), None);
    for bad in [
        "",
        TRACE,
        &format!("{good}-more"),
        &format!("ff-{TRACE}-00f067aa0ba902b7-01"),
        &format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()),
        &format!("00-{TRACE}-0000000000000000-01"),
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        &format!("00-{TRACE}-00f067aa0ba902b7-1"),
    ] {
        assert_eq!(read(&[bad]), None, "{bad}");
    }
}

#[tokio::test]
async fn responses_have_security_and_timing_headers() {
    let test = TestServer::start(|_| {}).await;
    for path in ["/api/v1/ping", "/nope", "/api/health", "/panics"] {
        let answer = test.send_request(&format!("GET {path}"), "").await;
        assert_eq!(header(&answer, "x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(header(&answer, "cache-control"), Some("no-store"), "{path}");
        assert!(header(&answer, "content-security-policy").unwrap().contains("default-src 'none'"), "{path}");
        assert!(header(&answer, "server-timing").unwrap().starts_with("app;dur="), "{path}");
    }
    let answer = test.send_request("GET /api/v1/auth/timeless", "").await;
    assert_eq!((status(&answer), header(&answer, "server-timing")), ("204", None));
}

#[tokio::test]
async fn router_rejections_return_problem_details() {
    let test = TestServer::start(|_| {}).await;
    let absent = test.send_request("GET /nope", "").await;
    assert_eq!(problem(&absent)["code"], "not_found");
    let method = test.send_request("DELETE /api/v1/ping", "").await;
    assert_eq!(problem(&method)["code"], "method_not_allowed");
    assert_eq!(header(&method, "allow"), Some("GET,HEAD"));
    for id in ["1", "%ff", "00000000-0000-0000-0000-00000000000g"] {
        assert_eq!(
            problem(&test.send_request(&format!("GET /things/{id}"), "").await)["code"],
            "not_found",
            "{id}"
        );
    }
    let id = "0199c7b0-a3c0-7a3e-8f1d-2b3c4d5e6f70";
    assert_eq!(status(&test.send_request(&format!("GET /things/{id}"), "").await), "200");
}

#[tokio::test]
async fn panic_is_answered_with_500() {
    let test = TestServer::start(|_| {}).await;
    let answer = test.send_request("GET /panics", "").await;
    let body = problem(&answer);
    assert_eq!(body["code"], "internal_error");
    assert!(!answer.contains("probe"), "{answer}");
    assert_eq!(status(&test.send_request("GET /api/v1/ping", "").await), "204");
    assert_eq!(test.app.metrics.in_flight.get(), 0);
}

#[tokio::test]
async fn timed_out_write_reports_outcome_unknown() {
    let test = TestServer::start(|config| config.server.request_timeout_ms = 20).await;
    let read = test.send_request("GET /hangs", "").await;
    assert_eq!(problem(&read)["code"], "unavailable");
    assert_eq!(header(&read, "retry-after"), Some("1"));
    assert_eq!(problem(&post(&test, "/hangs", "", "").await)["code"], "outcome_unknown");
}

#[tokio::test]
async fn body_size_type_and_time_are_enforced() {
    let test = TestServer::start(|config| {
        config.server.max_body_bytes = 64;
        config.server.body_timeout_ms = 50;
    })
    .await;
    let word = |letters: usize| format!("{{\"word\": \"{}\"}}", "x".repeat(letters));
    assert_eq!(status(&post(&test, "/echo", JSON, &word(52)).await), "200");
    assert_eq!(problem(&post(&test, "/echo", JSON, &word(53)).await)["code"], "body_too_large");
    let chunked = format!("{JSON}Transfer-Encoding: chunked\r\n\r\n50\r\n{}\r\n0\r\n", "x".repeat(80));
    assert_eq!(problem(&test.send_request("POST /echo", &chunked).await)["code"], "body_too_large");
    for kind in ["", "Content-Type: text/plain\r\n", "Content-Type: application/jsonp\r\n"] {
        assert_eq!(
            problem(&post(&test, "/echo", kind, "{}").await)["code"],
            "unsupported_media_type",
            "{kind}"
        );
    }
    let packed = format!("{JSON}Content-Encoding: br\r\n");
    let refused = post(&test, "/echo", &packed, "{}").await;
    assert_eq!(problem(&refused)["code"], "unsupported_encoding");
    assert_eq!(header(&refused, "accept-encoding"), Some("gzip"));
    let not_zipped = format!("{JSON}Content-Encoding: gzip\r\n");
    assert_eq!(problem(&post(&test, "/echo", &not_zipped, "{}").await)["code"], "malformed_request");
    let charset = "Content-Type: Application/JSON; charset=utf-8\r\n";
    assert_eq!(status(&post(&test, "/echo", charset, &word(1)).await), "200");
    let late = format!(
        "POST /echo HTTP/1.1\r\nHost: kith\r\nConnection: close\r\n{JSON}Content-Length: 9\r\n\r\n{{"
    );
    let mut stream = test.connect().await;
    stream.write_all(late.as_bytes()).await.unwrap();
    assert_eq!(problem(&read_to_end(&mut stream).await)["code"], "request_timeout");
}

/// API-09: a response that is sent before the body has arrived announces that the connection closes.
#[tokio::test]
async fn early_response_to_large_body_announces_close() {
    let test = TestServer::start(|config| config.server.max_body_bytes = 10_000).await;
    for (path, kind, length, status, ends) in [
        ("/echo", JSON, 10_001, "413", true),
        ("/echo", "", 10_000, "415", true),
        ("/nothing", JSON, 10_000, "404", true),
        ("/echo", "", 10, "415", false),
    ] {
        let head = format!("POST {path} HTTP/1.1\r\nHost: kith\r\n{kind}Content-Length: {length}\r\n\r\n");
        let mut stream = test.connect().await;
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![b' '; length]).await.unwrap();
        let mut answer = vec![0; 4096];
        let n = stream.read(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..n]);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert_eq!(header(&answer, "connection") == Some("close"), ends, "{path} {length}: {answer}");
    }
}

#[tokio::test]
async fn body_fault_has_pointer_and_code() {
    let test = TestServer::start(|_| {}).await;
    let body = problem(&post(&test, "/echo", JSON, r#"{"word": "a", "more": 1}"#).await);
    assert_eq!((&body["status"], &body["code"]), (&422.into(), &"validation_failed".into()));
    assert_eq!(
        (&body["errors"][0]["pointer"], &body["errors"][0]["code"]),
        (&"/more".into(), &"unknown_field".into())
    );
    assert_eq!(problem(&post(&test, "/echo", JSON, "{").await)["code"], "malformed_request");
}

#[tokio::test]
async fn invalid_credentials_are_challenged() {
    let test = TestServer::start(|_| {}).await;
    let invalid = "Bearer error=\"invalid_token\", error_description=\"The access token is not valid\"";
    for (headers, challenge) in [
        ("", "Bearer"),
        ("Authorization: Bearer x\r\n", invalid),
        ("Authorization: Basic x\r\n", "Bearer"),
        ("Authorization: Bearer\r\n", "Bearer"),
    ] {
        let answer = test.send_request("GET /secret", headers).await;
        assert_eq!(problem(&answer)["code"], "unauthenticated", "{headers}");
        assert_eq!(header(&answer, "www-authenticate"), Some(challenge), "{headers}");
    }
}

/// RFC 6750, section 3.1: the challenge distinguishes expired tokens from invalid ones.
#[tokio::test]
async fn expired_token_is_named_in_the_challenge() {
    let test = TestServer::start(|_| {}).await;
    let ctx = test.app.system_ctx("tests");
    let token = test.app.tokens.issue(&ctx, ctx.new_id(kith_kernel::UserId), ctx.new_id(|id| id));
    test.clock.advance(kith_kernel::hours(1));
    let answer = test.send_request("GET /secret", &format!("Authorization: Bearer {token}\r\n")).await;
    let expected = "Bearer error=\"invalid_token\", error_description=\"The access token expired\"";
    assert_eq!(header(&answer, "www-authenticate"), Some(expected));
    assert_eq!(problem(&answer)["detail"], "The access token has expired. Refresh it and retry.");
}

/// RFC 9112, section 3.2: an HTTP/1.1 request has exactly one valid Host header.
#[tokio::test]
async fn request_needs_exactly_one_valid_host() {
    let test = TestServer::start(|_| {}).await;
    let ping = async |version: &str, hosts: &str| {
        let request = format!("GET /api/v1/ping HTTP/{version}\r\nConnection: close\r\n{hosts}\r\n");
        status(&test.raw(&request).await).to_owned()
    };
    for hosts in
        ["Host: kith\r\n", "Host: 127.0.0.1:8080\r\n", "Host: [::1]:8080\r\n", "HOST: kith.example\r\n"]
    {
        assert_eq!(ping("1.1", hosts).await, "204", "{hosts}");
    }
    for hosts in [
        "",
        "Host: a\r\nHost: b\r\n",
        "Host: a\r\nHost: a\r\n",
        "Host: \r\n",
        "Host: a b\r\n",
        "Host: user@a\r\n",
        "Host: a/b\r\n",
        "Host: a,b c\r\n",
    ] {
        assert_eq!(ping("1.1", hosts).await, "400", "{hosts:?}");
    }
    assert_eq!(
        (ping("1.0", "").await, ping("1.0", "Host: a\r\nHost: b\r\n").await),
        ("204".into(), "400".into())
    );
}

#[tokio::test]
async fn too_large_body_problem_names_the_limit() {
    let test = TestServer::start(|config| config.server.max_body_bytes = 20).await;
    let declared = post(&test, "/echo", JSON, r#"{"word": "a word that is too long"}"#).await;
    assert_eq!(problem(&declared)["detail"], "The body must not exceed 20 bytes.");
}

#[tokio::test]
async fn all_body_faults_are_reported() {
    let test = TestServer::start(|_| {}).await;
    let body = problem(&post(&test, "/echo", JSON, r#"{"more": 1, "words": []}"#).await);
    let faults: Vec<_> =
        body["errors"].as_array().unwrap().iter().map(|fault| (&fault["pointer"], &fault["code"])).collect();
    let expected = [("/more", "unknown_field"), ("/word", "missing"), ("/words", "unknown_field")];
    assert_eq!(
        faults,
        expected.map(|(pointer, code)| (pointer.into(), code.into())).each_ref().map(|(a, b)| (a, b))
    );
}

#[tokio::test]
async fn requests_are_counted_under_their_route() {
    let test = TestServer::start(|_| {}).await;
    test.send_request("GET /api/v1/ping", "").await;
    test.send_request("GET /nope", "").await;
    test.send_request("GET /things/1", "").await;
    let text = test.send_request("GET /api/metrics", "").await;
    for line in [
        r#"kith_http_requests_total{method="GET",route="/api/v1/ping",status="2xx"} 1"#,
        r#"kith_http_requests_total{method="(any)",route="(none)",status="4xx"} 1"#,
        r#"kith_http_requests_total{method="GET",route="/things/{id}",status="4xx"} 1"#,
        r#"kith_http_request_duration_seconds_count{method="GET",route="/api/v1/ping"} 1"#,
        "kith_http_requests_in_flight 1",
        "kith_store_commits_total",
        "kith_passwords_queued 0",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

/// Log lines of the current thread. The server of a test runs on this thread.
struct CapturedLogs {
    lines: NamedTempFile,
    _listening: DefaultGuard,
}

impl CapturedLogs {
    fn listen(pretty: bool) -> Self {
        keep_second_subscriber();
        let lines = NamedTempFile::new().unwrap();
        let (subscriber, _) = log::subscriber("info", pretty, Arc::new(lines.reopen().unwrap()));
        Self { lines, _listening: tracing::subscriber::set_default(subscriber) }
    }

    /// Returns the line that contains `request`.
    fn line_of(&self, request: &str) -> String {
        let all = std::fs::read_to_string(self.lines.path()).unwrap();
        all.lines().find(|line| line.contains(request)).unwrap_or_else(|| panic!("{all}")).to_owned()
    }
}

#[tokio::test]
async fn request_is_logged_with_id_without_query() {
    for pretty in [false, true] {
        let logs = CapturedLogs::listen(pretty);
        let test = TestServer::start(|_| {}).await;
        test.send_request("GET /things/1?secret=1", "X-Request-Id: my-request\r\n").await;
        let line = logs.line_of("my-request");
        assert!(!line.contains("secret"), "{line}");
        if pretty {
            for part in ["INFO", "method=\"GET\"", "route=\"/things/{id}\"", "status=404"] {
                assert!(line.contains(part), "{part} is missing in {line}");
            }
        } else {
            let line: Value = serde_json::from_str(&line).unwrap();
            assert_eq!((&line["level"], &line["target"]), (&"INFO".into(), &"kith::request".into()));
            assert_eq!((&line["method"], &line["route"]), (&"GET".into(), &"/things/{id}".into()));
            assert_eq!((&line["status"], &line["request_id"]), (&404.into(), &"my-request".into()));
            assert!(line["micros"].is_u64() && line["timestamp"].is_string(), "{line}");
        }
    }
}

#[tokio::test]
async fn disconnected_client_is_counted_and_logged() {
    let logs = CapturedLogs::listen(false);
    let test = TestServer::start(|_| {}).await;
    let mut stream = test.connect().await;
    let head = "GET /hangs HTTP/1.1\r\nHost: kith\r\nX-Request-Id: goes-away\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    while test.app.metrics.in_flight.get() == 0 {
        tokio::task::yield_now().await;
    }
    drop(stream);
    while test.app.metrics.in_flight.get() > 0 {
        tokio::task::yield_now().await;
    }
    let counted = r#"kith_http_requests_total{method="GET",route="/hangs",status="4xx"} 1"#;
    assert!(test.app.metrics.to_text().contains(counted), "{}", test.app.metrics.to_text());
    let line = logs.line_of("goes-away");
    assert!(line.contains("\"status\":499"), "{line}");
}

#[tokio::test]
async fn invalid_http_is_rejected_and_logged() {
    let logs = CapturedLogs::listen(false);
    let test = TestServer::start(|_| {}).await;
    let long = format!("GET /{} HTTP/1.1\r\nHost: kith\r\n\r\n", "x".repeat(70_000));
    for (raw, refused) in [("what?\r\n\r\n", "400"), (&*long, "414")] {
        let answer = test.raw(raw).await;
        assert_eq!(status(&answer), refused, "{answer}");
    }
    let line: Value = serde_json::from_str(&logs.line_of("not a valid HTTP request")).unwrap();
    assert_eq!((&line["level"], &line["target"]), (&"INFO".into(), &"kith::request".into()));
    assert!(!line.to_string().contains("127.0.0.1"), "the log line contains a client address: {line}");
}
