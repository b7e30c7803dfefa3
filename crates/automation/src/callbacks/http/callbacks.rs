//! HTTP endpoints of callbacks: create, list, get, cancel and retry.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use kith_kernel::{Cursor, FieldError, Problem, Timestamp, days};
use kith_platform::auth::{ReadCallbacks, WriteCallbacks};
use kith_platform::http::deserialize_some;
use kith_platform::{
    Allowed, ApiResult, App, Json, PageResponse, PathId, Query, Routes, WriteResponse, cursor_problem,
    page_limit, store_problem,
};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::super::commands;
use super::super::model::{
    Callback, CallbackDetails, CallbackDraft, CallbackId, CallbackMessage, CallbackState, CallbackTarget,
    EndpointId, NewCallback, RecurringId,
};
use super::super::queries::{self, CallbackFilter};
use super::target;

/// Maximum time between the creation of a callback and its `run_at`: ten years.
const MAX_DELAY: Duration = days(3_660);
const MAX_TIMEOUT_S: u64 = 30;

type CallbackPage = PageResponse<Callback>;

pub fn routes() -> Routes {
    Routes::new()
        .routes(routes!(create_callback, list_callbacks))
        .routes(routes!(get_callback))
        .routes(routes!(cancel_callback))
        .routes(routes!(retry_callback))
}

/// Request to send. Exactly one of `url` and `endpoint_id` is required.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CallbackBody {
    /// Target URL: https, at most 2,048 bytes, on the public internet or in a network of the server setting
    /// `outbound.allowed_networks`. The endpoint of the callback is this URL without its query. It is
    /// created if it does not exist.
    #[serde(default, deserialize_with = "deserialize_some")]
    #[schema(nullable = false, example = "https://api.example.org/hooks/kith")]
    url: Option<String>,
    /// ID of the endpoint whose URL is the target.
    #[serde(default, deserialize_with = "deserialize_some")]
    #[schema(nullable = false)]
    endpoint_id: Option<EndpointId>,
    /// HTTP method: `POST` (as Standard Webhooks requires), `PUT`, `PATCH`, `DELETE` or `GET`.
    #[serde(default, deserialize_with = "deserialize_some")]
    #[schema(nullable = false, default = "POST")]
    method: Option<String>,
    /// Additional headers, at most 30 with 8,192 bytes in total. They are stored encrypted, and no response
    /// contains their values.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// JSON body, sent as `application/json` without white space, at most 128 KiB.
    body: Option<Value>,
    /// Text body in place of `body`, at most 128 KiB, sent as `text/plain` unless `headers` contains a
    /// content type.
    #[serde(default, deserialize_with = "deserialize_some")]
    #[schema(nullable = false)]
    text: Option<String>,
    /// Time at which the request is sent, at most ten years ahead. Default: now.
    #[serde(default, deserialize_with = "deserialize_some")]
    #[schema(nullable = false)]
    pub run_at: Option<Timestamp>,
    /// Maximum time in seconds to wait for the response, 1 to 30. The server setting `outbound.timeout_ms`
    /// can reduce it.
    #[serde(default, deserialize_with = "deserialize_some")]
    #[schema(nullable = false, minimum = 1, maximum = 30)]
    timeout_seconds: Option<u64>,
}

/// Checked [`CallbackBody`].
pub struct CheckedCallback {
    pub to: CallbackTarget,
    pub message: CallbackMessage,
}

