//! Checks of the rate limits that apply to all routes: their values, and that they cannot be evaded.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::Method;
use kith_readiness::{Check, CheckResponse, Client, Operation, Run, Shortfall};
use serde_json::Value;

use super::schemas;

pub(super) const CHECKS: &[Check] = &[
    Check {
        row: "SEC-02",
        description: "reads the limit of every operation, exhausts the limit of one route of each class, counts the \
               requests until 429, and repeats the request after Retry-After",
        remediation: "set the limits (section limits), remove --disable-limits, and verify one node directly if \
               several share the load",
        runs_last: true,
        run: |run| Box::pin(check_limits(run)),
    },
    Check {
        row: "DRV-13",
        description: "exhausts the limit of a route, and repeats the request with forged forwarding headers and \
               with other spellings of the path",
        remediation: "list only your own proxies in server.trusted_proxies, and let the outermost replace \
               X-Forwarded-For",
        runs_last: true,
        run: |run| Box::pin(check_limit_evasion(run)),
    },
];

/// Limit classes: the setting, the name in responses, and the method and path of a route that no other check
/// uses.
const CLASSES: [((&str, &str), &str, Method, &str); 3] = [
    (("limits", "auth_per_minute"), "auth", Method::POST, "/api/v1/auth/logout"),
    (("partners", "lists_per_minute"), "partner-lists", Method::GET, "/api/v1/partners/settings"),
    (("limits", "requests_per_minute"), "requests", Method::GET, "/api/v1/ping"),
];
/// Setting of the limit class for workers, and its name in responses.
const JOBS: ((&str, &str), &str) = (("job_queues", "requests_per_minute"), "jobs");
/// Paths for monitoring, which have no rate limit.
const EXEMPT: &[&str] = &["/livez", "/readyz", "/api/health", "/api/metrics"];
/// Maximum number of requests of a burst. Higher limits are not measured.
const MAX_BURST: u64 = 6_000;
const BURST_CONNECTIONS: usize = 8;
/// Maximum number of attempts with one variant. Several are needed because the limit may refill between
/// requests.
const MAX_ATTEMPTS: u32 = 3;

/// Returns the configured requests per minute of a class.
fn configured(facts: &Value, (section, key): (&str, &str)) -> Result<u64, Shortfall> {
    let settings = &facts["configuration"]["settings"];
    if settings["server"]["disable_limits"] == true {
        return Err(Shortfall::fails("limits are disabled: server.disable_limits"));
    }
    match settings[section][key].as_u64() {
        None => Err(Shortfall::unmeasured(
            format!("the server does not report {section}.{key}"),
            "deploy a build that reports it",
        )),
        Some(0) => Err(Shortfall::fails(format!("{section}.{key} is 0: no limit"))),
        Some(n) => Ok(n),
    }
}

async fn check_limits(run: &Run) -> Result<String, Shortfall> {
    let facts = run.facts().await?;
    let document = run.document().await?;
    let mut classes = Vec::new();
    for (setting, class, method, path) in CLASSES {
        classes.push((configured(&facts, setting)?, class, method, path));
    }
    // The limit for workers is too high to exhaust it, so only the declared value is checked.
    let (jobs_setting, jobs) = JOBS;
    let jobs_limit = configured(&facts, jobs_setting)?;
    let of_class = |class: &str| {
        let known = classes.iter().find(|known| known.1 == class).map(|known| known.0);
        known.or((class == jobs).then_some(jobs_limit))
    };
    let mut limited = 0;
    for operation in &Operation::all(&document) {
        limited += u32::from(is_limited(run, operation, of_class).await?);
    }
    let mut found = Vec::new();
    for (limit, class, method, path) in &classes {
        let burst = burst(run, *limit, method, path).await?;
        schemas::check_problem(&document, &burst.refusal)?;
        let allowed = u64::from(burst.allowed);
        // Number of requests that became available again during the burst.
        let refilled = (burst.duration.as_secs_f64() * *limit as f64 / 60.0).ceil() as u64;
        run.record(&format!("{class}_configured"), *limit);
        run.record(&format!("{class}_found"), allowed.saturating_sub(refilled.saturating_sub(1)));
        if allowed + 1 < *limit || allowed > limit + refilled + 1 {
            return Err(Shortfall::fails(format!(
                "{path} allowed {allowed} requests in {} ms before 429, but {class} is set to {limit} a minute",
                burst.duration.as_millis()
            )));
        }
        require_acceptance_after_wait(run, method, path, &burst.refusal).await?;
        found.push(format!("{class} {limit}"));
    }
    run.record("operations_limited", limited);
    Ok(format!(
        "{limited} operations are rate-limited, all except {} for monitoring; the measured limits equal the \
         configured ones within 1: {} a minute; Retry-After is correct",
        EXEMPT.len(),
        found.join(", ")
    ))
}

