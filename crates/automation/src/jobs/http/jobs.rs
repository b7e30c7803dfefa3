//! HTTP endpoints for jobs: enqueue, list, get, cancel and retry jobs; redrive and discard dead letters.

use axum::extract::State;
use axum::response::Response;
use kith_jobs::{CancelOutcome, JobFilter, RetryOutcome, check_name};
use kith_kernel::{Ctx, Cursor, FieldError, MAX_PAGE_BYTES, Page, StoredJson};
use kith_platform::auth::{ReadJobs, WriteJobs};
use kith_platform::{
    Allowed, ApiResult, App, Json, PageResponse, PathId, Query, ReservedJobs, Routes, WriteResponse,
    cursor_problem, page_limit, store_problem,
};
use kith_store::Tx;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::super::model::{
    EnqueuedJob, EnqueuedJobs, Job, JobDetails, JobStatus, JobsError, NewJobBody, NewJobsBody,
};
use super::super::{commands, queries, rules};

/// Maximum number of dead letters that one request redrives or discards.
const MAX_DEAD_LETTERS: i64 = 1_000;

type JobPage = PageResponse<Job>;

pub fn routes() -> Routes {
    Routes::new()
        .routes(routes!(enqueue_job, list_jobs))
        .routes(routes!(enqueue_jobs))
        .routes(routes!(get_job))
        .routes(routes!(cancel_job))
        .routes(routes!(retry_job))
        .routes(routes!(redrive_jobs))
        .routes(routes!(discard_jobs))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListJobsQuery {
    /// Returns only jobs in this state. If absent, returns all jobs that have not ended.
    #[param(inline)]
    state: Option<JobStatus>,
    /// Returns only jobs of this queue.
    queue: Option<String>,
    /// Returns only jobs of this kind.
    kind: Option<String>,
    /// Maximum number of items per page, 1 to 100. Larger values are reduced to 100.
    #[param(default = 20, minimum = 1)]
    limit: Option<i64>,
    /// `next_cursor` of the previous page.
    cursor: Option<Cursor>,
}

/// Filter for dead letters. A job must match all given fields.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct DeadLetterFilter {
    /// Selects only jobs of this queue.
    #[serde(default)]
    queue: Option<String>,
    /// Selects only jobs of this kind.
    #[serde(default)]
    kind: Option<String>,
}

/// Result of an operation on many jobs.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobsAffected {
    /// Number of jobs that were changed.
    pub jobs: usize,
    /// `true` if there may be more matching jobs. Repeat the request until it is `false`.
    pub more: bool,
}

/// Result of a cancellation.
#[derive(Debug, Serialize, ToSchema)]
struct CancelResult {
    /// Job ID.
    id: i64,
    /// `cancelled`: the job will not run. `requested`: the job is running, and its worker is asked to stop.
    outcome: &'static str,
}

/// Result of a retry.
#[derive(Debug, Serialize, ToSchema)]
struct RetryResult {
    /// ID of the job that runs: the same job, or a new one if the job had ended.
    id: i64,
    /// `run_now`: the job was scheduled and runs now. `redriven`: the job was a dead letter. `reenqueued`:
    /// the job had ended, and a new job was enqueued.
    outcome: &'static str,
}

/// Enqueue a job
///
/// Enqueues a job. Its children are jobs that must end before it runs; they are enqueued with it. The job is
/// stored durably before the response is sent. Queues and kinds that the server reserves for its own work
/// are rejected. Requires the permission `jobs.write`.
#[utoipa::path(
    post, path = "/api/v1/jobs", security(("bearer" = ["jobs.write"])),
    request_body = NewJobBody,
    responses((status = 201, body = EnqueuedJob))
)]
async fn enqueue_job(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteJobs>,
    Json(body): Json<NewJobBody>,
) -> ApiResult<Response> {
    let reserved = app.reserved_jobs();
    app.change_precomputed(&caller, move |tx, ctx, validated| {
        commands::enqueue(tx, ctx, reserved, &body, validated).map(WriteResponse::created)
    })
    .await
}

/// Enqueue jobs in bulk
///
/// Enqueues up to 1,000 jobs in one transaction. If one job is invalid, none is enqueued. Jobs with children
/// cannot be part of a bulk request. Requires the permission `jobs.write`.
#[utoipa::path(
    post, path = "/api/v1/jobs/bulk", security(("bearer" = ["jobs.write"])),
    request_body = NewJobsBody,
    responses((status = 201, body = EnqueuedJobs))
)]
async fn enqueue_jobs(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteJobs>,
    Json(body): Json<NewJobsBody>,
) -> ApiResult<Response> {
    let reserved = app.reserved_jobs();
    app.change_precomputed(&caller, move |tx, ctx, validated| {
        commands::enqueue_all(tx, ctx, reserved, &body, validated).map(WriteResponse::created)
    })
    .await
}

