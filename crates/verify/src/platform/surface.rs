//! Checks that apply to every operation, and checks of the health endpoints.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::Method;
use kith_readiness::{Answer, Check, Client, Operation, Run, Shortfall};
use serde_json::{Value, json};

use super::schemas;

pub(super) const CHECKS: &[Check] = &[
    Check {
        row: "API-01",
        does: "calls every documented operation without a token and as a user, and reads as an \
               administrator, with unknown ids and minimal bodies; compares status and body with the \
               document",
        mend: "look up the request id in the log; declare the status or return another one",
        last: false,
        run: |run| Box::pin(answers_as_declared(run)),
    },
    Check {
        row: "API-07",
        does: "calls one route several times, reads Server-Timing, and compares the histogram of /api/metrics",
        mend: "check which proxy between here and Kith removes Server-Timing, and that the metrics are of \
               the node that responds",
        last: false,
        run: |run| Box::pin(is_timed(run)),
    },
    Check {
        row: "API-11",
        does: "calls /livez, /readyz and /api/health without signing in",
        mend: "look at the failing dependency in /api/health",
        last: false,
        run: |run| Box::pin(health(run)),
    },
];

/// Returns true if the operation ends the session used by the walk, so it must come last.
fn ends_sessions(operation: &Operation<'_>) -> bool {
    operation.method == Method::DELETE && operation.path == "/api/v1/auth/sessions"
}

async fn answers_as_declared(run: &Run) -> Result<String, Shortfall> {
    let document = run.document().await?;
    let mut operations = Operation::all(&document);
    operations.sort_by_key(ends_sessions);
    let (nobody, walker) = (run.anonymous(), run.person("walks-everywhere").await?.client);
    let admin = Some(run.admin().await?);
    let mut walk = Walk { document: &document, seen: BTreeMap::new(), asked: 0 };
    for operation in &operations {
        let reads = operation.method == Method::GET;
        if operation.is_for_development() && !reads {
            // Development operations change the state of all users.
            continue;
        }
        walk.ask(&nobody, operation, None).await?;
        if reads {
            let address = operation.address();
            let get = nobody.get(&address).await?;
            let head = nobody.send(Method::HEAD, &address, Bytes::new()).await?;
            if (get.status, true) != (head.status, head.body.is_empty()) {
                return Err(Shortfall::fails(format!(
                    "{} returned {} but HEAD {}",
                    get.asked, get.status, head.status
                )));
            }
        }
        if operation.wants_token() {
            walk.ask(&walker, operation, None).await?;
            if let Some(schema) = operation.body() {
                walk.ask(&walker, operation, Some(json!({}))).await?;
                walk.ask(&walker, operation, Some(operation.sample(schema))).await?;
            }
        }
        if let Some(admin) = admin.as_ref().filter(|_| reads && operation.permission().is_some()) {
            walk.ask(admin, operation, None).await?;
        }
    }
    run.figure("operations", operations.len());
    run.figure(
        "answers",
        walk.seen.iter().map(|(status, n)| (status.to_string(), json!(n))).collect::<Value>(),
    );
    let statuses: Vec<_> = walk.seen.keys().map(u16::to_string).collect();
    let (asked, all) = (walk.asked, operations.len());
    Ok(format!(
        "{all} operations returned {} as declared in {asked} calls, each body matching its schema",
        statuses.join(", ")
    ))
}

struct Walk<'d> {
    document: &'d Value,
    seen: BTreeMap<u16, u64>,
    asked: u64,
}

