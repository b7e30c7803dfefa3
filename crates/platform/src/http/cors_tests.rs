//! Tests that pages of allowed origins can call the server, and that pages of other origins cannot.

use crate::config::{Config, Inputs, Mode};
use crate::testing::{TestServer, header, status};

const LISTED: &str = "https://app.example.org";
const PREFLIGHT: &str =
    "Access-Control-Request-Method: PATCH\r\nAccess-Control-Request-Headers: if-match\r\n";

async fn listing() -> TestServer {
    TestServer::start(|config| {
        let listed = [LISTED, "capacitor://localhost", "http://localhost:5173"];
        config.server.cors_origins = listed.map(|origin| origin.to_owned().try_into().unwrap()).to_vec();
        config.server.mode = Mode::Production;
        config.server.max_body_bytes = 10;
        config.server.request_timeout_ms = 20;
        config.limits.auth_per_minute = 1;
    })
    .await
}

/// Proves the readiness requirement SEC-08.
#[tokio::test]
async fn listed_origins_can_read_all_responses() {
    let test = listing().await;
    for origin in [LISTED, "capacitor://localhost", "http://localhost:5173"] {
        let from = format!("Origin: {origin}\r\n");
        test.send_request("POST /api/v1/auth/timeless", &from).await;
        for (line, headers, expected) in [
            ("GET /some", "", "200"),
            ("GET /some", "If-None-Match: *\r\n", "304"),
            ("GET /api/v1/ping", "", "204"),
            ("GET /moved", "", "308"),
            ("GET /secret", "", "401"),
            ("GET /nothing", "", "404"),
            ("DELETE /some", "", "405"),
            ("POST /echo", "Content-Length: 11\r\n", "413"),
            ("POST /echo", "Content-Type: text/plain\r\n", "415"),
            ("POST /api/v1/auth/timeless", "", "429"),
            ("GET /panics", "", "500"),
            ("GET /hangs", "", "503"),
        ] {
            let answer = test.send_request(line, &format!("{from}{headers}")).await;
            assert_eq!(status(&answer), expected, "{line}");
            assert_eq!(header(&answer, "access-control-allow-origin"), Some(origin), "{line}");
            let exposed = header(&answer, "access-control-expose-headers").unwrap();
            for name in ["etag", "link", "location", "ratelimit", "retry-after", "x-request-id"] {
                assert!(exposed.split(", ").any(|exposed| exposed == name), "{name} is missing in {exposed}");
            }
            assert!(answer.contains("vary: origin\r\n"), "{answer}");
            assert_eq!(header(&answer, "access-control-allow-credentials"), None);
        }
    }
}

/// Proves the readiness requirement SEC-08.
#[tokio::test]
async fn preflight_lists_allowed_methods_and_headers() {
    let test = listing().await;
    for path in ["/some", "/api/v1/auth/timeless", "/nothing"] {
        let answer =
            test.send_request(&format!("OPTIONS {path}"), &format!("Origin: {LISTED}\r\n{PREFLIGHT}")).await;
        assert_eq!(status(&answer), "204");
        assert_eq!(header(&answer, "access-control-allow-origin"), Some(LISTED));
        assert!(header(&answer, "access-control-allow-methods").unwrap().contains("PATCH"));
        for name in ["authorization", "content-type", "idempotency-key", "if-match"] {
            assert!(header(&answer, "access-control-allow-headers").unwrap().contains(name), "{answer}");
        }
        assert_eq!(header(&answer, "access-control-allow-credentials"), None);
        assert_eq!(header(&answer, "x-content-type-options"), Some("nosniff"));
    }
    let no_preflight = test.send_request("OPTIONS /some", &format!("Origin: {LISTED}\r\n")).await;
    assert_eq!(status(&no_preflight), "405");
}

