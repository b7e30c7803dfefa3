//! What a worker in another program does: it claims jobs with a lease, sends heartbeats, and reports how they ended. Every
//! report carries the lease token of the claim; that of a worker that no longer has the job is answered 409 and changes
//! nothing.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use kith_jobs::{ClaimToken, Done, JobError, JobState, LeasedClaim, Told, bell_of};
use kith_kernel::{Ctx, FieldError, Problem, Text, TextRules, Timestamp, seconds};
use kith_platform::auth::WorkJobs;
use kith_platform::idempotency::IDEMPOTENCY_REPLAYED;
use kith_platform::{Allowed, Answer, ApiResult, App, Json, PathId, Principal, Routes, store_problem};
use kith_store::Tx;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::super::model::{ClaimedJob, ClaimedJobs, JobStatus, JobsError, QueueName, check_ms, ms};
use super::super::queries;
use super::super::rules::check_program;

const NAME: TextRules = TextRules { min: 1, max: 100, newlines: false };
const LEVEL: TextRules = TextRules { min: 1, max: 20, newlines: false };
const LINE: TextRules = TextRules { min: 1, max: 2_000, newlines: true };
const USUAL_LEASE_MS: i64 = 60_000;
const SHORTEST_LEASE_MS: i64 = 1_000;
const LONGEST_LEASE_MS: i64 = 3_600_000;
const MOST_JOBS: i64 = 100;
const LONGEST_WAIT_MS: i64 = 30_000;
/// Before the server would give up the request, it is answered that there is nothing.
const ANSWERED_BEFORE: Duration = seconds(2);
/// How often a waiting claim looks although nobody rings.
const LOOK_EVERY: Duration = seconds(1);
const PROGRESS_BYTES: usize = 16 * 1024;
const RESULT_BYTES: usize = kith_jobs::PAYLOAD_BYTES;

pub fn routes() -> Routes {
    Routes::new()
        .routes(routes!(claim_jobs))
        .routes(routes!(heartbeat_job))
        .routes(routes!(report_progress))
        .routes(routes!(log_line))
        .routes(routes!(complete_job))
        .routes(routes!(fail_job))
}

/// How many jobs a worker wants, and for how long.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ClaimBody {
    /// Who works, for people who look at it.
    #[serde(default)]
    worker: Option<String>,
    /// 1 to 100; 1 unless given.
    #[serde(default)]
    #[schema(minimum = 1)]
    most: Option<i64>,
    /// A worker that is silent for longer than this loses what it took; 1 s to 1 h, 60 s unless given.
    #[serde(default)]
    #[schema(minimum = 1000)]
    lease_ms: Option<i64>,
    /// How long to wait for a job if there is none; at most 30 s, 0 unless given.
    #[serde(default)]
    #[schema(minimum = 0)]
    wait_ms: Option<i64>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct HeartbeatBody {
    /// `lease_token` of the job, as the claim returned it.
    lease_token: String,
    /// For how long from now; 60 s unless given.
    #[serde(default)]
    #[schema(minimum = 1000)]
    lease_ms: Option<i64>,
}

