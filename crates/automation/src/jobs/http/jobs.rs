//! Jobs: enqueued, looked at, taken back, tried again; and dead letters, many at once.

use axum::extract::State;
use axum::response::Response;
use kith_jobs::{CancelOutcome, JobFilter, RetryOutcome, check_name};
use kith_kernel::{Ctx, Cursor, FieldError, MAX_PAGE_BYTES, Page, StoredJson};
use kith_platform::auth::{ReadJobs, WriteJobs};
use kith_platform::{
    Allowed, Answer, ApiResult, App, Json, PageAnswer, PathId, Query, ReservedJobs, Routes, cursor_problem,
    page_limit, store_problem,
};
use kith_store::Tx;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::super::model::{
    EnqueuedJob, EnqueuedJobs, Job, JobDetails, JobStatus, JobsError, NewJobBody, NewJobsBody,
};
use super::super::{commands, queries, rules};

/// Dead letters that one call redrives or discards at most.
const MOST_DEAD: i64 = 1_000;

type JobPage = PageAnswer<Job>;

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
struct ListQuery {
    /// Only those that stand so; absent: all that have not ended.
    #[param(inline)]
    state: Option<JobStatus>,
    /// Only those of this queue.
    queue: Option<String>,
    /// Only those of this kind.
    kind: Option<String>,
    /// Items on a page; more than 100 counts as 100.
    #[param(default = 20, minimum = 1)]
    limit: Option<i64>,
    /// `next_cursor` of the page before.
    cursor: Option<Cursor>,
}

/// Which dead letters.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct DeadBody {
    /// Only those of this queue.
    #[serde(default)]
    queue: Option<String>,
    /// Only those of this kind.
    #[serde(default)]
    kind: Option<String>,
}

/// How many jobs something was done to.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobsDone {
    /// So many.
    pub jobs: usize,
    /// Whether there may be more: ask again.
    pub more: bool,
}

/// What became of a request to take a job back.
#[derive(Debug, Serialize, ToSchema)]
struct Cancellation {
    /// Of the job.
    id: i64,
    /// `cancelled`: it will not run. `asked`: it runs, and whoever runs it was asked to stop.
    outcome: &'static str,
}

/// What became of a request to try a job again.
#[derive(Debug, Serialize, ToSchema)]
struct Retrial {
    /// Of the job that runs now: the same, or a new one if the other is no longer kept apart.
    id: i64,
    /// `hurried`: it waited for its time. `revived`: it was a dead letter. `anew`: it had ended, and this is another.
    outcome: &'static str,
}

/// Enqueue a job, with all that has to be done before it as its children. It is on the disk when this is answered.
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
        commands::enqueue(tx, ctx, reserved, &body, validated).map(Answer::created)
    })
    .await
}

/// Enqueue many jobs, all or none. Quicker than one by one.
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
        commands::enqueue_all(tx, ctx, reserved, &body, validated).map(Answer::created)
    })
    .await
}

/// Jobs, newest first: those that have not ended, unless `state` says otherwise. Without payloads and results.
#[utoipa::path(
    get, path = "/api/v1/jobs", security(("bearer" = ["jobs.read"])),
    params(ListQuery),
    responses((status = 200, body = JobPage))
)]
async fn list_jobs(
    State(app): State<App>,
    _: Allowed<ReadJobs>,
    Query(query): Query<ListQuery>,
) -> ApiResult<JobPage> {
    let limit = page_limit(query.limit)?;
    let before = query.cursor.as_ref().map(Cursor::key).transpose().map_err(cursor_problem)?;
    let ListQuery { state, queue, kind, .. } = query;
    let filter = JobFilter { state: state.map(JobStatus::into), queue, kind, before, since: None };
    let rows = app.db.read(move |q| kith_jobs::list_jobs(q, &filter, limit.rows())).await;
    let rows = rows.map_err(store_problem)?.into_iter().map(Job::from).collect();
    let bytes = |job: &Job| job.progress.as_ref().map_or(0, StoredJson::bytes);
    Ok(Page::from_rows_within(rows, limit, limit.rows(), MAX_PAGE_BYTES, bytes, |job| job.id).into())
}

/// All that is known of a job: its progress, its result, the errors of its attempts, its last lines.
#[utoipa::path(
    get, path = "/api/v1/jobs/{id}", security(("bearer" = ["jobs.read"])),
    params(("id" = i64, Path, description = "Of the job")),
    responses((status = 200, body = JobDetails))
)]
async fn get_job(
    State(app): State<App>,
    _: Allowed<ReadJobs>,
    PathId(id): PathId<i64>,
) -> ApiResult<Json<JobDetails>> {
    Ok(Json(app.db.read(move |q| queries::get_details(q, id)).await?))
}

