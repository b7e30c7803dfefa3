//! HTTP endpoints for administering accounts: list, roles, suspension, e-mail verification and release.

use axum::extract::State;
use axum::response::Response;
use kith_kernel::{Cursor, FieldError, Problem, Text, TextRules, UserId};
use kith_platform::auth::{ReadUsers, Role, SetRoles, SuspendUsers, VerifyUsers};
use kith_platform::http::PageResponse;
use kith_platform::{
    Allowed, AllowedUser, ApiResult, App, Json, PathId, Query, Routes, WriteResponse, cursor_problem,
    page_limit,
};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::super::administration;
use super::super::listing::AccountFilter;
use super::super::model::{Account, AccountStatus};
use super::super::queries;

const REASON: TextRules = TextRules { min: 1, max: 500, newlines: true };

type AccountPage = PageResponse<Account>;

pub fn routes() -> Routes {
    Routes::new()
        .routes(routes!(list_accounts))
        .routes(routes!(get_account))
        .routes(routes!(set_role))
        .routes(routes!(suspend_account, reinstate_account))
        .routes(routes!(verify_email))
        .routes(routes!(release_email))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListAccountsQuery {
    /// Returns only accounts with this role.
    #[param(inline)]
    role: Option<Role>,
    /// Returns only accounts with this status.
    #[param(inline)]
    status: Option<AccountStatus>,
    /// Returns only the account with this e-mail address. Letter case is ignored.
    email: Option<String>,
    /// Maximum number of items per page, 1 to 100. Larger values are reduced to 100.
    #[param(default = 20, minimum = 1)]
    limit: Option<i64>,
    /// `next_cursor` of the previous page.
    cursor: Option<Cursor>,
}

/// New role of an account.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RoleBody {
    /// Role to assign.
    #[schema(inline)]
    role: Role,
}

/// Reason for a suspension.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SuspensionBody {
    /// Reason, 1 to 500 characters. Stored in the audit entry.
    reason: Option<String>,
}

/// List accounts
///
/// Returns the accounts that are not purged, newest first. Requires the permission `users.read`.
#[utoipa::path(
    get, path = "/api/v1/admin/users", security(("bearer" = ["users.read"])),
    params(ListAccountsQuery),
    responses((status = 200, body = AccountPage))
)]
async fn list_accounts(
    State(app): State<App>,
    _: Allowed<ReadUsers>,
    Query(query): Query<ListAccountsQuery>,
) -> ApiResult<AccountPage> {
    let limit = page_limit(query.limit)?;
    let ListAccountsQuery { role, status, email, cursor, .. } = query;
    let filter = AccountFilter::new(role, status, email.as_deref(), cursor.as_ref(), limit);
    let filter = filter.map_err(cursor_problem)?;
    Ok(app.db.read(move |q| queries::list_accounts(q, &filter)).await?.into())
}

/// Get an account
///
/// Returns an account, including accounts that are suspended, or deleted and not yet purged. Requires the
/// permission `users.read`.
#[utoipa::path(
    get, path = "/api/v1/admin/users/{id}", security(("bearer" = ["users.read"])),
    params(("id" = UserId, Path, description = "User ID of the account.")),
    responses(
        (status = 200, body = Account),
        (status = 404, description = "No account has this ID."),
    )
)]
async fn get_account(
    State(app): State<App>,
    _: Allowed<ReadUsers>,
    PathId(id): PathId<UserId>,
) -> ApiResult<Json<Account>> {
    Ok(Json(app.db.read(move |q| queries::get_account(q, id)).await?))
}

/// Set an account's role
///
/// Replaces the role of an account. The new role applies from the user's next request on. Administrators
/// cannot change their own role. The role of the last active administrator cannot be changed. Setting the
/// current role again has no effect. Requires the permission `users.set_role`.
#[utoipa::path(
    put, path = "/api/v1/admin/users/{id}/role", security(("bearer" = ["users.set_role"])),
    params(("id" = UserId, Path, description = "User ID of the account.")),
    request_body = RoleBody,
    responses(
        (status = 200, body = Account),
        (status = 404, description = "No account has this ID."),
        (status = 409, description = "`self_not_allowed`, `last_admin`"),
    )
)]
async fn set_role(
    State(app): State<App>,
    AllowedUser { caller, .. }: AllowedUser<SetRoles>,
    PathId(id): PathId<UserId>,
    Json(RoleBody { role }): Json<RoleBody>,
) -> ApiResult<Response> {
    let actor = caller.user_id;
    app.change(&caller, move |tx, ctx| {
        administration::set_role(tx, ctx, actor, id, role).map(WriteResponse::ok)
    })
    .await
}

