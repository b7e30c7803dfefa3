//! Checks of observability: log lines contain request ids, and security events are counted.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use http::Method;
use kith_readiness::{Check, Run, Shortfall};
use serde_json::{Value, json};

pub(super) const CHECKS: &[Check] = &[
    Check {
        row: "API-06",
        description: "sends request ids, none, and hostile ones; looks for them in the responses, in the audit log, \
               and in the server's log if given",
        remediation: "check that no proxy in front removes or replaces `X-Request-Id`",
        runs_last: false,
        run: |run| Box::pin(check_request_id_in_log(run)),
    },
    Check {
        row: "SEC-25",
        description: "causes a failed log-in, a rejected access token, a rejected refresh token, a forbidden \
               request and a rate-limited request; reads /api/metrics before and after",
        remediation: "scrape /api/metrics of each node directly; use --node if the target distributes requests over \
               several nodes",
        runs_last: true,
        run: |run| Box::pin(check_security_counters(run)),
    },
];

const LOGIN: &str = "/api/v1/auth/login";
const X_REQUEST_ID: &str = "x-request-id";

async fn check_request_id_in_log(run: &Run) -> Result<String, Shortfall> {
    let anonymous = run.anonymous();
    let sent = run.marker("verify");
    let with = |id: &str| anonymous.with(X_REQUEST_ID, id);
    let echoed = |response: &kith_readiness::CheckResponse| {
        response.header(X_REQUEST_ID).unwrap_or_default().to_owned()
    };
    let problem = with(&sent).get("/api/v1/no-such-path").await?.expect(404)?;
    if echoed(&problem) != sent || problem.json()["request_id"] != *sent {
        return Err(Shortfall::fails(format!(
            "the request id {sent} was returned as {:?}",
            echoed(&problem)
        )));
    }
    let generated =
        [echoed(&anonymous.get("/api/v1/ping").await?), echoed(&anonymous.get("/api/v1/ping").await?)];
    if generated[0] == generated[1] || generated.iter().any(|id| id.len() < 8) {
        return Err(Shortfall::fails(format!("requests without an id got the ids {generated:?}")));
    }
    let long = "x".repeat(65);
    let hostile =
        ["short", "has space in it", "quote\"quote", "<script>alert(1)</script>", "a;b=c,d:e|f", &long];
    for id in hostile {
        let response = with(id).get("/api/v1/ping").await?;
        if echoed(&response) == id || echoed(&response).len() < 8 {
            return Err(Shortfall::fails(format!(
                "the hostile request id {id:?} was returned as {:?}",
                echoed(&response)
            )));
        }
    }
    let ada = run.account("signs-in").await?;
    let logged_in = run.marker("session");
    let body = json!({ "email": ada.email, "password": ada.password });
    with(&logged_in).post(LOGIN, body).await?.expect(200)?;
    let entries = run.audit_entries(&logged_in).await?;
    if entries.len() != 1 || entries[0]["action"] != "session.started" {
        return Err(Shortfall::fails(format!(
            "the audit log has {} entries with the request id of one log-in",
            entries.len()
        )));
    }
    run.record("hostile_ids", hostile.len());
    let log = match &run.deployment().target().logs {
        Some(file) => {
            let lines = find_in_log(run, file, &logged_in).await?;
            run.record("log_lines", lines);
            format!("the log has it in {lines} lines")
        }
        None => "the log was not given, the tests cover it".to_owned(),
    };
    Ok(format!(
        "request ids are returned as sent, {} hostile ones are replaced; the audit log finds a log-in by its \
         request id; {log}",
        hostile.len()
    ))
}

/// Number of bytes at the end of the log file that are searched for a line.
const LOG_TAIL_BYTES: u64 = 4 * 1024 * 1024;
/// Maximum number of times that the log file is searched for a line.
const MAX_LOG_ATTEMPTS: usize = 40;

