//! Checks that all errors are problems in one format and reveal no internals.

use bytes::Bytes;
use http::Method;
use kith_readiness::{Answer, Check, NO_ID, Operation, Run, Shortfall};
use serde_json::json;

use super::schemas;

pub(super) const CHECKS: &[Check] = &[Check {
    row: "API-05",
    does: "provokes every kind of rejection, validates each against the problem schema, and searches it for \
           internal details",
    mend: "return the rejection as a `Problem`; write `detail` for external callers",
    last: false,
    run: |run| Box::pin(one_form(run)),
}];

/// Patterns of internals that no response may contain: code locations, libraries and SQL.
pub(super) const INTERNALS_PATTERNS: &[&str] = &[
    "panicked",
    "stack backtrace",
    "RUST_BACKTRACE",
    ".rs:",
    "src/",
    "crates/",
    "/home/",
    "/root/",
    "/usr/",
    "/var/",
    "SELECT ",
    "INSERT INTO",
    "UPDATE ",
    "DELETE FROM",
    "syntax error",
    "SQLITE",
    "sqlite",
    "postgres",
    "rusqlite",
    "tokio",
    "serde",
    "hyper::",
    "axum",
    "kith_store::",
    "kith_platform::",
    "kith_accounts::",
    "kith_bonds::",
    "kith_automation::",
    "Option<",
    "Err(",
];

/// Returns the first leaked pattern in a response.
pub(super) fn leak(answer: &Answer) -> Option<&'static str> {
    let text = answer.text();
    INTERNALS_PATTERNS.iter().find(|pattern| text.contains(**pattern)).copied()
}

async fn one_form(run: &Run) -> Result<String, Shortfall> {
    let document = run.document().await?;
    let (person, nobody) = (run.person("is-refused").await?, run.anonymous());
    let client = &person.client;
    let me = "/api/v1/me";
    let register = json!({ "email": person.email, "password": person.password, "display_name": "twice" });
    let mut answers = vec![
        (400, client.send(Method::PATCH, me, Bytes::from_static(b"{\"display_name\":")).await?),
        (400, client.get("/api/v1/blocks?limit=none").await?),
        (401, nobody.get(me).await?),
        (401, nobody.with_token("e30.e30.e30").get(me).await?),
        (403, client.get("/api/v1/admin/users").await?),
        (404, client.get(&format!("/api/v1/partners/requests/{NO_ID}")).await?),
        (404, nobody.get("/kith-verify").await?),
        (405, nobody.delete("/api/v1/ping", serde_json::Value::Null).await?),
        (409, nobody.post("/api/v1/auth/register", register).await?),
        (412, client.with("if-match", "\"kith-verify\"").patch(me, json!({ "theme": "dark" })).await?),
        (415, client.with("content-type", "text/plain").patch(me, json!({ "theme": "dark" })).await?),
        (415, client.with("content-encoding", "br").patch(me, json!({ "theme": "dark" })).await?),
        (422, client.patch(me, json!({ "display_name": 5 })).await?),
        (422, client.patch(me, json!({ "kith_verify": "' OR 1=1 --" })).await?),
    ];
    let limit = body_limit(run).await?;
    let long = Bytes::from(vec![b' '; limit + 1]);
    answers.push((413, client.send(Method::PATCH, me, long).await?));
    answers.extend(refusals_elsewhere(run, &Operation::all(&document)).await?);
    for (status, answer) in &answers {
        if answer.status != *status {
            return Err(Shortfall::fails(format!(
                "{} returned {} instead of {status}",
                answer.asked, answer.status
            )));
        }
        schemas::is_problem(&document, answer)?;
        if let Some(pattern) = leak(answer) {
            return Err(Shortfall::fails(format!(
                "{} returned {status} with {pattern:?} in the body",
                answer.asked
            )));
        }
    }
    client.get(me).await?.expect(200)?;
    let mut kinds: Vec<_> = answers.iter().map(|(status, _)| *status).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let kinds: Vec<_> = kinds.iter().map(u16::to_string).collect();
    run.figure("refusals", answers.len());
    run.figure("statuses", kinds.clone());
    run.figure("leak_patterns", INTERNALS_PATTERNS.len());
    Ok(format!(
        "{} rejections of {} kinds ({}) match the problem schema, have the request id and contain none of {} \
         patterns of internal details",
        answers.len(),
        kinds.len(),
        kinds.join(", "),
        INTERNALS_PATTERNS.len()
    ))
}

/// Sends every operation that requires a token without one. Returns expected status and response.
async fn refusals_elsewhere(
    run: &Run,
    operations: &[Operation<'_>],
) -> Result<Vec<(u16, Answer)>, Shortfall> {
    let nobody = run.anonymous();
    let mut answers = Vec::new();
    for operation in operations.iter().filter(|operation| operation.wants_token()) {
        answers.push((401, nobody.send(operation.method.clone(), &operation.address(), Bytes::new()).await?));
    }
    Ok(answers)
}

/// Returns the configured maximum body size.
pub(super) async fn body_limit(run: &Run) -> Result<usize, Shortfall> {
    let facts = run.facts().await?;
    let limit =
        facts.pointer("/configuration/settings/server/max_body_bytes").and_then(serde_json::Value::as_u64);
    limit.and_then(|limit| usize::try_from(limit).ok()).ok_or_else(|| {
        Shortfall::unmeasured(
            "the server does not report server.max_body_bytes",
            "deploy a build that reports it",
        )
    })
}
