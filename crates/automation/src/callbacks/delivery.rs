//! Sends a callback once and records the result, for a job that may run more than once: a delivered callback
//! is not sent again, and an attempt with an unknown result is repeated with the same `webhook-id`.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use kith_jobs::{JobError, JobId, JobOutput};
use kith_kernel::{Ctx, Timestamp, seconds};
use kith_platform::App;
use kith_platform::outbound::{OutboundError, Outgoing, Received, signature};
use kith_store::{Error, Tx};

use super::model::{
    Attempt, BreakerState, CallbackId, CallbackState, Captured, DisabledBecause, EndpointId, KeptCallback,
    KeptEndpoint, Message, Reason,
};
use super::rules::{self, Admission, Ended, Next};
use super::transitions::{LOCK, disable_it, finish};
use super::{rows, sealed};

/// Time that a probe may take beyond the request timeout.
const PROBE_MARGIN: Duration = seconds(15);
/// Maximum number of response headers that are stored, and their maximum total length in bytes.
const MAX_STORED_HEADERS: usize = 50;
const MAX_STORED_HEADER_BYTES: usize = 8_192;

/// Sends a callback if it is due and its endpoint accepts requests.
///
/// # Errors
/// Returns the [`JobError`] that decides when the job runs again, or that it does not.
pub async fn deliver(app: &App, id: CallbackId, job: JobId) -> Result<JobOutput, JobError> {
    let found = app.db.read(move |q| {
        let Some(kept) = rows::find(q, id)? else { return Ok(None) };
        Ok::<_, Error>(rows::find_endpoint(q, kept.shown.endpoint_id)?.map(|endpoint| (kept, endpoint)))
    });
    let Some((kept, endpoint)) = found.await? else { return Ok(JobOutput::default()) };
    let ctx = app.system_ctx("callbacks");
    if !kept.shown.state.is_open() || kept.shown.job_id != job {
        return Ok(JobOutput::default());
    }
    if let Some(later) = kept.shown.next_attempt_at.filter(|at| ctx.now < *at) {
        return Err(JobError::Snooze(later.since(ctx.now)));
    }
    if endpoint.disabled.is_some() {
        return give_up(app, &ctx, id, Reason::EndpointDisabled).await;
    }
    let outgoing = match outgoing(app, &ctx, &kept, &endpoint) {
        Ok(outgoing) => outgoing,
        Err(reason) => return give_up(app, &ctx, id, reason).await,
    };
    let was_probe = match admit(app, &ctx, &kept, &endpoint).await? {
        Admission::Send => false,
        Admission::Probe => true,
        Admission::Wait(until) => return Err(JobError::Snooze(until.since(ctx.now))),
    };
    let result = app.outbound.send(outgoing).await;
    let told = Told { id, endpoint: endpoint.id, job, at: ctx.now, was_probe, part: part(&ctx), result };
    record(app, told).await
}

/// Builds and signs the request. Returns the reason if that is not possible.
fn outgoing(app: &App, ctx: &Ctx, kept: &KeptCallback, endpoint: &KeptEndpoint) -> Result<Outgoing, Reason> {
    let (id, keyring) = (kept.shown.id, &app.keyring);
    let target = app.outbound.target(&kept.shown.url).map_err(|_| Reason::TargetRefused)?;
    let headers = sealed::open_headers(keyring, &sealed::headers_name(id), kept.headers.as_deref());
    let secrets = sealed::secrets(keyring, endpoint, ctx.now).ok_or(Reason::SealedOtherwise)?;
    let method = kept.shown.method.parse().unwrap_or(http::Method::POST);
    let message = Message {
        method,
        headers: headers.ok_or(Reason::SealedOtherwise)?,
        body: kept.body.clone(),
        timeout: kept.timeout_ms.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis),
    };
    let mut headers = message.header_map();
    let body = Bytes::from(message.body.unwrap_or_default());
    // Uses real time: receivers compare the signature's timestamp with their own clocks, which do not follow
    // `/dev/clock`.
    signature::sign(&mut headers, &secrets, &webhook_id(id), ctx.real_now(), &body);
    Ok(Outgoing { target, method: message.method, headers, body, timeout: message.timeout })
}

