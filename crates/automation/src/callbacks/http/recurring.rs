//! HTTP endpoints for recurring callbacks: create, list, get and delete.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use kith_kernel::{Cursor, FieldError, Problem};
use kith_platform::auth::{ReadCallbacks, WriteCallbacks};
use kith_platform::http::deserialize_some;
use kith_platform::{
    Allowed, ApiResult, App, Json, PageQuery, PageResponse, PathId, Routes, WriteResponse, cursor_problem,
    store_problem,
};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::super::model::RecurringId;
use super::super::recurring::{
    self, MissedRunPolicy, NewRecurringCallback, RecurringCallback, RecurringDraft,
};
use super::callbacks::{CallbackBody, CheckedCallback};

type RecurringPage = PageResponse<RecurringCallback>;

pub fn routes() -> Routes {
    Routes::new()
        .routes(routes!(create_recurring_callback, list_recurring_callbacks))
        .routes(routes!(get_recurring_callback, delete_recurring_callback))
}

/// Recurring callback to create.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RecurringBody {
    /// Request to send in each run. It must not contain `run_at`.
    request: CallbackBody,
    /// Schedule expression: cron with five fields, or six with seconds first; a macro such as `@daily` or
    /// `@hourly`; or an interval such as `@every 90s`.
    #[schema(example = "0 9 * * MON-FRI")]
    schedule: String,
    /// Time zone of the cron fields, as a name of the IANA time zone database.
    #[serde(default, deserialize_with = "deserialize_some")]
    #[schema(nullable = false, default = "UTC", example = "Europe/Berlin")]
    time_zone: Option<String>,
    /// Handling of runs that were missed because no server was running. Default `latest`.
    #[serde(default)]
    missed: MissedRunPolicy,
}

/// Create a recurring callback
///
/// Creates a callback each time the schedule is due. Each callback is signed, sent and retried like any
/// other callback. If the endpoint is new, the response contains its signing secret once. Requires the
/// permission `callbacks.write`.
#[utoipa::path(
    post, path = "/api/v1/recurring-callbacks", security(("bearer" = ["callbacks.write"])),
    request_body = RecurringBody,
    responses(
        (status = 201, body = NewRecurringCallback,
            description = "The new recurring callback. Contains the secret of its endpoint if that is new."),
        (status = 404, description = "No callback endpoint has this ID."),
        (status = 409, description = "`endpoint_disabled`, `too_many_schedules`"),
    )
)]
async fn create_recurring_callback(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteCallbacks>,
    Json(body): Json<RecurringBody>,
) -> ApiResult<Response> {
    if body.request.run_at.is_some() {
        let detail = "A recurring callback has no run_at. Its schedule decides when it is sent.";
        return Err(Problem::invalid(vec![FieldError::new("/request/run_at", "not_here", detail)]).into());
    }
    let CheckedCallback { to, message } = body.request.check(&app, "/request").map_err(Problem::invalid)?;
    let zone = body.time_zone.unwrap_or_else(|| "UTC".to_owned());
    let draft = RecurringDraft { to, message, schedule: body.schedule, zone, missed: body.missed };
    let keyring = Arc::clone(&app.keyring);
    app.change(&caller, move |tx, ctx| {
        recurring::create(tx, ctx, &keyring, &draft).map(WriteResponse::created)
    })
    .await
}

/// List recurring callbacks
///
/// Returns the recurring callbacks, newest first. Requires the permission `callbacks.read`.
#[utoipa::path(
    get, path = "/api/v1/recurring-callbacks", security(("bearer" = ["callbacks.read"])),
    params(PageQuery), responses((status = 200, body = RecurringPage))
)]
async fn list_recurring_callbacks(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<ReadCallbacks>,
    page: PageQuery,
) -> ApiResult<RecurringPage> {
    let (limit, now) = (page.limit()?, caller.ctx.now);
    let before = page.cursor.as_ref().map(Cursor::key).transpose().map_err(cursor_problem)?;
    let found = app.db.read(move |q| recurring::list(q, before, limit, now)).await;
    Ok(found.map_err(store_problem)?.into())
}

/// Get a recurring callback
///
/// Returns a recurring callback with the times of its next runs. Requires the permission `callbacks.read`.
#[utoipa::path(
    get, path = "/api/v1/recurring-callbacks/{id}", security(("bearer" = ["callbacks.read"])),
    params(("id" = RecurringId, Path, description = "ID of the recurring callback.")),
    responses((status = 200, body = RecurringCallback))
)]
async fn get_recurring_callback(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<ReadCallbacks>,
    PathId(id): PathId<RecurringId>,
) -> ApiResult<Json<RecurringCallback>> {
    let now = caller.ctx.now;
    Ok(Json(app.db.read(move |q| recurring::get(q, id, now)).await?))
}

/// Delete a recurring callback
///
/// Deletes a recurring callback and its schedule. Callbacks that it has created are still sent. Requires the
/// permission `callbacks.write`.
#[utoipa::path(
    delete, path = "/api/v1/recurring-callbacks/{id}", security(("bearer" = ["callbacks.write"])),
    params(("id" = RecurringId, Path, description = "ID of the recurring callback.")),
    responses((status = 204, description = "The recurring callback is deleted."))
)]
async fn delete_recurring_callback(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteCallbacks>,
    PathId(id): PathId<RecurringId>,
) -> ApiResult<Response> {
    app.change(&caller, move |tx, ctx| recurring::delete(tx, ctx, id).map(|()| WriteResponse::no_content()))
        .await
}
