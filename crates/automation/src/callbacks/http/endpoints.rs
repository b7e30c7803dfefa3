//! HTTP endpoints for callback endpoints: create, list, get, rotate the secret, disable, enable and ping.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use kith_kernel::{Cursor, FieldError, Problem, hours};
use kith_platform::auth::{ReadCallbacks, WriteCallbacks};
use kith_platform::http::deserialize_some;
use kith_platform::{
    Allowed, ApiResult, App, Json, PageQuery, PageResponse, PathId, Routes, WriteResponse, cursor_problem,
};
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::super::model::{
    Callback, CallbackDraft, CallbackEndpoint, CallbackMessage, CallbackTarget, EndpointId,
    EndpointWithSecret,
};
use super::super::{commands, queries};
use super::target;

/// Default and maximum number of hours after a rotation during which callbacks are signed with both secrets.
const DEFAULT_OVERLAP_HOURS: u16 = 24;
const MAX_OVERLAP_HOURS: u16 = 24 * 14;

type EndpointPage = PageResponse<CallbackEndpoint>;

pub fn routes() -> Routes {
    Routes::new()
        .routes(routes!(create_callback_endpoint, list_callback_endpoints))
        .routes(routes!(get_callback_endpoint))
        .routes(routes!(rotate_callback_secret))
        .routes(routes!(disable_callback_endpoint))
        .routes(routes!(enable_callback_endpoint))
        .routes(routes!(ping_callback_endpoint))
}

/// Callback endpoint to create.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct EndpointBody {
    /// URL of the endpoint: https, at most 2,048 bytes. Its query is removed.
    #[schema(example = "https://api.example.org/hooks/kith")]
    url: String,
}

/// Secret rotation.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RotationBody {
    /// Number of hours during which callbacks are also signed with the previous secret, 0 to 336. With 0,
    /// the previous secret stops being used at once.
    #[serde(default, deserialize_with = "deserialize_some")]
    #[schema(nullable = false, minimum = 0, maximum = 336, default = 24)]
    overlap_hours: Option<u16>,
}

/// Create a callback endpoint
///
/// Creates an endpoint and returns its signing secret once. If the endpoint exists, it is returned without
/// its secret. Requires the permission `callbacks.write`.
#[utoipa::path(
    post, path = "/api/v1/callback-endpoints", security(("bearer" = ["callbacks.write"])),
    request_body = EndpointBody,
    responses((
        status = 201, body = EndpointWithSecret,
        description = "The endpoint. Contains its signing secret if the endpoint is new."
    ))
)]
async fn create_callback_endpoint(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteCallbacks>,
    Json(EndpointBody { url }): Json<EndpointBody>,
) -> ApiResult<Response> {
    let target = target(&app, "/url".to_owned(), &url).map_err(|fault| Problem::invalid(vec![fault]))?;
    let keyring = Arc::clone(&app.keyring);
    app.change(&caller, move |tx, ctx| {
        commands::create_endpoint(tx, ctx, &keyring, &target).map(WriteResponse::created)
    })
    .await
}

/// List callback endpoints
///
/// Returns the callback endpoints with their delivery state, newest first. Requires the permission
/// `callbacks.read`.
#[utoipa::path(
    get, path = "/api/v1/callback-endpoints", security(("bearer" = ["callbacks.read"])),
    params(PageQuery), responses((status = 200, body = EndpointPage))
)]
async fn list_callback_endpoints(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<ReadCallbacks>,
    page: PageQuery,
) -> ApiResult<EndpointPage> {
    let (limit, now) = (page.limit()?, caller.ctx.now);
    let before = page.cursor.as_ref().map(Cursor::key).transpose().map_err(cursor_problem)?;
    let found = app.db.read(move |q| queries::list_endpoints(q, before, limit, now)).await;
    Ok(found.map_err(kith_platform::store_problem)?.into())
}

/// Get a callback endpoint
///
/// Returns an endpoint with its delivery state. Requires the permission `callbacks.read`.
#[utoipa::path(
    get, path = "/api/v1/callback-endpoints/{id}", security(("bearer" = ["callbacks.read"])),
    params(("id" = EndpointId, Path, description = "ID of the callback endpoint.")),
    responses((status = 200, body = CallbackEndpoint))
)]
async fn get_callback_endpoint(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<ReadCallbacks>,
    PathId(id): PathId<EndpointId>,
) -> ApiResult<Json<CallbackEndpoint>> {
    let now = caller.ctx.now;
    Ok(Json(app.db.read(move |q| queries::get_endpoint(q, id, now)).await?))
}