/// What a heartbeat came to.
#[derive(Debug, Serialize, ToSchema)]
struct Heartbeat {
    /// Whether somebody wants the job to stop: stop, and say that it failed with `then` = `cancel`.
    cancel_asked: bool,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ProgressBody {
    /// `lease_token` of the job, as the claim returned it.
    lease_token: String,
    /// Any JSON, at most 16 KiB.
    progress: Value,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LogBody {
    /// `lease_token` of the job, as the claim returned it.
    lease_token: String,
    /// `info` unless given.
    #[serde(default)]
    level: Option<String>,
    /// At most 2000 characters.
    line: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CompleteBody {
    /// `lease_token` of the job, as the claim returned it.
    lease_token: String,
    /// What the job leaves: any JSON, at most 256 KiB.
    #[serde(default)]
    result: Option<Value>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct FailBody {
    /// `lease_token` of the job, as the claim returned it.
    lease_token: String,
    /// What went wrong; not for `snooze` and `cancel`.
    #[serde(default)]
    error: Option<String>,
    /// What becomes of it.
    #[serde(default)]
    #[schema(inline)]
    then: Then,
    /// When it is tried again, from now; for `retry` its policy says so unless this is given, for `snooze` it has to be.
    #[serde(default)]
    #[schema(minimum = 0)]
    wait_ms: Option<i64>,
}

/// What becomes of a job that was not done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Then {
    /// Tried again, as often as its policy allows.
    #[default]
    Retry,
    /// Never tried again: a dead letter.
    Discard,
    /// Run again later; this was no failure.
    Snooze,
    /// Stopped, because somebody asked for it.
    Cancel,
}

/// How a job stands after its worker's last word.
#[derive(Debug, Serialize, ToSchema)]
struct Ended {
    /// How it stands.
    state: JobStatus,
    /// When it is run again, if it is.
    #[schema(required = true)]
    run_at: Option<Timestamp>,
}

/// Take the next jobs out of a queue. If there is none, the answer may be asked to wait. What is taken has to be kept by
/// heartbeats, and ended by `complete` or `fail`, or is given to somebody else once its lease is over.
#[utoipa::path(
    post, path = "/api/v1/queues/{queue}/claim", security(("bearer" = ["jobs.work"])),
    params(("queue" = String, Path, pattern = "^[A-Za-z0-9._-]{1,64}$", description = "The queue")),
    request_body = ClaimBody,
    responses((status = 200, body = ClaimedJobs))
)]
async fn claim_jobs(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WorkJobs>,
    PathId(QueueName(queue)): PathId<QueueName>,
    Json(body): Json<ClaimBody>,
) -> ApiResult<Response> {
    check_program(app.reserved_jobs(), Some(&queue), None)?;
    if let Some(given) = app.given_answer(&caller).await? {
        return Ok(given);
    }
    let wanted = Wanted::read(&caller.ctx, queue, &body).map_err(|fault| Problem::invalid(vec![fault]))?;
    // Whatever ends this request before its answer is decided drops the claim, and so gives its jobs back.
    let claim = wanted.claim(&app, &caller).await?;
    let jobs = ClaimedJobs { jobs: claim.jobs.iter().cloned().map(ClaimedJob::from).collect() };
    if caller.key.is_none() {
        claim.keep();
        return Ok(Answer::ok(jobs).into_response());
    }
    let response = app.change(&caller, move |_, _| Ok::<_, JobsError>(Answer::ok(jobs.clone()))).await?;
    if response.headers().contains_key(IDEMPOTENCY_REPLAYED) {
        // A request with the same key was quicker, and its jobs are the answer.
        claim.give_back().await.map_err(store_problem)?;
    } else {
        claim.keep();
    }
    Ok(response)
}

/// What a worker asks for.
struct Wanted {
    queue: String,
    worker: String,
    most: i64,
    lease: Duration,
    wait: Duration,
}

impl Wanted {
    fn read(ctx: &Ctx, queue: String, body: &ClaimBody) -> Result<Self, FieldError> {
        let worker = body.worker.as_deref().map(|name| Text::parse(name, NAME, "/worker")).transpose()?;
        let most = body.most.unwrap_or(1);
        if !(1..=MOST_JOBS).contains(&most) {
            return Err(FieldError::new("/most", "out_of_range", format!("1 to {MOST_JOBS}.")));
        }
        let wait_ms = body.wait_ms.unwrap_or(0);
        if !(0..=LONGEST_WAIT_MS).contains(&wait_ms) {
            return Err(FieldError::new("/wait_ms", "out_of_range", format!("0 to {LONGEST_WAIT_MS}.")));
        }
        Ok(Self {
            queue,
            worker: worker.map_or_else(|| ctx.actor.to_string(), Text::into_string),
            most,
            lease: lease(body.lease_ms)?,
            wait: ms(wait_ms),
        })
    }

