//! HTTP endpoints of nicknames.

use axum::extract::State;
use axum::response::Response;
use kith_kernel::uuid::Uuid;
use kith_kernel::{Cursor, Page, Problem, ProblemCode, Text, TextRules, UserId, problems};
use kith_platform::http::deprecated_path;
use kith_platform::{
    ApiResult, App, Json, PageQuery, PageResponse, PathId, Routes, SignedIn, WriteResponse, cursor_problem,
    store_problem,
};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::{Nickname, remove, rows, set};

const NICKNAME: TextRules = TextRules { min: 1, max: 40, newlines: false };

static TOO_MANY: ProblemCode =
    ProblemCode { code: "too_many_nicknames", status: 409, title: "Too many nicknames" };

/// Problem codes that these endpoints return, in addition to the general ones.
pub const PROBLEMS: &[&ProblemCode] = &[&TOO_MANY];

/// Returns the routes of nicknames, with their current and their deprecated paths.
pub fn routes() -> Routes {
    Routes::new()
        .routes(routes!(list_nicknames))
        .routes(routes!(get_nickname, set_nickname, remove_nickname))
        .routes(deprecated_path("/api/nicknames", routes!(list_nicknames)))
        .routes(deprecated_path(
            "/api/nicknames/{user_id}",
            routes!(get_nickname, set_nickname, remove_nickname),
        ))
}

/// Nickname for another user.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NicknameBody {
    /// Nickname, 1 to 40 characters.
    nickname: String,
}

type NicknamePage = PageResponse<Nickname>;

/// List nicknames
///
/// Returns the nicknames that the caller has given to other users, ordered by user ID.
#[utoipa::path(
    get, path = "/api/v1/nicknames", security(("bearer" = [])),
    params(PageQuery),
    responses((status = 200, body = NicknamePage))
)]
async fn list_nicknames(
    State(app): State<App>,
    SignedIn { user_id, .. }: SignedIn,
    page: PageQuery,
) -> ApiResult<NicknamePage> {
    let limit = page.limit()?;
    let after = page.cursor.as_ref().map(Cursor::key).transpose().map_err(cursor_problem)?;
    let after = after.unwrap_or(UserId(Uuid::nil()));
    let rows = app.db.read(move |q| rows::list(q, user_id, after, limit.rows())).await;
    Ok(Page::from_rows(rows.map_err(store_problem)?, limit, |one| one.user_id).into())
}

/// Get a nickname
///
/// Returns the nickname that the caller has given to another user.
#[utoipa::path(
    get, path = "/api/v1/nicknames/{user_id}", security(("bearer" = [])),
    params(("user_id" = UserId, Path, description = "ID of the user.")),
    responses(
        (status = 200, body = Nickname),
        (status = 404, description = "No nickname is set for this user."),
    )
)]
async fn get_nickname(
    State(app): State<App>,
    SignedIn { user_id, .. }: SignedIn,
    PathId(other): PathId<UserId>,
) -> ApiResult<Json<Nickname>> {
    let found = app.db.read(move |q| rows::find(q, user_id, other)).await.map_err(store_problem)?;
    let none = || Problem::new(&problems::NOT_FOUND, "You have not given this user a nickname.");
    Ok(Json(found.ok_or_else(none)?))
}

/// Set a nickname
///
/// Sets the caller's nickname for another user, replacing an existing one. Only the caller sees it. A user
/// can give nicknames to 10,000 others.
#[utoipa::path(
    put, path = "/api/v1/nicknames/{user_id}", security(("bearer" = [])),
    params(("user_id" = UserId, Path, description = "ID of the user.")),
    request_body = NicknameBody,
    responses(
        (status = 200, body = Nickname),
        (status = 409, description = "`too_many_nicknames`"),
    )
)]
async fn set_nickname(
    State(app): State<App>,
    caller: SignedIn,
    PathId(other): PathId<UserId>,
    Json(body): Json<NicknameBody>,
) -> ApiResult<Response> {
    let text = Text::parse(&body.nickname, NICKNAME, "/nickname");
    let text = text.map_err(|fault| Problem::invalid(vec![fault]))?.into_string();
    let owner = caller.user_id;
    app.change(&caller, move |tx, ctx| match set(tx, ctx, owner, other, &text) {
        Ok(Some(nickname)) => Ok(WriteResponse::ok(nickname)),
        Ok(None) => Err(NicknameError::TooMany),
        Err(error) => Err(NicknameError::Store(error)),
    })
    .await
}

/// Remove a nickname
///
/// Removes the caller's nickname for another user. Returns 204 even if there is no nickname.
#[utoipa::path(
    delete, path = "/api/v1/nicknames/{user_id}", security(("bearer" = [])),
    params(("user_id" = UserId, Path, description = "ID of the user.")),
    responses((status = 204, description = "The nickname is removed, or there was none."))
)]
async fn remove_nickname(
    State(app): State<App>,
    caller: SignedIn,
    PathId(other): PathId<UserId>,
) -> ApiResult<Response> {
    let owner = caller.user_id;
    app.change(&caller, move |tx, ctx| {
        remove(tx, ctx, owner, other).map(|()| WriteResponse::no_content()).map_err(NicknameError::Store)
    })
    .await
}

/// Error of setting or removing a nickname.
enum NicknameError {
    TooMany,
    Store(kith_store::Error),
}

impl From<kith_store::Error> for NicknameError {
    fn from(error: kith_store::Error) -> Self {
        Self::Store(error)
    }
}

impl From<NicknameError> for Problem {
    fn from(why: NicknameError) -> Self {
        match why {
            NicknameError::TooMany => Self::new(&TOO_MANY, "The maximum is 10,000. Remove one first."),
            NicknameError::Store(error) => store_problem(error),
        }
    }
}
