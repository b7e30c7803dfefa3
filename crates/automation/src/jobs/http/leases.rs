//! HTTP endpoints with which workers report on their jobs: heartbeat, progress, log, complete and fail.
//!
//! Each report contains the lease token of the claim, which serves as a fencing token. A report from a
//! worker whose lease was lost is rejected with 409 and changes nothing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use kith_jobs::{ClaimToken, JobError, JobOutput, JobState, ReportOutcome};
use kith_kernel::{FieldError, Problem, Text, TextRules, Timestamp};
use kith_platform::auth::WorkJobs;
use kith_platform::{Allowed, ApiResult, App, Json, PathId, Principal, Routes, WriteResponse};
use kith_store::Tx;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::super::model::{JobStatus, JobsError, check_ms, duration_ms};
use super::super::queries;

const LEVEL: TextRules = TextRules { min: 1, max: 20, newlines: false };
const LINE: TextRules = TextRules { min: 1, max: 2_000, newlines: true };
const DEFAULT_LEASE_MS: i64 = 60_000;
const MIN_LEASE_MS: i64 = 1_000;
const MAX_LEASE_MS: i64 = 3_600_000;
const MAX_PROGRESS_BYTES: usize = 16 * 1024;
const MAX_RESULT_BYTES: usize = kith_jobs::MAX_PAYLOAD_BYTES;

pub fn routes() -> Routes {
    Routes::new()
        .routes(routes!(heartbeat_job))
        .routes(routes!(report_progress))
        .routes(routes!(log_line))
        .routes(routes!(complete_job))
        .routes(routes!(fail_job))
}

/// Heartbeat of a worker.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct HeartbeatBody {
    /// Lease token of the job, as the claim returned it.
    lease_token: String,
    /// New lease duration in milliseconds, counted from now, 1,000 to 3,600,000. Default 60,000.
    #[serde(default)]
    #[schema(minimum = 1000)]
    lease_ms: Option<i64>,
}

/// Result of a heartbeat.
#[derive(Debug, Serialize, ToSchema)]
struct HeartbeatResult {
    /// `true` if cancellation of the job was requested. Stop, and report `fail` with `action` set to
    /// `cancel`.
    cancel_requested: bool,
}

/// Progress of a job.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ProgressBody {
    /// Lease token of the job, as the claim returned it.
    lease_token: String,
    /// Progress as any JSON value, at most 16 KiB.
    progress: Value,
}

/// Log line of a job.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LogBody {
    /// Lease token of the job, as the claim returned it.
    lease_token: String,
    /// Log level, 1 to 20 characters. Default `info`.
    #[serde(default)]
    level: Option<String>,
    /// Text of the line, 1 to 2,000 characters.
    line: String,
}

/// Completion of a job.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CompleteBody {
    /// Lease token of the job, as the claim returned it.
    lease_token: String,
    /// Result as any JSON value, at most 256 KiB.
    #[serde(default)]
    result: Option<Value>,
}

/// Failure of a job.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct FailBody {
    /// Lease token of the job, as the claim returned it.
    lease_token: String,
    /// Error message. Required for `retry` and `discard`.
    #[serde(default)]
    error: Option<String>,
    /// Action to take on the job.
    #[serde(default)]
    #[schema(inline)]
    action: FailureAction,
    /// Delay in milliseconds, counted from now. Required for `snooze`; for `retry`, it replaces the delay of
    /// the retry policy.
    #[serde(default)]
    #[schema(minimum = 0)]
    wait_ms: Option<i64>,
}

/// Action to take on a job that was not completed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum FailureAction {
    /// Retry the job, as often as its retry policy allows.
    #[default]
    Retry,
    /// Move the job to the dead letters without further retries.
    Discard,
    /// Run the job again later. This does not count as a failure.
    Snooze,
    /// Cancel the job, because cancellation was requested.
    Cancel,
}

/// State of a job after its attempt ended.
#[derive(Debug, Serialize, ToSchema)]
struct EndedJob {
    /// State of the job.
    state: JobStatus,
    /// Time at which the job will run again; `null` if it will not run again.
    #[schema(required = true)]
    run_at: Option<Timestamp>,
}

pub(super) fn parse_lease(requested_ms: Option<i64>) -> Result<Duration, FieldError> {
    let lease_ms = requested_ms.unwrap_or(DEFAULT_LEASE_MS);
    if (MIN_LEASE_MS..=MAX_LEASE_MS).contains(&lease_ms) {
        return Ok(duration_ms(lease_ms));
    }
    let detail = format!("Expected {MIN_LEASE_MS} to {MAX_LEASE_MS}.");
    Err(FieldError::new("/lease_ms", "out_of_range", detail))
}

