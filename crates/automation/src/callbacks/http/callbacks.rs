//! Callbacks: made, looked at, taken back, sent again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use kith_kernel::{Cursor, FieldError, Problem, Timestamp, days};
use kith_platform::auth::{ReadCallbacks, WriteCallbacks};
use kith_platform::http::present;
use kith_platform::{
    Allowed, Answer, ApiResult, App, Json, PageAnswer, PathId, Query, Routes, cursor_problem, page_limit,
    store_problem,
};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::super::commands;
use super::super::model::{
    Callback, CallbackDetails, CallbackId, CallbackState, Draft, EndpointId, Message, NewCallback,
    RecurringId, To,
};
use super::super::queries::{self, CallbackList};
use super::target;

/// How far ahead a callback may be asked for.
const FARTHEST: Duration = days(3_660);
const LONGEST_TIMEOUT_S: u64 = 30;

type CallbackPage = PageAnswer<Callback>;

pub fn routes() -> Routes {
    Routes::new()
        .routes(routes!(create_callback, list_callbacks))
        .routes(routes!(get_callback))
        .routes(routes!(cancel_callback))
        .routes(routes!(retry_callback))
}

/// What is sent, and where to. Exactly one of `url` and `endpoint_id` says where to.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CallbackBody {
    /// Where it goes: https, at most 2048 bytes, to the public internet or to what `outbound.allowed_networks` lists. Its
    /// endpoint (the address without what stands behind `?`) is made if there is none.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false, example = "https://api.example.org/hooks/kith")]
    url: Option<String>,
    /// To the address of this endpoint.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    endpoint_id: Option<EndpointId>,
    /// POST (as Standard Webhooks have it), PUT, PATCH, DELETE or GET.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false, default = "POST")]
    method: Option<String>,
    /// Beside those that Kith says; at most 30. They are kept sealed and told to nobody.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// JSON to be sent as `application/json`, without white space.
    body: Option<Value>,
    /// Text to be sent instead, as `text/plain` unless `headers` say otherwise.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    text: Option<String>,
    /// When; at once if absent or past. At most ten years ahead.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    pub run_at: Option<Timestamp>,
    /// How long the receiver may take; at most 30, and `outbound.timeout_ms`.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false, minimum = 1, maximum = 30)]
    timeout_seconds: Option<u64>,
}

/// The same, checked.
pub struct Sent {
    pub to: To,
    pub message: Message,
}