/// Suspend an account
///
/// Ends all sessions of the account at once and rejects further log-ins with 403 `account_suspended` until
/// the account is reinstated. Moderators can suspend accounts whose role is below their own. Administrators
/// can suspend all accounts except their own. Suspending a suspended account has no effect. Requires the
/// permission `users.suspend`.
#[utoipa::path(
    put, path = "/api/v1/admin/users/{id}/suspension", security(("bearer" = ["users.suspend"])),
    params(("id" = UserId, Path, description = "User ID of the account.")),
    request_body = SuspensionBody,
    responses(
        (status = 200, body = Account),
        (status = 404, description = "No account has this ID."),
        (status = 409, description = "`self_not_allowed`, `last_admin`"),
    )
)]
async fn suspend_account(
    State(app): State<App>,
    AllowedUser { caller, .. }: AllowedUser<SuspendUsers>,
    PathId(id): PathId<UserId>,
    Json(SuspensionBody { reason }): Json<SuspensionBody>,
) -> ApiResult<Response> {
    let reason = reason.map(|text| Text::parse(&text, REASON, "/reason")).transpose();
    let reason = reason.map_err(|fault: FieldError| Problem::invalid(vec![fault]))?;
    let actor = (caller.user_id, caller.role);
    app.change(&caller, move |tx, ctx| {
        administration::suspend(tx, ctx, actor, id, reason.as_ref().map(Text::as_str)).map(WriteResponse::ok)
    })
    .await
}

/// Reinstate a suspended account
///
/// Allows the user to log in again. Sessions that the suspension ended are not restored. Reinstating an
/// account that is not suspended has no effect. Requires the permission `users.suspend`.
#[utoipa::path(
    delete, path = "/api/v1/admin/users/{id}/suspension", security(("bearer" = ["users.suspend"])),
    params(("id" = UserId, Path, description = "User ID of the account.")),
    responses(
        (status = 200, body = Account),
        (status = 404, description = "No account has this ID."),
        (status = 409, description = "`self_not_allowed`"),
    )
)]
async fn reinstate_account(
    State(app): State<App>,
    AllowedUser { caller, .. }: AllowedUser<SuspendUsers>,
    PathId(id): PathId<UserId>,
) -> ApiResult<Response> {
    let actor = (caller.user_id, caller.role);
    app.change(&caller, move |tx, ctx| administration::reinstate(tx, ctx, actor, id).map(WriteResponse::ok))
        .await
}

/// Verify an account's e-mail address
///
/// Marks the account's e-mail address as verified without sending mail. From then on, other users can find
/// the account by this address if its owner allows it. Verifying a verified address has no effect. Requires
/// the permission `users.verify`.
#[utoipa::path(
    put, path = "/api/v1/admin/users/{id}/email-verification", security(("bearer" = ["users.verify"])),
    params(("id" = UserId, Path, description = "User ID of the account.")),
    responses(
        (status = 200, body = Account),
        (status = 404, description = "No account has this ID, or its e-mail address was released."),
    )
)]
async fn verify_email(
    State(app): State<App>,
    AllowedUser { caller, .. }: AllowedUser<VerifyUsers>,
    PathId(id): PathId<UserId>,
) -> ApiResult<Response> {
    app.change(&caller, move |tx, ctx| administration::verify_email(tx, ctx, id).map(WriteResponse::ok)).await
}

/// Release an unverified e-mail address
///
/// Removes an unverified e-mail address from an account, so that the owner of the address can register with
/// it. The account keeps its data, is suspended, and all its sessions end. A verified address cannot be
/// released. Requires the permission `users.verify`.
#[utoipa::path(
    delete, path = "/api/v1/admin/users/{id}/email", security(("bearer" = ["users.verify"])),
    params(("id" = UserId, Path, description = "User ID of the account.")),
    responses(
        (status = 200, body = Account),
        (status = 404, description = "No account has this ID."),
        (status = 409, description = "`email_verified`, `self_not_allowed`, `last_admin`"),
    )
)]
async fn release_email(
    State(app): State<App>,
    AllowedUser { caller, .. }: AllowedUser<VerifyUsers>,
    PathId(id): PathId<UserId>,
) -> ApiResult<Response> {
    let actor = (caller.user_id, caller.role);
    app.change(&caller, move |tx, ctx| {
        administration::release_email(tx, ctx, Some(actor), id).map(WriteResponse::ok)
    })
    .await
}
