//! Accounts, as those see and change them who look after the server.

use axum::extract::State;
use axum::response::Response;
use kith_kernel::{Cursor, FieldError, Problem, Text, TextRules, UserId};
use kith_platform::auth::{ReadUsers, Role, SetRoles, SuspendUsers, VerifyUsers};
use kith_platform::http::PageAnswer;
use kith_platform::{
    Allowed, AllowedPerson, Answer, ApiResult, App, Json, PathId, Query, Routes, cursor_problem, page_limit,
};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::super::administration::{self, AccountList};
use super::super::model::{Account, AccountStatus};
use super::super::queries;

const REASON: TextRules = TextRules { min: 1, max: 500, newlines: true };

type AccountPage = PageAnswer<Account>;

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
struct ListQuery {
    /// Only those with this role.
    #[param(inline)]
    role: Option<Role>,
    /// Only those that stand like this.
    #[param(inline)]
    status: Option<AccountStatus>,
    /// Only the one with this address, whatever its case.
    email: Option<String>,
    /// Items on a page; more than 100 counts as 100.
    #[param(default = 20, minimum = 1)]
    limit: Option<i64>,
    /// `next_cursor` of the page before.
    cursor: Option<Cursor>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RoleBody {
    #[schema(inline)]
    role: Role,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SuspensionBody {
    /// Kept with the audit entry; at most 500 characters.
    reason: Option<String>,
}

/// Accounts, newest first.
#[utoipa::path(
    get, path = "/api/v1/admin/users", security(("bearer" = ["users.read"])),
    params(ListQuery),
    responses((status = 200, body = AccountPage))
)]
async fn list_accounts(
    State(app): State<App>,
    _: Allowed<ReadUsers>,
    Query(query): Query<ListQuery>,
) -> ApiResult<AccountPage> {
    let limit = page_limit(query.limit)?;
    let ListQuery { role, status, email, cursor, .. } = query;
    let list = AccountList::new(role, status, email.as_deref(), cursor.as_ref(), limit);
    let list = list.map_err(cursor_problem)?;
    Ok(app.db.read(move |q| queries::list_accounts(q, &list)).await?.into())
}

/// One account.
#[utoipa::path(
    get, path = "/api/v1/admin/users/{id}", security(("bearer" = ["users.read"])),
    params(("id" = UserId, Path, description = "Of the account")),
    responses(
        (status = 200, body = Account),
        (status = 404, description = "Nobody has this id"),
    )
)]
async fn get_account(
    State(app): State<App>,
    _: Allowed<ReadUsers>,
    PathId(id): PathId<UserId>,
) -> ApiResult<Json<Account>> {
    Ok(Json(app.db.read(move |q| queries::get_account(q, id)).await?))
}

/// Give somebody another role. It counts from their next request on.
#[utoipa::path(
    put, path = "/api/v1/admin/users/{id}/role", security(("bearer" = ["users.set_role"])),
    params(("id" = UserId, Path, description = "Of the account")),
    request_body = RoleBody,
    responses(
        (status = 200, body = Account),
        (status = 404, description = "Nobody has this id"),
        (status = 409, description = "`not_to_oneself`, `last_admin`"),
    )
)]
async fn set_role(
    State(app): State<App>,
    AllowedPerson { caller, .. }: AllowedPerson<SetRoles>,
    PathId(id): PathId<UserId>,
    Json(RoleBody { role }): Json<RoleBody>,
) -> ApiResult<Response> {
    let actor = caller.user_id;
    app.change(&caller, move |tx, ctx| administration::set_role(tx, ctx, actor, id, role).map(Answer::ok))
        .await
}

/// Shut somebody out: their sessions end at once, and they cannot sign in.
#[utoipa::path(
    put, path = "/api/v1/admin/users/{id}/suspension", security(("bearer" = ["users.suspend"])),
    params(("id" = UserId, Path, description = "Of the account")),
    request_body = SuspensionBody,
    responses(
        (status = 200, body = Account),
        (status = 404, description = "Nobody has this id"),
        (status = 409, description = "`not_to_oneself`, `last_admin`"),
    )
)]
async fn suspend_account(
    State(app): State<App>,
    AllowedPerson { caller, .. }: AllowedPerson<SuspendUsers>,
    PathId(id): PathId<UserId>,
    Json(SuspensionBody { reason }): Json<SuspensionBody>,
) -> ApiResult<Response> {
    let reason = reason.map(|text| Text::parse(&text, REASON, "/reason")).transpose();
    let reason = reason.map_err(|fault: FieldError| Problem::invalid(vec![fault]))?;
    let actor = (caller.user_id, caller.role);
    app.change(&caller, move |tx, ctx| {
        administration::suspend(tx, ctx, actor, id, reason.as_ref().map(Text::as_str)).map(Answer::ok)
    })
    .await
}

/// Let somebody in again.
#[utoipa::path(
    delete, path = "/api/v1/admin/users/{id}/suspension", security(("bearer" = ["users.suspend"])),
    params(("id" = UserId, Path, description = "Of the account")),
    responses(
        (status = 200, body = Account),
        (status = 404, description = "Nobody has this id"),
        (status = 409, description = "`not_to_oneself`"),
    )
)]
async fn reinstate_account(
    State(app): State<App>,
    AllowedPerson { caller, .. }: AllowedPerson<SuspendUsers>,
    PathId(id): PathId<UserId>,
) -> ApiResult<Response> {
    let actor = (caller.user_id, caller.role);
    app.change(&caller, move |tx, ctx| administration::reinstate(tx, ctx, actor, id).map(Answer::ok)).await
}

/// Settle that an account's e-mail address is its owner's. From then on they can be found by it.
#[utoipa::path(
    put, path = "/api/v1/admin/users/{id}/email-verification", security(("bearer" = ["users.verify"])),
    params(("id" = UserId, Path, description = "Of the account")),
    responses(
        (status = 200, body = Account),
        (status = 404, description = "Nobody has this id, or the address was released"),
    )
)]
async fn verify_email(
    State(app): State<App>,
    AllowedPerson { caller, .. }: AllowedPerson<VerifyUsers>,
    PathId(id): PathId<UserId>,
) -> ApiResult<Response> {
    app.change(&caller, move |tx, ctx| administration::verify_email(tx, ctx, id).map(Answer::ok)).await
}

/// Take an e-mail address that is not proven away from an account, so that its owner can register it. The account is
/// suspended, and its sessions end.
#[utoipa::path(
    delete, path = "/api/v1/admin/users/{id}/email", security(("bearer" = ["users.verify"])),
    params(("id" = UserId, Path, description = "Of the account")),
    responses(
        (status = 200, body = Account),
        (status = 404, description = "Nobody has this id"),
        (status = 409, description = "`email_verified`, `not_to_oneself`, `last_admin`"),
    )
)]
async fn release_email(
    State(app): State<App>,
    AllowedPerson { caller, .. }: AllowedPerson<VerifyUsers>,
    PathId(id): PathId<UserId>,
) -> ApiResult<Response> {
    let actor = (caller.user_id, caller.role);
    app.change(&caller, move |tx, ctx| {
        administration::release_email(tx, ctx, Some(actor), id).map(Answer::ok)
    })
    .await
}
