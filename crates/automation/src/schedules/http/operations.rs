//! HTTP endpoints for operations on a schedule: pause, resume, run and backfill.

use axum::extract::State;
use axum::response::Response;
use kith_jobs::schedules;
use kith_kernel::Timestamp;
use kith_platform::auth::WriteSchedules;
use kith_platform::{Allowed, ApiResult, App, Json, PathId, Routes, WriteResponse};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::super::commands::{self, ScheduleCommandError};
use super::super::model::{BackfillResult, ScheduleName, ScheduleResponse, ScheduledJob};

pub fn routes() -> Routes {
    Routes::new()
        .routes(routes!(pause_schedule))
        .routes(routes!(resume_schedule))
        .routes(routes!(run_schedule))
        .routes(routes!(backfill_schedule))
}

/// Period of a backfill.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BackfillBody {
    /// Start of the period, inclusive.
    from: Timestamp,
    /// End of the period, exclusive. Must not be in the future.
    to: Timestamp,
}

/// Pause a schedule
///
/// Stops a schedule until it is resumed. Runs that would have happened during the pause do not count as
/// missed. An API key cannot pause schedules that a module of the server declares. Requires the permission
/// `schedules.write`.
#[utoipa::path(
    post, path = "/api/v1/schedules/{name}/pause", security(("bearer" = ["schedules.write"])),
    params((
        "name" = String, Path, pattern = "^[A-Za-z0-9._-]{1,64}$",
        description = "Name of the schedule: 1 to 64 ASCII letters, digits, dots, underscores and hyphens."
    )),
    responses(
        (status = 200, body = ScheduleResponse),
        (status = 404, description = "No schedule has this name."),
    )
)]
async fn pause_schedule(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteSchedules>,
    PathId(name): PathId<ScheduleName>,
) -> ApiResult<Response> {
    let reserved = app.reserved_jobs();
    app.change(&caller, move |tx, ctx| {
        commands::check_operation_allowed(tx, ctx, reserved, &name.0)?;
        let paused = schedules::set_paused(tx, ctx, &name.0, true)?;
        Ok::<_, ScheduleCommandError>(WriteResponse::ok(ScheduleResponse::from(paused)).with_etag())
    })
    .await
}

/// Resume a schedule
///
/// Resumes a paused schedule. The next run is the first one after the current time. An API key cannot resume
/// schedules that a module of the server declares. Requires the permission `schedules.write`.
#[utoipa::path(
    post, path = "/api/v1/schedules/{name}/resume", security(("bearer" = ["schedules.write"])),
    params((
        "name" = String, Path, pattern = "^[A-Za-z0-9._-]{1,64}$",
        description = "Name of the schedule: 1 to 64 ASCII letters, digits, dots, underscores and hyphens."
    )),
    responses(
        (status = 200, body = ScheduleResponse),
        (status = 404, description = "No schedule has this name."),
    )
)]
async fn resume_schedule(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteSchedules>,
    PathId(name): PathId<ScheduleName>,
) -> ApiResult<Response> {
    let reserved = app.reserved_jobs();
    app.change(&caller, move |tx, ctx| {
        commands::check_operation_allowed(tx, ctx, reserved, &name.0)?;
        let resumed = schedules::set_paused(tx, ctx, &name.0, false)?;
        Ok::<_, ScheduleCommandError>(WriteResponse::ok(ScheduleResponse::from(resumed)).with_etag())
    })
    .await
}

/// Run a schedule now
///
/// Enqueues a job of the schedule at once, even if the schedule is paused or another run has not ended. An
/// API key cannot run schedules that a module of the server declares. Requires the permission
/// `schedules.write`.
#[utoipa::path(
    post, path = "/api/v1/schedules/{name}/run", security(("bearer" = ["schedules.write"])),
    params((
        "name" = String, Path, pattern = "^[A-Za-z0-9._-]{1,64}$",
        description = "Name of the schedule: 1 to 64 ASCII letters, digits, dots, underscores and hyphens."
    )),
    responses(
        (status = 201, body = ScheduledJob),
        (status = 404, description = "No schedule has this name."),
    )
)]
async fn run_schedule(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteSchedules>,
    PathId(name): PathId<ScheduleName>,
) -> ApiResult<Response> {
    let reserved = app.reserved_jobs();
    app.change(&caller, move |tx, ctx| {
        commands::check_operation_allowed(tx, ctx, reserved, &name.0)?;
        let job_id = schedules::run_now(tx, ctx, &name.0)?;
        Ok::<_, ScheduleCommandError>(WriteResponse::created(ScheduledJob { job_id }))
    })
    .await
}

/// Backfill a schedule
///
/// Enqueues the runs that the schedule would have had in a past period, except runs that are already
/// recorded. If runs of the schedule must not overlap, each run waits for the previous one. An API key
/// cannot backfill schedules that a module of the server declares. Requires the permission
/// `schedules.write`.
#[utoipa::path(
    post, path = "/api/v1/schedules/{name}/backfill", security(("bearer" = ["schedules.write"])),
    params((
        "name" = String, Path, pattern = "^[A-Za-z0-9._-]{1,64}$",
        description = "Name of the schedule: 1 to 64 ASCII letters, digits, dots, underscores and hyphens."
    )),
    request_body = BackfillBody,
    responses(
        (status = 201, body = BackfillResult),
        (status = 404, description = "No schedule has this name."),
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
        commands::check_operation_allowed(tx, ctx, reserved, &name.0)?;
        let done = schedules::backfill(tx, ctx, &name.0, from, to)?;
        Ok::<_, ScheduleCommandError>(WriteResponse::created(BackfillResult::from(done)))
    })
    .await
}