/// List jobs
///
/// Returns jobs, newest first, without payloads and results. By default, only jobs that have not ended are
/// returned. Requires the permission `jobs.read`.
#[utoipa::path(
    get, path = "/api/v1/jobs", security(("bearer" = ["jobs.read"])),
    params(ListJobsQuery),
    responses((status = 200, body = JobPage))
)]
async fn list_jobs(
    State(app): State<App>,
    _: Allowed<ReadJobs>,
    Query(query): Query<ListJobsQuery>,
) -> ApiResult<JobPage> {
    let limit = page_limit(query.limit)?;
    let before = query.cursor.as_ref().map(Cursor::key).transpose().map_err(cursor_problem)?;
    let ListJobsQuery { state, queue, kind, .. } = query;
    let filter = JobFilter { state: state.map(JobStatus::into), queue, kind, before, since: None };
    let rows = app.db.read(move |q| kith_jobs::list_jobs(q, &filter, limit.rows())).await;
    let rows = rows.map_err(store_problem)?.into_iter().map(Job::from).collect();
    let bytes = |job: &Job| job.progress.as_ref().map_or(0, StoredJson::bytes);
    Ok(Page::from_rows_within(rows, limit, limit.rows(), MAX_PAGE_BYTES, bytes, |job| job.id).into())
}

/// Get a job
///
/// Returns a job with its payload, progress, result, the failures of its attempts and its last log lines.
/// Requires the permission `jobs.read`.
#[utoipa::path(
    get, path = "/api/v1/jobs/{id}", security(("bearer" = ["jobs.read"])),
    params(("id" = i64, Path, description = "ID of the job.")),
    responses((status = 200, body = JobDetails))
)]
async fn get_job(
    State(app): State<App>,
    _: Allowed<ReadJobs>,
    PathId(id): PathId<i64>,
) -> ApiResult<Json<JobDetails>> {
    Ok(Json(app.db.read(move |q| queries::get_details(q, id)).await?))
}

/// Cancel a job
///
/// Cancels a job that is not running. If the job is running, the response to its worker's next heartbeat
/// requests that the worker stop. An API key cannot cancel jobs in reserved queues or of reserved kinds.
/// Requires the permission `jobs.write`.
#[utoipa::path(
    post, path = "/api/v1/jobs/{id}/cancel", security(("bearer" = ["jobs.write"])),
    params(("id" = i64, Path, description = "ID of the job.")),
    responses(
        (status = 200, body = CancelResult),
        (status = 409, description = "`job_ended`"),
    )
)]
async fn cancel_job(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteJobs>,
    PathId(id): PathId<i64>,
) -> ApiResult<Response> {
    let reserved = app.reserved_jobs();
    app.change(&caller, move |tx, ctx| {
        check_not_reserved(tx, ctx, reserved, id)?;
        let outcome = match kith_jobs::cancel(tx, ctx, id, "cancelled on request")? {
            CancelOutcome::Cancelled => "cancelled",
            CancelOutcome::Requested => "requested",
            CancelOutcome::AlreadyEnded => return Err(JobsError::AlreadyEnded),
            CancelOutcome::Unknown => return Err(JobsError::NotFound),
        };
        tx.audit(ctx, "job.cancelled", id);
        Ok(WriteResponse::ok(CancelResult { id, outcome }))
    })
    .await
}

/// Retry a job
///
/// Runs a job now. A scheduled job or a dead letter keeps its ID. If the job was completed or cancelled, a
/// new job is enqueued. An API key cannot retry jobs in reserved queues or of reserved kinds. Requires the
/// permission `jobs.write`.
#[utoipa::path(
    post, path = "/api/v1/jobs/{id}/retry", security(("bearer" = ["jobs.write"])),
    params(("id" = i64, Path, description = "ID of the job.")),
    responses(
        (status = 200, body = RetryResult),
        (status = 409, description = "`job_not_retryable`, `unique_key_held`"),
    )
)]
async fn retry_job(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteJobs>,
    PathId(id): PathId<i64>,
) -> ApiResult<Response> {
    let reserved = app.reserved_jobs();
    app.change(&caller, move |tx, ctx| {
        check_not_reserved(tx, ctx, reserved, id)?;
        let (now, outcome) = match kith_jobs::retry(tx, ctx, id)? {
            RetryOutcome::MadeDue => (id, "run_now"),
            RetryOutcome::Revived => (id, "redriven"),
            RetryOutcome::Reenqueued(id) => (id, "reenqueued"),
            RetryOutcome::Live => return Err(JobsError::NotRetryable),
            RetryOutcome::KeyHeld(holder) => return Err(JobsError::UniqueKeyHeld(holder)),
            RetryOutcome::Unknown => return Err(JobsError::NotFound),
        };
        tx.audit(ctx, "job.retried", id);
        Ok(WriteResponse::ok(RetryResult { id: now, outcome }))
    })
    .await
}

