//! HTTP endpoints of blocks.

use axum::extract::State;
use axum::response::Response;
use kith_kernel::{Cursor, FieldError, Page, Problem, ProblemCode, UserId, problems};
use kith_platform::{
    ApiResult, App, BlockHook, Json, PageQuery, PageResponse, PathId, Routes, SignedIn, WriteResponse,
    cursor_problem, store_problem,
};
use utoipa_axum::routes;

use super::model::{Block, BlockError, BlockId};
use super::{block, rows, unblock};

static TOO_MANY: ProblemCode = ProblemCode { code: "too_many_blocks", status: 409, title: "Too many blocks" };

/// Problem codes that these endpoints return, in addition to the general ones.
pub const PROBLEMS: &[&ProblemCode] = &[&TOO_MANY];

/// Returns the routes of blocks.
pub fn routes() -> Routes {
    Routes::new().routes(routes!(list_blocks)).routes(routes!(get_block, block_user, unblock_user))
}

type BlockPage = PageResponse<Block>;

/// List blocked users
///
/// Returns the users that the caller has blocked, most recent block first.
#[utoipa::path(
    get, path = "/api/v1/blocks", security(("bearer" = [])),
    params(PageQuery),
    responses((status = 200, body = BlockPage))
)]
async fn list_blocks(
    State(app): State<App>,
    SignedIn { user_id, .. }: SignedIn,
    page: PageQuery,
) -> ApiResult<BlockPage> {
    let limit = page.limit()?;
    let before = page.cursor.as_ref().map(Cursor::key).transpose().map_err(cursor_problem)?;
    let before = before.unwrap_or(BlockId::LAST);
    let rows = app.db.read(move |q| rows::list(q, user_id, before, limit.rows())).await;
    Ok(Page::from_rows(rows.map_err(store_problem)?, limit, |block| block.id).into())
}

/// Get a block
///
/// Returns the block that the caller placed on another user.
#[utoipa::path(
    get, path = "/api/v1/blocks/{user_id}", security(("bearer" = [])),
    params(("user_id" = UserId, Path, description = "ID of the user.")),
    responses(
        (status = 200, body = Block),
        (status = 404, description = "The caller has not blocked this user."),
    )
)]
async fn get_block(
    State(app): State<App>,
    SignedIn { user_id, .. }: SignedIn,
    PathId(other): PathId<UserId>,
) -> ApiResult<Json<Block>> {
    let block = app.db.read(move |q| rows::find(q, user_id, other)).await.map_err(store_problem)?;
    Ok(Json(block.ok_or(BlockError::NotFound).map_err(Problem::from)?))
}

/// Block a user
///
/// Blocks another user at once. An active bond with this user ends, and the caller's pending request to this
/// user is cancelled. New requests, invites and restoration between both users stop working. A pending
/// request from the blocked user disappears for the caller; its sender still sees it as pending until it
/// expires. The blocked user is not notified of the block; a former partner is notified that the bond ended.
/// Blocking a blocked user has no effect. A user can block 10,000 others.
#[utoipa::path(
    put, path = "/api/v1/blocks/{user_id}", security(("bearer" = [])),
    params(("user_id" = UserId, Path, description = "ID of the user.")),
    responses(
        (status = 200, description = "The block. An existing block is returned unchanged.", body = Block),
        (status = 409, description = "`too_many_blocks`"),
    )
)]
async fn block_user(
    State(app): State<App>,
    caller: SignedIn,
    PathId(other): PathId<UserId>,
) -> ApiResult<Response> {
    let user_id = caller.user_id;
    let hooks: Vec<BlockHook> = app.installed.iter().filter_map(|module| module.on_block).collect();
    app.change(&caller, move |tx, ctx| block(tx, ctx, user_id, other, &hooks).map(WriteResponse::ok)).await
}

/// Unblock a user
///
/// Removes the block that the caller placed on another user. Bonds and requests that the block ended are not
/// restored. Returns 204 even if there is no block.
#[utoipa::path(
    delete, path = "/api/v1/blocks/{user_id}", security(("bearer" = [])),
    params(("user_id" = UserId, Path, description = "ID of the user.")),
    responses((status = 204, description = "The block is removed, or there was none."))
)]
async fn unblock_user(
    State(app): State<App>,
    caller: SignedIn,
    PathId(other): PathId<UserId>,
) -> ApiResult<Response> {
    let user_id = caller.user_id;
    let hooks: Vec<BlockHook> = app.installed.iter().filter_map(|module| module.on_unblock).collect();
    app.change(&caller, move |tx, ctx| {
        unblock(tx, ctx, user_id, other, &hooks).map(|()| WriteResponse::no_content())
    })
    .await
}

impl From<BlockError> for Problem {
    fn from(error: BlockError) -> Self {
        match error {
            BlockError::SelfBlock => {
                Self::invalid(vec![FieldError::new("?user_id", "self", "You cannot block yourself.")])
            }
            BlockError::TooMany => Self::new(&TOO_MANY, "The maximum is 10,000. Remove one first."),
            BlockError::NotFound => Self::new(&problems::NOT_FOUND, "You have not blocked this user."),
            BlockError::Store(error) => store_problem(error),
        }
    }
}
