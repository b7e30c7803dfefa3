//! Checks that cover every operation of the API, and checks of the health endpoints.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::Method;
use kith_readiness::{Check, CheckResponse, Client, Operation, Run, Shortfall};
use serde_json::{Value, json};

use super::schemas;

pub(super) const CHECKS: &[Check] = &[
    Check {
        row: "API-01",
        description: "calls every documented operation without a token and as a user, and reads as an \
               administrator, with unknown ids and minimal bodies; compares status and body with the \
               document",
        remediation: "look up the request id in the log; declare the status or return another one",
        runs_last: false,
        run: |run| Box::pin(check_declared_responses(run)),
    },
    Check {
        row: "API-07",
        description: "calls one route several times, reads Server-Timing, and compares the histogram of /api/metrics",
        remediation: "check which proxy between here and Kith removes Server-Timing, and that the metrics are of \
               the node that responds",
        runs_last: false,
        run: |run| Box::pin(check_duration_histogram(run)),
    },
    Check {
        row: "API-11",
        description: "calls /livez, /readyz and /api/health without signing in",
        remediation: "look at the failing dependency in /api/health",
        runs_last: false,
        run: |run| Box::pin(health(run)),
    },
];

/// Returns true if the operation ends the session that the check uses. It must be sent last.
fn ends_sessions(operation: &Operation<'_>) -> bool {
    operation.method == Method::DELETE && operation.path == "/api/v1/auth/sessions"
}

async fn check_declared_responses(run: &Run) -> Result<String, Shortfall> {
    let document = run.document().await?;
    let mut operations = Operation::all(&document);
    operations.sort_by_key(ends_sessions);
    let (anonymous, walker) = (run.anonymous(), run.account("walks-everywhere").await?.client);
    let admin = Some(run.admin().await?);
    let mut walk = OperationWalk { document: &document, seen: BTreeMap::new(), requests: 0 };
    for operation in &operations {
        let reads = operation.method == Method::GET;
        if operation.is_for_development() && !reads {
            // Operations of development mode are skipped, because they change the state of all users.
            continue;
        }
        walk.send(&anonymous, operation, None).await?;
        if reads {
            let address = operation.sample_path();
            let get = anonymous.get(&address).await?;
            let head = anonymous.send(Method::HEAD, &address, Bytes::new()).await?;
            if (get.status, true) != (head.status, head.body.is_empty()) {
                return Err(Shortfall::fails(format!(
                    "{} returned {} but HEAD {}",
                    get.request, get.status, head.status
                )));
            }
        }
        if operation.requires_token() {
            walk.send(&walker, operation, None).await?;
            if let Some(schema) = operation.body() {
                walk.send(&walker, operation, Some(json!({}))).await?;
                walk.send(&walker, operation, Some(operation.sample(schema))).await?;
            }
        }
        if let Some(admin) = admin.as_ref().filter(|_| reads && operation.permission().is_some()) {
            walk.send(admin, operation, None).await?;
        }
    }
    run.record("operations", operations.len());
    run.record(
        "answers",
        walk.seen.iter().map(|(status, n)| (status.to_string(), json!(n))).collect::<Value>(),
    );
    let statuses: Vec<_> = walk.seen.keys().map(u16::to_string).collect();
    let (requests, all) = (walk.requests, operations.len());
    Ok(format!(
        "{all} operations returned {} as declared in {requests} calls, each body matching its schema",
        statuses.join(", ")
    ))
}

struct OperationWalk<'d> {
    document: &'d Value,
    seen: BTreeMap<u16, u64>,
    requests: u64,
}

impl OperationWalk<'_> {
    async fn send(
        &mut self,
        client: &Client,
        operation: &Operation<'_>,
        body: Option<Value>,
    ) -> Result<(), Shortfall> {
        let bytes = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let response = client.send(operation.method.clone(), &operation.sample_path(), bytes).await?;
        self.requests += 1;
        *self.seen.entry(response.status).or_default() += 1;
        self.judge(operation, &response)
    }

    fn judge(&self, operation: &Operation<'_>, response: &CheckResponse) -> Result<(), Shortfall> {
        let (request, status) = (operation.name(), response.status);
        let fails = |what: String| {
            let id = response.header("x-request-id").unwrap_or("without an id");
            Err(Shortfall::fails(format!("{request} returned {status}{what} (request {id})")))
        };
        if !operation.statuses().contains(&status) {
            return fails(", which is not documented".to_owned());
        }
        let kind = response.header("content-type").unwrap_or_default();
        let declared = &operation.json()["responses"][status.to_string()]["content"];
        if response.body.is_empty() && declared.is_null() {
            return Ok(());
        }
        let Some(content) = declared.get(kind) else {
            return fails(format!(" as {kind:?}, which is not documented"));
        };
        if kind == "application/problem+json" {
            return schemas::check_problem(self.document, response);
        }
        if kind.ends_with("json")
            && let Err(reason) = schemas::validate(self.document, &content["schema"], &response.json())
        {
            return fails(format!(" with a body that does not match its schema: {reason}"));
        }
        Ok(())
    }
}

