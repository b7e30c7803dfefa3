//! Requests and answers about blocks.

use axum::extract::State;
use axum::response::Response;
use kith_kernel::{Cursor, FieldError, Page, Problem, ProblemCode, UserId, problems};
use kith_platform::{
    Answer, ApiResult, App, Blocked, Json, PageAnswer, PageQuery, PathId, Routes, SignedIn, cursor_problem,
    store_problem,
};
use utoipa_axum::routes;

use super::model::{Block, BlockError, BlockId};
use super::{block, rows, unblock};

static TOO_MANY: ProblemCode =
    ProblemCode { code: "too_many_blocks", status: 409, title: "You have blocked too many people" };

/// What these handlers answer with, beside the general problems.
pub const PROBLEMS: &[&ProblemCode] = &[&TOO_MANY];

/// The handlers.
pub fn routes() -> Routes {
    Routes::new().routes(routes!(list_blocks)).routes(routes!(get_block, block_user, unblock_user))
}

type BlockPage = PageAnswer<Block>;

/// Whom you have blocked, the last one first.
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

/// Whether you have blocked somebody.
#[utoipa::path(
    get, path = "/api/v1/blocks/{user_id}", security(("bearer" = [])),
    params(("user_id" = UserId, Path, description = "Of the other person")),
    responses(
        (status = 200, body = Block),
        (status = 404, description = "You have not"),
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

/// Block somebody: every door between you is closed at once. They are not told; if you were partners, that your bond has
/// ended.
#[utoipa::path(
    put, path = "/api/v1/blocks/{user_id}", security(("bearer" = [])),
    params(("user_id" = UserId, Path, description = "Of the other person")),
    responses(
        (status = 200, description = "Blocked, now or before", body = Block),
        (status = 409, description = "`too_many_blocks`"),
    )
)]
async fn block_user(
    State(app): State<App>,
    caller: SignedIn,
    PathId(other): PathId<UserId>,
) -> ApiResult<Response> {
    let user_id = caller.user_id;
    let doors: Vec<Blocked> = app.installed.iter().filter_map(|module| module.blocked).collect();
    app.change(&caller, move |tx, ctx| block(tx, ctx, user_id, other, &doors).map(Answer::ok)).await
}

/// Let somebody in again. What was closed does not come back by itself.
#[utoipa::path(
    delete, path = "/api/v1/blocks/{user_id}", security(("bearer" = [])),
    params(("user_id" = UserId, Path, description = "Of the other person")),
    responses((status = 204, description = "Not blocked, now or before"))
)]
async fn unblock_user(
    State(app): State<App>,
    caller: SignedIn,
    PathId(other): PathId<UserId>,
) -> ApiResult<Response> {
    let user_id = caller.user_id;
    let doors: Vec<Blocked> = app.installed.iter().filter_map(|module| module.unblocked).collect();
    app.change(&caller, move |tx, ctx| {
        unblock(tx, ctx, user_id, other, &doors).map(|()| Answer::no_content())
    })
    .await
}

impl From<BlockError> for Problem {
    fn from(error: BlockError) -> Self {
        match error {
            BlockError::ToSelf => Self::invalid(vec![FieldError::new("?user_id", "self", "This is you.")]),
            BlockError::TooMany => Self::new(&TOO_MANY, "At most 10,000."),
            BlockError::NotFound => Self::new(&problems::NOT_FOUND, "You have not blocked this person."),
            BlockError::Store(error) => store_problem(error),
        }
    }
}
