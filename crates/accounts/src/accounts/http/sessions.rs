//! HTTP endpoints for the caller's open sessions: list sessions, end one session, end all sessions.

use axum::extract::State;
use axum::http::StatusCode;
use kith_platform::{ApiResult, App, Json, PathId, Query, Routes, SignedIn, store_problem};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::super::model::{Session, SessionId};
use super::super::{log_in, rows};

pub fn routes() -> Routes {
    Routes::new().routes(routes!(list_sessions, end_sessions)).routes(routes!(end_session))
}

/// Open sessions of the caller.
#[derive(Serialize, ToSchema)]
struct SessionList {
    /// Sessions, most recently refreshed first. A user has at most 50.
    items: Vec<Session>,
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct EndSessionsQuery {
    /// Set to `true` to keep the session of this request.
    #[param(default = false)]
    keep_current: Option<bool>,
}

/// List open sessions
///
/// Returns the caller's open sessions, most recently refreshed first.
#[utoipa::path(
    get, path = "/api/v1/auth/sessions", security(("bearer" = [])),
    responses((status = 200, body = SessionList))
)]
async fn list_sessions(
    State(app): State<App>,
    SignedIn { ctx, user_id, session, .. }: SignedIn,
) -> ApiResult<Json<SessionList>> {
    let list = app.db.read(move |q| rows::list_sessions(q, user_id, SessionId(session), ctx.now)).await;
    Ok(Json(SessionList { items: list.map_err(store_problem)? }))
}

/// End all sessions
///
/// Ends all sessions of the caller at once, including the session of this request unless `keep_current` is
/// `true`. Access and refresh tokens of ended sessions are no longer accepted.
#[utoipa::path(
    delete, path = "/api/v1/auth/sessions", security(("bearer" = [])),
    params(EndSessionsQuery),
    responses((status = 204, description = "The sessions have ended."))
)]
async fn end_sessions(
    State(app): State<App>,
    SignedIn { ctx, user_id, session, .. }: SignedIn,
    Query(EndSessionsQuery { keep_current }): Query<EndSessionsQuery>,
) -> ApiResult<StatusCode> {
    let kept = keep_current.unwrap_or(false).then_some(SessionId(session));
    app.write(&ctx, move |tx, ctx| log_in::end_sessions(tx, ctx, user_id, kept)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// End a session
///
/// Ends one open session of the caller. Its access and refresh tokens are no longer accepted.
#[utoipa::path(
    delete, path = "/api/v1/auth/sessions/{id}", security(("bearer" = [])),
    params(("id" = SessionId, Path, description = "ID of the session.")),
    responses(
        (status = 204, description = "The session has ended."),
        (status = 404, description = "The caller has no open session with this ID."),
    )
)]
async fn end_session(
    State(app): State<App>,
    SignedIn { ctx, user_id, .. }: SignedIn,
    PathId(id): PathId<SessionId>,
) -> ApiResult<StatusCode> {
    app.write(&ctx, move |tx, ctx| log_in::end_session(tx, ctx, user_id, id)).await?;
    Ok(StatusCode::NO_CONTENT)
}
