//! Schedules over HTTP: looking at them, changing them, and having them run.

use axum::extract::State;
use axum::response::Response;
use kith_jobs::schedules::{
    self, MOST_AT_ONCE, ScheduleError, ScheduleFilter, Spec, SpecError, find_schedule, list_runs,
    list_schedules as list,
};
use kith_kernel::{Cursor, FieldError, MAX_PAGE_BYTES, Page, Problem, ProblemCode, Timestamp, problems};
use kith_platform::auth::{ReadSchedules, WriteSchedules};
use kith_platform::{
    Allowed, Answer, ApiResult, App, Json, PageAnswer, PageQuery, PathId, Preconditions, Query, Routes,
    cursor_problem, page_limit, store_problem,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::commands::{self, Refusal};
use super::model::{BackfillAnswer, ScheduleAnswer, ScheduleBody, ScheduleName, ScheduleRun, ScheduledJob};

static DECLARED: ProblemCode =
    ProblemCode { code: "schedule_declared", status: 409, title: "The code declares this schedule" };
static TAKEN: ProblemCode =
    ProblemCode { code: "schedule_taken", status: 409, title: "Another schedule has this name" };
static TOO_MANY: ProblemCode =
    ProblemCode { code: "too_many_schedules", status: 409, title: "There are too many schedules" };

/// What these handlers answer with, beside the general problems.
pub const PROBLEMS: &[&ProblemCode] = &[&DECLARED, &TAKEN, &TOO_MANY];

/// The handlers.
pub fn routes() -> Routes {
    Routes::new()
        .routes(routes!(list_schedules))
        .routes(routes!(preview_schedule))
        .routes(routes!(get_schedule, set_schedule, delete_schedule))
        .routes(routes!(list_schedule_runs))
        .routes(routes!(pause_schedule))
        .routes(routes!(resume_schedule))
        .routes(routes!(run_schedule))
        .routes(routes!(backfill_schedule))
}

type SchedulePage = PageAnswer<ScheduleAnswer>;
type RunPage = PageAnswer<ScheduleRun>;

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Only those of this queue.
    queue: Option<String>,
    /// Only those that run this.
    kind: Option<String>,
    /// Only those that are paused, or are not.
    paused: Option<bool>,
    /// Only those that the code declares, or the others.
    declared: Option<bool>,
    /// Items on a page; more than 100 counts as 100.
    #[param(default = 20, minimum = 1)]
    limit: Option<i64>,
    /// `next_cursor` of the page before.
    cursor: Option<Cursor>,
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct PreviewQuery {
    /// As in a schedule.
    #[param(example = "30 2 * * MON-FRI")]
    schedule: String,
    /// Of the IANA database; UTC if absent.
    time_zone: Option<String>,
    /// Runs after this; now if absent. What `@every` counts from, too.
    after: Option<Timestamp>,
    /// How many; 10 if absent.
    #[param(minimum = 1, maximum = 100)]
    count: Option<usize>,
}

/// When a schedule would run.
#[derive(Serialize, ToSchema)]
struct Preview {
    /// The zone's name as the database writes it.
    time_zone: String,
    upcoming: Vec<Timestamp>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BackfillBody {
    /// The first run is not before.
    from: Timestamp,
    /// The last run is before; not in the future.
    to: Timestamp,
}

/// Schedules, by name.
#[utoipa::path(
    get, path = "/api/v1/schedules", security(("bearer" = ["schedules.read"])),
    params(ListQuery),
    responses((status = 200, body = SchedulePage))
)]
async fn list_schedules(
    State(app): State<App>,
    _: Allowed<ReadSchedules>,
    Query(query): Query<ListQuery>,
) -> ApiResult<SchedulePage> {
    let limit = page_limit(query.limit)?;
    let after = query.cursor.as_ref().map(Cursor::key).transpose().map_err(cursor_problem)?;
    let filter = ScheduleFilter {
        after,
        queue: query.queue,
        kind: query.kind,
        paused: query.paused,
        owner: None,
        is_declared: query.declared,
    };
    let most = limit.rows_of(kith_jobs::PAYLOAD_BYTES as i64);
    let found = app.db.read(move |q| list(q, &filter, most)).await.map_err(store_problem)?;
    let rows = found.into_iter().map(ScheduleAnswer::from).collect();
    let bytes = |one: &ScheduleAnswer| one.payload.bytes();
    Ok(Page::from_rows_within(rows, limit, most, MAX_PAGE_BYTES, bytes, |one| one.name.clone()).into())
}