/// Send a heartbeat
///
/// Extends the lease of all jobs of the same claim. Send heartbeats early enough to arrive before the lease
/// expires. Requires the permission `jobs.work`.
#[utoipa::path(
    post, path = "/api/v1/jobs/{id}/heartbeat", security(("bearer" = ["jobs.work"])),
    params(("id" = i64, Path, description = "ID of the job.")),
    request_body = HeartbeatBody,
    responses(
        (status = 200, body = HeartbeatResult),
        (status = 409, description = "`stale_attempt`"),
    )
)]
async fn heartbeat_job(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WorkJobs>,
    PathId(id): PathId<i64>,
    Json(body): Json<HeartbeatBody>,
) -> ApiResult<Response> {
    let lease = parse_lease(body.lease_ms).map_err(|fault| Problem::invalid(vec![fault]))?;
    let token = parse_lease_token(&body.lease_token)?;
    app.change(&caller, move |tx, ctx| {
        let renewal = kith_jobs::heartbeat(tx, ctx, id, token, lease)?;
        let renewal = renewal.ok_or_else(|| stale_or_not_found(tx, id))?;
        Ok::<_, JobsError>(WriteResponse::ok(HeartbeatResult {
            cancel_requested: renewal.is_cancel_requested,
        }))
    })
    .await
}

/// Report progress
///
/// Stores the progress of a running job and sends it to clients that watch the job. Requires the permission
/// `jobs.work`.
#[utoipa::path(
    post, path = "/api/v1/jobs/{id}/progress", security(("bearer" = ["jobs.work"])),
    params(("id" = i64, Path, description = "ID of the job.")),
    request_body = ProgressBody,
    responses(
        (status = 204, description = "The progress is stored."),
        (status = 409, description = "`stale_attempt`"),
    )
)]
async fn report_progress(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WorkJobs>,
    PathId(id): PathId<i64>,
    Json(body): Json<ProgressBody>,
) -> ApiResult<Response> {
    let progress = serialize_bounded(&body.progress, MAX_PROGRESS_BYTES, "/progress")?;
    let token = parse_lease_token(&body.lease_token)?;
    app.change(&caller, move |tx, _| {
        let stored = kith_jobs::store_progress(tx, id, token, &progress)?;
        if stored { Ok(WriteResponse::no_content()) } else { Err(stale_or_not_found(tx, id)) }
    })
    .await
}

/// Add a log line
///
/// Adds a line to the log of a running job. Requires the permission `jobs.work`.
#[utoipa::path(
    post, path = "/api/v1/jobs/{id}/log", security(("bearer" = ["jobs.work"])),
    params(("id" = i64, Path, description = "ID of the job.")),
    request_body = LogBody,
    responses(
        (status = 204, description = "The log line is stored."),
        (status = 409, description = "`stale_attempt`"),
    )
)]
async fn log_line(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WorkJobs>,
    PathId(id): PathId<i64>,
    Json(body): Json<LogBody>,
) -> ApiResult<Response> {
    let text =
        |text: &str, rules, at| Text::parse(text, rules, at).map_err(|fault| Problem::invalid(vec![fault]));
    let level = text(body.level.as_deref().unwrap_or("info"), LEVEL, "/level")?.into_string();
    let line = text(&body.line, LINE, "/line")?.into_string();
    let token = parse_lease_token(&body.lease_token)?;
    app.change(&caller, move |tx, ctx| {
        let stored = kith_jobs::append_log(tx, ctx, id, token, &level, &line)?;
        if stored { Ok(WriteResponse::no_content()) } else { Err(stale_or_not_found(tx, id)) }
    })
    .await
}

/// Complete a job
///
/// Ends the attempt successfully and stores the result. Requires the permission `jobs.work`.
#[utoipa::path(
    post, path = "/api/v1/jobs/{id}/complete", security(("bearer" = ["jobs.work"])),
    params(("id" = i64, Path, description = "ID of the job.")),
    request_body = CompleteBody,
    responses(
        (status = 200, body = EndedJob),
        (status = 409, description = "`stale_attempt`"),
    )
)]
async fn complete_job(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WorkJobs>,
    PathId(id): PathId<i64>,
    Json(body): Json<CompleteBody>,
) -> ApiResult<Response> {
    let result =
        body.result.map(|result| serialize_bounded(&result, MAX_RESULT_BYTES, "/result")).transpose()?;
    end_attempt(&app, &caller, id, parse_lease_token(&body.lease_token)?, Ok(JobOutput { result })).await
}

