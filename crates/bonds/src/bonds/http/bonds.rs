//! HTTP endpoints of bonds: get the current bond, break up, list the history.

use axum::extract::State;
use axum::response::Response;
use kith_kernel::{Cursor, Problem, Text};
use kith_platform::{
    ApiResult, App, Json, PageQuery, PageResponse, Routes, SignedIn, WriteResponse, cursor_problem,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::super::model::{Bond, BondHistoryEntry, REASON};
use super::super::{commands, queries};

pub fn routes() -> Routes {
    Routes::new()
        .routes(routes!(get_current_bond))
        .routes(routes!(break_up))
        .routes(routes!(list_partner_history))
}

/// Active bond of the caller.
#[derive(Serialize, ToSchema)]
pub struct CurrentBondResponse {
    /// Active bond; `null` if the caller has no partner.
    #[schema(required = true)]
    bond: Option<Bond>,
}

/// Optional details of a breakup.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BreakupBody {
    /// Reason, at most 500 characters. Only the caller can read it.
    reason: Option<String>,
}

/// Bond that ended.
#[derive(Serialize, ToSchema)]
pub struct BreakupResponse {
    /// Bond that ended, with all its breakups.
    bond: BondHistoryEntry,
}

type BondHistoryPage = PageResponse<BondHistoryEntry>;

/// Get the current bond
///
/// Returns the caller's active bond, or `null` if the caller has no partner.
#[utoipa::path(
    get, path = "/api/v1/partners/current", security(("bearer" = [])),
    responses((status = 200, body = CurrentBondResponse))
)]
pub async fn get_current_bond(
    State(app): State<App>,
    SignedIn { user_id, .. }: SignedIn,
) -> ApiResult<Json<CurrentBondResponse>> {
    let bond = app.db.read(move |q| queries::find_current_bond(q, user_id)).await?;
    Ok(Json(CurrentBondResponse { bond }))
}

/// Break up with the current partner
///
/// Ends the caller's active bond for both partners at once and notifies both. The former partner sees neither
/// who ended the bond nor the reason. The bond stays in the history, and its space can only be exported. For 30
/// days, accepting a request between both users restores the bond.
#[utoipa::path(
    post, path = "/api/v1/partners/breakup", security(("bearer" = [])),
    request_body = Option<BreakupBody>,
    responses(
        (status = 200, body = BreakupResponse),
        (status = 409, description = "`not_bonded`"),
    )
)]
pub async fn break_up(
    State(app): State<App>,
    caller: SignedIn,
    body: Option<Json<BreakupBody>>,
) -> ApiResult<Response> {
    let Json(body) = body.unwrap_or_default();
    let reason = body.reason.map(|text| Text::parse(&text, REASON, "/reason")).transpose();
    let reason = reason.map_err(|fault| Problem::invalid(vec![fault]))?.map(Text::into_string);
    let reason = reason.filter(|text| !text.is_empty());
    let user_id = caller.user_id;
    app.change(&caller, move |tx, ctx| {
        let ended = commands::break_up(tx, ctx, user_id, reason.as_deref());
        ended.map(|bond| WriteResponse::ok(BreakupResponse { bond }))
    })
    .await
}

/// List bonds
///
/// Returns the caller's active, ended and archived bonds, most recently formed first.
#[utoipa::path(
    get, path = "/api/v1/partners/history", security(("bearer" = [])),
    params(PageQuery),
    responses((status = 200, body = BondHistoryPage))
)]
pub async fn list_partner_history(
    State(app): State<App>,
    SignedIn { ctx, user_id, .. }: SignedIn,
    page: PageQuery,
) -> ApiResult<BondHistoryPage> {
    let limit = page.limit()?;
    let before = page.cursor.as_ref().map(Cursor::key).transpose().map_err(cursor_problem)?;
    let list = app.db.read(move |q| queries::list_history(q, user_id, before, limit, ctx.now));
    Ok(list.await?.into())
}