/// When a schedule would run that need not be there.
#[utoipa::path(
    get, path = "/api/v1/schedules/preview", security(("bearer" = ["schedules.read"])),
    params(PreviewQuery),
    responses(
        (status = 200, body = Preview),
        (status = 422, description = "The schedule, its zone or the count is refused"),
    )
)]
async fn preview_schedule(
    Allowed { caller, .. }: Allowed<ReadSchedules>,
    Query(query): Query<PreviewQuery>,
) -> ApiResult<Json<Preview>> {
    let after = query.after.unwrap_or(caller.ctx.now);
    let count = query.count.unwrap_or(10);
    if !(1..=100).contains(&count) {
        return Err(
            Problem::invalid(vec![FieldError::new("?count", "out_of_range", "From 1 to 100.")]).into()
        );
    }
    let spec = Spec::parse(&query.schedule, query.time_zone.as_deref().unwrap_or("UTC"), after);
    let spec = spec.map_err(|error| Problem::invalid(vec![spec_fault("?", &error)]))?;
    let upcoming = spec.runs_after(after).take(count).collect();
    Ok(Json(Preview { time_zone: spec.zone().to_owned(), upcoming }))
}

/// One schedule, with its next runs.
#[utoipa::path(
    get, path = "/api/v1/schedules/{name}", security(("bearer" = ["schedules.read"])),
    params(("name" = String, Path, pattern = "^[A-Za-z0-9._-]{1,64}$", description = "Of the schedule")),
    responses(
        (status = 200, body = ScheduleAnswer),
        (status = 404, description = "No schedule has this name"),
    )
)]
async fn get_schedule(
    State(app): State<App>,
    _: Allowed<ReadSchedules>,
    PathId(name): PathId<ScheduleName>,
) -> ApiResult<Json<ScheduleAnswer>> {
    let found = app.db.read(move |q| find_schedule(q, &name.0)).await.map_err(store_problem)?;
    let found = found.ok_or(Refusal::Engine(ScheduleError::Unknown))?;
    Ok(Json(found.into()))
}

/// Make a schedule, or change one. Where its times stay the same it keeps its place; else it is planned anew from now, and
/// nothing is made up for.
#[utoipa::path(
    put, path = "/api/v1/schedules/{name}", security(("bearer" = ["schedules.write"])),
    params(("name" = String, Path, pattern = "^[A-Za-z0-9._-]{1,64}$", description = "Of the schedule")),
    request_body = ScheduleBody,
    responses(
        (status = 200, body = ScheduleAnswer),
        (status = 201, body = ScheduleAnswer),
        (status = 409, description = "`schedule_declared`, `schedule_taken`, `too_many_schedules`"),
        Preconditions,
    )
)]
async fn set_schedule(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteSchedules>,
    PathId(name): PathId<ScheduleName>,
    preconditions: Preconditions,
    Json(body): Json<ScheduleBody>,
) -> ApiResult<Response> {
    let plan = body.plan().map_err(Problem::invalid)?;
    let reserved = app.reserved_jobs();
    app.change(&caller, move |tx, ctx| {
        let (schedule, is_new) = commands::set(tx, ctx, reserved, &name.0, &plan, &preconditions)?;
        let answer = ScheduleAnswer::from(schedule);
        let answer = if is_new { Answer::created(answer) } else { Answer::ok(answer) };
        Ok::<_, Refusal>(answer.with_etag())
    })
    .await
}

