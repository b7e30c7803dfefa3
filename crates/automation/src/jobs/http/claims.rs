//! HTTP endpoint with which workers claim jobs. It can wait for jobs, and releases them if the connection is
//! lost.

use std::pin::pin;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use kith_jobs::{LeasedClaim, queue_channel};
use kith_kernel::{Ctx, FieldError, Problem, Text, TextRules, seconds};
use kith_platform::auth::WorkJobs;
use kith_platform::idempotency::IDEMPOTENCY_REPLAYED;
use kith_platform::{Allowed, ApiResult, App, Json, PathId, Principal, Routes, WriteResponse, store_problem};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::super::model::{ClaimedJob, ClaimedJobs, JobsError, QueueName, duration_ms};
use super::super::rules::reject_reserved;
use super::leases::parse_lease;

const NAME: TextRules = TextRules { min: 1, max: 100, newlines: false };
const MAX_CLAIMED_JOBS: i64 = 100;
const MAX_WAIT_MS: i64 = 30_000;
/// Safety margin: a claim that finds no jobs responds this long before the request timeout.
const RESPONSE_MARGIN: Duration = seconds(2);
/// Maximum time between two attempts of a waiting claim, if no notification arrives.
const POLL_INTERVAL: Duration = seconds(1);

pub fn routes() -> Routes {
    Routes::new().routes(routes!(claim_jobs))
}

/// Request of a worker to claim jobs.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ClaimBody {
    /// Name of the worker, 1 to 100 characters, shown to operators. Default: the name of the caller.
    #[serde(default)]
    worker: Option<String>,
    /// Maximum number of jobs to claim, 1 to 100. Default 1.
    #[serde(default)]
    #[schema(minimum = 1)]
    limit: Option<i64>,
    /// Lease duration in milliseconds, 1,000 to 3,600,000. Default 60,000. A worker that sends no heartbeat
    /// within this time loses the claimed jobs.
    #[serde(default)]
    #[schema(minimum = 1000)]
    lease_ms: Option<i64>,
    /// Maximum time in milliseconds to wait for a job if none is available, 0 to 30,000. Default 0.
    #[serde(default)]
    #[schema(minimum = 0)]
    wait_ms: Option<i64>,
}

/// Claim jobs
///
/// Claims the next jobs of a queue for a worker. If no job is available, the request waits up to `wait_ms`
/// and then returns an empty list. Send heartbeats to keep the claimed jobs, and end each job with
/// `complete` or `fail`. When its lease expires, a job is given to another worker. If the request is aborted
/// before its response, its jobs are released. Requires the permission `jobs.work`.
#[utoipa::path(
    post, path = "/api/v1/queues/{queue}/claim", security(("bearer" = ["jobs.work"])),
    params((
        "queue" = String, Path, pattern = "^[A-Za-z0-9._-]{1,64}$",
        description = "Name of the queue: 1 to 64 ASCII letters, digits, dots, underscores and hyphens."
    )),
    request_body = ClaimBody,
    responses((status = 200, body = ClaimedJobs))
)]
async fn claim_jobs(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WorkJobs>,
    PathId(QueueName(queue)): PathId<QueueName>,
    Json(body): Json<ClaimBody>,
) -> ApiResult<Response> {
    reject_reserved(app.reserved_jobs(), Some(&queue), None)?;
    if let Some(previous_response) = app.stored_response(&caller).await? {
        return Ok(previous_response);
    }
    let wanted =
        ClaimRequest::read(&caller.ctx, queue, &body).map_err(|fault| Problem::invalid(vec![fault]))?;
    // If the client closes the connection before the response, this claim is dropped, which releases its
    // jobs.
    let claim = wanted.claim(&app, &caller).await?;
    let jobs = ClaimedJobs { jobs: claim.jobs.iter().cloned().map(ClaimedJob::from).collect() };
    if caller.key.is_none() {
        claim.into_claim();
        return Ok(WriteResponse::ok(jobs).into_response());
    }
    let response =
        app.change(&caller, move |_, _| Ok::<_, JobsError>(WriteResponse::ok(jobs.clone()))).await?;
    if response.headers().contains_key(IDEMPOTENCY_REPLAYED) {
        // Another request with the same idempotency key has already claimed jobs. Return those and release
        // these.
        claim.return_to_queue().await.map_err(store_problem)?;
    } else {
        claim.into_claim();
    }
    Ok(response)
}

/// Validated claim request.
struct ClaimRequest {
    queue: String,
    worker: String,
    limit: i64,
    lease: Duration,
    wait: Duration,
}

impl ClaimRequest {
    fn read(ctx: &Ctx, queue: String, body: &ClaimBody) -> Result<Self, FieldError> {
        let worker = body.worker.as_deref().map(|name| Text::parse(name, NAME, "/worker")).transpose()?;
        let limit = body.limit.unwrap_or(1);
        if !(1..=MAX_CLAIMED_JOBS).contains(&limit) {
            return Err(FieldError::new(
                "/limit",
                "out_of_range",
                format!("Expected 1 to {MAX_CLAIMED_JOBS}."),
            ));
        }
        let wait_ms = body.wait_ms.unwrap_or(0);
        if !(0..=MAX_WAIT_MS).contains(&wait_ms) {
            return Err(FieldError::new("/wait_ms", "out_of_range", format!("Expected 0 to {MAX_WAIT_MS}.")));
        }
        Ok(Self {
            queue,
            worker: worker.map_or_else(|| ctx.actor.to_string(), Text::into_string),
            limit,
            lease: parse_lease(body.lease_ms)?,
            wait: duration_ms(wait_ms),
        })
    }

    /// Claims jobs. Waits until jobs are available, the waiting time ends or the server stops. Only the
    /// waiting is interrupted: a claim that has started always completes, because it may have changed jobs.
    async fn claim(&self, app: &App, caller: &Principal) -> Result<LeasedClaim, Problem> {
        let request =
            duration_ms(i64::from(app.config.server.request_timeout_ms)).saturating_sub(RESPONSE_MARGIN);
        let wait = self.wait.min(request);
        let mut wait_is_over = pin!(tokio::time::timeout(wait, std::future::pending::<()>()));
        let mut listener = app.db.listen(&queue_channel(&self.queue));
        loop {
            // The permission of the caller may have been revoked while the request was waiting.
            caller.reauthenticate(app).await?;
            let claim = app.jobs.claim_with_lease(&self.queue, &self.worker, self.lease, self.limit).await;
            let claim = claim.map_err(store_problem)?;
            if !claim.jobs.is_empty() || wait.is_zero() {
                return Ok(claim);
            }
            let due = claim.next_claim_at.map(|at| at.since(app.sources.clock.now()));
            let pause = due.unwrap_or(POLL_INTERVAL).clamp(Duration::from_millis(5), POLL_INTERVAL);
            let keep_polling = async {
                tokio::select! {
                    _ = &mut wait_is_over => false,
                    // A timeout is not an error here: it starts the next attempt.
                    _ = tokio::time::timeout(pause, listener.notified()) => true,
                }
            };
            if app.stop.or(keep_polling).await != Some(true) {
                return Ok(claim);
            }
        }
    }
}