/// Number of requests to send. All of them must appear in the histogram.
const REPETITIONS: u32 = 7;

async fn check_duration_histogram(run: &Run) -> Result<String, Shortfall> {
    const PATH: &str = "/api/v1/ping";
    let anonymous = run.anonymous();
    let before = count_of(run, PATH).await?;
    let mut max_ms = 0.0_f64;
    for _ in 0..REPETITIONS {
        let response = anonymous.get(PATH).await?.expect(204)?;
        let timing = response.header("server-timing").unwrap_or_default();
        let ms =
            timing.split("dur=").nth(1).and_then(|rest| rest.split([',', ';']).next()?.parse::<f64>().ok());
        let Some(ms) = ms else {
            return Err(Shortfall::fails(format!("the Server-Timing of {} is {timing:?}", response.request)));
        };
        if ms > response.duration.as_secs_f64() * 1_000.0 {
            let duration = response.duration.as_millis();
            return Err(Shortfall::fails(format!(
                "the Server-Timing of {} is {ms} ms, but the response took {duration} ms",
                response.request
            )));
        }
        max_ms = max_ms.max(ms);
    }
    let risen = count_of(run, PATH).await?.saturating_sub(before);
    run.record("calls", REPETITIONS);
    run.record("histogram_rose_by", risen);
    if risen < u64::from(REPETITIONS) {
        return Err(Shortfall::fails(format!(
            "{REPETITIONS} calls of {PATH} increased its histogram by {risen}"
        )));
    }
    Ok(format!(
        "each of {REPETITIONS} responses has Server-Timing (at most {max_ms} ms); the histogram increased \
         by {risen}"
    ))
}

/// Returns the number of requests to `path` that the duration histogram contains.
async fn count_of(run: &Run, path: &str) -> Result<u64, Shortfall> {
    const METRICS: &str = "/api/metrics";
    let mut response = run.anonymous().get(METRICS).await?;
    if response.status != 200 {
        response = run.admin().await?.get(METRICS).await?;
    }
    if response.status != 200 {
        let reason = format!("{METRICS} returned {} instead of metrics", response.status);
        return Err(Shortfall::unmeasured(reason, "run it from an address in server.metrics_addresses"));
    }
    let text = response.text();
    let of_path = |line: &&str| {
        line.split(['{', ' ']).next().is_some_and(|name| name.ends_with("duration_seconds_count"))
            && line.contains(&format!("\"{path}\""))
    };
    let counts = text.lines().filter(of_path).filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    Ok(counts.sum())
}

async fn health(run: &Run) -> Result<String, Shortfall> {
    let anonymous = run.anonymous();
    let live = anonymous.get("/livez").await?.expect(200)?.json();
    let ready = anonymous.get("/readyz").await?.expect(200)?.json();
    let named = |report: &Value| -> Vec<String> {
        report["checks"].as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect()
    };
    let (of_live, of_ready) = (named(&live), named(&ready));
    if !of_ready.iter().any(|name| name.starts_with("database:")) {
        return Err(Shortfall::fails("/readyz does not report the database"));
    }
    // The liveness probe must not fail because of a fault that a restart does not repair.
    if let Some(shared) = of_live.iter().find(|name| of_ready.contains(name)) {
        return Err(Shortfall::fails(format!("/livez depends on {shared}, like /readyz")));
    }
    let health = anonymous.get("/api/health").await?.expect(200)?;
    let status = health.text_at("/status")?;
    let of_whole = named(&health.json());
    if let Some(missing) = of_ready.iter().find(|name| !of_whole.contains(name)) {
        return Err(Shortfall::fails(format!("/api/health does not report {missing}")));
    }
    run.record("dependencies", of_ready.clone());
    let on = of_ready.join(", ");
    Ok(format!(
        "the server is live regardless of dependencies and ready, which depends on {on}; its health is \
         {status}"
    ))
}