/// Remove a schedule, and what is known of its runs. The jobs that it has enqueued stay.
#[utoipa::path(
    delete, path = "/api/v1/schedules/{name}", security(("bearer" = ["schedules.write"])),
    params(("name" = String, Path, pattern = "^[A-Za-z0-9._-]{1,64}$", description = "Of the schedule")),
    responses(
        (status = 204, description = "Removed"),
        (status = 404, description = "No schedule has this name"),
        (status = 409, description = "`schedule_declared`"),
        Preconditions,
    )
)]
async fn delete_schedule(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteSchedules>,
    PathId(name): PathId<ScheduleName>,
    preconditions: Preconditions,
) -> ApiResult<Response> {
    let reserved = app.reserved_jobs();
    app.change(&caller, move |tx, ctx| {
        commands::delete(tx, ctx, reserved, &name.0, &preconditions).map(|()| Answer::no_content())
    })
    .await
}

/// The runs of a schedule, the latest first. The last thousand are known, and those that have not ended.
#[utoipa::path(
    get, path = "/api/v1/schedules/{name}/runs", security(("bearer" = ["schedules.read"])),
    params(("name" = String, Path, pattern = "^[A-Za-z0-9._-]{1,64}$", description = "Of the schedule"), PageQuery),
    responses(
        (status = 200, body = RunPage),
        (status = 404, description = "No schedule has this name"),
    )
)]
async fn list_schedule_runs(
    State(app): State<App>,
    _: Allowed<ReadSchedules>,
    PathId(name): PathId<ScheduleName>,
    page: PageQuery,
) -> ApiResult<RunPage> {
    let limit = page.limit()?;
    let before = page.cursor.as_ref().map(Cursor::key).transpose().map_err(cursor_problem)?;
    let before = before.map_or(Timestamp::from_millis(i64::MAX), Timestamp::from_millis);
    let rows = app.db.read(move |q| {
        find_schedule(q, &name.0)?.ok_or(ScheduleError::Unknown)?;
        Ok::<_, Refusal>(list_runs(q, &name.0, before, limit.rows())?)
    });
    let rows = rows.await?.into_iter().map(ScheduleRun::from).collect();
    Ok(Page::from_rows(rows, limit, |one: &ScheduleRun| one.at.as_millis()).into())
}

/// Stop a schedule until it is resumed. What falls into a pause is not missed.
#[utoipa::path(
    post, path = "/api/v1/schedules/{name}/pause", security(("bearer" = ["schedules.write"])),
    params(("name" = String, Path, pattern = "^[A-Za-z0-9._-]{1,64}$", description = "Of the schedule")),
    responses(
        (status = 200, body = ScheduleAnswer),
        (status = 404, description = "No schedule has this name"),
    )
)]
async fn pause_schedule(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteSchedules>,
    PathId(name): PathId<ScheduleName>,
) -> ApiResult<Response> {
    let reserved = app.reserved_jobs();
    app.change(&caller, move |tx, ctx| {
        commands::check_operated(tx, ctx, reserved, &name.0)?;
        let paused = schedules::set_paused(tx, ctx, &name.0, true)?;
        Ok::<_, Refusal>(Answer::ok(ScheduleAnswer::from(paused)).with_etag())
    })
    .await
}

/// Go on with a schedule, from now.
#[utoipa::path(
    post, path = "/api/v1/schedules/{name}/resume", security(("bearer" = ["schedules.write"])),
    params(("name" = String, Path, pattern = "^[A-Za-z0-9._-]{1,64}$", description = "Of the schedule")),
    responses(
        (status = 200, body = ScheduleAnswer),
        (status = 404, description = "No schedule has this name"),
    )
)]
async fn resume_schedule(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteSchedules>,
    PathId(name): PathId<ScheduleName>,
) -> ApiResult<Response> {
    let reserved = app.reserved_jobs();
    app.change(&caller, move |tx, ctx| {
        commands::check_operated(tx, ctx, reserved, &name.0)?;
        let resumed = schedules::set_paused(tx, ctx, &name.0, false)?;
        Ok::<_, Refusal>(Answer::ok(ScheduleAnswer::from(resumed)).with_etag())
    })
    .await
}