/// Rotate the secret of a callback endpoint
///
/// Creates a new signing secret and returns it once. During `overlap_hours`, callbacks are signed with both
/// secrets, so that the receiver has time to change its secret. Requires the permission `callbacks.write`.
#[utoipa::path(
    post, path = "/api/v1/callback-endpoints/{id}/rotate-secret", security(("bearer" = ["callbacks.write"])),
    params(("id" = EndpointId, Path, description = "ID of the callback endpoint.")),
    request_body = RotationBody,
    responses((
        status = 200, body = EndpointWithSecret,
        description = "The endpoint with its new signing secret, which is returned only once."
    ))
)]
async fn rotate_callback_secret(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteCallbacks>,
    PathId(id): PathId<EndpointId>,
    Json(RotationBody { overlap_hours }): Json<RotationBody>,
) -> ApiResult<Response> {
    let overlap_hours = overlap_hours.unwrap_or(DEFAULT_OVERLAP_HOURS);
    if overlap_hours > MAX_OVERLAP_HOURS {
        let fault = FieldError::new("/overlap_hours", "too_large", "Expected at most 336 hours (two weeks).");
        return Err(Problem::invalid(vec![fault]).into());
    }
    let keyring = Arc::clone(&app.keyring);
    app.change(&caller, move |tx, ctx| {
        commands::rotate_secret(tx, ctx, &keyring, id, hours(u64::from(overlap_hours))).map(WriteResponse::ok)
    })
    .await
}

/// Disable a callback endpoint
///
/// Stops sending requests to an endpoint. Its scheduled and retrying callbacks fail at their next attempt.
/// Requires the permission `callbacks.write`.
#[utoipa::path(
    post, path = "/api/v1/callback-endpoints/{id}/disable", security(("bearer" = ["callbacks.write"])),
    params(("id" = EndpointId, Path, description = "ID of the callback endpoint.")),
    responses((status = 200, body = CallbackEndpoint))
)]
async fn disable_callback_endpoint(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteCallbacks>,
    PathId(id): PathId<EndpointId>,
) -> ApiResult<Response> {
    let tx_app = app.clone();
    app.change(&caller, move |tx, ctx| commands::disable(&tx_app, tx, ctx, id).map(WriteResponse::ok)).await
}

/// Enable a callback endpoint
///
/// Resumes sending requests to a disabled endpoint and resets its failures. Callbacks that failed while it
/// was disabled are not sent unless they are retried. Requires the permission `callbacks.write`.
#[utoipa::path(
    post, path = "/api/v1/callback-endpoints/{id}/enable", security(("bearer" = ["callbacks.write"])),
    params(("id" = EndpointId, Path, description = "ID of the callback endpoint.")),
    responses((status = 200, body = CallbackEndpoint))
)]
async fn enable_callback_endpoint(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteCallbacks>,
    PathId(id): PathId<EndpointId>,
) -> ApiResult<Response> {
    app.change(&caller, move |tx, ctx| commands::enable(tx, ctx, id).map(WriteResponse::ok)).await
}

/// Ping a callback endpoint
///
/// Sends a callback with a body of type `ping` to an endpoint, to test whether it receives and verifies
/// requests. Get the callback to see the result. Requires the permission `callbacks.write`.
#[utoipa::path(
    post, path = "/api/v1/callback-endpoints/{id}/ping", security(("bearer" = ["callbacks.write"])),
    params(("id" = EndpointId, Path, description = "ID of the callback endpoint.")),
    responses(
        (status = 201, description = "The callback that was created.", body = Callback),
        (status = 409, description = "`endpoint_disabled`"),
    )
)]
async fn ping_callback_endpoint(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteCallbacks>,
    PathId(id): PathId<EndpointId>,
) -> ApiResult<Response> {
    let keyring = Arc::clone(&app.keyring);
    app.change(&caller, move |tx, ctx| {
        let body = json!({ "type": "ping", "timestamp": ctx.now, "data": { "endpoint_id": id } });
        let message = CallbackMessage::new(None, vec![], Some(&body), None, None);
        let message = message.map_err(super::super::model::CallbackError::Invalid)?;
        let draft = CallbackDraft { to: CallbackTarget::Endpoint(id), message, at: None };
        commands::create(tx, ctx, &keyring, &draft).map(|new| WriteResponse::created(new.callback))
    })
    .await
}
