//! Sends a callback once and records the result. The job of a callback may run more than once: a delivered
//! callback is not sent again. An attempt whose result is unknown is repeated with the same `webhook-id`.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use kith_jobs::{JobError, JobId, JobOutput};
use kith_kernel::{Ctx, Timestamp, seconds};
use kith_platform::App;
use kith_platform::outbound::{OutboundError, OutboundRequest, OutboundResponse, signature};
use kith_store::{Error, Tx};

use super::model::{
    BreakerState, CallbackAttempt, CallbackFailureReason, CallbackId, CallbackMessage, CallbackState,
    CapturedResponse, DisabledReason, EndpointId, StoredCallback, StoredEndpoint,
};
use super::rules::{self, Admission, AttemptOutcome, RetryDecision};
use super::transitions::{LOCK, disable_endpoint, finish};
use super::{rows, sealed};

/// Time that is allowed for a probe in addition to the request timeout.
const PROBE_MARGIN: Duration = seconds(15);
/// Maximum number of response headers that are stored, and their maximum total length in bytes.
const MAX_STORED_HEADERS: usize = 50;
const MAX_STORED_HEADER_BYTES: usize = 8_192;

/// Sends a callback if it is due and its endpoint accepts requests.
///
/// # Errors
/// Returns the [`JobError`] that decides when the job runs again, or that it does not run again.
pub async fn deliver(app: &App, id: CallbackId, job: JobId) -> Result<JobOutput, JobError> {
    let found = app.db.read(move |q| {
        let Some(stored) = rows::find(q, id)? else { return Ok(None) };
        Ok::<_, Error>(
            rows::find_endpoint(q, stored.callback.endpoint_id)?.map(|endpoint| (stored, endpoint)),
        )
    });
    let Some((stored, endpoint)) = found.await? else { return Ok(JobOutput::default()) };
    let ctx = app.system_ctx("callbacks");
    if !stored.callback.state.is_open() || stored.callback.job_id != job {
        return Ok(JobOutput::default());
    }
    if let Some(later) = stored.callback.next_attempt_at.filter(|at| ctx.now < *at) {
        return Err(JobError::Snooze(later.since(ctx.now)));
    }
    if endpoint.disabled.is_some() {
        return fail_unsent(app, &ctx, id, CallbackFailureReason::EndpointDisabled).await;
    }
    let outgoing = match build_request(app, &ctx, &stored, &endpoint) {
        Ok(outgoing) => outgoing,
        Err(reason) => return fail_unsent(app, &ctx, id, reason).await,
    };
    let was_probe = match check_circuit_breaker(app, &ctx, &stored, &endpoint).await? {
        Admission::Send => false,
        Admission::Probe => true,
        Admission::Wait(until) => return Err(JobError::Snooze(until.since(ctx.now))),
    };
    let result = app.outbound.send(outgoing).await;
    let report = DeliveryReport {
        id,
        endpoint: endpoint.id,
        job,
        at: ctx.now,
        was_probe,
        jitter: jitter_fraction(&ctx),
        result,
    };
    record(app, report).await
}

/// Builds and signs the request of a callback. Returns the reason if the request cannot be built.
fn build_request(
    app: &App,
    ctx: &Ctx,
    stored: &StoredCallback,
    endpoint: &StoredEndpoint,
) -> Result<OutboundRequest, CallbackFailureReason> {
    let (id, keyring) = (stored.callback.id, &app.keyring);
    let target =
        app.outbound.target(&stored.callback.url).map_err(|_| CallbackFailureReason::TargetRefused)?;
    let headers = sealed::open_headers(keyring, &sealed::headers_name(id), stored.headers.as_deref());
    let secrets = sealed::decrypt_secrets(keyring, endpoint, ctx.now)
        .ok_or(CallbackFailureReason::SecretUnavailable)?;
    let method = stored.callback.method.parse().unwrap_or(http::Method::POST);
    let message = CallbackMessage {
        method,
        headers: headers.ok_or(CallbackFailureReason::SecretUnavailable)?,
        body: stored.body.clone(),
        timeout: stored.timeout_ms.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis),
    };
    let mut headers = message.header_map();
    let body = Bytes::from(message.body.unwrap_or_default());
    // Uses real time, because receivers compare the signature's timestamp with their own clocks. These do
    // not follow `/dev/clock`.
    signature::sign(&mut headers, &secrets, &webhook_id(id), ctx.real_now(), &body);
    Ok(OutboundRequest { target, method: message.method, headers, body, timeout: message.timeout })
}