impl Walk<'_> {
    async fn ask(
        &mut self,
        client: &Client,
        operation: &Operation<'_>,
        body: Option<Value>,
    ) -> Result<(), Shortfall> {
        let bytes = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let answer = client.send(operation.method.clone(), &operation.address(), bytes).await?;
        self.asked += 1;
        *self.seen.entry(answer.status).or_default() += 1;
        self.judge(operation, &answer)
    }

    fn judge(&self, operation: &Operation<'_>, answer: &Answer) -> Result<(), Shortfall> {
        let (asked, status) = (operation.name(), answer.status);
        let fails = |what: String| {
            let id = answer.header("x-request-id").unwrap_or("without an id");
            Err(Shortfall::fails(format!("{asked} returned {status}{what} (request {id})")))
        };
        if !operation.statuses().contains(&status) {
            return fails(", which is not documented".to_owned());
        }
        let kind = answer.header("content-type").unwrap_or_default();
        let declared = &operation.json()["responses"][status.to_string()]["content"];
        if answer.body.is_empty() && declared.is_null() {
            return Ok(());
        }
        let Some(content) = declared.get(kind) else {
            return fails(format!(" as {kind:?}, which is not documented"));
        };
        if kind == "application/problem+json" {
            return schemas::is_problem(self.document, answer);
        }
        if kind.ends_with("json")
            && let Err(why) = schemas::fits(self.document, &content["schema"], &answer.json())
        {
            return fails(format!(" with a body that does not match its schema: {why}"));
        }
        Ok(())
    }
}

/// Number of requests that must appear in the histogram.
const REPETITIONS: u32 = 7;

async fn is_timed(run: &Run) -> Result<String, Shortfall> {
    const PATH: &str = "/api/v1/ping";
    let nobody = run.anonymous();
    let before = count_of(run, PATH).await?;
    let mut most_ms = 0.0_f64;
    for _ in 0..REPETITIONS {
        let answer = nobody.get(PATH).await?.expect(204)?;
        let timing = answer.header("server-timing").unwrap_or_default();
        let ms =
            timing.split("dur=").nth(1).and_then(|rest| rest.split([',', ';']).next()?.parse::<f64>().ok());
        let Some(ms) = ms else {
            return Err(Shortfall::fails(format!("the Server-Timing of {} is {timing:?}", answer.asked)));
        };
        if ms > answer.took.as_secs_f64() * 1_000.0 {
            let took = answer.took.as_millis();
            return Err(Shortfall::fails(format!(
                "the Server-Timing of {} is {ms} ms, but the response took {took} ms",
                answer.asked
            )));
        }
        most_ms = most_ms.max(ms);
    }
    let risen = count_of(run, PATH).await?.saturating_sub(before);
    run.figure("calls", REPETITIONS);
    run.figure("histogram_rose_by", risen);
    if risen < u64::from(REPETITIONS) {
        return Err(Shortfall::fails(format!(
            "{REPETITIONS} calls of {PATH} increased its histogram by {risen}"
        )));
    }
    Ok(format!(
        "each of {REPETITIONS} responses has Server-Timing (at most {most_ms} ms); the histogram increased \
         by {risen}"
    ))
}

/// Returns the number of requests to `path` in the duration histogram.
async fn count_of(run: &Run, path: &str) -> Result<u64, Shortfall> {
    const METRICS: &str = "/api/metrics";
    let mut answer = run.anonymous().get(METRICS).await?;
    if answer.status != 200 {
        answer = run.admin().await?.get(METRICS).await?;
    }
    if answer.status != 200 {
        let why = format!("{METRICS} returned {} instead of metrics", answer.status);
        return Err(Shortfall::unmeasured(why, "run it from an address in server.metrics_addresses"));
    }
    let text = answer.text();
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
    // A failure that a restart does not fix must not fail the liveness probe.
    if let Some(shared) = of_live.iter().find(|name| of_ready.contains(name)) {
        return Err(Shortfall::fails(format!("/livez depends on {shared}, like /readyz")));
    }
    let whole = anonymous.get("/api/health").await?.expect(200)?;
    let status = whole.text_at("/status")?;
    let of_whole = named(&whole.json());
    if let Some(missing) = of_ready.iter().find(|name| !of_whole.contains(name)) {
        return Err(Shortfall::fails(format!("/api/health does not report {missing}")));
    }
    run.figure("dependencies", of_ready.clone());
    let on = of_ready.join(", ");
    Ok(format!(
        "the server is live regardless of dependencies and ready, which depends on {on}; its health is \
         {status}"
    ))
}