/// Fail a job
///
/// Ends the attempt without success. `action` decides whether the job is retried, moved to the dead letters,
/// run again later or cancelled. Requires the permission `jobs.work`.
#[utoipa::path(
    post, path = "/api/v1/jobs/{id}/fail", security(("bearer" = ["jobs.work"])),
    params(("id" = i64, Path, description = "ID of the job.")),
    request_body = FailBody,
    responses(
        (status = 200, body = EndedJob),
        (status = 409, description = "`stale_attempt`"),
    )
)]
async fn fail_job(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WorkJobs>,
    PathId(id): PathId<i64>,
    Json(body): Json<FailBody>,
) -> ApiResult<Response> {
    let token = parse_lease_token(&body.lease_token)?;
    let error = body.into_error().map_err(|fault| Problem::invalid(vec![fault]))?;
    end_attempt(&app, &caller, id, token, Err(error)).await
}

impl FailBody {
    fn into_error(self) -> Result<JobError, FieldError> {
        check_ms(self.wait_ms, "/wait_ms")?;
        let why = self.error.map(|error| error.replace('\0', ""));
        let missing = |field: &'static str| {
            FieldError::new(field, "missing", "This field is required for this value of `action`.")
        };
        Ok(match (self.action, why, self.wait_ms) {
            (FailureAction::Retry, Some(why), None) => JobError::Retry(why),
            (FailureAction::Retry, Some(why), Some(wait)) => {
                JobError::RetryIn { why, wait: duration_ms(wait) }
            }
            (FailureAction::Discard, Some(why), _) => JobError::Discard(why),
            (FailureAction::Retry | FailureAction::Discard, None, _) => return Err(missing("/error")),
            (FailureAction::Snooze, _, Some(wait)) => JobError::Snooze(duration_ms(wait)),
            (FailureAction::Snooze, _, None) => return Err(missing("/wait_ms")),
            (FailureAction::Cancel, ..) => JobError::Cancelled,
        })
    }
}

/// Data for the metrics of an ended attempt.
struct AttemptMetrics {
    queue: String,
    kind: String,
    report: ReportOutcome,
    took: Duration,
}

async fn end_attempt(
    app: &App,
    caller: &Principal,
    id: i64,
    token: ClaimToken,
    outcome: Result<JobOutput, JobError>,
) -> ApiResult<Response> {
    let metrics = Arc::new(Mutex::new(None));
    let count = Arc::clone(&metrics);
    let response = app.change(caller, move |tx, ctx| {
        let job = queries::find_job(tx, id)?;
        let report = kith_jobs::report_leased(tx, ctx, id, token, outcome.clone())?;
        let ended = match report {
            ReportOutcome::Finished(state) => EndedJob { state: state.into(), run_at: None },
            ReportOutcome::Rescheduled(at) => {
                EndedJob { state: JobState::Scheduled.into(), run_at: Some(at) }
            }
            ReportOutcome::Stale => return Err(JobsError::Stale),
        };
        let took = job.started_at.map_or(Duration::ZERO, |at| ctx.now.since(at));
        let done = AttemptMetrics { queue: job.queue, kind: job.kind, report, took };
        *count.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
        Ok(WriteResponse::ok(ended))
    });
    let response = response.await?;
    if let Some(AttemptMetrics { queue, kind, report, took }) =
        metrics.lock().unwrap_or_else(PoisonError::into_inner).take()
    {
        app.jobs.record_leased_outcome(&queue, &kind, &report, took);
    }
    Ok(response)
}

/// Parses the lease token of a request body.
fn parse_lease_token(text: &str) -> Result<ClaimToken, Problem> {
    let malformed =
        || FieldError::new("/lease_token", "malformed", "Send the `lease_token` that the claim returned.");
    text.parse().map_err(|_| Problem::invalid(vec![malformed()]))
}

/// Returns the error for a report whose lease token is not current: the job is unknown, or the attempt is
/// stale.
fn stale_or_not_found(tx: &Tx<'_>, id: i64) -> JobsError {
    queries::find_job(tx, id).map_or_else(|error| error, |_| JobsError::Stale)
}

/// Serializes a JSON value. Returns an error if the text is longer than `max_bytes`. `at` is the JSON
/// Pointer of the value.
fn serialize_bounded(value: &Value, max_bytes: usize, at: &'static str) -> Result<String, Problem> {
    let text = value.to_string();
    if text.len() <= max_bytes {
        return Ok(text);
    }
    Err(Problem::invalid(vec![FieldError::new(
        at,
        "too_long",
        format!("Expected at most {max_bytes} bytes of JSON."),
    )]))
}