/// Proves the readiness requirement SEC-08.
#[tokio::test]
async fn unlisted_origins_are_rejected() {
    let hostile = [
        "null",
        "*",
        "http://app.example.org",
        "https://app.example.org.evil.example",
        "https://evil.example/https://app.example.org",
        "https://evilapp.example.org",
        "https://sub.app.example.org",
        "https://example.org",
        "https://app.example.org:8443",
        "https://app.example.org:443",
        "https://app.example.org/",
        "https://APP.example.org",
        "https://app.example.org, https://evil.example",
        "https://app.example.org%00",
        "https://app.example.org`.evil.example",
        "https://appXexample.org",
        "http://localhost:5174",
        "http://localhost",
        "",
    ];
    let unlisted = TestServer::start(|config| config.server.mode = Mode::Production).await;
    for test in [listing().await, unlisted] {
        for origin in hostile {
            for (line, more, expected) in [("GET /some", "", "200"), ("OPTIONS /some", PREFLIGHT, "403")] {
                let answer = test.send_request(line, &format!("Origin: {origin}\r\n{more}")).await;
                assert_eq!(status(&answer), expected, "{origin}");
                assert!(!answer.contains("access-control-"), "{origin}: {answer}");
            }
        }
    }
}

/// Proves the readiness requirement SEC-08.
#[test]
fn listed_origins_are_validated() {
    let load = |origin: &str, mode: &str| {
        let set = |key: &str, value: &str| (key.into(), value.into());
        let env = vec![
            set("KITH__SERVER__MODE", mode),
            set("KITH__SERVER__CORS_ORIGINS", origin),
            set("KITH__AUTH__JWT_SECRET", "a secret of at least thirty-two bytes"),
            set("KITH__AUTH__JWT_REFRESH_SECRET", "another secret of at least thirty-two"),
        ];
        Config::load(&Inputs { file: Some("".into()), env, ..Inputs::default() }, &[])
    };
    for exact in
        [LISTED, "https://app.example.org:8443", "https://[2001:db8::1]:8443", "capacitor://localhost"]
    {
        load(exact, "production").unwrap();
    }
    for local in ["http://localhost:5173", "http://127.0.0.1:3000"] {
        load(local, "development").unwrap();
        let error = load(local, "production").unwrap_err().to_string();
        assert!(error.contains("server.cors_origins") && error.contains("http://"), "{error}");
    }
    for wrong in [
        "*",
        "null",
        "app.example.org",
        "https://",
        "https://*.example.org",
        "https://app.example.org/",
        "https://app.example.org/path",
        "https://app.example.org?",
        "https://App.example.org",
        "https://app.example.org:443",
        "https://app.example.org:",
        "https://user@app.example.org",
        "https://app.example.org https://b.example.org",
        "://app.example.org",
    ] {
        let error = load(wrong, "development").unwrap_err().to_string();
        assert!(error.contains("server.cors_origins"), "{wrong}: {error}");
    }
}

/// Regression: a preflight request from `http://localhost:5173` returned 405, and the response did not
/// mention `server.cors_origins`.
#[tokio::test]
async fn loopback_origins_may_call_in_development_mode_only() {
    let test = TestServer::start(|_| {}).await;
    for origin in [
        "http://localhost:5173",
        "http://localhost",
        "https://localhost:3000",
        "http://127.0.0.1:8081",
        "http://[::1]:5173",
        "http://app.localhost:5173",
    ] {
        let from = format!("Origin: {origin}\r\n");
        let preflight = test.send_request("OPTIONS /some", &format!("{from}{PREFLIGHT}")).await;
        assert_eq!(status(&preflight), "204", "{origin}");
        for answer in [preflight, test.send_request("GET /some", &from).await] {
            assert_eq!(header(&answer, "access-control-allow-origin"), Some(origin));
        }
    }
    for origin in [
        "https://evil.example",
        "http://localhost.evil.example",
        "http://evillocalhost:80",
        "http://10.0.0.1",
        "http://127.0.0.1.evil.example",
        "http://localhost:80@evil.example",
        "http://localhost:x",
        "http://localhost:",
        "http://.localhost",
        "http://a b.localhost",
        "ftp://localhost",
        "http://[::1",
        "null",
    ] {
        let answer = test.send_request("OPTIONS /some", &format!("Origin: {origin}\r\n{PREFLIGHT}")).await;
        assert_eq!(status(&answer), "403", "{origin}");
        assert!(!answer.contains("access-control-"), "{origin}: {answer}");
        assert!(answer.contains("origin_not_allowed") && answer.contains("server.cors_origins"), "{answer}");
    }
}
