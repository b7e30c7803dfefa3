//! Tests of metrics: requests by route and status, database work, and password hashes.

use std::collections::BTreeSet;

use hyper::header::HeaderName;
use kith_platform::config::Config;
use serde_json::{Value, json};

use crate::support::{Engine, PASSWORD, REQUESTS, TestApp, TestUser, on_every_engine};

const LOGIN: &str = "/api/v1/auth/login";

on_every_engine! {
    metrics_are_valid_openmetrics,
    requests_and_transactions_are_counted,
    request_and_bond_outcomes_are_counted,
    login_computes_one_hash_even_for_unknown_address,
}

/// Checks the rules of OpenMetrics that readers depend on.
async fn metrics_are_valid_openmetrics(app: &TestApp) {
    app.user("ada").await;
    let text = app.anonymous().get("/api/metrics").await.expect(200);
    let (lines, end) = text.as_str().expect("text").rsplit_once("# EOF").expect("an end");
    assert!(end.trim().is_empty(), "{end}");
    let mut families = BTreeSet::new();
    for line in lines.lines() {
        let mut words = line.split(' ');
        if words.next() == Some("#") {
            let (kind, name) = (words.next().expect("a kind"), words.next().expect("a name"));
            assert!(["TYPE", "HELP", "UNIT"].contains(&kind), "{line}");
            families.insert(name);
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a value");
        assert!(value.parse::<f64>().is_ok(), "{line}");
        let name = series.split('{').next().expect("a name");
        assert!(families.iter().any(|family| name.starts_with(family)), "{line} belongs to no metric family");
        assert!(series.ends_with('}') || !series.contains('{'), "{line}");
    }
    for family in [
        "kith_build",
        "kith_http_request_duration_seconds",
        "kith_http_requests",
        "kith_http_requests_in_flight",
        "kith_passwords_computed",
        "kith_passwords_queued",
        "kith_panics",
        "kith_process_cpu_seconds",
        "kith_resident_memory_bytes",
        "kith_store_statement_duration_seconds",
        "kith_store_running",
        "kith_store_commits",
        "kith_store_events_sequenced",
        "kith_store_head",
        "kith_store_queued",
        "kith_store_retries",
        "kith_uptime_seconds",
    ] {
        assert!(families.contains(family), "{family} is missing in {families:?}");
    }
}

/// OBS-05: only client addresses in `server.metrics_addresses` can read metrics. An address from
/// `X-Forwarded-For` counts only if a trusted proxy sent the header.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_restricted_to_listed_addresses() {
    const METRICS: &str = "/api/metrics";
    let behind_proxy = |config: &mut Config| {
        config.server.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")];
    };
    let app = TestApp::start_with(Engine::Sqlite, Engine::Sqlite.database().await, behind_proxy).await;
    let ask = async |from: &str| {
        let header = HeaderName::from_static("x-forwarded-for");
        app.anonymous().with_header(header, from).get(METRICS).await
    };
    for private in
        ["127.0.0.1", "::1", "10.1.2.3", "172.31.0.1", "192.168.7.7", "fd00::1", "203.0.113.5, 10.0.0.1"]
    {
        ask(private).await.expect(200);
    }
    for public in ["203.0.113.5", "10.0.0.1, 198.51.100.1", "2001:db8::1", "172.32.0.1", "100.64.0.1"] {
        ask(public).await.expect_problem(403, "address_not_listed");
    }
    let database = app.stop().await;
    let no_addresses = |config: &mut Config| config.server.metrics_addresses.clear();
    let app = TestApp::start_with(Engine::Sqlite, database, no_addresses).await;
    app.anonymous().get(METRICS).await.expect_problem(403, "address_not_listed");
    app.stop().await;
}

async fn requests_and_transactions_are_counted(app: &TestApp) {
    let answered = async |status: &str| {
        let labels = format!(r#"method="POST",route="{LOGIN}",status="{status}""#);
        app.metric(&format!("kith_http_requests_total{{{labels}}}")).await
    };
    let labels = format!(r#"method="POST",route="{LOGIN}""#);
    let timed = format!("kith_http_request_duration_seconds_count{{{labels}}}");
    let ada = app.user("ada").await;
    let work = async || {
        let (commits, reads) = ("kith_store_commits_total", "kith_store_reads_total");
        (app.metric(commits).await, app.metric(reads).await)
    };
    let (commits, reads) = work().await;
    ada.get("/api/v1/me").await.expect(200);
    for password in [PASSWORD, "wrong horse", "wrong again"] {
        app.anonymous().post(LOGIN, json!({ "email": ada.email, "password": password })).await;
    }
    assert_eq!((answered("2xx").await, answered("4xx").await, answered("5xx").await), (1.0, 2.0, 0.0));
    assert_eq!(app.metric(&timed).await, 3.0);
    // A rejected log-in is recorded, so its transaction is committed.
    let (commits_after, reads_after) = work().await;
    assert_eq!(commits_after, commits + 3.0);
    // On PostgreSQL a node also reads events of other nodes.
    let exactly = app.db().kind() == kith_store::EngineKind::Sqlite;
    assert!(reads_after == reads + 5.0 || !exactly && reads_after > reads + 5.0, "{reads} {reads_after}");
    assert!(app.metric("kith_http_requests_in_flight").await >= 1.0, "the request in progress is counted");
}

/// Requests by outcome, bonds, restorations and breakups each count once, on the node that executed them.
async fn request_and_bond_outcomes_are_counted(app: &TestApp) {
    let (ada, ben, eve) = (app.user("ada").await, app.user("ben").await, app.user("eve").await);
    let ask = async |from: &TestUser, to: &TestUser| {
        let request = from.post(REQUESTS, json!({ "to": { "user_id": to.id } })).await.expect(201);
        format!("{REQUESTS}/{}", request["id"].as_str().expect("an id"))
    };
    let rejected = ask(&eve, &ada).await;
    ada.post(&format!("{rejected}/reject"), Value::Null).await.expect(200);
    for _ in 0..2 {
        let request = ask(&ada, &ben).await;
        ben.post(&format!("{request}/accept"), Value::Null).await.expect(200);
        ben.post(&format!("{request}/accept"), Value::Null).await.expect(200);
        ada.post("/api/v1/partners/breakup", Value::Null).await.expect(200);
    }
    for (kind, count) in [
        ("partner_request.created", 3.0),
        ("partner_request.rejected", 1.0),
        ("partner_request.accepted", 2.0),
        ("partner_request.cancelled", 0.0),
        ("bond.created", 1.0),
        ("bond.restored", 1.0),
        ("bond.ended", 2.0),
    ] {
        assert_eq!(app.metric(&format!("kith_events_total{{kind=\"{kind}\"}}")).await, count, "{kind}");
    }
}

/// DRV-02: the same work is done for unknown addresses, so the duration reveals nothing.
async fn login_computes_one_hash_even_for_unknown_address(app: &TestApp) {
    let ada = app.user("ada").await;
    for (email, password, status) in [
        (&*ada.email, PASSWORD, 200),
        (&*ada.email, "wrong horse", 401),
        ("nobody@example.org", PASSWORD, 401),
        ("not an address", PASSWORD, 401),
    ] {
        let before = app.metric("kith_passwords_computed_total").await;
        app.anonymous().post(LOGIN, json!({ "email": email, "password": password })).await.expect(status);
        let computed = app.metric("kith_passwords_computed_total").await - before;
        assert_eq!(computed, 1.0, "{email}, {password}");
    }
}
