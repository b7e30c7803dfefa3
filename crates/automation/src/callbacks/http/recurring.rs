//! Recurring callbacks: made, looked at, ended.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use kith_kernel::{Cursor, FieldError, Problem};
use kith_platform::auth::{ReadCallbacks, WriteCallbacks};
use kith_platform::http::present;
use kith_platform::{
    Allowed, Answer, ApiResult, App, Json, PageAnswer, PageQuery, PathId, Routes, cursor_problem,
    store_problem,
};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::super::model::RecurringId;
use super::super::recurring::{
    self, MissedCallbacks, NewRecurringCallback, RecurringCallback, RecurringDraft,
};
use super::callbacks::{CallbackBody, Sent};

type RecurringPage = PageAnswer<RecurringCallback>;

pub fn routes() -> Routes {
    Routes::new()
        .routes(routes!(create_recurring_callback, list_recurring_callbacks))
        .routes(routes!(get_recurring_callback, delete_recurring_callback))
}

/// A request to be sent again and again.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RecurringBody {
    /// What is sent each time. It has no `run_at`.
    request: CallbackBody,
    /// Five fields of cron, six with seconds first; or `@daily`, `@hourly`, …; or `@every 90s`.
    #[schema(example = "0 9 * * MON-FRI")]
    schedule: String,
    /// A zone of the IANA database, by which the fields of cron go.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false, default = "UTC", example = "Europe/Berlin")]
    time_zone: Option<String>,
    /// What becomes of times that passed while nobody was there to send.
    #[serde(default)]
    missed: MissedCallbacks,
}

/// Have a request sent again and again: each time a callback is made, which is signed, sent and tried again like any other.
#[utoipa::path(
    post, path = "/api/v1/recurring-callbacks", security(("bearer" = ["callbacks.write"])),
    request_body = RecurringBody,
    responses(
        (status = 201, description = "Kept; with the secret of its endpoint if that was made with it", body = NewRecurringCallback),
        (status = 404, description = "No endpoint has this id"),
        (status = 409, description = "`endpoint_disabled`, `too_many_schedules`"),
    )
)]
async fn create_recurring_callback(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteCallbacks>,
    Json(body): Json<RecurringBody>,
) -> ApiResult<Response> {
    if body.request.run_at.is_some() {
        let detail = "Its schedule says when.";
        return Err(Problem::invalid(vec![FieldError::new("/request/run_at", "not_here", detail)]).into());
    }
    let Sent { to, message } = body.request.check(&app, "/request").map_err(Problem::invalid)?;
    let zone = body.time_zone.unwrap_or_else(|| "UTC".to_owned());
    let draft = RecurringDraft { to, message, schedule: body.schedule, zone, missed: body.missed };
    let keyring = Arc::clone(&app.keyring);
    app.change(&caller, move |tx, ctx| recurring::create(tx, ctx, &keyring, &draft).map(Answer::created))
        .await
}

/// Recurring callbacks, the newest first.
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

/// A recurring callback, and when it is sent next.
#[utoipa::path(
    get, path = "/api/v1/recurring-callbacks/{id}", security(("bearer" = ["callbacks.read"])),
    params(("id" = RecurringId, Path)), responses((status = 200, body = RecurringCallback))
)]
async fn get_recurring_callback(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<ReadCallbacks>,
    PathId(id): PathId<RecurringId>,
) -> ApiResult<Json<RecurringCallback>> {
    let now = caller.ctx.now;
    Ok(Json(app.db.read(move |q| recurring::get(q, id, now)).await?))
}

/// End a recurring callback. Those that it has made go their way.
#[utoipa::path(
    delete, path = "/api/v1/recurring-callbacks/{id}", security(("bearer" = ["callbacks.write"])),
    params(("id" = RecurringId, Path)),
    responses((status = 204, description = "It is sent no more"))
)]
async fn delete_recurring_callback(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteCallbacks>,
    PathId(id): PathId<RecurringId>,
) -> ApiResult<Response> {
    app.change(&caller, move |tx, ctx| recurring::delete(tx, ctx, id).map(|()| Answer::no_content())).await
}