/// Take a job back. One that runs is asked to stop: its worker hears of it by its next heartbeat.
#[utoipa::path(
    post, path = "/api/v1/jobs/{id}/cancel", security(("bearer" = ["jobs.write"])),
    params(("id" = i64, Path, description = "Of the job")),
    responses(
        (status = 200, body = Cancellation),
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
        check_job(tx, ctx, reserved, id)?;
        let outcome = match kith_jobs::cancel(tx, ctx, id, "somebody took it back")? {
            CancelOutcome::Cancelled => "cancelled",
            CancelOutcome::Asked => "asked",
            CancelOutcome::HadEnded => return Err(JobsError::HadEnded),
            CancelOutcome::Unknown => return Err(JobsError::NotFound),
        };
        tx.audit(ctx, "job.cancelled", id);
        Ok(Answer::ok(Cancellation { id, outcome }))
    })
    .await
}

/// Run a job now: one that waits for its time, a dead letter under its own id, or one that has ended as a new one.
#[utoipa::path(
    post, path = "/api/v1/jobs/{id}/retry", security(("bearer" = ["jobs.write"])),
    params(("id" = i64, Path, description = "Of the job")),
    responses(
        (status = 200, body = Retrial),
        (status = 409, description = "`job_under_way`, `unique_key_held`"),
    )
)]
async fn retry_job(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteJobs>,
    PathId(id): PathId<i64>,
) -> ApiResult<Response> {
    let reserved = app.reserved_jobs();
    app.change(&caller, move |tx, ctx| {
        check_job(tx, ctx, reserved, id)?;
        let (now, outcome) = match kith_jobs::retry(tx, ctx, id)? {
            RetryOutcome::Hurried => (id, "hurried"),
            RetryOutcome::Revived => (id, "revived"),
            RetryOutcome::Anew(id) => (id, "anew"),
            RetryOutcome::Live => return Err(JobsError::UnderWay),
            RetryOutcome::KeyHeld(holder) => return Err(JobsError::KeyHeld(holder)),
            RetryOutcome::Unknown => return Err(JobsError::NotFound),
        };
        tx.audit(ctx, "job.retried", id);
        Ok(Answer::ok(Retrial { id: now, outcome }))
    })
    .await
}

/// Bring dead letters back to life, at most 1000 in one call.
#[utoipa::path(
    post, path = "/api/v1/jobs/redrive", security(("bearer" = ["jobs.write"])),
    request_body = DeadBody,
    responses((status = 200, body = JobsDone))
)]
async fn redrive_jobs(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteJobs>,
    Json(DeadBody { queue, kind }): Json<DeadBody>,
) -> ApiResult<Response> {
    check_dead(&app, &caller.ctx, queue.as_deref(), kind.as_deref())?;
    app.change(&caller, move |tx, ctx| {
        let jobs = kith_jobs::redrive(tx, ctx, queue.as_deref(), kind.as_deref(), MOST_DEAD)?;
        if jobs > 0 {
            tx.audit(ctx, "jobs.redriven", queue.as_deref().unwrap_or("all"));
        }
        Ok::<_, JobsError>(Answer::ok(done(jobs)))
    })
    .await
}

/// Forget dead letters, at most 1000 in one call.
#[utoipa::path(
    post, path = "/api/v1/jobs/discard", security(("bearer" = ["jobs.write"])),
    request_body = DeadBody,
    responses((status = 200, body = JobsDone))
)]
async fn discard_jobs(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteJobs>,
    Json(DeadBody { queue, kind }): Json<DeadBody>,
) -> ApiResult<Response> {
    check_dead(&app, &caller.ctx, queue.as_deref(), kind.as_deref())?;
    app.change(&caller, move |tx, ctx| {
        let jobs = kith_jobs::discard_dead(tx, queue.as_deref(), kind.as_deref(), MOST_DEAD)?;
        if jobs > 0 {
            tx.audit(ctx, "jobs.discarded", queue.as_deref().unwrap_or("all"));
        }
        Ok::<_, JobsError>(Answer::ok(done(jobs)))
    })
    .await
}

/// Checks which dead letters a request names. An API key names a queue or a kind, so that it never takes those of Kith's
/// own queues along.
fn check_dead(app: &App, ctx: &Ctx, queue: Option<&str>, kind: Option<&str>) -> Result<(), JobsError> {
    queue.map_or(Ok(()), |name| check_name("queue", name))?;
    kind.map_or(Ok(()), |name| check_name("kind", name))?;
    rules::check_operator(app.reserved_jobs(), ctx, queue, kind)?;
    if rules::is_program(ctx) && queue.is_none() && kind.is_none() {
        let detail = "An API key names a queue, a kind, or both.";
        return Err(FieldError::new("/queue", "missing", detail).into());
    }
    Ok(())
}

/// Rejects an API key that acts on a job of Kith's own.
fn check_job(tx: &Tx<'_>, ctx: &Ctx, reserved: ReservedJobs, id: i64) -> Result<(), JobsError> {
    if !rules::is_program(ctx) {
        return Ok(());
    }
    let job = queries::find_job(tx, id)?;
    rules::check_operator(reserved, ctx, Some(&job.queue), Some(&job.kind))
}

fn done(jobs: u64) -> JobsDone {
    JobsDone { jobs: usize::try_from(jobs).unwrap_or(usize::MAX), more: jobs >= MOST_DEAD.unsigned_abs() }
}
