//! Queues: seen, paused, limited, drained.

use axum::extract::State;
use axum::response::Response;
use kith_kernel::Timestamp;
use kith_platform::auth::{ReadJobs, WriteQueues};
use kith_platform::{Allowed, Answer, ApiResult, App, Json, PathId, Query, Routes};
use serde::Deserialize;
use utoipa_axum::routes;

use super::super::commands::{self, DRAINED};
use super::super::model::{JobsError, QueueDetails, QueueLimits, QueueLimitsBody, QueueName, Queues};
use super::super::queries;
use super::super::rules::check_operator;
use super::jobs::JobsDone;

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
struct PastQuery {
    /// From when on its past is told, at most two days back; the last hour unless given.
    since: Option<Timestamp>,
}

/// All queues that hold anything, or that anything was set for: what is set, how they stand, what was done lately.
#[utoipa::path(
    get, path = "/api/v1/queues", security(("bearer" = ["jobs.read"])),
    responses((status = 200, body = Queues))
)]
async fn list_queues(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<ReadJobs>,
) -> ApiResult<Json<Queues>> {
    // It counts whole tables: on the lane for what takes longer.
    Ok(Json(app.db.export(move |q| queries::list_queues(q, &caller.ctx)).await?))
}

/// A queue, and its past: what was done minute by minute, and how it stood.
#[utoipa::path(
    get, path = "/api/v1/queues/{queue}", security(("bearer" = ["jobs.read"])),
    params(("queue" = String, Path, pattern = "^[A-Za-z0-9._-]{1,64}$", description = "The queue"), PastQuery),
    responses((status = 200, body = QueueDetails))
)]
async fn get_queue(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<ReadJobs>,
    PathId(QueueName(queue)): PathId<QueueName>,
    Query(past): Query<PastQuery>,
) -> ApiResult<Json<QueueDetails>> {
    Ok(Json(app.db.export(move |q| queries::get_queue(q, &caller.ctx, &queue, past.since)).await?))
}

/// Limit a queue: how many of its jobs run at once and start in a time, in all and for each `limit_key`. What is left out
/// is not limited any more.
#[utoipa::path(
    put, path = "/api/v1/queues/{queue}", security(("bearer" = ["queues.write"])),
    params(("queue" = String, Path, pattern = "^[A-Za-z0-9._-]{1,64}$", description = "The queue")),
    request_body = QueueLimitsBody,
    responses((status = 200, body = QueueLimits))
)]
async fn limit_queue(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteQueues>,
    PathId(QueueName(queue)): PathId<QueueName>,
    Json(body): Json<QueueLimitsBody>,
) -> ApiResult<Response> {
    check_operator(app.reserved_jobs(), &caller.ctx, Some(&queue), None)?;
    app.change(&caller, move |tx, ctx| commands::limit_queue(tx, ctx, &queue, &body).map(Answer::ok)).await
}

/// Pause a queue: no job of it is started, on no node. What runs goes on.
#[utoipa::path(
    post, path = "/api/v1/queues/{queue}/pause", security(("bearer" = ["queues.write"])),
    params(("queue" = String, Path, pattern = "^[A-Za-z0-9._-]{1,64}$", description = "The queue")),
    responses((status = 200, body = QueueLimits))
)]
async fn pause_queue(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteQueues>,
    PathId(QueueName(queue)): PathId<QueueName>,
) -> ApiResult<Response> {
    check_operator(app.reserved_jobs(), &caller.ctx, Some(&queue), None)?;
    app.change(&caller, move |tx, ctx| commands::pause_queue(tx, ctx, &queue, true).map(Answer::ok)).await
}

/// Let a queue go on.
#[utoipa::path(
    post, path = "/api/v1/queues/{queue}/resume", security(("bearer" = ["queues.write"])),
    params(("queue" = String, Path, pattern = "^[A-Za-z0-9._-]{1,64}$", description = "The queue")),
    responses((status = 200, body = QueueLimits))
)]
async fn resume_queue(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteQueues>,
    PathId(QueueName(queue)): PathId<QueueName>,
) -> ApiResult<Response> {
    check_operator(app.reserved_jobs(), &caller.ctx, Some(&queue), None)?;
    app.change(&caller, move |tx, ctx| commands::pause_queue(tx, ctx, &queue, false).map(Answer::ok)).await
}

/// Take back what waits in a queue, at most 1000 jobs in one call. What runs goes on.
#[utoipa::path(
    post, path = "/api/v1/queues/{queue}/drain", security(("bearer" = ["queues.write"])),
    params(("queue" = String, Path, pattern = "^[A-Za-z0-9._-]{1,64}$", description = "The queue")),
    responses((status = 200, body = JobsDone))
)]
async fn drain_queue(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteQueues>,
    PathId(QueueName(queue)): PathId<QueueName>,
) -> ApiResult<Response> {
    check_operator(app.reserved_jobs(), &caller.ctx, Some(&queue), None)?;
    app.change(&caller, move |tx, ctx| {
        let jobs = commands::drain_queue(tx, ctx, &queue)?;
        Ok::<_, JobsError>(Answer::ok(JobsDone { jobs, more: jobs >= DRAINED }))
    })
    .await
}