/// Returns the number of JSON lines in the log that contain this request id.
async fn find_in_log(run: &Run, file: &Path, id: &str) -> Result<usize, Shortfall> {
    for _ in 0..MAX_LOG_ATTEMPTS {
        let tail = tail(file).map_err(|error| {
            Shortfall::unmeasured(
                format!("cannot read the log: {error}"),
                "name it with --logs; its lines must be JSON",
            )
        })?;
        let lines = tail.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let found = lines.filter(|line| line["request_id"] == *id).count();
        if found > 0 {
            return Ok(found);
        }
        // The request gives the thread that writes the log some time.
        run.anonymous().get("/livez").await?;
    }
    Err(Shortfall::fails(format!("no JSON line of the log has the request id {id}")))
}

fn tail(file: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(file)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Path of a route that has a rate limit of its own and is not used by any other check.
const LIMITED_PATH: &str = "/api/v1/partners/invites";
/// Maximum number of requests sent to reach a limit.
const MAX_REQUESTS_TO_LIMIT: usize = 1_000;

async fn check_security_counters(run: &Run) -> Result<String, Shortfall> {
    let ada = run.account("signs-in").await?;
    let (anonymous, client) =
        (run.anonymous().with_base_url(run.node()), ada.client.with_base_url(run.node()));
    let before = run.counters().await?;
    let bad_credentials = json!({ "email": ada.email, "password": "not this one" });
    anonymous.post(LOGIN, bad_credentials).await?.expect(401)?;
    anonymous.with_token("x.y.z").get("/api/v1/me").await?.expect(401)?;
    anonymous
        .post("/api/v1/auth/refresh", json!({ "refresh_token": "not-one-of-ours" }))
        .await?
        .expect(401)?;
    client.get("/api/v1/admin/users").await?.expect(403)?;
    let (requests, policy) = request_until_limited(&client).await?;
    let after = run.counters().await?;
    let credentials = json!({ "email": ada.email, "password": ada.password });
    anonymous.post(LOGIN, credentials).await?.expect(200)?;

    let event = |kind: &str| format!("kith_security_events_total{{kind=\"{kind}\"}}");
    for (what, series) in [
        ("failed log-ins", event("login_failed")),
        ("rejected access tokens", event("token_refused")),
        ("rejected refresh tokens", event("refresh_refused")),
        ("forbidden requests", event("forbidden")),
        ("requests over a limit", format!("kith_http_requests_limited_total{{policy=\"{policy}\"}}")),
    ] {
        let grown = after.increase_since(&before, &series);
        run.record(what, grown);
        // Other failures may increase the counter further.
        if grown < 1.0 {
            return Err(Shortfall::fails(format!(
                "one was caused, but {what} increased by {grown}: {series}"
            )));
        }
    }
    run.record("requests_until_limited", requests);
    Ok(format!(
        "each of five events was caused once and counted; the limit {policy:?} rejected after {requests} \
         requests"
    ))
}

/// Sends requests until one is rejected by a rate limit. Returns their number and the name of the limit.
async fn request_until_limited(client: &kith_readiness::Client) -> Result<(usize, String), Shortfall> {
    for n in 1..=MAX_REQUESTS_TO_LIMIT {
        let response = client.send_once(Method::GET, LIMITED_PATH, bytes::Bytes::new()).await?;
        match response.status {
            429 => {
                let policy = response.header("ratelimit-policy").and_then(|text| text.split('"').nth(1));
                let none = || Shortfall::fails("a 429 does not name its limit in RateLimit-Policy");
                return policy.map(|policy| (n, policy.to_owned())).ok_or_else(none);
            }
            200 => {}
            status => return Err(Shortfall::fails(format!("GET {LIMITED_PATH} returned {status}"))),
        }
    }
    Err(Shortfall::fails(format!(
        "{MAX_REQUESTS_TO_LIMIT} consecutive requests to one route were not rate-limited"
    )))
}
