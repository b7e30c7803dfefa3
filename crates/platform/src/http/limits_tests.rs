//! Tests that each rate limit applies as configured and cannot be bypassed.

use std::net::Ipv6Addr;

use kith_kernel::{ManualClock, Timestamp, seconds};

use super::*;
use crate::testing::{TestServer, header, status};

const BEGINNING: Timestamp = Timestamp::from_millis(1_767_225_600_000);

fn policy(per_minute: u32, clock: &Arc<ManualClock>) -> Policy {
    let time = LimiterClock::of(clock.clone());
    Policy::new("test", NonZeroU32::new(per_minute).unwrap(), time, Counter::default())
}

/// Returns the number of requests that are accepted before the first 429.
async fn allowance(test: &TestServer, line: &str, headers: &str) -> usize {
    let mut allowed = 0;
    while status(&test.send_request(line, headers).await) != "429" {
        allowed += 1;
    }
    allowed
}

async fn limited(proxies: &[&str]) -> TestServer {
    TestServer::start(|config| {
        config.server.trusted_proxies = proxies.iter().map(|proxy| proxy.parse().unwrap()).collect();
        config.limits.requests_per_minute = 7;
        config.limits.auth_per_minute = 3;
    })
    .await
}

/// Proves the readiness requirement SEC-25.
#[tokio::test]
async fn each_rate_class_applies_its_limit() {
    let test = limited(&[]).await;
    for (line, configured, policy) in [
        ("GET /api/v1/ping", 7, "requests"),
        ("GET /things/1", 7, "requests"),
        ("POST /api/v1/auth/timeless", 3, "auth"),
        ("GET /api/v1/auth/timeless", 7, "requests"),
        ("GET /api/v1/partners/probe", 5, "slow"),
        ("GET /nothing", 7, "requests"),
    ] {
        assert_eq!(allowance(&test, line, "").await, configured, "{line}");
        let refused = test.send_request(line, "").await;
        assert!(refused.contains("\"code\":\"rate_limited\""), "{refused}");
        let (q, wait_s) = (configured, 60_usize.div_ceil(configured).to_string());
        assert_eq!(header(&refused, "retry-after"), Some(&*wait_s));
        assert_eq!(header(&refused, "ratelimit-policy"), Some(&*format!("\"{policy}\";q={q};w=60")));
        assert_eq!(header(&refused, "ratelimit"), Some(&*format!("\"{policy}\";r=0;t=60")));
    }
    let text = test.app.metrics.to_text();
    for line in [
        "kith_http_requests_limited_total{policy=\"auth\"} 2",
        "kith_http_requests_limited_total{policy=\"slow\"} 2",
        "kith_http_requests_limited_total{policy=\"requests\"} 8",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    test.clock.advance(seconds(60));
    assert_eq!(allowance(&test, "GET /api/v1/ping", "").await, 7);
    test.clock.advance(seconds(9));
    assert_eq!(
        allowance(&test, "GET /api/v1/ping", "").await,
        1,
        "one request is allowed again every 60/7 seconds"
    );
}

#[tokio::test]
async fn responses_carry_ratelimit_headers() {
    let test = limited(&[]).await;
    let answer = test.send_request("GET /api/v1/ping", "").await;
    assert_eq!(header(&answer, "ratelimit-policy"), Some("\"requests\";q=7;w=60"));
    assert_eq!(header(&answer, "ratelimit"), Some("\"requests\";r=6;t=9"));
    let answer = test.send_request("GET /api/v1/ping", "").await;
    assert_eq!(header(&answer, "ratelimit"), Some("\"requests\";r=5;t=18"));
}

#[tokio::test]
async fn monitoring_routes_are_not_limited() {
    let test = limited(&[]).await;
    for path in ["/livez", "/readyz", "/api/health", "/api/metrics"] {
        for _ in 0..10 {
            let answer = test.send_request(&format!("GET {path}"), "").await;
            assert_eq!((status(&answer), header(&answer, "ratelimit")), ("200", None), "{path}");
        }
    }
}

#[tokio::test]
async fn limits_can_be_disabled() {
    let none = |config: &mut crate::config::Config| config.limits.requests_per_minute = 0;
    let lifted = |config: &mut crate::config::Config| {
        config.limits.requests_per_minute = 1;
        config.server.disable_limits = true;
    };
    for test in [TestServer::start(none).await, TestServer::start(lifted).await] {
        for _ in 0..5 {
            let answer = test.send_request("GET /api/v1/ping", "").await;
            assert_eq!((status(&answer), header(&answer, "ratelimit")), ("204", None));
        }
    }
}

/// DRV-13: clients cannot bypass a limit with a variant of the request.
#[tokio::test]
async fn request_variants_do_not_bypass_limits() {
    let test = limited(&["10.0.0.0/8"]).await;
    assert_eq!(allowance(&test, "GET /api/v1/ping", "").await, 7);
    for headers in [
        "X-Forwarded-For: 203.0.113.9\r\n",
        "X-Forwarded-For: 10.0.0.1, 203.0.113.9\r\n",
        "X-Forwarded-For: 127.0.0.2\r\nX-Forwarded-For: ::1\r\n",
        "X-Real-IP: 203.0.113.9\r\n",
        "Forwarded: for=203.0.113.9\r\n",
        "X-Client-IP: 203.0.113.9\r\nTrue-Client-IP: 203.0.113.9\r\nCF-Connecting-IP: 203.0.113.9\r\n",
        "User-Agent: another\r\nHost: another\r\n",
        "Authorization: Bearer another\r\n",
    ] {
        let answer = test.send_request("GET /api/v1/ping", headers).await;
        // A request with two Host headers is rejected with 400.
        assert!(["429", "400"].contains(&status(&answer)), "{headers}: {answer}");
    }
    for line in ["HEAD /api/v1/ping", "GET /api/v1/ping?another=1", "GET http://kith/api/v1/ping"] {
        assert_eq!(status(&test.send_request(line, "").await), "429", "{line}");
    }
    // No route matches any of these paths. All requests without a route share one limit.
    let variants = [
        "/API/v1/ping",
        "/api/v1/ping/",
        "//api/v1/ping",
        "/api//v1/ping",
        "/api/v1/%70ing",
        "/api/v1/./ping",
        "/api/v1/ping;a",
        "/api/v1/ping%00",
    ];
    let mut seen = Vec::new();
    for path in variants.iter().cycle().take(16) {
        seen.push(status(&test.send_request(&format!("GET {path}"), "").await).to_owned());
    }
    assert_eq!(seen, [vec!["404"; 7], vec!["429"; 9]].concat());
    assert_eq!(
        status(&test.send_request("DELETE /api/v1/ping", "").await),
        "429",
        "an unsupported method counts towards the limit"
    );
}

/// DRV-13: behind a trusted proxy, each client has its own limit. Forged addresses are ignored.
#[tokio::test]
async fn proxied_clients_are_limited_separately() {
    let test = limited(&["127.0.0.0/8"]).await;
    let from = |ip: &str| format!("X-Forwarded-For: {ip}\r\n");
    assert_eq!(allowance(&test, "GET /api/v1/ping", &from("203.0.113.1")).await, 7);
    assert_eq!(status(&test.send_request("GET /api/v1/ping", &from("9.9.9.9, 203.0.113.1")).await), "429");
    assert_eq!(status(&test.send_request("GET /api/v1/ping", &from("::ffff:203.0.113.1")).await), "429");
    assert_eq!(allowance(&test, "GET /api/v1/ping", &from("203.0.113.2")).await, 7);
    assert_eq!(allowance(&test, "GET /api/v1/ping", &from("2001:db8::1")).await, 7);
    for n in 2..20 {
        let rotated = from(&format!("2001:db8::{n:x}:{n:x}"));
        assert_eq!(status(&test.send_request("GET /api/v1/ping", &rotated).await), "429", "{rotated}");
    }
    assert_eq!(allowance(&test, "GET /api/v1/ping", &from("2001:db8:0:1::1")).await, 7);
}

#[test]
fn idle_networks_are_removed_from_limiter() {
    let clock = Arc::new(ManualClock::at(BEGINNING));
    let policy = policy(60, &clock);
    let (rounds, networks) = (50, 2_000_u128);
    for round in 0..rounds {
        for n in 0..networks {
            let ip = Ipv6Addr::from_bits((round * networks + n) << 64);
            assert!(policy.count((1, ip.into())).wait.is_none());
        }
        clock.advance(seconds(2));
    }
    let kept = policy.limiter.len();
    assert!(kept <= 3 * networks as usize, "{kept} of {} networks are stored", rounds * networks);
}

#[test]
fn clock_set_back_does_not_block_clients() {
    let clock = Arc::new(ManualClock::at(BEGINNING));
    let policy = policy(2, &clock);
    let ask = || policy.count((1, Ipv6Addr::LOCALHOST.into())).wait;
    assert_eq!((ask(), ask()), (None, None));
    assert!(ask().is_some());
    let steps = [3_600_000, 86_400_000_i64];
    for back_ms in steps {
        clock.set(clock.now() - Duration::from_millis(back_ms as u64));
        assert!(ask().is_some(), "setting the clock back does not add to the allowance");
        clock.advance(seconds(31));
        assert!(ask().is_none());
    }
}
