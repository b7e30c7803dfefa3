//! The rules of Mozilla's HTTP Observatory, over answers of every kind.
//!
//! Names and modifiers are those of its `SCORE_TABLE` (mdn-http-observatory, `src/grader/charts.js`). What a server behind
//! its proxy cannot show (the redirection to HTTPS, preloading) counts nothing here; answers set no cookie and load no
//! script.

use crate::config::Mode;
use crate::testing::{TestServer, header};

/// What the answer gets for one of the rules.
struct Mark {
    rule: &'static str,
    modifier: i32,
}

fn marks(answer: &str) -> Vec<Mark> {
    let of = |name| header(answer, name).unwrap_or_default();
    let modifiers = [
        ("content-security-policy", csp(of("content-security-policy"))),
        ("cookies", if of("set-cookie").is_empty() { 0 } else { -40 }),
        ("cross-origin-resource-policy", corp(of("cross-origin-resource-policy"))),
        ("cross-origin-resource-sharing", cors(of("access-control-allow-origin"), answer)),
        ("referrer-policy", referrer(of("referrer-policy"))),
        ("strict-transport-security", hsts(of("strict-transport-security"))),
        ("subresource-integrity", if answer.contains("<script") { -50 } else { 0 }),
        ("x-content-type-options", if of("x-content-type-options") == "nosniff" { 0 } else { -5 }),
        ("x-frame-options", frames(of("x-frame-options"), of("content-security-policy"))),
    ];
    modifiers.map(|(rule, modifier)| Mark { rule, modifier }).into()
}

fn csp(policy: &str) -> i32 {
    let directive = |name: &str| {
        let mut directives = policy.split(';').map(str::trim);
        directives.find_map(|directive| directive.strip_prefix(name)?.strip_prefix(' '))
    };
    let is_tight = |value: Option<&str>| matches!(value, Some("'none'" | "'self'"));
    let is_open = ["unsafe-", "data:", "http:", "https:", "*"].iter().any(|word| policy.contains(word));
    match directive("default-src") {
        None => -25,
        Some(_) if is_open => -20,
        Some("'none'") if is_tight(directive("form-action")) => 10,
        Some(_) => 5,
    }
}

fn corp(policy: &str) -> i32 {
    match policy {
        "same-origin" | "same-site" => 10,
        "" | "cross-origin" => 0,
        _ => -5,
    }
}

fn cors(origin: &str, answer: &str) -> i32 {
    let credentials = header(answer, "access-control-allow-credentials") == Some("true");
    if credentials && !origin.is_empty() { -50 } else { 0 }
}

fn referrer(policy: &str) -> i32 {
    match policy {
        "no-referrer" | "same-origin" | "strict-origin" | "strict-origin-when-cross-origin" => 5,
        "" => 0,
        _ => -5,
    }
}

fn hsts(value: &str) -> i32 {
    const SIX_MONTHS_S: u32 = 15_768_000;
    let max_age = value.split(';').find_map(|part| part.trim().strip_prefix("max-age=")?.parse::<u32>().ok());
    match max_age {
        None => -20,
        Some(seconds) if seconds < SIX_MONTHS_S => -10,
        Some(_) => 0,
    }
}

fn frames(options: &str, csp: &str) -> i32 {
    match options {
        _ if csp.contains("frame-ancestors 'none'") || csp.contains("frame-ancestors 'self'") => 5,
        "DENY" | "SAMEORIGIN" => 0,
        _ => -20,
    }
}

/// Credit beyond 100 only counts from 90 on.
fn score(marks: &[Mark]) -> i32 {
    let sum = |of: &dyn Fn(i32) -> bool| {
        marks.iter().map(|mark| mark.modifier).filter(|modifier| of(*modifier)).sum::<i32>()
    };
    let base = 100 + sum(&|modifier| modifier < 0);
    if base >= 90 { base + sum(&|modifier| modifier > 0) } else { base }
}

/// SEC-05, SEC-07.
#[tokio::test]
async fn no_answer_of_any_kind_has_a_penalty() {
    let test = TestServer::start(|config| {
        config.server.mode = Mode::Production;
        config.server.body_limit_bytes = 10;
        config.server.request_timeout_ms = 20;
        config.limits.auth_per_minute = 1;
    })
    .await;
    test.ask("POST /api/v1/auth/timeless", "").await;
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
        let answer = test.ask(line, headers).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {kind}")), "{line}: {answer}");
        let marks = marks(&answer);
        println!("{line}: {kind}, {} points", score(&marks));
        for mark in &marks {
            assert!(mark.modifier >= 0, "{line}: {} costs {}\n{answer}", mark.rule, mark.modifier);
        }
        assert_eq!(score(&marks), 130, "{line}: A+ is from 100 on");
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
async fn development_does_not_bind_browsers_to_tls() {
    let test = TestServer::start(|_| {}).await;
    assert_eq!(header(&test.ask("GET /some", "").await, "strict-transport-security"), None);
}

#[test]
fn the_rules_see_what_is_missing() {
    let bare = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n<script src=x>";
    assert!(score(&marks(bare)) < 0);
    let open = "HTTP/1.1 200 OK\r\ncontent-security-policy: default-src 'self' 'unsafe-inline'\r\n\r\n";
    assert!(marks(open).iter().any(|mark| mark.rule == "content-security-policy" && mark.modifier == -20));
}