    /// Claims until there is something, or the wait is over, or the server stops. Only waiting is cut short: a claim that
    /// has begun is waited for, because its jobs are taken.
    async fn claim(&self, app: &App, caller: &Principal) -> Result<LeasedClaim, Problem> {
        let request = ms(i64::from(app.config.server.request_timeout_ms)).saturating_sub(ANSWERED_BEFORE);
        let wait = self.wait.min(request);
        let mut wait_is_over = pin!(tokio::time::timeout(wait, std::future::pending::<()>()));
        let mut bell = app.db.bell(&bell_of(&self.queue));
        loop {
            // The caller's permission may have been revoked during the wait.
            caller.check_again(app).await?;
            let claim = app.jobs.claim_leased(&self.queue, &self.worker, self.lease, self.most).await;
            let claim = claim.map_err(store_problem)?;
            if !claim.jobs.is_empty() || wait.is_zero() {
                return Ok(claim);
            }
            let due = claim.look_again_at.map(|at| at.since(app.sources.clock.now()));
            let pause = due.unwrap_or(LOOK_EVERY).clamp(Duration::from_millis(5), LOOK_EVERY);
            let goes_on = async {
                tokio::select! {
                    _ = &mut wait_is_over => false,
                    // A timeout is no error: the queue is looked at again.
                    _ = tokio::time::timeout(pause, bell.rung()) => true,
                }
            };
            if app.stop.or(goes_on).await != Some(true) {
                return Ok(claim);
            }
        }
    }
}

fn lease(asked_ms: Option<i64>) -> Result<Duration, FieldError> {
    let lease_ms = asked_ms.unwrap_or(USUAL_LEASE_MS);
    if (SHORTEST_LEASE_MS..=LONGEST_LEASE_MS).contains(&lease_ms) {
        return Ok(ms(lease_ms));
    }
    let detail = format!("{SHORTEST_LEASE_MS} to {LONGEST_LEASE_MS}.");
    Err(FieldError::new("/lease_ms", "out_of_range", detail))
}

/// Say that you live. It lengthens the lease of all that was taken in the same claim.
#[utoipa::path(
    post, path = "/api/v1/jobs/{id}/heartbeat", security(("bearer" = ["jobs.work"])),
    params(("id" = i64, Path, description = "Of the job")),
    request_body = HeartbeatBody,
    responses(
        (status = 200, body = Heartbeat),
        (status = 409, description = "`stale_attempt`"),
    )
)]
async fn heartbeat_job(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WorkJobs>,
    PathId(id): PathId<i64>,
    Json(body): Json<HeartbeatBody>,
) -> ApiResult<Response> {
    let lease = lease(body.lease_ms).map_err(|fault| Problem::invalid(vec![fault]))?;
    let token = token(&body.lease_token)?;
    app.change(&caller, move |tx, ctx| {
        let kept = kith_jobs::heartbeat(tx, ctx, id, token, lease)?;
        let kept = kept.ok_or_else(|| refusal(tx, id))?;
        Ok::<_, JobsError>(Answer::ok(Heartbeat { cancel_asked: kept.cancel_asked }))
    })
    .await
}

/// Say how far a job is. Whoever watches it sees this at once.
#[utoipa::path(
    post, path = "/api/v1/jobs/{id}/progress", security(("bearer" = ["jobs.work"])),
    params(("id" = i64, Path, description = "Of the job")),
    request_body = ProgressBody,
    responses(
        (status = 204, description = "Kept"),
        (status = 409, description = "`stale_attempt`"),
    )
)]
async fn report_progress(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WorkJobs>,
    PathId(id): PathId<i64>,
    Json(body): Json<ProgressBody>,
) -> ApiResult<Response> {
    let progress = short(&body.progress, PROGRESS_BYTES, "/progress")?;
    let token = token(&body.lease_token)?;
    app.change(&caller, move |tx, _| {
        let kept = kith_jobs::keep_progress(tx, id, token, &progress)?;
        if kept { Ok(Answer::no_content()) } else { Err(refusal(tx, id)) }
    })
    .await
}

/// Keep a line with a job.
#[utoipa::path(
    post, path = "/api/v1/jobs/{id}/log", security(("bearer" = ["jobs.work"])),
    params(("id" = i64, Path, description = "Of the job")),
    request_body = LogBody,
    responses(
        (status = 204, description = "Kept"),
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
    let token = token(&body.lease_token)?;
    app.change(&caller, move |tx, ctx| {
        let kept = kith_jobs::keep_log(tx, ctx, id, token, &level, &line)?;
        if kept { Ok(Answer::no_content()) } else { Err(refusal(tx, id)) }
    })
    .await
}