/// Run a schedule at once, whatever its times, a pause or another run.
#[utoipa::path(
    post, path = "/api/v1/schedules/{name}/run", security(("bearer" = ["schedules.write"])),
    params(("name" = String, Path, pattern = "^[A-Za-z0-9._-]{1,64}$", description = "Of the schedule")),
    responses(
        (status = 201, body = ScheduledJob),
        (status = 404, description = "No schedule has this name"),
    )
)]
async fn run_schedule(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteSchedules>,
    PathId(name): PathId<ScheduleName>,
) -> ApiResult<Response> {
    let reserved = app.reserved_jobs();
    app.change(&caller, move |tx, ctx| {
        commands::check_operated(tx, ctx, reserved, &name.0)?;
        let job_id = schedules::run_now(tx, ctx, &name.0)?;
        Ok::<_, Refusal>(Answer::created(ScheduledJob { job_id }))
    })
    .await
}

/// Run what a schedule would have run in a past time, but for what has run. Where its runs may not overlap, each waits for the
/// one before it.
#[utoipa::path(
    post, path = "/api/v1/schedules/{name}/backfill", security(("bearer" = ["schedules.write"])),
    params(("name" = String, Path, pattern = "^[A-Za-z0-9._-]{1,64}$", description = "Of the schedule")),
    request_body = BackfillBody,
    responses(
        (status = 201, body = BackfillAnswer),
        (status = 404, description = "No schedule has this name"),
    )
)]
async fn backfill_schedule(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteSchedules>,
    PathId(name): PathId<ScheduleName>,
    Json(BackfillBody { from, to }): Json<BackfillBody>,
) -> ApiResult<Response> {
    let reserved = app.reserved_jobs();
    app.change(&caller, move |tx, ctx| {
        commands::check_operated(tx, ctx, reserved, &name.0)?;
        let done = schedules::backfill(tx, ctx, &name.0, from, to)?;
        Ok::<_, Refusal>(Answer::created(BackfillAnswer::from(done)))
    })
    .await
}

/// A fault of a schedule or its zone, in the field behind `place`.
fn spec_fault(place: &str, error: &SpecError) -> FieldError {
    let (field, code) = match error {
        SpecError::Zone => ("time_zone", "not_a_time_zone"),
        SpecError::Never => ("schedule", "never_happens"),
        SpecError::TooLong => ("schedule", "too_long"),
        _ => ("schedule", "not_a_schedule"),
    };
    FieldError::new(format!("{place}{field}"), code, format!("It is refused: {error}."))
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let error = match refusal {
            Refusal::Engine(error) => error,
            Refusal::Changed => return kith_platform::http::Changed.into(),
            Refusal::Reserved(error) => return error.into(),
        };
        let fault = |pointer: String, code, detail: String| {
            Self::invalid(vec![FieldError::new(pointer, code, detail)])
        };
        match error {
            ScheduleError::Invalid(invalid) => {
                let field = invalid.field.rsplit('.').next().unwrap_or_default();
                fault(format!("/{field}"), "not_valid", format!("It {}.", invalid.why))
            }
            ScheduleError::Spec(error) => Self::invalid(vec![spec_fault("/", &error)]),
            ScheduleError::Over => {
                fault("/schedule".to_owned(), "no_run", "It has no run from now on.".to_owned())
            }
            ScheduleError::TooWide => {
                let detail = format!("At most {MOST_AT_ONCE} runs at once, none of them in the future.");
                fault("/to".to_owned(), "too_many", detail)
            }
            ScheduleError::Taken => Self::new(&TAKEN, "Somebody has just made one of this name."),
            ScheduleError::TooMany => Self::new(&TOO_MANY, "Remove one first."),
            ScheduleError::Unknown => Self::new(&problems::NOT_FOUND, "No schedule has this name."),
            ScheduleError::Declared => {
                Self::new(&DECLARED, "It can be paused, run and backfilled; the rest is in the code.")
            }
            ScheduleError::Changed => kith_platform::http::Changed.into(),
            ScheduleError::Store(error) => store_problem(error),
        }
    }
}