impl CallbackBody {
    /// Checks all of it; `at` is where it stands in the body.
    pub fn check(self, app: &App, at: &str) -> Result<Sent, Vec<FieldError>> {
        let mut faults = Vec::new();
        let to = match (&self.url, self.endpoint_id) {
            (Some(url), None) => target(app, format!("{at}/url"), url).map(To::Target),
            (None, Some(id)) => Ok(To::Endpoint(id)),
            _ => {
                let detail = "Exactly one of url and endpoint_id.";
                Err(FieldError::new(format!("{at}/url"), "not_exactly_one", detail))
            }
        };
        if self.timeout_seconds.is_some_and(|s| !(1..=LONGEST_TIMEOUT_S).contains(&s)) {
            faults.push(FieldError::new(format!("{at}/timeout_seconds"), "out_of_range", "From 1 to 30."));
        }
        let headers = self.headers.into_iter().collect();
        let timeout = self.timeout_seconds.map(Duration::from_secs);
        let message = Message::new(self.method.as_deref(), headers, self.body.as_ref(), self.text, timeout);
        match (to, message) {
            (Ok(to), Ok(message)) if faults.is_empty() => Ok(Sent { to, message }),
            (to, message) => {
                faults.extend(to.err());
                let inside = message.err().unwrap_or_default().into_iter();
                faults.extend(
                    inside.map(|fault| FieldError {
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
struct ListQuery {
    /// Only those that stand so.
    #[param(inline)]
    state: Option<CallbackState>,
    /// Only those to this endpoint.
    endpoint_id: Option<EndpointId>,
    /// Only those that came of this recurring one.
    recurring_id: Option<RecurringId>,
    /// Items on a page; more than 100 counts as 100.
    #[param(default = 20, minimum = 1)]
    limit: Option<i64>,
    /// `next_cursor` of the page before.
    cursor: Option<Cursor>,
}

/// Have a request sent, at once or at a time. It is signed (Standard Webhooks 1.0) and sent at least once, until it is
/// answered with 2xx or given up after ten attempts in 76 hours.
#[utoipa::path(
    post, path = "/api/v1/callbacks", security(("bearer" = ["callbacks.write"])),
    request_body = CallbackBody,
    responses(
        (status = 201, description = "Kept; with the secret of its endpoint if that was made with it", body = NewCallback),
        (status = 404, description = "No endpoint has this id"),
        (status = 409, description = "`endpoint_disabled`"),
    )
)]
async fn create_callback(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteCallbacks>,
    Json(body): Json<CallbackBody>,
) -> ApiResult<Response> {
    let at = body.run_at;
    let is_too_late = at.is_some_and(|at| at.since(caller.ctx.now) > FARTHEST);
    let too_late = is_too_late.then(|| FieldError::new("/run_at", "too_late", "At most ten years ahead."));
    let draft = match (body.check(&app, ""), too_late) {
        (Ok(Sent { to, message }), None) => Draft { to, message, at },
        (sent, too_late) => {
            let faults = sent.err().unwrap_or_default().into_iter().chain(too_late);
            return Err(Problem::invalid(faults.collect()).into());
        }
    };
    let keyring = Arc::clone(&app.keyring);
    app.change(&caller, move |tx, ctx| commands::create(tx, ctx, &keyring, &draft).map(Answer::created)).await
}

/// Callbacks, the newest first.
#[utoipa::path(
    get, path = "/api/v1/callbacks", security(("bearer" = ["callbacks.read"])),
    params(ListQuery), responses((status = 200, body = CallbackPage))
)]
async fn list_callbacks(
    State(app): State<App>,
    _: Allowed<ReadCallbacks>,
    Query(query): Query<ListQuery>,
) -> ApiResult<CallbackPage> {
    let before = query.cursor.as_ref().map(Cursor::key).transpose().map_err(cursor_problem)?;
    let (state, endpoint, limit) = (query.state, query.endpoint_id, page_limit(query.limit)?);
    let list = CallbackList { state, endpoint, recurring: query.recurring_id, before, limit };
    Ok(app.db.read(move |q| queries::list(q, &list)).await.map_err(store_problem)?.into())
}

/// A callback with what it sends, its attempts, and what they were answered.
#[utoipa::path(
    get, path = "/api/v1/callbacks/{id}", security(("bearer" = ["callbacks.read"])),
    params(("id" = CallbackId, Path)), responses((status = 200, body = CallbackDetails))
)]
async fn get_callback(
    State(app): State<App>,
    _: Allowed<ReadCallbacks>,
    PathId(id): PathId<CallbackId>,
) -> ApiResult<Json<CallbackDetails>> {
    let keyring = Arc::clone(&app.keyring);
    Ok(Json(app.db.read(move |q| queries::get(q, &keyring, id)).await?))
}

/// Take a callback back. One that is on its way at this moment may still arrive.
#[utoipa::path(
    post, path = "/api/v1/callbacks/{id}/cancel", security(("bearer" = ["callbacks.write"])),
    params(("id" = CallbackId, Path)),
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
    app.change(&caller, move |tx, ctx| commands::cancel(tx, ctx, id).map(Answer::ok)).await
}

/// Send a callback again, now and with all its attempts: one that was given up, was taken back, or waits for its next turn.
#[utoipa::path(
    post, path = "/api/v1/callbacks/{id}/retry", security(("bearer" = ["callbacks.write"])),
    params(("id" = CallbackId, Path)),
    responses(
        (status = 200, body = Callback),
        (status = 409, description = "`callback_not_failed`, `endpoint_disabled`"),
    )
)]
async fn retry_callback(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteCallbacks>,
    PathId(id): PathId<CallbackId>,
) -> ApiResult<Response> {
    app.change(&caller, move |tx, ctx| commands::retry(tx, ctx, id).map(Answer::ok)).await
}
