//! HTTP endpoints for schedules: list, preview, set, delete, pause, resume, run and backfill.

mod operations;

use axum::extract::State;
use axum::response::Response;
use kith_jobs::schedules::{
    MAX_BACKFILL_RUNS, ScheduleError, ScheduleFilter, Spec, SpecError, find_schedule, list_runs,
    list_schedules as list,
};
use kith_kernel::{Cursor, FieldError, MAX_PAGE_BYTES, Page, Problem, ProblemCode, Timestamp, problems};
use kith_platform::auth::{ReadSchedules, WriteSchedules};
use kith_platform::{
    Allowed, ApiResult, App, Json, PageQuery, PageResponse, PathId, Preconditions, Query, Routes,
    WriteResponse, cursor_problem, page_limit, store_problem,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::commands::{self, ScheduleCommandError};
use super::model::{ScheduleBody, ScheduleName, ScheduleResponse, ScheduleRun};

static SCHEDULE_DECLARED: ProblemCode =
    ProblemCode { code: "schedule_declared", status: 409, title: "Schedule declared by a module" };
static SCHEDULE_TAKEN: ProblemCode =
    ProblemCode { code: "schedule_taken", status: 409, title: "Schedule name taken" };
static TOO_MANY_SCHEDULES: ProblemCode =
    ProblemCode { code: "too_many_schedules", status: 409, title: "Too many schedules" };

/// Problem codes that these endpoints return, in addition to the general ones.
pub const PROBLEMS: &[&ProblemCode] = &[&SCHEDULE_DECLARED, &SCHEDULE_TAKEN, &TOO_MANY_SCHEDULES];

/// Returns the routes of schedules.
pub fn routes() -> Routes {
    Routes::new()
        .routes(routes!(list_schedules))
        .routes(routes!(preview_schedule))
        .routes(routes!(get_schedule, set_schedule, delete_schedule))
        .routes(routes!(list_schedule_runs))
        .merge(operations::routes())
}

type SchedulePage = PageResponse<ScheduleResponse>;
type RunPage = PageResponse<ScheduleRun>;

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListSchedulesQuery {
    /// Returns only schedules of this queue.
    queue: Option<String>,
    /// Returns only schedules of this job kind.
    kind: Option<String>,
    /// `true` returns only paused schedules, `false` only those that are not paused.
    paused: Option<bool>,
    /// `true` returns only schedules that a module of the server declares, `false` only the others.
    declared: Option<bool>,
    /// Maximum number of items per page, 1 to 100. Larger values are reduced to 100.
    #[param(default = 20, minimum = 1)]
    limit: Option<i64>,
    /// `next_cursor` of the previous page.
    cursor: Option<Cursor>,
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct PreviewScheduleQuery {
    /// Schedule expression, in the same format as the field `schedule` of a schedule.
    #[param(example = "30 2 * * MON-FRI")]
    schedule: String,
    /// Time zone as a name of the IANA time zone database. Default `UTC`.
    time_zone: Option<String>,
    /// Time after which runs are computed. Intervals such as `@every 1h` also count from it. Default: now.
    after: Option<Timestamp>,
    /// Number of runs to return, 1 to 100. Default 10.
    #[param(minimum = 1, maximum = 100)]
    count: Option<usize>,
}

/// Preview of the runs of a schedule.
#[derive(Serialize, ToSchema)]
struct SchedulePreview {
    /// Name of the time zone as the IANA time zone database writes it.
    time_zone: String,
    /// Times of the next runs, earliest first.
    upcoming: Vec<Timestamp>,
}

/// List schedules
///
/// Returns schedules, ordered by name. Requires the permission `schedules.read`.
#[utoipa::path(
    get, path = "/api/v1/schedules", security(("bearer" = ["schedules.read"])),
    params(ListSchedulesQuery),
    responses((status = 200, body = SchedulePage))
)]
async fn list_schedules(
    State(app): State<App>,
    _: Allowed<ReadSchedules>,
    Query(query): Query<ListSchedulesQuery>,
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
    let max_rows = limit.rows_to_fetch_within(kith_jobs::MAX_PAYLOAD_BYTES as i64);
    let found = app.db.read(move |q| list(q, &filter, max_rows)).await.map_err(store_problem)?;
    let rows = found.into_iter().map(ScheduleResponse::from).collect();
    let bytes = |one: &ScheduleResponse| one.payload.bytes();
    Ok(Page::from_rows_within(rows, limit, max_rows, MAX_PAGE_BYTES, bytes, |one| one.name.clone()).into())
}

