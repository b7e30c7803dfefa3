//! Endpoints for the caller's own account: profile, password, export and deletion.

use axum::extract::State;
use axum::response::Response;
use kith_kernel::{Problem, Timestamp};
use kith_platform::export;
use kith_platform::http::Preconditions;
use kith_platform::{ApiResult, App, Client, Json, Routes, SignedIn, WriteResponse};
use kith_store::Tx;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::super::model::{Password, SessionId, User};
use super::super::profile::ProfilePatch;
use super::super::{commands, personal_data, queries};
use super::verify_current_password;

pub fn routes() -> Routes {
    Routes::new()
        .routes(routes!(get_me, update_me, delete_me))
        .routes(routes!(change_password))
        .routes(routes!(export_me))
}

/// Password change.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ChangePasswordBody {
    /// Current password.
    current_password: String,
    /// New password, 8 to 256 characters.
    new_password: String,
}

/// Confirmation of an account deletion.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct DeleteBody {
    /// Current password.
    password: String,
}

/// Scheduled deletion of an account.
#[derive(Serialize, ToSchema)]
struct ScheduledDeletion {
    /// Time after which the account is purged. Until then `POST /api/v1/auth/restore` restores it.
    delete_at: Timestamp,
}

/// Get the current user
///
/// Returns the account and profile of the caller.
#[utoipa::path(
    get, path = "/api/v1/me", security(("bearer" = [])),
    responses((status = 200, body = User))
)]
async fn get_me(State(app): State<App>, SignedIn { user_id, .. }: SignedIn) -> ApiResult<Json<User>> {
    Ok(Json(app.db.read(move |q| queries::get_user(q, user_id)).await?))
}

/// Update the current user's profile
///
/// Changes the fields that are present; `null` clears an optional field. With `If-Match`, the update is
/// rejected with 412 if the profile has changed since it was read.
#[utoipa::path(
    patch, path = "/api/v1/me", security(("bearer" = [])),
    request_body = ProfilePatch,
    responses(
        (status = 200, body = User),
        Preconditions,
    )
)]
async fn update_me(
    State(app): State<App>,
    caller: SignedIn,
    preconditions: Preconditions,
    Json(body): Json<ProfilePatch>,
) -> ApiResult<Response> {
    let change = body.check().map_err(Problem::invalid)?;
    let user = caller.user_id;
    app.change(&caller, move |tx, ctx| {
        commands::update_profile(tx, ctx, user, &change, &preconditions).map(WriteResponse::ok)
    })
    .await
}

/// Change the password
///
/// Sets a new password after checking the current one, and ends all other sessions of the caller. After five
/// wrong passwords in a row, the check is locked for one minute. Each further wrong password doubles the
/// lock, up to 15 minutes.
#[utoipa::path(
    post, path = "/api/v1/me/password", security(("bearer" = [])),
    request_body = ChangePasswordBody,
    responses(
        (status = 204, description = "The password is changed."),
        (status = 403, description = "`wrong_password`"),
        (status = 423, description = "`locked`"),
    )
)]
async fn change_password(
    State(app): State<App>,
    caller: SignedIn,
    client: Client,
    Json(body): Json<ChangePasswordBody>,
) -> ApiResult<Response> {
    let new = Password::parse_new(&body.new_password, "/new_password");
    let new = new.map_err(|fault| Problem::invalid(vec![fault]))?;
    if let Some(answer) = app.stored_response(&caller).await? {
        return Ok(answer);
    }
    let address = client.address;
    let check = verify_current_password(&app, &caller.ctx, client, &body.current_password).await?;
    // No hash is computed if the current password is wrong, because it would not be stored.
    let hash = if check.is_correct {
        app.passwords.hash(Some(address), new.into_string()).await?
    } else {
        String::new()
    };
    let (user, session) = (caller.user_id, SessionId(caller.session));
    app.change(&caller, move |tx, ctx| {
        commands::change_password(tx, ctx, user, session, &check, &hash).map(|()| WriteResponse::no_content())
    })
    .await
}

/// Delete the current user's account
///
/// Ends all sessions, the active bond and all pending requests of the caller at once. The data is purged
/// after 14 days. Until then, `POST /api/v1/auth/restore` restores the account, but not the bond. The last
/// active administrator cannot be deleted.
#[utoipa::path(
    delete, path = "/api/v1/me", security(("bearer" = [])),
    request_body = DeleteBody,
    responses(
        (status = 202, body = ScheduledDeletion),
        (status = 403, description = "`wrong_password`"),
        (status = 409, description = "`last_admin`"),
        (status = 423, description = "`locked`"),
    )
)]
async fn delete_me(
    State(app): State<App>,
    caller: SignedIn,
    client: Client,
    Json(body): Json<DeleteBody>,
) -> ApiResult<Response> {
    let check = verify_current_password(&app, &caller.ctx, client, &body.password).await?;
    let (user, modules) = (caller.user_id, app.installed);
    let done = app.change(&caller, move |tx, ctx| {
        let leave = |tx: &Tx<'_>| {
            modules
                .iter()
                .filter_map(|module| module.personal)
                .try_for_each(|one| (one.on_account_deletion)(tx, ctx, user))
        };
        let done = commands::delete(tx, ctx, user, &check, leave);
        done.map(|delete_at| WriteResponse::accepted(ScheduledDeletion { delete_at }))
    });
    let answer = done.await?;
    personal_data::purge_if_synthetic(&app, user).await;
    Ok(answer)
}

/// Export the current user's data
///
/// Returns everything that the server stores about the caller, as one JSON object with a member per module. A
/// large export is streamed while it is read: a change made meanwhile may or may not be included. One export
/// per user runs at a time. The server setting `limits.exports_per_day` limits exports per day.
#[utoipa::path(
    get, path = "/api/v1/me/export", security(("bearer" = [])),
    responses(
        (status = 200, description = "Data of the caller, by module.", body = serde_json::Value),
        (status = 409, description = "`export_running`"),
    )
)]
async fn export_me(State(app): State<App>, SignedIn { ctx, user_id, .. }: SignedIn) -> ApiResult<Response> {
    let slot = app.begin_export(user_id)?;
    export::answer(&app, slot, personal_data::export(&app, &ctx, user_id)).await
}
