//! Commands on callbacks and endpoints. The file `delivery.rs` sends callbacks and records the results.

use std::time::Duration;

use kith_jobs::{EnqueueError, JobId, JobRecord, JobState};
use kith_kernel::{Ctx, Timestamp};
use kith_platform::App;
use kith_platform::auth::Keyring;
use kith_platform::outbound::Target;
use kith_store::{Error, Query, Tx};

use super::model::{
    Callback, CallbackDraft, CallbackEndpoint, CallbackError, CallbackFailureReason, CallbackId,
    CallbackMessage, CallbackState, CallbackTarget, DisabledReason, EndpointId, EndpointWithSecret,
    NewCallback, RecurringId, StoredCallback, StoredEndpoint,
};
use super::rules::{self, AttemptOutcome, CircuitBreaker, RetryDecision};
use super::transitions::{self, LOCK};
use super::{DELIVERY, Delivery, events, rows, sealed};

/// Creates a callback. If no endpoint exists for its URL, creates the endpoint too.
///
/// # Errors
/// Returns [`CallbackError::EndpointNotFound`] if `draft` refers to an unknown endpoint, and
/// [`CallbackError::EndpointDisabled`] if the endpoint is disabled.
pub fn create(
    tx: &Tx<'_>,
    ctx: &Ctx,
    keyring: &Keyring,
    draft: &CallbackDraft,
) -> Result<NewCallback, CallbackError> {
    let (endpoint, url, secret) = resolve_target(tx, ctx, keyring, &draft.to)?;
    let new = CallbackInsert {
        endpoint_id: endpoint.id,
        url,
        message: &draft.message,
        at: draft.at,
        recurring: None,
    };
    Ok(NewCallback { callback: insert(tx, ctx, keyring, new)?, secret })
}

/// Returns the endpoint and the URL of a target, and the endpoint's secret if this call created the
/// endpoint.
///
/// # Errors
/// Returns [`CallbackError::EndpointNotFound`] if the target is an endpoint that does not exist, and
/// [`CallbackError::EndpointDisabled`] if the endpoint is disabled.
pub fn resolve_target(
    tx: &Tx<'_>,
    ctx: &Ctx,
    keyring: &Keyring,
    to: &CallbackTarget,
) -> Result<(StoredEndpoint, String, Option<String>), CallbackError> {
    let (endpoint, url, secret) = match to {
        CallbackTarget::Target(target) => {
            let (endpoint, secret) = find_or_create(tx, ctx, keyring, target)?;
            (endpoint, target.as_str().to_owned(), secret)
        }
        CallbackTarget::Endpoint(id) => {
            let endpoint = find_locked(tx, *id)?;
            let url = endpoint.url.clone();
            (endpoint, url, None)
        }
    };
    if endpoint.disabled.is_some() {
        Err(CallbackError::EndpointDisabled)
    } else {
        Ok((endpoint, url, secret))
    }
}

/// Callback to insert.
pub struct CallbackInsert<'a> {
    /// ID of the endpoint.
    pub endpoint_id: EndpointId,
    /// Target URL, including its query.
    pub url: String,
    /// Request to send.
    pub message: &'a CallbackMessage,
    /// Time at which the callback is sent; `None` to send it at once.
    pub at: Option<Timestamp>,
    /// Recurring callback that creates the callback, and the job of this run; `None` if a caller creates it.
    pub recurring: Option<(RecurringId, JobId)>,
}