impl CallbackBody {
    /// Checks all fields. `at` is the JSON Pointer of this object in the request body.
    pub fn check(self, app: &App, at: &str) -> Result<CheckedCallback, Vec<FieldError>> {
        let mut faults = Vec::new();
        let to = match (&self.url, self.endpoint_id) {
            (Some(url), None) => target(app, format!("{at}/url"), url).map(CallbackTarget::Target),
            (None, Some(id)) => Ok(CallbackTarget::Endpoint(id)),
            _ => {
                let detail = "Send exactly one of url and endpoint_id.";
                Err(FieldError::new(format!("{at}/url"), "not_exactly_one", detail))
            }
        };
        if self.timeout_seconds.is_some_and(|s| !(1..=MAX_TIMEOUT_S).contains(&s)) {
            faults.push(FieldError::new(
                format!("{at}/timeout_seconds"),
                "out_of_range",
                "Expected 1 to 30.",
            ));
        }
        let headers = self.headers.into_iter().collect();
        let timeout = self.timeout_seconds.map(Duration::from_secs);
        let message =
            CallbackMessage::new(self.method.as_deref(), headers, self.body.as_ref(), self.text, timeout);
        match (to, message) {
            (Ok(to), Ok(message)) if faults.is_empty() => Ok(CheckedCallback { to, message }),
            (to, message) => {
                faults.extend(to.err());
                let message_faults = message.err().unwrap_or_default().into_iter();
                faults.extend(
                    message_faults.map(|fault| FieldError {
                        pointer: format!("{at}{}", fault.pointer).into(),
                        ..fault
                    }),
                );
                Err(faults)
            }
        }
    }
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListCallbacksQuery {
    /// Returns only callbacks in this state.
    #[param(inline)]
    state: Option<CallbackState>,
    /// Returns only callbacks to this endpoint.
    endpoint_id: Option<EndpointId>,
    /// Returns only callbacks of this recurring callback.
    recurring_id: Option<RecurringId>,
    /// Maximum number of items per page, 1 to 100. Larger values are reduced to 100.
    #[param(default = 20, minimum = 1)]
    limit: Option<i64>,
    /// `next_cursor` of the previous page.
    cursor: Option<Cursor>,
}

/// Create a callback
///
/// Sends an HTTP request, now or at a given time, signed as Standard Webhooks 1.0 specifies. The request is
/// sent at least once. If there is no response, or its status is not 2xx, the attempt counts as failed and
/// the request is sent again. There are up to ten attempts within 76 hours, all with the same `webhook-id`.
/// If the endpoint is new, the response contains its signing secret once. Requires the permission
/// `callbacks.write`.
#[utoipa::path(
    post, path = "/api/v1/callbacks", security(("bearer" = ["callbacks.write"])),
    request_body = CallbackBody,
    responses(
        (status = 201, body = NewCallback,
            description = "The new callback. Contains the secret of its endpoint if that is new."),
        (status = 404, description = "No callback endpoint has this ID."),
        (status = 409, description = "`endpoint_disabled`"),
    )
)]
async fn create_callback(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteCallbacks>,
    Json(body): Json<CallbackBody>,
) -> ApiResult<Response> {
    let at = body.run_at;
    let is_too_late = at.is_some_and(|at| at.since(caller.ctx.now) > MAX_DELAY);
    let too_late = is_too_late
        .then(|| FieldError::new("/run_at", "too_late", "Expected a time within the next ten years."));
    let draft = match (body.check(&app, ""), too_late) {
        (Ok(CheckedCallback { to, message }), None) => CallbackDraft { to, message, at },
        (sent, too_late) => {
            let faults = sent.err().unwrap_or_default().into_iter().chain(too_late);
            return Err(Problem::invalid(faults.collect()).into());
        }
    };
    let keyring = Arc::clone(&app.keyring);
    app.change(&caller, move |tx, ctx| {
        commands::create(tx, ctx, &keyring, &draft).map(WriteResponse::created)
    })
    .await
}

/// List callbacks
///
/// Returns callbacks, newest first. Requires the permission `callbacks.read`.
#[utoipa::path(
    get, path = "/api/v1/callbacks", security(("bearer" = ["callbacks.read"])),
    params(ListCallbacksQuery), responses((status = 200, body = CallbackPage))
)]
async fn list_callbacks(
    State(app): State<App>,
    _: Allowed<ReadCallbacks>,
    Query(query): Query<ListCallbacksQuery>,
) -> ApiResult<CallbackPage> {
    let before = query.cursor.as_ref().map(Cursor::key).transpose().map_err(cursor_problem)?;
    let (state, endpoint, limit) = (query.state, query.endpoint_id, page_limit(query.limit)?);
    let list = CallbackFilter { state, endpoint, recurring: query.recurring_id, before, limit };
    Ok(app.db.read(move |q| queries::list(q, &list)).await.map_err(store_problem)?.into())
}

/// Get a callback
///
/// Returns a callback with the request that it sends, its attempts and their responses. Requires the
/// permission `callbacks.read`.
#[utoipa::path(
    get, path = "/api/v1/callbacks/{id}", security(("bearer" = ["callbacks.read"])),
    params(("id" = CallbackId, Path, description = "ID of the callback.")),
    responses((status = 200, body = CallbackDetails))
)]
async fn get_callback(
    State(app): State<App>,
    _: Allowed<ReadCallbacks>,
    PathId(id): PathId<CallbackId>,
) -> ApiResult<Json<CallbackDetails>> {
    let keyring = Arc::clone(&app.keyring);
    Ok(Json(app.db.read(move |q| queries::get(q, &keyring, id)).await?))
}

/// Cancel a callback
///
/// Cancels a callback that is scheduled or waits for its next attempt. A request that is being sent may
/// still arrive. If the callback is already cancelled, it is returned unchanged. Requires the permission
/// `callbacks.write`.
#[utoipa::path(
    post, path = "/api/v1/callbacks/{id}/cancel", security(("bearer" = ["callbacks.write"])),
    params(("id" = CallbackId, Path, description = "ID of the callback.")),
    responses(
        (status = 200, body = Callback),
        (status = 409, description = "`callback_finished`"),
    )
)]
async fn cancel_callback(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteCallbacks>,
    PathId(id): PathId<CallbackId>,
) -> ApiResult<Response> {
    app.change(&caller, move |tx, ctx| commands::cancel(tx, ctx, id).map(WriteResponse::ok)).await
}

/// Retry a callback
///
/// Sends a failed, cancelled or retrying callback again, now, with a new series of up to ten attempts.
/// Requires the permission `callbacks.write`.
#[utoipa::path(
    post, path = "/api/v1/callbacks/{id}/retry", security(("bearer" = ["callbacks.write"])),
    params(("id" = CallbackId, Path, description = "ID of the callback.")),
    responses(
        (status = 200, body = Callback),
        (status = 409, description = "`callback_not_retryable`, `endpoint_disabled`"),
    )
)]
async fn retry_callback(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteCallbacks>,
    PathId(id): PathId<CallbackId>,
) -> ApiResult<Response> {
    app.change(&caller, move |tx, ctx| commands::retry(tx, ctx, id).map(WriteResponse::ok)).await
}