/// Say that a job is done.
#[utoipa::path(
    post, path = "/api/v1/jobs/{id}/complete", security(("bearer" = ["jobs.work"])),
    params(("id" = i64, Path, description = "Of the job")),
    request_body = CompleteBody,
    responses(
        (status = 200, body = Ended),
        (status = 409, description = "`stale_attempt`"),
    )
)]
async fn complete_job(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WorkJobs>,
    PathId(id): PathId<i64>,
    Json(body): Json<CompleteBody>,
) -> ApiResult<Response> {
    let result = body.result.map(|result| short(&result, RESULT_BYTES, "/result")).transpose()?;
    end(&app, &caller, id, token(&body.lease_token)?, Ok(Done { result })).await
}

/// Say that a job was not done, and what becomes of it.
#[utoipa::path(
    post, path = "/api/v1/jobs/{id}/fail", security(("bearer" = ["jobs.work"])),
    params(("id" = i64, Path, description = "Of the job")),
    request_body = FailBody,
    responses(
        (status = 200, body = Ended),
        (status = 409, description = "`stale_attempt`"),
    )
)]
async fn fail_job(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WorkJobs>,
    PathId(id): PathId<i64>,
    Json(body): Json<FailBody>,
) -> ApiResult<Response> {
    let token = token(&body.lease_token)?;
    let error = body.into_error().map_err(|fault| Problem::invalid(vec![fault]))?;
    end(&app, &caller, id, token, Err(error)).await
}

impl FailBody {
    fn into_error(self) -> Result<JobError, FieldError> {
        check_ms(self.wait_ms, "/wait_ms")?;
        let why = self.error.map(|error| error.replace('\0', ""));
        let needed = |field: &'static str| FieldError::new(field, "missing", "This field is required here.");
        Ok(match (self.then, why, self.wait_ms) {
            (Then::Retry, Some(why), None) => JobError::Retry(why),
            (Then::Retry, Some(why), Some(wait)) => JobError::RetryIn { why, wait: ms(wait) },
            (Then::Discard, Some(why), _) => JobError::Discard(why),
            (Then::Retry | Then::Discard, None, _) => return Err(needed("/error")),
            (Then::Snooze, _, Some(wait)) => JobError::Snooze(ms(wait)),
            (Then::Snooze, _, None) => return Err(needed("/wait_ms")),
            (Then::Cancel, ..) => JobError::Cancelled,
        })
    }
}

/// What is counted of an attempt that ended.
struct Counted {
    queue: String,
    kind: String,
    told: Told,
    took: Duration,
}

async fn end(
    app: &App,
    caller: &Principal,
    id: i64,
    token: ClaimToken,
    outcome: Result<Done, JobError>,
) -> ApiResult<Response> {
    let counted = Arc::new(Mutex::new(None));
    let count = Arc::clone(&counted);
    let response = app.change(caller, move |tx, ctx| {
        let job = queries::find_job(tx, id)?;
        let told = kith_jobs::report_leased(tx, ctx, id, token, outcome.clone())?;
        let ended = match told {
            Told::Ended(state) => Ended { state: state.into(), run_at: None },
            Told::Again(at) => Ended { state: JobState::Scheduled.into(), run_at: Some(at) },
            Told::Stale => return Err(JobsError::Stale),
        };
        let took = job.started_at.map_or(Duration::ZERO, |at| ctx.now.since(at));
        let done = Counted { queue: job.queue, kind: job.kind, told, took };
        *count.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
        Ok(Answer::ok(ended))
    });
    let response = response.await?;
    if let Some(Counted { queue, kind, told, took }) =
        counted.lock().unwrap_or_else(PoisonError::into_inner).take()
    {
        app.jobs.count_leased(&queue, &kind, &told, took);
    }
    Ok(response)
}

/// Reads a lease token.
fn token(text: &str) -> Result<ClaimToken, Problem> {
    let malformed =
        || FieldError::new("/lease_token", "malformed", "Send the `lease_token` that the claim returned.");
    text.parse().map_err(|_| Problem::invalid(vec![malformed()]))
}

/// Why a word about an attempt is not heeded.
fn refusal(tx: &Tx<'_>, id: i64) -> JobsError {
    queries::find_job(tx, id).map_or_else(|error| error, |_| JobsError::Stale)
}

/// JSON as text, unless it is too long.
fn short(value: &Value, most: usize, at: &'static str) -> Result<String, Problem> {
    let text = value.to_string();
    if text.len() <= most {
        return Ok(text);
    }
    Err(Problem::invalid(vec![FieldError::new(at, "too_long", format!("At most {most} bytes of JSON."))]))
}