/// Inserts a callback and enqueues the job that delivers it.
///
/// # Errors
/// Returns [`CallbackError::Store`] if a statement fails.
pub fn insert(
    tx: &Tx<'_>,
    ctx: &Ctx,
    keyring: &Keyring,
    new: CallbackInsert<'_>,
) -> Result<Callback, CallbackError> {
    let CallbackInsert { endpoint_id, url, message, at, recurring } = new;
    let id = ctx.new_id(CallbackId);
    let due_at = at.map_or(ctx.now, |at| at.max(ctx.now));
    let headers = sealed::seal_headers(keyring, ctx, &sealed::headers_name(id), &message.headers);
    let stored = StoredCallback {
        callback: Callback {
            id,
            endpoint_id,
            url,
            method: message.method.to_string(),
            state: CallbackState::Scheduled,
            reason: None,
            due_at,
            next_attempt_at: Some(due_at),
            attempts_made: 0,
            last_status: None,
            created_at: ctx.now,
            finished_at: None,
            recurring_id: recurring.map(|(id, _)| id),
            job_id: enqueue(tx, ctx, id, endpoint_id, due_at)?,
        },
        headers,
        body: message.body.clone(),
        timeout_ms: message.timeout.and_then(|timeout| i64::try_from(timeout.as_millis()).ok()),
        retry_attempts: 0,
    };
    rows::insert(tx, &stored, recurring.map(|(_, job)| job))?;
    tx.audit(ctx, events::CREATED, id);
    tx.emit(ctx, events::callback_event(events::CREATED, &stored.callback));
    Ok(stored.callback)
}

/// Enqueues the job that delivers a callback.
fn enqueue(
    tx: &Tx<'_>,
    ctx: &Ctx,
    callback_id: CallbackId,
    endpoint: EndpointId,
    at: Timestamp,
) -> Result<JobId, Error> {
    let job = DELIVERY.with(&Delivery { callback_id }).map_err(Error::fault)?;
    let job = job.at(at).with_limit_key(endpoint.to_string());
    match kith_jobs::enqueue(tx, ctx, &job) {
        Ok(enqueued) => Ok(enqueued.id),
        Err(EnqueueError::Store(error)) => Err(error),
        Err(other) => Err(Error::fault(other)),
    }
}

/// Cancels a scheduled or retrying callback. A request that is being sent may still arrive.
///
/// # Errors
/// Returns [`CallbackError::CallbackNotFound`] if the callback does not exist, and
/// [`CallbackError::Finished`] if it is delivered or has failed.
pub fn cancel(tx: &Tx<'_>, ctx: &Ctx, id: CallbackId) -> Result<Callback, CallbackError> {
    tx.lock(LOCK, [id])?;
    let StoredCallback { mut callback, retry_attempts, .. } =
        rows::find(tx, id)?.ok_or(CallbackError::CallbackNotFound)?;
    match callback.state {
        CallbackState::Cancelled => return Ok(callback),
        CallbackState::Delivered | CallbackState::Failed => {
            return Err(CallbackError::Finished(callback.state));
        }
        CallbackState::Scheduled | CallbackState::Retrying => {}
    }
    kith_jobs::cancel(tx, ctx, callback.job_id, "callback cancelled")?;
    callback.state = CallbackState::Cancelled;
    (callback.next_attempt_at, callback.finished_at) = (None, Some(ctx.now));
    rows::update(tx, &callback, retry_attempts)?;
    tx.audit(ctx, events::CANCELLED, id);
    tx.emit(ctx, events::callback_event(events::CANCELLED, &callback));
    Ok(callback)
}

/// Sends a failed, cancelled or retrying callback again, now and from the start of the retry schedule. Also
/// sends a scheduled callback whose job has ended or was deleted.
///
/// # Errors
/// Returns [`CallbackError::CallbackNotFound`] if the callback does not exist, and
/// [`CallbackError::EndpointDisabled`] if its endpoint is disabled. Returns [`CallbackError::NotRetryable`] if
/// the callback is delivered, or is scheduled and its job has not ended.
pub fn retry(tx: &Tx<'_>, ctx: &Ctx, id: CallbackId) -> Result<Callback, CallbackError> {
    tx.lock(LOCK, [id])?;
    let mut callback = rows::find(tx, id)?.ok_or(CallbackError::CallbackNotFound)?.callback;
    match callback.state {
        CallbackState::Scheduled if !has_job_ended(tx, callback.job_id)? => {
            return Err(CallbackError::NotRetryable(callback.state));
        }
        CallbackState::Delivered => return Err(CallbackError::NotRetryable(callback.state)),
        CallbackState::Scheduled => {}
        CallbackState::Retrying => {
            kith_jobs::cancel(tx, ctx, callback.job_id, "callback retried by another job")?;
        }
        CallbackState::Failed | CallbackState::Cancelled => {}
    }
    let endpoint = rows::find_endpoint(tx, callback.endpoint_id)?.ok_or(CallbackError::EndpointNotFound)?;
    if endpoint.disabled.is_some() {
        return Err(CallbackError::EndpointDisabled);
    }
    callback.job_id = enqueue(tx, ctx, id, callback.endpoint_id, ctx.now)?;
    (callback.state, callback.reason) = (CallbackState::Retrying, None);
    (callback.next_attempt_at, callback.finished_at) = (Some(ctx.now), None);
    rows::update(tx, &callback, 0)?;
    tx.audit(ctx, events::RETRIED, id);
    tx.emit(ctx, events::callback_event(events::RETRIED, &callback));
    Ok(callback)
}