/// Preview a schedule
///
/// Computes the next runs of a schedule expression. No schedule is created. Requires the permission
/// `schedules.read`.
#[utoipa::path(
    get, path = "/api/v1/schedules/preview", security(("bearer" = ["schedules.read"])),
    params(PreviewScheduleQuery),
    responses(
        (status = 200, body = SchedulePreview),
        (status = 422, description = "The schedule expression, the time zone or the count is not valid."),
    )
)]
async fn preview_schedule(
    Allowed { caller, .. }: Allowed<ReadSchedules>,
    Query(query): Query<PreviewScheduleQuery>,
) -> ApiResult<Json<SchedulePreview>> {
    let after = query.after.unwrap_or(caller.ctx.now);
    let count = query.count.unwrap_or(10);
    if !(1..=100).contains(&count) {
        return Err(
            Problem::invalid(vec![FieldError::new("?count", "out_of_range", "Expected 1 to 100.")]).into()
        );
    }
    let spec = Spec::parse(&query.schedule, query.time_zone.as_deref().unwrap_or("UTC"), after);
    let spec = spec.map_err(|error| Problem::invalid(vec![spec_fault("?", &error)]))?;
    let upcoming = spec.runs_after(after).take(count).collect();
    Ok(Json(SchedulePreview { time_zone: spec.zone().to_owned(), upcoming }))
}

/// Get a schedule
///
/// Returns a schedule with its next runs. Requires the permission `schedules.read`.
#[utoipa::path(
    get, path = "/api/v1/schedules/{name}", security(("bearer" = ["schedules.read"])),
    params((
        "name" = String, Path, pattern = "^[A-Za-z0-9._-]{1,64}$",
        description = "Name of the schedule: 1 to 64 ASCII letters, digits, dots, underscores and hyphens."
    )),
    responses(
        (status = 200, body = ScheduleResponse),
        (status = 404, description = "No schedule has this name."),
    )
)]
async fn get_schedule(
    State(app): State<App>,
    _: Allowed<ReadSchedules>,
    PathId(name): PathId<ScheduleName>,
) -> ApiResult<Json<ScheduleResponse>> {
    let found = app.db.read(move |q| find_schedule(q, &name.0)).await.map_err(store_problem)?;
    let found = found.ok_or(ScheduleCommandError::Engine(ScheduleError::Unknown))?;
    Ok(Json(found.into()))
}

/// Create or update a schedule
///
/// Creates a schedule, or replaces the settings of an existing one. If the times of the schedule are
/// unchanged, its next run does not change. Otherwise, the next run is computed from now, and missed runs
/// are dropped. With `If-Match`, the schedule must not have changed since it was read. Schedules that a
/// module of the server declares cannot be changed. Requires the permission `schedules.write`.
#[utoipa::path(
    put, path = "/api/v1/schedules/{name}", security(("bearer" = ["schedules.write"])),
    params((
        "name" = String, Path, pattern = "^[A-Za-z0-9._-]{1,64}$",
        description = "Name of the schedule: 1 to 64 ASCII letters, digits, dots, underscores and hyphens."
    )),
    request_body = ScheduleBody,
    responses(
        (status = 200, body = ScheduleResponse),
        (status = 201, body = ScheduleResponse),
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
        let answer = ScheduleResponse::from(schedule);
        let answer = if is_new { WriteResponse::created(answer) } else { WriteResponse::ok(answer) };
        Ok::<_, ScheduleCommandError>(answer.with_etag())
    })
    .await
}