/// Returns the `webhook-id` of a callback. All attempts have the same.
pub fn webhook_id(CallbackId(id): CallbackId) -> String {
    format!("msg_{}", id.simple())
}

/// Asks the circuit breaker of the endpoint whether to send. While it is closed, nothing is written.
async fn admit(
    app: &App,
    ctx: &Ctx,
    kept: &KeptCallback,
    endpoint: &KeptEndpoint,
) -> Result<Admission, Error> {
    if endpoint.breaker.state(ctx.now).0 == BreakerState::Closed {
        return Ok(Admission::Send);
    }
    let (callback, endpoint) = (kept.shown.id, endpoint.id);
    let probe_for = app.outbound.timeout() + PROBE_MARGIN;
    app.write(ctx, move |tx, ctx| {
        tx.lock(LOCK, [callback.to_string(), endpoint.to_string()])?;
        let Some(mut endpoint) = rows::find_endpoint(tx, endpoint)? else { return Ok(Admission::Send) };
        let admission = endpoint.breaker.admit(ctx.now, probe_for);
        match admission {
            Admission::Send => {}
            Admission::Probe => rows::update_endpoint(tx, &endpoint)?,
            Admission::Wait(until) => {
                if let Some(mut kept) = rows::find(tx, callback)?.filter(|kept| kept.shown.state.is_open()) {
                    kept.shown.next_attempt_at = Some(until);
                    rows::update(tx, &kept.shown, kept.ladder)?;
                }
            }
        }
        Ok::<_, Error>(admission)
    })
    .await
}

/// Result of an attempt, with everything needed to record it.
struct Told {
    id: CallbackId,
    endpoint: EndpointId,
    job: JobId,
    at: Timestamp,
    was_probe: bool,
    /// Fraction of the jitter to add to the next wait, 0 to 1.
    part: f64,
    result: Result<Received, OutboundError>,
}

