//! Tests of HTTP callbacks: delivery, signature, retries and dead letters.

use std::time::Duration;

use kith_kernel::{Timestamp, days, hours, minutes, seconds};
use kith_platform::config::Config;
use kith_platform::outbound::signature::SigningSecret;
use serde_json::{Value, json};

use crate::support::{Engine, ReceivedRequest, Receiver, Reply, TestApp, TestUser, on_every_engine};

pub const CALLBACKS: &str = "/api/v1/callbacks";
pub const ENDPOINTS: &str = "/api/v1/callback-endpoints";

/// Allows loopback, where the receivers of these tests listen.
pub fn allow_loopback(config: &mut Config) {
    config.outbound.allowed_networks = vec!["127.0.0.1".parse().expect("a network")];
    config.outbound.timeout_ms = 2_000;
}

on_every_engine! {
    with super::allow_loopback;
    callback_is_signed_and_response_is_stored,
    signature_uses_real_time,
    failed_callback_is_retried_then_dead_lettered,
    retry_after_is_respected,
    redirects_and_missing_responses_are_failures,
    cancelled_callback_is_not_sent,
    callback_is_sent_once_by_any_node,
    ended_callbacks_are_purged_after_30_days,
    invalid_callbacks_are_rejected,
}

/// Runs all due jobs on one node after the other.
pub async fn drain(app: &TestApp) {
    for parts in app.all_parts() {
        parts.jobs.tick().await.expect("a database");
        parts.jobs.drain(&parts.job_handlers(), &["callbacks"]).await.expect("a database");
    }
}

/// Advances the clock to one millisecond after the scheduled time of the next attempt. Returns the time until
/// that attempt.
async fn pass_until_next(app: &TestApp, admin: &TestUser, callback: &Value) -> Duration {
    let shown = look(admin, callback).await;
    let next: Timestamp =
        serde_json::from_value(shown["next_attempt_at"].clone()).expect("the callback has a next attempt");
    let wait = next.since(app.now());
    app.advance(wait + Duration::from_millis(1));
    wait
}

pub async fn make(admin: &TestUser, body: Value) -> Value {
    admin.post(CALLBACKS, body).await.expect(201)
}

pub async fn look(admin: &TestUser, callback: &Value) -> Value {
    admin.get(&format!("{CALLBACKS}/{}", id(callback))).await.expect(200)
}

pub async fn endpoint(admin: &TestUser, callback: &Value) -> Value {
    let id = callback["endpoint_id"].as_str().expect("an endpoint");
    admin.get(&format!("{ENDPOINTS}/{id}")).await.expect(200)
}

pub fn id(thing: &Value) -> &str {
    thing["id"].as_str().expect("an id")
}

/// Returns the expected value of `webhook-signature` for this secret.
pub fn signature(secret: &Value, arrived: &ReceivedRequest) -> String {
    let secret = SigningSecret::parse(secret.as_str().expect("a secret")).expect("whsec_");
    let seconds: i64 = arrived.header("webhook-timestamp").parse().expect("seconds");
    let at = Timestamp::from_millis(seconds * 1_000);
    secret.sign(arrived.header("webhook-id"), at, arrived.body.as_bytes())
}

