//! HTTP endpoints for queues: list, get, limit, pause, resume and drain.

use axum::extract::State;
use axum::response::Response;
use kith_kernel::Timestamp;
use kith_platform::auth::{ReadJobs, WriteQueues};
use kith_platform::{Allowed, ApiResult, App, Json, PathId, Query, Routes, WriteResponse};
use serde::Deserialize;
use utoipa_axum::routes;

use super::super::commands::{self, MAX_DRAINED_JOBS};
use super::super::model::{JobsError, QueueDetails, QueueLimits, QueueLimitsBody, QueueName, Queues};
use super::super::queries;
use super::super::rules::reject_reserved_for_api_key;
use super::jobs::JobsAffected;

pub fn routes() -> Routes {
    Routes::new()
        .routes(routes!(list_queues))
        .routes(routes!(get_queue, limit_queue))
        .routes(routes!(pause_queue))
        .routes(routes!(resume_queue))
        .routes(routes!(drain_queue))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct QueueHistoryQuery {
    /// Start of the history to return, at most two days ago. Default: one hour ago.
    since: Option<Timestamp>,
}

/// List queues
///
/// Returns all queues that have jobs, settings or recent activity, ordered by name. Each has its settings,
/// its depth and its throughput of the last five minutes. Requires the permission `jobs.read`.
#[utoipa::path(
    get, path = "/api/v1/queues", security(("bearer" = ["jobs.read"])),
    responses((status = 200, body = Queues))
)]
async fn list_queues(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<ReadJobs>,
) -> ApiResult<Json<Queues>> {
    // Uses a connection for long reads, because it counts whole tables.
    Ok(Json(app.db.export(move |q| queries::list_queues(q, &caller.ctx)).await?))
}

/// Get a queue
///
/// Returns a queue with its history: throughput per minute, and samples of its depth. An unknown queue is
/// returned with no jobs and an empty history. Requires the permission `jobs.read`.
#[utoipa::path(
    get, path = "/api/v1/queues/{queue}", security(("bearer" = ["jobs.read"])),
    params((
        "queue" = String, Path, pattern = "^[A-Za-z0-9._-]{1,64}$",
        description = "Name of the queue: 1 to 64 ASCII letters, digits, dots, underscores and hyphens."
    ), QueueHistoryQuery),
    responses((status = 200, body = QueueDetails))
)]
async fn get_queue(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<ReadJobs>,
    PathId(QueueName(queue)): PathId<QueueName>,
    Query(past): Query<QueueHistoryQuery>,
) -> ApiResult<Json<QueueDetails>> {
    Ok(Json(app.db.export(move |q| queries::get_queue(q, &caller.ctx, &queue, past.since)).await?))
}

/// Set the limits of a queue
///
/// Limits how many jobs of a queue run at the same time and how many start per period, in total and per
/// `limit_key`. Limits that are absent from the request are removed. An API key cannot change reserved
/// queues. Requires the permission `queues.write`.
#[utoipa::path(
    put, path = "/api/v1/queues/{queue}", security(("bearer" = ["queues.write"])),
    params((
        "queue" = String, Path, pattern = "^[A-Za-z0-9._-]{1,64}$",
        description = "Name of the queue: 1 to 64 ASCII letters, digits, dots, underscores and hyphens."
    )),
    request_body = QueueLimitsBody,
    responses((status = 200, body = QueueLimits))
)]
async fn limit_queue(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteQueues>,
    PathId(QueueName(queue)): PathId<QueueName>,
    Json(body): Json<QueueLimitsBody>,
) -> ApiResult<Response> {
    reject_reserved_for_api_key(app.reserved_jobs(), &caller.ctx, Some(&queue), None)?;
    app.change(&caller, move |tx, ctx| commands::limit_queue(tx, ctx, &queue, &body).map(WriteResponse::ok))
        .await
}

/// Pause a queue
///
/// Stops starting jobs of a queue on all nodes. Running jobs continue. An API key cannot pause reserved
/// queues. Requires the permission `queues.write`.
#[utoipa::path(
    post, path = "/api/v1/queues/{queue}/pause", security(("bearer" = ["queues.write"])),
    params((
        "queue" = String, Path, pattern = "^[A-Za-z0-9._-]{1,64}$",
        description = "Name of the queue: 1 to 64 ASCII letters, digits, dots, underscores and hyphens."
    )),
    responses((status = 200, body = QueueLimits))
)]
async fn pause_queue(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteQueues>,
    PathId(QueueName(queue)): PathId<QueueName>,
) -> ApiResult<Response> {
    reject_reserved_for_api_key(app.reserved_jobs(), &caller.ctx, Some(&queue), None)?;
    app.change(&caller, move |tx, ctx| commands::pause_queue(tx, ctx, &queue, true).map(WriteResponse::ok))
        .await
}

/// Resume a queue
///
/// Starts jobs of a paused queue again. An API key cannot resume reserved queues. Requires the permission
/// `queues.write`.
#[utoipa::path(
    post, path = "/api/v1/queues/{queue}/resume", security(("bearer" = ["queues.write"])),
    params((
        "queue" = String, Path, pattern = "^[A-Za-z0-9._-]{1,64}$",
        description = "Name of the queue: 1 to 64 ASCII letters, digits, dots, underscores and hyphens."
    )),
    responses((status = 200, body = QueueLimits))
)]
async fn resume_queue(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteQueues>,
    PathId(QueueName(queue)): PathId<QueueName>,
) -> ApiResult<Response> {
    reject_reserved_for_api_key(app.reserved_jobs(), &caller.ctx, Some(&queue), None)?;
    app.change(&caller, move |tx, ctx| commands::pause_queue(tx, ctx, &queue, false).map(WriteResponse::ok))
        .await
}

/// Drain a queue
///
/// Cancels ready, scheduled and blocked jobs of a queue, at most 1,000 per request. Running jobs continue. An
/// API key cannot drain reserved queues. Requires the permission `queues.write`.
#[utoipa::path(
    post, path = "/api/v1/queues/{queue}/drain", security(("bearer" = ["queues.write"])),
    params((
        "queue" = String, Path, pattern = "^[A-Za-z0-9._-]{1,64}$",
        description = "Name of the queue: 1 to 64 ASCII letters, digits, dots, underscores and hyphens."
    )),
    responses((status = 200, body = JobsAffected))
)]
async fn drain_queue(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteQueues>,
    PathId(QueueName(queue)): PathId<QueueName>,
) -> ApiResult<Response> {
    reject_reserved_for_api_key(app.reserved_jobs(), &caller.ctx, Some(&queue), None)?;
    app.change(&caller, move |tx, ctx| {
        let jobs = commands::drain_queue(tx, ctx, &queue)?;
        Ok::<_, JobsError>(WriteResponse::ok(JobsAffected { jobs, more: jobs >= MAX_DRAINED_JOBS }))
    })
    .await
}
