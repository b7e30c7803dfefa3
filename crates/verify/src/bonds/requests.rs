//! Checks of partner requests that must succeed: every step on the old paths, repeated requests that create
//! only one, and five requests within a minute.

use http::Method;
use kith_readiness::{Check, CheckResponse, RequestError, Run, Shortfall, SyntheticAccount};
use serde_json::{Value, json};

use super::DEFAULT_REMEDIATION;
use crate::synthetic_accounts::{
    REQUESTS, decide, ensure, ensure_status, items, send_request, unbonded_account,
};

pub(super) const CHECKS: &[Check] = &[
    Check {
        row: "PRT-01",
        description: "has two users send, list, reject, cancel and accept requests under the old paths, and reads back each state",
        remediation: DEFAULT_REMEDIATION,
        runs_last: false,
        run: |run| Box::pin(check_every_step(run)),
    },
    Check {
        row: "DRV-03",
        description: "sends one request five times with one idempotency key, and one item five times concurrently",
        remediation: DEFAULT_REMEDIATION,
        runs_last: false,
        run: |run| Box::pin(check_retries(run)),
    },
    Check {
        row: "SEC-03",
        description: "sends partner requests to six users within a minute",
        remediation: "do not serve with `--disable-limits`; check that all nodes use one database",
        runs_last: false,
        run: |run| Box::pin(limits(run)),
    },
];

const DEPRECATED_PREFIX: &str = "/api/enhanced-partners";

async fn check_every_step(run: &Run) -> Result<String, Shortfall> {
    let (ada, ben) = (unbonded_account(run, 1).await?, unbonded_account(run, 2).await?);
    // The sender has a cooldown after a rejection, so the other user sends the next request.
    check_step(&ada, &ben, "reject", "rejected").await?;
    check_step(&ben, &ada, "cancel", "cancelled").await?;
    let bond = check_step(&ben, &ada, "accept", "accepted").await?.text_at("/bond/id")?;
    for (one, other) in [(&ada, &ben), (&ben, &ada)] {
        let current = one.client.get(&format!("{DEPRECATED_PREFIX}/current")).await?.expect(200)?.json();
        ensure(current["bond"]["id"] == *bond && current["bond"]["partner"]["id"] == *other.id, || {
            format!(
                "after accepting, one of the users has the bond {} instead of {bond}",
                current["bond"]["id"]
            )
        })?;
    }
    ada.client.post(&format!("{DEPRECATED_PREFIX}/breakup"), json!({})).await?.expect(200)?;
    run.record("transitions", 4);
    Ok("requests were sent, listed, rejected, cancelled and accepted, and the bond was ended; both users \
        read back each state"
        .to_owned())
}

/// Sends a partner request and finds it in the lists of both users. Then applies `decision` and checks the
/// resulting status.
async fn check_step(
    from: &SyntheticAccount,
    to: &SyntheticAccount,
    decision: &str,
    ends: &str,
) -> Result<CheckResponse, Shortfall> {
    let sent = from
        .client
        .post(&format!("{DEPRECATED_PREFIX}/request"), json!({ "partnerId": to.id }))
        .await?
        .expect(201)?;
    let id = sent.text_at("/id")?;
    for (who, direction) in [(from, "outgoing"), (to, "incoming")] {
        let listed =
            items(who, &format!("{DEPRECATED_PREFIX}/requests?direction={direction}&status=pending")).await?;
        ensure(listed.iter().any(|item| item["id"] == *id), || {
            format!("request {id} is not among the pending {direction} requests")
        })?;
    }
    let by = if decision == "cancel" { from } else { to };
    let decided = by
        .client
        .post(&format!("{DEPRECATED_PREFIX}/requests/{id}/{decision}"), Value::Null)
        .await?
        .expect(200)?;
    ensure_status(from, &id, ends).await?;
    ensure_status(to, &id, ends).await?;
    Ok(decided)
}

/// Number of times that each request is repeated.
const REPETITIONS: usize = 5;

