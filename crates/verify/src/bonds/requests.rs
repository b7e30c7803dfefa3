//! Checks of successful requests: every step on the old paths, one request under retries, and five requests
//! in a minute.

use http::Method;
use kith_readiness::{Answer, Check, Person, Refused, Run, Shortfall};
use serde_json::{Value, json};

use super::DEFAULT_REMEDIATION;
use crate::cast::{REQUESTS, ask, decide, ensure, ensure_status, items, single};

pub(super) const CHECKS: &[Check] = &[
    Check {
        row: "PRT-01",
        does: "has two users send, list, reject, cancel and accept requests under the old paths, and reads back each state",
        mend: DEFAULT_REMEDIATION,
        last: false,
        run: |run| Box::pin(serves(run)),
    },
    Check {
        row: "DRV-03",
        does: "sends one request five times with one idempotency key, and one item five times concurrently",
        mend: DEFAULT_REMEDIATION,
        last: false,
        run: |run| Box::pin(repeats(run)),
    },
    Check {
        row: "SEC-03",
        does: "sends partner requests to six users within a minute",
        mend: "do not serve with `--disable-limits`; check that all nodes use one database",
        last: false,
        run: |run| Box::pin(limits(run)),
    },
];

const DEPRECATED_PREFIX: &str = "/api/enhanced-partners";

async fn serves(run: &Run) -> Result<String, Shortfall> {
    let (ada, ben) = (single(run, 1).await?, single(run, 2).await?);
    // After a rejection the sender has a cooldown, so the other user sends the next request.
    step(&ada, &ben, "reject", "rejected").await?;
    step(&ben, &ada, "cancel", "cancelled").await?;
    let bond = step(&ben, &ada, "accept", "accepted").await?.text_at("/bond/id")?;
    for (one, other) in [(&ada, &ben), (&ben, &ada)] {
        let seen = one.client.get(&format!("{DEPRECATED_PREFIX}/current")).await?.expect(200)?.json();
        ensure(seen["bond"]["id"] == *bond && seen["bond"]["partner"]["id"] == *other.id, || {
            format!("after accepting, one of the users has the bond {} instead of {bond}", seen["bond"]["id"])
        })?;
    }
    ada.client.post(&format!("{DEPRECATED_PREFIX}/breakup"), json!({})).await?.expect(200)?;
    run.figure("transitions", 4);
    Ok("requests were sent, listed, rejected, cancelled and accepted, and the bond was ended; both users \
        read back each state"
        .to_owned())
}

/// Sends a request, finds it in both lists, applies `step`, and checks the resulting status.
async fn step(from: &Person, to: &Person, step: &str, ends: &str) -> Result<Answer, Shortfall> {
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
    let by = if step == "cancel" { from } else { to };
    let decided = by
        .client
        .post(&format!("{DEPRECATED_PREFIX}/requests/{id}/{step}"), Value::Null)
        .await?
        .expect(200)?;
    ensure_status(from, &id, ends).await?;
    ensure_status(to, &id, ends).await?;
    Ok(decided)
}

/// Number of times each request is repeated.
const REPETITIONS: usize = 5;

async fn repeats(run: &Run) -> Result<String, Shortfall> {
    let (ada, ben) = (single(run, 4).await?, single(run, 8).await?);
    let keyed = ada.client.with("idempotency-key", &run.mark("once"));
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
    let made = waiting.iter().filter(|item| item["from"]["id"] == *ada.id).count();
    ensure(made == 1, || format!("{REPETITIONS} repetitions of one request created {made}"))?;
    let other = json!({ "to": { "user_id": ben.id }, "message": "Something else" });
    keyed.post(REQUESTS, other).await?.expect(422)?;
    decide(&ada, &id, "cancel").await?.expect(200)?;

    let collection = format!("/api/v1/spaces/me/{}", run.mark("retry"));
    let answers = at_once(run, &ada, &collection).await?;
    let same = answers.iter().all(|answer| answer.body == answers[0].body);
    ensure(same, || format!("the responses to {REPETITIONS} concurrent repetitions differ"))?;
    let kept = items(&ada, &collection).await?.len();
    ensure(kept == 1, || format!("{REPETITIONS} concurrent repetitions of one write created {kept} items"))?;
    Ok(format!(
        "{REPETITIONS} sequential and {REPETITIONS} concurrent repetitions each created one object and \
         returned one response; another body is rejected"
    ))
}

async fn at_once(run: &Run, by: &Person, collection: &str) -> Result<Vec<Answer>, Shortfall> {
    let keyed = by.client.with("idempotency-key", &run.mark("at-once"));
    let mut under_way = tokio::task::JoinSet::new();
    for _ in 0..REPETITIONS {
        let (keyed, path) = (keyed.clone(), collection.to_owned());
        under_way.spawn(async move { keyed.post(&path, json!({ "data": { "kept": "once" } })).await });
    }
    let answers: Vec<Result<Answer, Refused>> = under_way.join_all().await;
    answers.into_iter().map(|answer| answer?.expect(201)).collect()
}

/// Maximum number of requests that a user can send in a minute.
const MAX_REQUESTS_PER_MINUTE: usize = 5;

async fn limits(run: &Run) -> Result<String, Shortfall> {
    let ada = run.person("asks-often").await?;
    let mut sent = Vec::new();
    for n in 1..=MAX_REQUESTS_PER_MINUTE {
        sent.push(ask(&ada, &single(run, n).await?).await?);
    }
    let last = single(run, MAX_REQUESTS_PER_MINUTE + 1).await?;
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
    run.figure("retry_after_s", wait);
    Ok(format!(
        "{MAX_REQUESTS_PER_MINUTE} requests were created within a minute; the next is rejected for {wait} s \
         and was not delivered"
    ))
}