/// Returns true if the operation has a rate limit. Fails if its response names no known limit class or the
/// wrong one.
async fn is_limited(
    run: &Run,
    operation: &Operation<'_>,
    of_class: impl Fn(&str) -> Option<u64>,
) -> Result<bool, Shortfall> {
    if EXEMPT.contains(&operation.path) {
        return Ok(false);
    }
    let response =
        run.anonymous().send(operation.method.clone(), &operation.sample_path(), Bytes::new()).await?;
    let policy = response.header("ratelimit-policy").unwrap_or_default();
    let name = policy.split('"').nth(1).unwrap_or_default();
    let is_strict = operation.path.starts_with("/api/v1/auth/") && operation.method == Method::POST;
    let fails = |what: String| Err(Shortfall::fails(format!("{} {what}", operation.name())));
    match of_class(name) {
        None => fails(format!("has no known limit: RateLimit-Policy is {policy:?}")),
        Some(_) if is_strict && name != "auth" => fails(format!("is a log-in but has the limit {name}")),
        Some(limit) if policy != format!("\"{name}\";q={limit};w=60") => {
            fails(format!("has the policy {policy}, but {name} is set to {limit} a minute"))
        }
        Some(_) => Ok(true),
    }
}

struct Burst {
    /// Number of requests that were accepted.
    allowed: u32,
    duration: Duration,
    /// First response that rejected a request.
    refusal: CheckResponse,
}

/// Waits until the full limit is available, then sends requests until one is rejected.
#[expect(clippy::disallowed_methods, reason = "the duration of a burst is measured in real time")]
async fn burst(run: &Run, limit: u64, method: &Method, path: &str) -> Result<Burst, Shortfall> {
    if limit > MAX_BURST {
        let reason = format!("a burst of {limit} requests would overload the server");
        return Err(Shortfall::unmeasured(reason, "verify a deployment without other users"));
    }
    let client = run.anonymous();
    let first = client.send(method.clone(), path, Bytes::new()).await?;
    // In a header such as `"auth";r=59;t=1`, `t` is the number of seconds until the full limit is available
    // again.
    let reset_s =
        first.header("ratelimit").and_then(|header| header.rsplit("t=").next()?.parse().ok()).unwrap_or(60);
    client.wait(Duration::from_secs(reset_s)).await;
    let (allowed, is_refused) = (AtomicU32::new(0), AtomicBool::new(false));
    let began = Instant::now();
    let ask = |_| async {
        if is_refused.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let response = client.send_once(method.clone(), path, Bytes::new()).await?;
        if response.status != 429 {
            allowed.fetch_add(1, Ordering::Relaxed);
            return Ok(None);
        }
        is_refused.store(true, Ordering::Relaxed);
        Ok::<_, Shortfall>(Some(response))
    };
    let max_requests = limit * 2 + 20;
    let responses: Vec<_> =
        stream::iter(0..max_requests).map(ask).buffer_unordered(BURST_CONNECTIONS).try_collect().await?;
    let duration = began.elapsed();
    let refusal = responses.into_iter().flatten().next();
    let allowed = allowed.into_inner();
    let refusal = refusal.ok_or_else(|| {
        Shortfall::fails(format!(
            "{path} allowed {allowed} requests in {} ms and never returned 429",
            duration.as_millis()
        ))
    })?;
    Ok(Burst { allowed, duration, refusal })
}

/// Fails unless a request is accepted after the number of seconds in `Retry-After`.
async fn require_acceptance_after_wait(
    run: &Run,
    method: &Method,
    path: &str,
    refusal: &CheckResponse,
) -> Result<(), Shortfall> {
    let Some(seconds) = refusal.retry_after().filter(|seconds| (1..=60).contains(seconds)) else {
        return Err(Shortfall::fails(format!("{path} returned 429 without a Retry-After of 1 to 60 s")));
    };
    let client = run.anonymous();
    client.wait(Duration::from_secs(seconds)).await;
    let again = client.send_once(method.clone(), path, Bytes::new()).await?;
    if again.status == 429 {
        return Err(Shortfall::fails(format!(
            "{path} is still rejected after the {seconds} s of Retry-After"
        )));
    }
    Ok(())
}

/// Variant of a request that might not be counted towards the limit.
struct EvasionVariant {
    what: &'static str,
    client: Client,
    path: String,
}