/// Redrive dead letters
///
/// Makes dead letters ready to run again, at most 1,000 per request. An API key must specify a queue, a kind
/// or both. Requires the permission `jobs.write`.
#[utoipa::path(
    post, path = "/api/v1/jobs/redrive", security(("bearer" = ["jobs.write"])),
    request_body = DeadLetterFilter,
    responses((status = 200, body = JobsAffected))
)]
async fn redrive_jobs(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteJobs>,
    Json(DeadLetterFilter { queue, kind }): Json<DeadLetterFilter>,
) -> ApiResult<Response> {
    check_dead_letter_filter(&app, &caller.ctx, queue.as_deref(), kind.as_deref())?;
    app.change(&caller, move |tx, ctx| {
        let jobs = kith_jobs::redrive(tx, ctx, queue.as_deref(), kind.as_deref(), MAX_DEAD_LETTERS)?;
        if jobs > 0 {
            tx.audit(ctx, "jobs.redriven", queue.as_deref().unwrap_or("all"));
        }
        Ok::<_, JobsError>(WriteResponse::ok(jobs_affected(jobs)))
    })
    .await
}

/// Discard dead letters
///
/// Deletes dead letters, at most 1,000 per request. An API key must specify a queue, a kind or both.
/// Requires the permission `jobs.write`.
#[utoipa::path(
    post, path = "/api/v1/jobs/discard", security(("bearer" = ["jobs.write"])),
    request_body = DeadLetterFilter,
    responses((status = 200, body = JobsAffected))
)]
async fn discard_jobs(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteJobs>,
    Json(DeadLetterFilter { queue, kind }): Json<DeadLetterFilter>,
) -> ApiResult<Response> {
    check_dead_letter_filter(&app, &caller.ctx, queue.as_deref(), kind.as_deref())?;
    app.change(&caller, move |tx, ctx| {
        let jobs = kith_jobs::discard_dead(tx, queue.as_deref(), kind.as_deref(), MAX_DEAD_LETTERS)?;
        if jobs > 0 {
            tx.audit(ctx, "jobs.discarded", queue.as_deref().unwrap_or("all"));
        }
        Ok::<_, JobsError>(WriteResponse::ok(jobs_affected(jobs)))
    })
    .await
}

/// Checks the filter of a redrive or discard. An API key must specify a queue or a kind that is not
/// reserved, so that it cannot affect the server's own jobs.
fn check_dead_letter_filter(
    app: &App,
    ctx: &Ctx,
    queue: Option<&str>,
    kind: Option<&str>,
) -> Result<(), JobsError> {
    queue.map_or(Ok(()), |name| check_name("queue", name))?;
    kind.map_or(Ok(()), |name| check_name("kind", name))?;
    rules::reject_reserved_for_api_key(app.reserved_jobs(), ctx, queue, kind)?;
    if rules::is_api_key(ctx) && queue.is_none() && kind.is_none() {
        let detail = "An API key must name a queue, a kind, or both.";
        return Err(FieldError::new("/queue", "missing", detail).into());
    }
    Ok(())
}

/// Returns an error if an API key made the request and the job is in a reserved queue or of a reserved kind.
fn check_not_reserved(tx: &Tx<'_>, ctx: &Ctx, reserved: ReservedJobs, id: i64) -> Result<(), JobsError> {
    if !rules::is_api_key(ctx) {
        return Ok(());
    }
    let job = queries::find_job(tx, id)?;
    rules::reject_reserved_for_api_key(reserved, ctx, Some(&job.queue), Some(&job.kind))
}

fn jobs_affected(jobs: u64) -> JobsAffected {
    JobsAffected {
        jobs: usize::try_from(jobs).unwrap_or(usize::MAX),
        more: jobs >= MAX_DEAD_LETTERS.unsigned_abs(),
    }
}