async fn callback_is_signed_and_response_is_stored(app: &TestApp) {
    let admin = app.admin("ada").await;
    let reply = Reply::Response(201, "x-receipt: 7\r\n".to_owned(), "{\"ok\":true}\u{0}".to_owned());
    let receiver = Receiver::start(reply).await;
    let made = make(
        &admin,
        json!({
            "url": receiver.url("/hook?token=very-secret-word"),
            "headers": { "authorization": "Bearer planted-secret", "X-Kind": "test" },
            "body": { "type": "bond.created", "data": [1, "zwei", null] },
        }),
    )
    .await;
    assert_eq!((&made["state"], &made["attempts_made"]), (&json!("scheduled"), &json!(0)));
    app.advance(seconds(1));
    drain(app).await;

    let [arrived] = &receiver.arrived()[..] else { panic!("{:?}", receiver.arrived()) };
    assert_eq!(arrived.line, "POST /hook?token=very-secret-word HTTP/1.1");
    assert_eq!(arrived.body, r#"{"data":[1,"zwei",null],"type":"bond.created"}"#);
    for (name, value) in [
        ("authorization", "Bearer planted-secret"),
        ("x-kind", "test"),
        ("content-type", "application/json"),
        ("webhook-id", &*format!("msg_{}", id(&made).replace('-', ""))),
        ("webhook-timestamp", &*(app.now().as_millis() / 1_000).to_string()),
        ("webhook-signature", &*signature(&made["secret"], arrived)),
    ] {
        assert_eq!(arrived.header(name), value, "{name}");
    }

    let shown = look(&admin, &made).await;
    assert_eq!((&shown["state"], &shown["last_status"]), (&json!("delivered"), &json!(201)));
    assert_eq!((&shown["finished_at"], &shown["next_attempt_at"]), (&json!(app.now()), &Value::Null));
    assert_eq!(shown["header_names"], json!(["X-Kind", "authorization", "content-type"]));
    let [attempt] = &shown["attempts"].as_array().expect("attempts")[..] else { panic!("{shown}") };
    assert_eq!((&attempt["number"], &attempt["status"]), (&json!(1), &json!(201)));
    let response = json!({
        "headers": ["content-length: 12", "x-receipt: 7"], "body": "{\"ok\":true}\u{fffd}", "is_complete": true,
    });
    assert_eq!(attempt["response"], response);

    // Neither the same job nor another job for the same callback delivers it again.
    let payload = json!({ "callback_id": id(&made) }).to_string();
    let again = kith_jobs::NewJob::new("callbacks", "callbacks.deliver", payload);
    app.parts().jobs.enqueue(again).await.expect("a job");
    drain(app).await;
    assert_eq!(receiver.count(), 1);

    let kinds: Vec<_> = app.events().await.into_iter().map(|one| one.event).collect();
    let of_callbacks: Vec<_> = kinds.iter().filter(|event| event.kind.starts_with("callback")).collect();
    let events: Vec<_> = of_callbacks.iter().map(|event| &*event.kind).collect();
    assert_eq!(events, ["callback_endpoint.created", "callback.created", "callback.delivered"]);
    assert!(of_callbacks.iter().all(|event| !event.payload.contains("very-secret-word")));
    let dump = app.dump().await;
    assert!(!dump.iter().any(|row| row.contains("planted-secret")), "headers are not stored in plain text");
    let secret = made["secret"].as_str().expect("a secret").trim_start_matches("whsec_").to_owned();
    assert!(!dump.iter().any(|row| row.contains(&secret)), "secrets are not stored in plain text");
    let state = endpoint(&admin, &made).await;
    assert_eq!((&state["attempts_succeeded"], &state["attempts_failed"]), (&json!(1), &json!(0)));
    assert_eq!((&state["url"], &state["breaker"]), (&json!(receiver.url("/hook")), &json!("closed")));
}

/// Regression: after the clock was advanced with `/dev/clock`, receivers rejected every signature, because
/// its timestamp was in the future.
async fn signature_uses_real_time(app: &TestApp) {
    app.admin("root").await;
    let receiver = Receiver::start(Reply::status(200)).await;
    for node in 0..app.node_count() {
        app.anonymous().at(node).post("/dev/clock", json!({ "advance": "1d" })).await.expect(200);
    }
    let admin = app.sign_in("root").await;
    make(&admin, json!({ "url": receiver.url("/late"), "body": {} })).await;
    drain(app).await;
    let arrived = receiver.arrived();
    let [arrived] = &arrived[..] else { panic!("{} arrived", arrived.len()) };
    let at: i64 = arrived.header("webhook-timestamp").parse().expect("seconds");
    assert_eq!(at, app.now().as_millis() / 1_000);
}

async fn failed_callback_is_retried_then_dead_lettered(app: &TestApp) {
    let admin = app.admin("ada").await;
    let receiver = Receiver::start(Reply::Response(500, String::new(), "broken".to_owned())).await;
    let made = make(&admin, json!({ "url": receiver.url("/") })).await;
    drain(app).await;
    let delays =
        [seconds(5), minutes(5), minutes(30), hours(2), hours(5), hours(10), hours(14), hours(20), hours(24)];
    for (failures, wait) in (1..).zip(delays) {
        assert_eq!(receiver.count(), failures);
        let shown = look(&admin, &made).await;
        assert_eq!((&shown["state"], &shown["attempts_made"]), (&json!("retrying"), &json!(failures)));
        drain(app).await;
        assert_eq!(receiver.count(), failures, "the next attempt is not made before its delay ends");
        let waited = pass_until_next(app, &admin, &made).await;
        assert!(
            wait <= waited && waited <= wait + wait / 10,
            "the delay is {waited:?} after {failures} failures"
        );
        drain(app).await;
    }
    assert_eq!(receiver.count(), 10);
    let shown = look(&admin, &made).await;
    assert_eq!((&shown["state"], &shown["reason"]), (&json!("failed"), &json!("attempts_exhausted")));
    assert_eq!(shown["attempts"].as_array().map(Vec::len), Some(10));
    assert_eq!(shown["attempts"][9]["response"]["body"], "broken");
    app.advance(days(30));
    drain(app).await;
    let arrived = receiver.arrived();
    assert_eq!(arrived.len(), 10);
    let first = arrived[0].header("webhook-id");
    assert!(
        arrived.iter().all(|one| one.header("webhook-id") == first),
        "all attempts have the same webhook-id"
    );
    for one in &arrived {
        assert_eq!(one.header("webhook-signature"), signature(&made["secret"], one));
    }

    let retry = format!("{CALLBACKS}/{}/retry", id(&made));
    receiver.replies(Reply::status(200));
    let again = admin.post(&retry, Value::Null).await.expect(200);
    assert_eq!((&again["state"], &again["reason"]), (&json!("retrying"), &Value::Null));
    drain(app).await;
    let shown = look(&admin, &made).await;
    assert_eq!((&shown["state"], &shown["attempts_made"]), (&json!("delivered"), &json!(11)));
    admin.post(&retry, Value::Null).await.expect_problem(409, "callback_not_retryable");
    assert_eq!(endpoint(&admin, &made).await["failing_since"], Value::Null);
}

async fn retry_after_is_respected(app: &TestApp) {
    let admin = app.admin("ada").await;
    for (status, asked, min, max) in [
        (429, "3600", hours(1), minutes(66)),
        (503, "1", seconds(5), Duration::from_millis(5_500)),
        (429, "99999999", hours(24), hours(27)),
        (503, "Wed, 21 Oct 2099 08:30:00 GMT", minutes(60), minutes(66)),
        (503, "in a while", seconds(5), Duration::from_millis(5_500)),
    ] {
        let headers = format!("date: Wed, 21 Oct 2099 07:30:00 GMT\r\nretry-after: {asked}\r\n");
        let receiver = Receiver::start(Reply::Response(status, headers, String::new())).await;
        let made = make(&admin, json!({ "url": receiver.url("/") })).await;
        drain(app).await;
        let waited = pass_until_next(app, &admin, &made).await;
        assert!((min..=max).contains(&waited), "the delay is {waited:?} after {asked}");
    }
}

async fn redirects_and_missing_responses_are_failures(app: &TestApp) {
    let admin = app.admin("ada").await;
    let elsewhere = Receiver::start(Reply::status(200)).await;
    let redirect = format!("location: {}\r\n", elsewhere.url("/"));
    let (receiver, gone) =
        (Receiver::start(Reply::status(200)).await, Receiver::start(Reply::NoResponse).await);
    let nowhere = gone.url("/");
    drop(gone);
    let huge = "x".repeat(1_000_000);
    for (url, reply, status, error, is_whole) in [
        (
            receiver.url("/a"),
            Reply::Response(302, redirect, String::new()),
            json!(302),
            Value::Null,
            json!(true),
        ),
        (receiver.url("/b"), Reply::NoResponse, Value::Null, json!("timeout"), Value::Null),
        (
            receiver.url("/c"),
            Reply::Response(500, String::new(), huge),
            json!(500),
            Value::Null,
            json!(false),
        ),
        (nowhere, Reply::NoResponse, Value::Null, json!("connection_failed"), Value::Null),
    ] {
        receiver.replies(reply);
        let made = make(&admin, json!({ "url": url, "timeout_seconds": 1 })).await;
        drain(app).await;
        let shown = look(&admin, &made).await;
        let attempt = &shown["attempts"][0];
        assert_eq!((&shown["state"], &attempt["status"]), (&json!("retrying"), &status), "{shown}");
        assert_eq!((&attempt["error"], &attempt["response"]["is_complete"]), (&error, &is_whole));
        assert!(attempt["response"]["body"].as_str().unwrap_or_default().len() <= 16_384);
        admin.post(&format!("{CALLBACKS}/{}/cancel", id(&made)), Value::Null).await.expect(200);
    }
    assert_eq!(elsewhere.count(), 0, "no redirect is followed");
}

async fn cancelled_callback_is_not_sent(app: &TestApp) {
    let admin = app.admin("ada").await;
    let receiver = Receiver::start(Reply::status(200)).await;
    let made = make(&admin, json!({ "url": receiver.url("/"), "run_at": app.now() + hours(1) })).await;
    let cancel = |one: &Value| format!("{CALLBACKS}/{}/cancel", id(one));
    let cancelled = admin.post(&cancel(&made), Value::Null).await.expect(200);
    assert_eq!((&cancelled["state"], &cancelled["finished_at"]), (&json!("cancelled"), &json!(app.now())));
    let footprint = app.footprint().await;
    assert_eq!(admin.post(&cancel(&made), Value::Null).await.expect(200), cancelled);
    assert_eq!(app.footprint().await, footprint, "a repeated cancellation changes nothing");
    app.advance(hours(2));
    drain(app).await;
    assert_eq!(receiver.count(), 0);

    let sent = make(&admin, json!({ "url": receiver.url("/") })).await;
    drain(app).await;
    admin.post(&cancel(&sent), Value::Null).await.expect_problem(409, "callback_finished");
    let by_state = async |state: &str| {
        let list = admin.get(&format!("{CALLBACKS}?state={state}")).await.expect(200);
        list["items"].as_array().expect("items").iter().map(|one| one["id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(by_state("cancelled").await, [made["id"].clone()]);
    assert_eq!(by_state("delivered").await, [sent["id"].clone()]);
    assert!(by_state("retrying").await.is_empty());
    let endpoint = made["endpoint_id"].as_str().expect("an endpoint");
    let of_endpoint = admin.get(&format!("{CALLBACKS}?endpoint_id={endpoint}&limit=1")).await.expect(200);
    assert_eq!(of_endpoint["items"][0]["id"], sent["id"], "the newest callback is listed first");
    assert!(of_endpoint["next_cursor"].is_string());
    admin
        .get(&format!("{CALLBACKS}/01900000-0000-7000-8000-000000000000"))
        .await
        .expect_problem(404, "not_found");
}

async fn callback_is_sent_once_by_any_node(app: &TestApp) {
    let admin = app.admin("ada").await;
    let receiver = Receiver::start(Reply::status(200)).await;
    for n in 0..30 {
        make(&admin, json!({ "url": receiver.url("/"), "body": n })).await;
    }
    let drains = app.all_parts().flat_map(|parts| [parts, parts]).map(async |parts| {
        parts.jobs.drain(&parts.job_handlers(), &["callbacks"]).await.expect("a database")
    });
    let attempts: usize = futures_util::future::join_all(drains).await.into_iter().sum();
    let mut bodies: Vec<i64> =
        receiver.arrived().iter().map(|one| one.body.parse().expect("a number")).collect();
    bodies.sort_unstable();
    assert_eq!((attempts, bodies), (30, (0..30).collect()));
}

async fn ended_callbacks_are_purged_after_30_days(app: &TestApp) {
    let admin = app.admin("ada").await;
    let receiver = Receiver::start(Reply::status(200)).await;
    let over = make(&admin, json!({ "url": receiver.url("/") })).await;
    let waiting = make(&admin, json!({ "url": receiver.url("/"), "run_at": app.now() + days(60) })).await;
    drain(app).await;
    app.advance(days(30));
    app.run_maintenance().await;
    look(&admin, &over).await;
    app.advance(seconds(1));
    app.run_maintenance().await;
    admin.get(&format!("{CALLBACKS}/{}", id(&over))).await.expect_problem(404, "not_found");
    look(&admin, &waiting).await;
}

async fn invalid_callbacks_are_rejected(app: &TestApp) {
    let admin = app.admin("ada").await;
    let url = "https://hooks.example.org/";
    let footprint = app.footprint().await;
    for (body, pointer, code) in [
        (json!({}), "/url", "not_exactly_one"),
        (
            json!({ "url": url, "endpoint_id": "01900000-0000-7000-8000-000000000000" }),
            "/url",
            "not_exactly_one",
        ),
        (json!({ "url": "http://10.0.0.1/" }), "/url", "internal_address"),
        (json!({ "url": "https://user:pw@example.org/" }), "/url", "user_info"),
        (json!({ "url": "ftp://example.org/" }), "/url", "not_a_target"),
        (json!({ "url": url, "method": "TRACE" }), "/method", "not_a_method"),
        (json!({ "url": url, "method": "GET", "body": 1 }), "/body", "not_with_get"),
        (json!({ "url": url, "body": 1, "text": "x" }), "/text", "not_exactly_one"),
        (json!({ "url": url, "text": "x".repeat(131_073) }), "/body", "too_long"),
        (json!({ "url": url, "headers": { "Host": "x" } }), "/headers/Host", "reserved"),
        (json!({ "url": url, "headers": { "webhook-id": "x" } }), "/headers/webhook-id", "reserved"),
        (json!({ "url": url, "headers": { "a b": "x" } }), "/headers/a b", "not_a_header"),
        (json!({ "url": url, "headers": { "a": "x\r\ny: z" } }), "/headers/a", "not_a_header_value"),
        (json!({ "url": url, "headers": { "x-a": "1", "X-A": "2" } }), "/headers/x-a", "not_unique"),
        (json!({ "url": url, "headers": { "a": "x".repeat(9_000) } }), "/headers", "too_long"),
        (json!({ "url": url, "run_at": "2040-01-01T00:00:00Z" }), "/run_at", "too_late"),
        (json!({ "url": url, "timeout_seconds": 31 }), "/timeout_seconds", "out_of_range"),
    ] {
        let problem = admin.post(CALLBACKS, body.clone()).await.expect_problem(422, "validation_failed");
        let found = (&problem["errors"][0]["pointer"], &problem["errors"][0]["code"]);
        assert_eq!(found, (&json!(pointer), &json!(code)), "{body}");
    }
    let absent = json!({ "endpoint_id": "01900000-0000-7000-8000-000000000000" });
    admin.post(CALLBACKS, absent).await.expect_problem(404, "not_found");
    assert_eq!(app.footprint().await, footprint);
}

/// Runs the guide's sample code for verifying signatures on delivered requests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signature_verification_samples_in_guide_work() {
    const GUIDE: &str = include_str!("../../docs/callbacks.md");
    const PYTHON: &str = "import json, sys\nfor one in json.load(sys.stdin):\n    \
                          print(verify(one['secret'], one['headers'], one['body'].encode(), one['now']))\n";
    const NODE: &str = "for (const one of JSON.parse(require('node:fs').readFileSync(0))) \
                        console.log(verify(one.secret, one.headers, Buffer.from(one.body), one.now));\n";
    TestApp::run(Engine::Sqlite, allow_loopback, async |app| {
        let admin = app.admin("ada").await;
        let receiver = Receiver::start(Reply::status(200)).await;
        let made = make(&admin, json!({ "url": receiver.url("/"), "body": { "grüße": "aus Köln" } })).await;
        drain(app).await;
        let rotate = format!("{ENDPOINTS}/{}/rotate-secret", made["endpoint_id"].as_str().expect("an id"));
        let rotated = admin.post(&rotate, json!({})).await.expect(200);
        make(&admin, json!({ "url": receiver.url("/"), "text": "second" })).await;
        drain(app).await;
        let now = app.now().as_millis() / 1_000;
        let case = |n: usize, secret: &Value, body: Option<&str>, later_s: i64| {
            let arrived = &receiver.arrived()[n];
            let headers: serde_json::Map<_, _> =
                arrived.headers.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
            json!({ "secret": secret, "headers": headers, "body": body.unwrap_or(&arrived.body), "now": now + later_s })
        };
        let cases = json!([
            case(0, &made["secret"], None, 299),
            case(1, &made["secret"], None, 0),
            case(1, &rotated["secret"], None, 0),
            case(0, &rotated["secret"], None, 0),
            case(0, &made["secret"], Some("{}"), 0),
            case(0, &made["secret"], None, 301),
        ]);
        let expected = ["true", "true", "true", "false", "false", "false"];
        for (language, command, driver) in [("python", "python3", PYTHON), ("js", "node", NODE)] {
            let (_, rest) = GUIDE.split_once(&format!("```{language}\n")).expect("a listing");
            let (listing, _) = rest.split_once("```").expect("its end");
            let output = run(command, if language == "js" { "-e" } else { "-c" }, &format!("{listing}\n{driver}"), &cases);
            assert_eq!(output.to_lowercase().split_whitespace().collect::<Vec<_>>(), expected, "{language}");
        }
    })
    .await;
}

/// Runs `program` with an interpreter and returns its output.
fn run(command: &str, flag: &str, program: &str, input: &Value) -> String {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let child =
        Command::new(command).args([flag, program]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{command}: {error}"));
    child.stdin.take().expect("a pipe").write_all(input.to_string().as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{command}");
    String::from_utf8(output.stdout).expect("text")
}

mod by_default {
    use kith_verify::spellings::SPELLINGS;

    use super::*;

    on_every_engine! { internal_targets_are_rejected }

    /// Proves the readiness requirement DRV-14.
    async fn internal_targets_are_rejected(app: &TestApp) {
        let admin = app.admin("ada").await;
        for spelling in SPELLINGS.iter().filter(|spelling| !spelling.contains('\0')) {
            let answer = admin.post(ENDPOINTS, json!({ "url": spelling })).await;
            let problem = answer.expect_problem(422, "validation_failed");
            assert_eq!(problem["errors"][0]["pointer"], "/url", "{spelling}");
        }
        assert_eq!(admin.get(ENDPOINTS).await.expect(200)["items"], json!([]));
    }
}