async fn check_retries(run: &Run) -> Result<String, Shortfall> {
    let (ada, ben) = (unbonded_account(run, 4).await?, unbonded_account(run, 8).await?);
    let keyed = ada.client.with("idempotency-key", &run.marker("once"));
    let body = json!({ "to": { "user_id": ben.id }, "message": "Shall we?" });
    let first = keyed.post(REQUESTS, body.clone()).await?.expect(201)?;
    for n in 2..=REPETITIONS {
        let again = keyed.post(REQUESTS, body.clone()).await?.expect(201)?;
        ensure(again.body == first.body, || {
            format!("the response to repetition {n} differs from the first")
        })?;
    }
    let id = first.text_at("/id")?;
    let waiting = items(&ben, &format!("{REQUESTS}?direction=incoming&status=pending")).await?;
    let created = waiting.iter().filter(|item| item["from"]["id"] == *ada.id).count();
    ensure(created == 1, || format!("{REPETITIONS} repetitions of one request created {created}"))?;
    let other = json!({ "to": { "user_id": ben.id }, "message": "Something else" });
    keyed.post(REQUESTS, other).await?.expect(422)?;
    decide(&ada, &id, "cancel").await?.expect(200)?;

    let collection = format!("/api/v1/spaces/me/{}", run.marker("retry"));
    let responses = repeat_concurrently(run, &ada, &collection).await?;
    let same = responses.iter().all(|response| response.body == responses[0].body);
    ensure(same, || format!("the responses to {REPETITIONS} concurrent repetitions differ"))?;
    let item_count = items(&ada, &collection).await?.len();
    ensure(item_count == 1, || {
        format!("{REPETITIONS} concurrent repetitions of one write created {item_count} items")
    })?;
    Ok(format!(
        "{REPETITIONS} sequential and {REPETITIONS} concurrent repetitions each created one object and \
         returned one response; another body is rejected"
    ))
}

async fn repeat_concurrently(
    run: &Run,
    by: &SyntheticAccount,
    collection: &str,
) -> Result<Vec<CheckResponse>, Shortfall> {
    let keyed = by.client.with("idempotency-key", &run.marker("at-once"));
    let mut writes = tokio::task::JoinSet::new();
    for _ in 0..REPETITIONS {
        let (keyed, path) = (keyed.clone(), collection.to_owned());
        writes.spawn(async move { keyed.post(&path, json!({ "data": { "kept": "once" } })).await });
    }
    let responses: Vec<Result<CheckResponse, RequestError>> = writes.join_all().await;
    responses.into_iter().map(|response| response?.expect(201)).collect()
}

/// Number of partner requests that a user can send within a minute.
const MAX_REQUESTS_PER_MINUTE: usize = 5;

async fn limits(run: &Run) -> Result<String, Shortfall> {
    let ada = run.account("asks-often").await?;
    let mut sent = Vec::new();
    for n in 1..=MAX_REQUESTS_PER_MINUTE {
        sent.push(send_request(&ada, &unbonded_account(run, n).await?).await?);
    }
    let last = unbonded_account(run, MAX_REQUESTS_PER_MINUTE + 1).await?;
    let body = json!({ "to": { "user_id": last.id } });
    let refused = ada.client.send_once(Method::POST, REQUESTS, body.to_string().into()).await?;
    let refused = refused.expect_problem(429, "rate_limited")?;
    let wait = refused.retry_after().unwrap_or_default();
    ensure((1..=60).contains(&wait), || format!("the sixth request has a Retry-After of {wait} s"))?;
    let waiting = items(&last, &format!("{REQUESTS}?direction=incoming&status=pending")).await?;
    ensure(waiting.iter().all(|item| item["from"]["id"] != *ada.id), || {
        "the sixth request was created".to_owned()
    })?;
    for request in &sent {
        decide(&ada, request, "cancel").await?.expect(200)?;
    }
    run.record("retry_after_s", wait);
    Ok(format!(
        "{MAX_REQUESTS_PER_MINUTE} requests were created within a minute; the next is rejected for {wait} s \
         and was not delivered"
    ))
}