/// Returns `true` if a job is completed, cancelled, dead or no longer stored.
///
/// # Errors
/// Returns the store's error if the query fails.
pub fn has_job_ended(q: &Query<'_>, job: JobId) -> Result<bool, Error> {
    let is_live = |job: JobRecord| {
        matches!(job.state, JobState::Ready | JobState::Scheduled | JobState::Running | JobState::Blocked)
    };
    Ok(!kith_jobs::find_job(q, job)?.is_some_and(is_live))
}

/// Enqueues the delivery of an open callback whose job has ended or was deleted. The callback keeps its
/// state and its position in the retry schedule. If the job is a dead letter, because its workers crashed,
/// it counts as an attempt, so that the retries end at some time.
///
/// # Errors
/// Returns the store's error if a statement fails.
pub fn reenqueue(tx: &Tx<'_>, ctx: &Ctx, id: CallbackId) -> Result<(), Error> {
    tx.lock(LOCK, [id])?;
    let open = rows::find(tx, id)?.filter(|stored| stored.callback.state.is_open());
    let Some(StoredCallback { mut callback, mut retry_attempts, .. }) = open else { return Ok(()) };
    if !has_job_ended(tx, callback.job_id)? {
        return Ok(());
    }
    let mut delay = Duration::ZERO;
    if kith_jobs::find_job(tx, callback.job_id)?.is_some_and(|job| job.state == JobState::Dead) {
        retry_attempts += 1;
        match rules::decide_retry(AttemptOutcome::NoResponse, retry_attempts, None, 0.0) {
            RetryDecision::RetryAfter(wait) => {
                delay = wait;
                callback.next_attempt_at = Some(ctx.now + wait);
            }
            RetryDecision::Delivered | RetryDecision::AttemptsExhausted | RetryDecision::Gone => {
                transitions::finish(
                    tx,
                    ctx,
                    &mut callback,
                    CallbackState::Failed,
                    Some(CallbackFailureReason::AttemptsExhausted),
                );
                return rows::update(tx, &callback, retry_attempts);
            }
        }
    }
    callback.job_id = enqueue(tx, ctx, id, callback.endpoint_id, ctx.now + delay)?;
    rows::update(tx, &callback, retry_attempts)?;
    tx.audit(ctx, "callback.reenqueued", id);
    Ok(())
}

/// Creates an endpoint and its secret. If the endpoint exists, returns it without its secret.
///
/// # Errors
/// Returns [`CallbackError::Store`] if a statement fails.
pub fn create_endpoint(
    tx: &Tx<'_>,
    ctx: &Ctx,
    keyring: &Keyring,
    target: &Target,
) -> Result<EndpointWithSecret, CallbackError> {
    let (endpoint, secret) = find_or_create(tx, ctx, keyring, target)?;
    Ok(EndpointWithSecret { endpoint: endpoint.to_response(ctx.now), secret })
}