async fn check_limit_evasion(run: &Run) -> Result<String, Shortfall> {
    let (setting, _, method, path) = &CLASSES[0];
    let facts = run.facts().await?;
    let limit = configured(&facts, *setting)?;
    let proxies = &facts["configuration"]["settings"]["server"]["trusted_proxies"];
    let trusts_proxy = proxies.as_array().is_some_and(|proxies| !proxies.is_empty());
    if trusts_proxy && super::tls::is_loopback_http(&run.deployment().target().url) {
        return Err(Shortfall::unmeasured(
            "trusted proxies may set X-Forwarded-For, and this machine may be one",
            "run it on another machine with the public address as --target",
        ));
    }
    exhaust_limit(&run.anonymous(), limit, method, path).await?;
    let variants = variants(&run.anonymous(), path);
    let mut not_found = 0;
    for variant in &variants {
        let response = send_variant(run, method, path, variant).await?;
        match response.status {
            429 => {}
            // A variant that does not reach the route does not evade its limit.
            404 | 405 => not_found += 1,
            status => {
                let what = variant.what;
                return Err(Shortfall::fails(format!(
                    "the limit of {path} was exhausted, but {what} returned {status}"
                )));
            }
        }
    }
    run.record("variants", variants.len());
    run.record("variants_that_lead_nowhere", not_found);
    let n = variants.len();
    Ok(format!(
        "after {limit} requests none of {n} variants was allowed: {} were rejected with 429, {not_found} do \
         not reach the route",
        n - not_found
    ))
}

/// Sends requests until one is rejected. Sends about twice as many as the limit at most.
async fn exhaust_limit(client: &Client, limit: u64, method: &Method, path: &str) -> Result<(), Shortfall> {
    for _ in 0..limit.min(MAX_BURST) * 2 + 20 {
        if client.send_once(method.clone(), path, Bytes::new()).await?.status == 429 {
            return Ok(());
        }
    }
    Err(Shortfall::fails(format!("{path} never returned 429, but its limit is {limit} a minute")))
}

/// Sends a variant directly after a plain request was rejected. Repeats it if it is accepted, because the
/// limit may have refilled between the two.
async fn send_variant(
    run: &Run,
    method: &Method,
    path: &str,
    variant: &EvasionVariant,
) -> Result<CheckResponse, Shortfall> {
    let plain = run.anonymous();
    let mut tries = 0;
    loop {
        // Uses up the requests that have become available again.
        exhaust_limit(&plain, MAX_ATTEMPTS.into(), method, path).await?;
        let response = variant.client.send_once(method.clone(), &variant.path, Bytes::new()).await?;
        tries += 1;
        if [429, 404, 405].contains(&response.status) || tries == MAX_ATTEMPTS {
            return Ok(response);
        }
    }
}

fn variants(client: &Client, path: &str) -> Vec<EvasionVariant> {
    let forged = [
        ("X-Forwarded-For", "x-forwarded-for", "203.0.113.7"),
        ("X-Forwarded-For with several addresses", "x-forwarded-for", "203.0.113.7, 127.0.0.1"),
        ("X-Forwarded-For with IPv6", "x-forwarded-for", "2001:db8::7"),
        ("Forwarded", "forwarded", "for=203.0.113.8;proto=https"),
        ("X-Real-IP", "x-real-ip", "203.0.113.9"),
        ("True-Client-IP", "true-client-ip", "203.0.113.10"),
        ("CF-Connecting-IP", "cf-connecting-ip", "203.0.113.11"),
        ("X-Client-IP", "x-client-ip", "203.0.113.12"),
        ("X-Original-URL", "x-original-url", "/api/v1/ping"),
        ("X-HTTP-Method-Override", "x-http-method-override", "GET"),
        ("a cookie", "cookie", "session=kith-verify"),
        ("a User-Agent", "user-agent", "kith-verify-other"),
    ];
    let (stem, last) = path.rsplit_once('/').unwrap_or_default();
    let spellings = [
        ("capitals", path.to_uppercase()),
        ("a trailing slash", format!("{path}/")),
        ("two slashes", format!("{stem}//{last}")),
        ("a dot segment", format!("{stem}/%2e/{last}")),
        ("a percent-encoded letter", format!("{stem}/%{:02x}{}", last.as_bytes()[0], &last[1..])),
        ("a query", format!("{path}?kith=verify")),
    ];
    let by_header = forged.map(|(what, name, value)| EvasionVariant {
        what,
        client: client.with(name, value),
        path: path.to_owned(),
    });
    let by_path = spellings.map(|(what, path)| EvasionVariant { what, client: client.clone(), path });
    by_header.into_iter().chain(by_path).collect()
}