/// Returns the `webhook-id` of a callback. It is the same for all attempts.
pub fn webhook_id(CallbackId(id): CallbackId) -> String {
    format!("msg_{}", id.simple())
}

/// Checks whether the endpoint's circuit breaker allows the request. Writes nothing while the breaker is
/// closed.
async fn check_circuit_breaker(
    app: &App,
    ctx: &Ctx,
    stored: &StoredCallback,
    endpoint: &StoredEndpoint,
) -> Result<Admission, Error> {
    if endpoint.breaker.state(ctx.now).0 == BreakerState::Closed {
        return Ok(Admission::Send);
    }
    let (callback, endpoint) = (stored.callback.id, endpoint.id);
    let probe_for = app.outbound.timeout() + PROBE_MARGIN;
    app.write(ctx, move |tx, ctx| {
        tx.lock(LOCK, [callback.to_string(), endpoint.to_string()])?;
        let Some(mut endpoint) = rows::find_endpoint(tx, endpoint)? else { return Ok(Admission::Send) };
        let admission = endpoint.breaker.admit(ctx.now, probe_for);
        match admission {
            Admission::Send => {}
            Admission::Probe => rows::update_endpoint(tx, &endpoint)?,
            Admission::Wait(until) => {
                if let Some(mut stored) =
                    rows::find(tx, callback)?.filter(|stored| stored.callback.state.is_open())
                {
                    stored.callback.next_attempt_at = Some(until);
                    rows::update(tx, &stored.callback, stored.retry_attempts)?;
                }
            }
        }
        Ok::<_, Error>(admission)
    })
    .await
}

/// Result of an attempt, with the data needed to record it.
struct DeliveryReport {
    id: CallbackId,
    endpoint: EndpointId,
    job: JobId,
    at: Timestamp,
    was_probe: bool,
    /// Random fraction of the maximum jitter to add to the next wait, 0 to 1.
    jitter: f64,
    result: Result<OutboundResponse, OutboundError>,
}