fn find_or_create(
    tx: &Tx<'_>,
    ctx: &Ctx,
    keyring: &Keyring,
    target: &Target,
) -> Result<(StoredEndpoint, Option<String>), Error> {
    let url = target.without_query();
    tx.lock(LOCK, [&url])?;
    if let Some(existing) = rows::find_endpoint_by_url(tx, &url)? {
        return Ok((existing, None));
    }
    let id = ctx.new_id(EndpointId);
    let (secret, sealed) = sealed::new_secret(keyring, ctx, id);
    let endpoint = StoredEndpoint {
        id,
        url,
        created_at: ctx.now,
        secret: sealed,
        previous: None,
        disabled: None,
        breaker: CircuitBreaker::default(),
        failing_since: None,
        last_success_at: None,
        last_failure_at: None,
        succeeded: 0,
        failed: 0,
    };
    rows::insert_endpoint(tx, &endpoint)?;
    tx.audit(ctx, events::ENDPOINT_CREATED, id);
    tx.emit(ctx, events::endpoint_event(events::ENDPOINT_CREATED, id, &endpoint.url, None, vec![]));
    Ok((endpoint, Some(secret.to_text())))
}

fn find_locked(tx: &Tx<'_>, id: EndpointId) -> Result<StoredEndpoint, CallbackError> {
    tx.lock(LOCK, [id])?;
    rows::find_endpoint(tx, id)?.ok_or(CallbackError::EndpointNotFound)
}

/// Replaces the secret of an endpoint. During `overlap`, its callbacks are signed with both secrets.
///
/// # Errors
/// Returns [`CallbackError::EndpointNotFound`] if the endpoint does not exist.
pub fn rotate_secret(
    tx: &Tx<'_>,
    ctx: &Ctx,
    keyring: &Keyring,
    id: EndpointId,
    overlap: Duration,
) -> Result<EndpointWithSecret, CallbackError> {
    let mut endpoint = find_locked(tx, id)?;
    let (secret, sealed) = sealed::new_secret(keyring, ctx, id);
    let before = std::mem::replace(&mut endpoint.secret, sealed);
    endpoint.previous = (!overlap.is_zero()).then(|| (before, ctx.now + overlap));
    rows::update_endpoint(tx, &endpoint)?;
    tx.audit(ctx, events::SECRET_ROTATED, id);
    tx.emit(ctx, events::endpoint_event(events::SECRET_ROTATED, id, &endpoint.url, None, vec![]));
    Ok(EndpointWithSecret { endpoint: endpoint.to_response(ctx.now), secret: Some(secret.to_text()) })
}

/// Disables an endpoint. Its scheduled and retrying callbacks fail at their next attempt.
///
/// # Errors
/// Returns [`CallbackError::EndpointNotFound`] if the endpoint does not exist.
pub fn disable(app: &App, tx: &Tx<'_>, ctx: &Ctx, id: EndpointId) -> Result<CallbackEndpoint, CallbackError> {
    let mut endpoint = find_locked(tx, id)?;
    if endpoint.disabled.is_none() {
        transitions::disable_endpoint(app, tx, ctx, &mut endpoint, DisabledReason::Administrator)?;
        rows::update_endpoint(tx, &endpoint)?;
    }
    Ok(endpoint.to_response(ctx.now))
}

/// Enables an endpoint and resets its failures. Callbacks that failed while it was disabled are not sent
/// unless they are retried.
///
/// # Errors
/// Returns [`CallbackError::EndpointNotFound`] if the endpoint does not exist.
pub fn enable(tx: &Tx<'_>, ctx: &Ctx, id: EndpointId) -> Result<CallbackEndpoint, CallbackError> {
    let mut endpoint = find_locked(tx, id)?;
    if endpoint.disabled.take().is_some() {
        (endpoint.breaker, endpoint.failing_since) = (CircuitBreaker::default(), None);
        rows::update_endpoint(tx, &endpoint)?;
        tx.audit(ctx, events::ENABLED, id);
        tx.emit(ctx, events::endpoint_event(events::ENABLED, id, &endpoint.url, None, vec![]));
    }
    Ok(endpoint.to_response(ctx.now))
}