/// Delete a schedule
///
/// Deletes a schedule and the history of its runs. Jobs that it has enqueued stay. Schedules that a module of
/// the server declares cannot be deleted. Requires the permission `schedules.write`.
#[utoipa::path(
    delete, path = "/api/v1/schedules/{name}", security(("bearer" = ["schedules.write"])),
    params((
        "name" = String, Path, pattern = "^[A-Za-z0-9._-]{1,64}$",
        description = "Name of the schedule: 1 to 64 ASCII letters, digits, dots, underscores and hyphens."
    )),
    responses(
        (status = 204, description = "The schedule is deleted."),
        (status = 404, description = "No schedule has this name."),
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
        commands::delete(tx, ctx, reserved, &name.0, &preconditions).map(|()| WriteResponse::no_content())
    })
    .await
}

/// List the runs of a schedule
///
/// Returns the runs of a schedule, latest first. The server stores the last 1,000 runs and all runs that
/// have not ended. Requires the permission `schedules.read`.
#[utoipa::path(
    get, path = "/api/v1/schedules/{name}/runs", security(("bearer" = ["schedules.read"])),
    params((
        "name" = String, Path, pattern = "^[A-Za-z0-9._-]{1,64}$",
        description = "Name of the schedule: 1 to 64 ASCII letters, digits, dots, underscores and hyphens."
    ), PageQuery),
    responses(
        (status = 200, body = RunPage),
        (status = 404, description = "No schedule has this name."),
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
        Ok::<_, ScheduleCommandError>(list_runs(q, &name.0, before, limit.rows())?)
    });
    let rows = rows.await?.into_iter().map(ScheduleRun::from).collect();
    Ok(Page::from_rows(rows, limit, |one: &ScheduleRun| one.at.as_millis()).into())
}

/// Converts an error in a schedule expression or time zone into a field error. `place` is the prefix of the
/// field name in the error.
fn spec_fault(place: &str, error: &SpecError) -> FieldError {
    let (field, code) = match error {
        SpecError::Zone => ("time_zone", "not_a_time_zone"),
        SpecError::Never => ("schedule", "never_happens"),
        SpecError::TooLong => ("schedule", "too_long"),
        _ => ("schedule", "not_a_schedule"),
    };
    FieldError::new(format!("{place}{field}"), code, format!("Invalid schedule: {error}."))
}

impl From<ScheduleCommandError> for Problem {
    fn from(refusal: ScheduleCommandError) -> Self {
        let error = match refusal {
            ScheduleCommandError::Engine(error) => error,
            ScheduleCommandError::Changed => return kith_platform::http::StateMismatch.into(),
            ScheduleCommandError::Reserved(error) => return error.into(),
        };
        let fault = |pointer: String, code, detail: String| {
            Self::invalid(vec![FieldError::new(pointer, code, detail)])
        };
        match error {
            ScheduleError::Invalid(invalid) => {
                let field = invalid.field.rsplit('.').next().unwrap_or_default();
                fault(format!("/{field}"), "not_valid", format!("The value {}.", invalid.why))
            }
            ScheduleError::Spec(error) => Self::invalid(vec![spec_fault("/", &error)]),
            ScheduleError::Over => {
                fault("/schedule".to_owned(), "no_run", "The schedule has no run after now.".to_owned())
            }
            ScheduleError::TooWide => {
                let detail =
                    format!("The period must end in the past and contain at most {MAX_BACKFILL_RUNS} runs.");
                fault("/to".to_owned(), "too_many", detail)
            }
            ScheduleError::Taken => Self::new(
                &SCHEDULE_TAKEN,
                "Another request has just created a schedule with this name. Read it and retry.",
            ),
            ScheduleError::TooMany => Self::new(
                &TOO_MANY_SCHEDULES,
                "The server has the maximum number of schedules. Delete one first.",
            ),
            ScheduleError::Unknown => Self::new(&problems::NOT_FOUND, "No schedule has this name."),
            ScheduleError::Declared => Self::new(
                &SCHEDULE_DECLARED,
                "A module of the server declares this schedule. It can be paused, resumed, run and backfilled, but not changed or deleted.",
            ),
            ScheduleError::Changed => kith_platform::http::StateMismatch.into(),
            ScheduleError::Store(error) => store_problem(error),
        }
    }
}
