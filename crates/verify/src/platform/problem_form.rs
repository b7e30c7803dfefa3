//! Checks that all errors are problems (RFC 9457) in the same format and reveal no internals.

use bytes::Bytes;
use http::Method;
use kith_readiness::{Check, CheckResponse, NO_ID, Operation, Run, Shortfall};
use serde_json::json;

use super::schemas;

pub(super) const CHECKS: &[Check] = &[Check {
    row: "API-05",
    description: "provokes every kind of rejection, validates each against the problem schema, and searches it for \
           internal details",
    remediation: "return the rejection as a `Problem`; write `detail` for external callers",
    runs_last: false,
    run: |run| Box::pin(check_problem_format(run)),
}];

/// Texts that reveal internals and that no response may contain: code locations, libraries and SQL.
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

/// Returns the first of [`INTERNALS_PATTERNS`] that a response contains.
pub(super) fn find_internals(response: &CheckResponse) -> Option<&'static str> {
    let text = response.text();
    INTERNALS_PATTERNS.iter().find(|pattern| text.contains(**pattern)).copied()
}

async fn check_problem_format(run: &Run) -> Result<String, Shortfall> {
    let document = run.document().await?;
    let (account, anonymous) = (run.account("is-refused").await?, run.anonymous());
    let client = &account.client;
    let me = "/api/v1/me";
    let register = json!({ "email": account.email, "password": account.password, "display_name": "twice" });
    let mut responses = vec![
        (400, client.send(Method::PATCH, me, Bytes::from_static(b"{\"display_name\":")).await?),
        (400, client.get("/api/v1/blocks?limit=none").await?),
        (401, anonymous.get(me).await?),
        (401, anonymous.with_token("e30.e30.e30").get(me).await?),
        (403, client.get("/api/v1/admin/users").await?),
        (404, client.get(&format!("/api/v1/partners/requests/{NO_ID}")).await?),
        (404, anonymous.get("/kith-verify").await?),
        (405, anonymous.delete("/api/v1/ping", serde_json::Value::Null).await?),
        (409, anonymous.post("/api/v1/auth/register", register).await?),
        (412, client.with("if-match", "\"kith-verify\"").patch(me, json!({ "theme": "dark" })).await?),
        (415, client.with("content-type", "text/plain").patch(me, json!({ "theme": "dark" })).await?),
        (415, client.with("content-encoding", "br").patch(me, json!({ "theme": "dark" })).await?),
        (422, client.patch(me, json!({ "display_name": 5 })).await?),
        (422, client.patch(me, json!({ "kith_verify": "' OR 1=1 --" })).await?),
    ];
    let limit = body_limit(run).await?;
    let long = Bytes::from(vec![b' '; limit + 1]);
    responses.push((413, client.send(Method::PATCH, me, long).await?));
    responses.extend(rejections_by_routing(run, &Operation::all(&document)).await?);
    for (status, response) in &responses {
        if response.status != *status {
            return Err(Shortfall::fails(format!(
                "{} returned {} instead of {status}",
                response.request, response.status
            )));
        }
        schemas::check_problem(&document, response)?;
        if let Some(pattern) = find_internals(response) {
            return Err(Shortfall::fails(format!(
                "{} returned {status} with {pattern:?} in the body",
                response.request
            )));
        }
    }
    client.get(me).await?.expect(200)?;
    let mut kinds: Vec<_> = responses.iter().map(|(status, _)| *status).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let kinds: Vec<_> = kinds.iter().map(u16::to_string).collect();
    run.record("refusals", responses.len());
    run.record("statuses", kinds.clone());
    run.record("leak_patterns", INTERNALS_PATTERNS.len());
    Ok(format!(
        "{} rejections of {} kinds ({}) match the problem schema, have the request id and contain none of {} \
         patterns of internal details",
        responses.len(),
        kinds.len(),
        kinds.join(", "),
        INTERNALS_PATTERNS.len()
    ))
}

/// Sends, without a token, every operation that requires one. Returns the expected status and the response
/// for each.
async fn rejections_by_routing(
    run: &Run,
    operations: &[Operation<'_>],
) -> Result<Vec<(u16, CheckResponse)>, Shortfall> {
    let anonymous = run.anonymous();
    let mut responses = Vec::new();
    for operation in operations.iter().filter(|operation| operation.requires_token()) {
        responses.push((
            401,
            anonymous.send(operation.method.clone(), &operation.sample_path(), Bytes::new()).await?,
        ));
    }
    Ok(responses)
}

/// Returns the configured maximum size of a body in bytes.
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
