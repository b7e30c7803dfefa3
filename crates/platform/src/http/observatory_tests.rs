//! Tests responses of every kind with the rules of Mozilla's HTTP Observatory
//! (`kith_readiness::observatory`).

use http::{HeaderMap, HeaderName, HeaderValue};
use kith_readiness::observatory::{RuleScore, rule_scores, score};

use crate::config::Mode;
use crate::testing::{TestServer, header};

/// Returns the score of each rule for a raw response.
fn marks_of(answer: &str) -> Vec<RuleScore> {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let fields = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    let fields = fields
        .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap()));
    rule_scores(&fields.collect::<HeaderMap>(), body)
}

/// Proves the readiness requirements SEC-05, SEC-07.
#[tokio::test]
async fn responses_pass_the_observatory_rules() {
    let test = TestServer::start(|config| {
        config.server.mode = Mode::Production;
        config.server.max_body_bytes = 10;
        config.server.request_timeout_ms = 20;
        config.limits.auth_per_minute = 1;
    })
    .await;
    test.send_request("POST /api/v1/auth/timeless", "").await;
    for (line, headers, kind) in [
        ("GET /page", "", "200"),
        ("GET /some", "", "200"),
        ("GET /api/v1/auth/some", "", "200"),
        ("GET /api/health", "", "200"),
        ("GET /api/metrics", "", "200"),
        ("GET /openapi.json", "", "200"),
        ("GET /api/v1/ping", "", "204"),
        ("GET /some", "If-None-Match: *\r\n", "304"),
        ("GET /moved", "", "308"),
        ("POST /echo", "Content-Type: application/json\r\nContent-Length: 1\r\n\r\n{", "400"),
        ("GET /secret", "", "401"),
        ("GET /nothing", "", "404"),
        ("DELETE /some", "", "405"),
        ("POST /echo", "Content-Length: 11\r\n", "413"),
        ("POST /api/v1/auth/timeless", "", "429"),
        ("GET /panics", "", "500"),
        ("GET /hangs", "", "503"),
    ] {
        let answer = test.send_request(line, headers).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {kind}")), "{line}: {answer}");
        let marks = marks_of(&answer);
        println!("{line}: {kind}, {} points", score(&marks));
        for mark in &marks {
            assert!(mark.modifier >= 0, "{line}: {} costs {}\n{answer}", mark.rule, mark.modifier);
        }
        assert_eq!(score(&marks), 130, "{line}: the score is 130 (A+ starts at 100)");
        for (name, value) in [
            ("x-frame-options", "DENY"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-embedder-policy", "require-corp"),
        ] {
            assert_eq!(header(&answer, name), Some(value), "{line}");
        }
        assert!(header(&answer, "permissions-policy").is_some_and(|policy| policy.contains("camera=()")));
    }
}

#[tokio::test]
async fn development_mode_sends_no_hsts() {
    let test = TestServer::start(|_| {}).await;
    assert_eq!(header(&test.send_request("GET /some", "").await, "strict-transport-security"), None);
}