fn jitter_fraction(ctx: &Ctx) -> f64 {
    let mut bytes = [0; 4];
    ctx.randomness().fill(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}

/// Records the result of an attempt in the callback and in the endpoint. All nodes share the endpoint's
/// circuit breaker.
async fn record(app: &App, report: DeliveryReport) -> Result<JobOutput, JobError> {
    let ctx = app.system_ctx("callbacks");
    let report = Arc::new(report);
    let (tx_app, tx_report) = (app.clone(), Arc::clone(&report));
    let (outcome, disabled) = app
        .write(&ctx, move |tx, ctx| {
            tx.lock(LOCK, [tx_report.id.to_string(), tx_report.endpoint.to_string()])?;
            let disabled = record_at_endpoint(&tx_app, tx, ctx, &tx_report)?;
            Ok::<_, Error>((record_at_callback(tx, ctx, &tx_report)?, disabled))
        })
        .await?;
    if let Some(reason) = disabled {
        let endpoint = report.endpoint;
        tracing::warn!(%endpoint, reason = reason.as_str(), "callback endpoint disabled");
    }
    let why = || match &report.result {
        Ok(received) => format!("HTTP status {}", received.status),
        Err(error) => error.to_string(),
    };
    match outcome {
        None | Some(RetryDecision::Delivered) => Ok(JobOutput::default()),
        Some(RetryDecision::RetryAfter(wait)) => Err(JobError::RetryIn { why: why(), wait }),
        Some(RetryDecision::AttemptsExhausted | RetryDecision::Gone) => Err(JobError::Discard(why())),
    }
}

fn outcome(report: &DeliveryReport) -> AttemptOutcome {
    report
        .result
        .as_ref()
        .map_or(AttemptOutcome::NoResponse, |received| AttemptOutcome::Responded(received.status))
}

/// Records the result in the endpoint. If this disables the endpoint, returns the reason.
fn record_at_endpoint(
    app: &App,
    tx: &Tx<'_>,
    ctx: &Ctx,
    report: &DeliveryReport,
) -> Result<Option<DisabledReason>, Error> {
    let Some(mut endpoint) = rows::find_endpoint(tx, report.endpoint)? else { return Ok(None) };
    let mut reason = None;
    match outcome(report) {
        AttemptOutcome::Responded(200..=299) => {
            endpoint.breaker.succeeded();
            endpoint.succeeded += 1;
            (endpoint.last_success_at, endpoint.failing_since) = (Some(ctx.now), None);
        }
        other => {
            endpoint.breaker.failed(ctx.now, report.was_probe);
            endpoint.failed += 1;
            endpoint.last_failure_at = Some(ctx.now);
            endpoint.failing_since.get_or_insert(ctx.now);
            if other == AttemptOutcome::Responded(410) {
                reason = Some(DisabledReason::Gone);
            } else if rules::must_disable(endpoint.failing_since, ctx.now) {
                reason = Some(DisabledReason::Failing);
            }
        }
    }
    let reason = reason.filter(|_| endpoint.disabled.is_none());
    if let Some(reason) = reason {
        disable_endpoint(app, tx, ctx, &mut endpoint, reason)?;
    }
    rows::update_endpoint(tx, &endpoint)?;
    Ok(reason)
}

/// Records the result in the callback. Returns `None` if the callback has ended or another job now delivers
/// it.
fn record_at_callback(
    tx: &Tx<'_>,
    ctx: &Ctx,
    report: &DeliveryReport,
) -> Result<Option<RetryDecision>, Error> {
    let Some(stored) = rows::find(tx, report.id)?.filter(|stored| stored.callback.state.is_open()) else {
        return Ok(None);
    };
    let StoredCallback { mut callback, mut retry_attempts, .. } = stored;
    callback.attempts_made += 1;
    rows::insert_attempt(tx, report.id, &attempt(report, callback.attempts_made))?;
    callback.last_status = report.result.as_ref().ok().map(|received| i64::from(received.status));
    let retry_after = report.result.as_ref().ok().and_then(|received| {
        let header = |name| received.headers.get(name)?.to_str().ok();
        rules::retry_after(header("retry-after")?, header("date"), ctx.now)
    });
    let next = rules::decide_retry(outcome(report), retry_attempts + 1, retry_after, report.jitter);
    let is_own = callback.job_id == report.job;
    match next {
        // Another job delivers this callback by now, so only the attempt is recorded.
        RetryDecision::RetryAfter(_) | RetryDecision::AttemptsExhausted if !is_own => {
            rows::update(tx, &callback, retry_attempts)?;
            return Ok(None);
        }
        RetryDecision::RetryAfter(wait) => {
            retry_attempts += 1;
            (callback.state, callback.next_attempt_at) = (CallbackState::Retrying, Some(ctx.now + wait));
        }
        RetryDecision::Delivered => finish(tx, ctx, &mut callback, CallbackState::Delivered, None),
        RetryDecision::AttemptsExhausted => finish(
            tx,
            ctx,
            &mut callback,
            CallbackState::Failed,
            Some(CallbackFailureReason::AttemptsExhausted),
        ),
        RetryDecision::Gone => {
            finish(tx, ctx, &mut callback, CallbackState::Failed, Some(CallbackFailureReason::Gone))
        }
    }
    rows::update(tx, &callback, retry_attempts)?;
    Ok(Some(next))
}

/// Marks a callback as failed without sending it.
async fn fail_unsent(
    app: &App,
    ctx: &Ctx,
    id: CallbackId,
    reason: CallbackFailureReason,
) -> Result<JobOutput, JobError> {
    app.write(ctx, move |tx, ctx| {
        tx.lock(LOCK, [id])?;
        let Some(mut stored) = rows::find(tx, id)?.filter(|stored| stored.callback.state.is_open()) else {
            return Ok(());
        };
        finish(tx, ctx, &mut stored.callback, CallbackState::Failed, Some(reason));
        rows::update(tx, &stored.callback, stored.retry_attempts)
    })
    .await?;
    Err(JobError::Discard(reason.as_str().to_owned()))
}

fn attempt(report: &DeliveryReport, number: i64) -> CallbackAttempt {
    let received = report.result.as_ref().ok();
    CallbackAttempt {
        number,
        at: report.at,
        took_ms: received.map_or(0, |received| i64::try_from(received.took.as_millis()).unwrap_or(i64::MAX)),
        status: received.map(|received| i64::from(received.status)),
        error: report.result.as_ref().err().map(|error| error.code().to_owned()),
        response: received.map(capture_response),
    }
}

/// Returns the part of a response that is stored, as text that both databases accept.
fn capture_response(received: &OutboundResponse) -> CapturedResponse {
    let mut bytes = 0;
    let lines = received.headers.iter().map(|(name, value)| {
        format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()).replace(char::is_control, " "))
    });
    let headers = lines.take(MAX_STORED_HEADERS).take_while(|line| {
        bytes += line.len();
        bytes <= MAX_STORED_HEADER_BYTES
    });
    CapturedResponse {
        headers: headers.collect(),
        body: String::from_utf8_lossy(&received.body).replace('\0', "\u{fffd}"),
        is_complete: received.is_complete,
    }
}