fn part(ctx: &Ctx) -> f64 {
    let mut bytes = [0; 4];
    ctx.randomness().fill(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}

/// Records the result of an attempt with the callback and with the endpoint, whose circuit breaker all nodes
/// share.
async fn record(app: &App, told: Told) -> Result<JobOutput, JobError> {
    let ctx = app.system_ctx("callbacks");
    let told = Arc::new(told);
    let (to_ask, to_write) = (app.clone(), Arc::clone(&told));
    let (outcome, disabled) = app
        .write(&ctx, move |tx, ctx| {
            tx.lock(LOCK, [to_write.id.to_string(), to_write.endpoint.to_string()])?;
            let disabled = record_at_endpoint(&to_ask, tx, ctx, &to_write)?;
            Ok::<_, Error>((record_at_callback(tx, ctx, &to_write)?, disabled))
        })
        .await?;
    if let Some(because) = disabled {
        let endpoint = told.endpoint;
        tracing::warn!(%endpoint, because = because.as_str(), "callback endpoint disabled");
    }
    let why = || match &told.result {
        Ok(received) => format!("HTTP status {}", received.status),
        Err(error) => error.to_string(),
    };
    match outcome {
        None | Some(Next::Delivered) => Ok(JobOutput::default()),
        Some(Next::Again(wait)) => Err(JobError::RetryIn { why: why(), wait }),
        Some(Next::GivenUp | Next::Gone) => Err(JobError::Discard(why())),
    }
}

fn ended(told: &Told) -> Ended {
    told.result.as_ref().map_or(Ended::Unanswered, |received| Ended::Answered(received.status))
}

/// Records the result with the endpoint. Returns the reason if the endpoint is disabled from now on.
fn record_at_endpoint(
    app: &App,
    tx: &Tx<'_>,
    ctx: &Ctx,
    told: &Told,
) -> Result<Option<DisabledBecause>, Error> {
    let Some(mut endpoint) = rows::find_endpoint(tx, told.endpoint)? else { return Ok(None) };
    let mut because = None;
    match ended(told) {
        Ended::Answered(200..=299) => {
            endpoint.breaker.succeeded();
            endpoint.succeeded += 1;
            (endpoint.last_success_at, endpoint.failing_since) = (Some(ctx.now), None);
        }
        other => {
            endpoint.breaker.failed(ctx.now, told.was_probe);
            endpoint.failed += 1;
            endpoint.last_failure_at = Some(ctx.now);
            endpoint.failing_since.get_or_insert(ctx.now);
            if other == Ended::Answered(410) {
                because = Some(DisabledBecause::Gone);
            } else if rules::is_hopeless(endpoint.failing_since, ctx.now) {
                because = Some(DisabledBecause::Failing);
            }
        }
    }
    let because = because.filter(|_| endpoint.disabled.is_none());
    if let Some(because) = because {
        disable_it(app, tx, ctx, &mut endpoint, because)?;
    }
    rows::update_endpoint(tx, &endpoint)?;
    Ok(because)
}

/// Records the result with the callback. Returns `None` if another job is responsible for it by now.
fn record_at_callback(tx: &Tx<'_>, ctx: &Ctx, told: &Told) -> Result<Option<Next>, Error> {
    let Some(kept) = rows::find(tx, told.id)?.filter(|kept| kept.shown.state.is_open()) else {
        return Ok(None);
    };
    let KeptCallback { mut shown, mut ladder, .. } = kept;
    shown.attempts_made += 1;
    rows::insert_attempt(tx, told.id, &attempt(told, shown.attempts_made))?;
    shown.last_status = told.result.as_ref().ok().map(|received| i64::from(received.status));
    let asked = told.result.as_ref().ok().and_then(|received| {
        let header = |name| received.headers.get(name)?.to_str().ok();
        rules::retry_after(header("retry-after")?, header("date"), ctx.now)
    });
    let next = rules::next(ended(told), ladder + 1, asked, told.part);
    let is_own = shown.job_id == told.job;
    match next {
        // Another job already delivers this callback.
        Next::Again(_) | Next::GivenUp if !is_own => {
            rows::update(tx, &shown, ladder)?;
            return Ok(None);
        }
        Next::Again(wait) => {
            ladder += 1;
            (shown.state, shown.next_attempt_at) = (CallbackState::Retrying, Some(ctx.now + wait));
        }
        Next::Delivered => finish(tx, ctx, &mut shown, CallbackState::Delivered, None),
        Next::GivenUp => finish(tx, ctx, &mut shown, CallbackState::Failed, Some(Reason::GivenUp)),
        Next::Gone => finish(tx, ctx, &mut shown, CallbackState::Failed, Some(Reason::Gone)),
    }
    rows::update(tx, &shown, ladder)?;
    Ok(Some(next))
}

/// Fails a callback without sending it.
async fn give_up(app: &App, ctx: &Ctx, id: CallbackId, reason: Reason) -> Result<JobOutput, JobError> {
    app.write(ctx, move |tx, ctx| {
        tx.lock(LOCK, [id])?;
        let Some(mut kept) = rows::find(tx, id)?.filter(|kept| kept.shown.state.is_open()) else {
            return Ok(());
        };
        finish(tx, ctx, &mut kept.shown, CallbackState::Failed, Some(reason));
        rows::update(tx, &kept.shown, kept.ladder)
    })
    .await?;
    Err(JobError::Discard(reason.as_str().to_owned()))
}

fn attempt(told: &Told, number: i64) -> Attempt {
    let received = told.result.as_ref().ok();
    Attempt {
        number,
        at: told.at,
        took_ms: received.map_or(0, |received| i64::try_from(received.took.as_millis()).unwrap_or(i64::MAX)),
        status: received.map(|received| i64::from(received.status)),
        error: told.result.as_ref().err().map(|error| error.code().to_owned()),
        response: received.map(captured),
    }
}

/// Returns the part of a response that is stored, as text that both databases can store.
fn captured(received: &Received) -> Captured {
    let mut bytes = 0;
    let lines = received.headers.iter().map(|(name, value)| {
        format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()).replace(char::is_control, " "))
    });
    let headers = lines.take(MAX_STORED_HEADERS).take_while(|line| {
        bytes += line.len();
        bytes <= MAX_STORED_HEADER_BYTES
    });
    Captured {
        headers: headers.collect(),
        body: String::from_utf8_lossy(&received.body).replace('\0', "\u{fffd}"),
        is_whole: received.is_whole,
    }
}
