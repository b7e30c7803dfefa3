//! One's partner, breaking up, and what was.

use axum::extract::State;
use axum::response::Response;
use kith_kernel::{Cursor, Problem, Text};
use kith_platform::{Answer, ApiResult, App, Json, PageAnswer, PageQuery, Routes, SignedIn, cursor_problem};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::super::model::{Bond, History, REASON};
use super::super::{commands, queries};

pub fn routes() -> Routes {
    Routes::new()
        .routes(routes!(get_current_bond))
        .routes(routes!(break_up))
        .routes(routes!(list_partner_history))
}

#[derive(Serialize, ToSchema)]
pub struct CurrentBondAnswer {
    /// Null for whoever has no partner.
    #[schema(required = true)]
    bond: Option<Bond>,
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BreakupBody {
    /// At most 500 characters, for yourself alone.
    reason: Option<String>,
}

/// What has ended.
#[derive(Serialize, ToSchema)]
pub struct BreakupAnswer {
    bond: History,
}

type HistoryPage = PageAnswer<History>;

/// Your partner.
#[utoipa::path(
    get, path = "/api/v1/partners/current", security(("bearer" = [])),
    responses((status = 200, body = CurrentBondAnswer))
)]
pub async fn get_current_bond(
    State(app): State<App>,
    SignedIn { user_id, .. }: SignedIn,
) -> ApiResult<Json<CurrentBondAnswer>> {
    let bond = app.db.read(move |q| queries::find_current_bond(q, user_id)).await?;
    Ok(Json(CurrentBondAnswer { bond }))
}

/// Break up: the bond ends for both at once, and both are told. For 30 days a request that is accepted between you two
/// brings it back.
#[utoipa::path(
    post, path = "/api/v1/partners/breakup", security(("bearer" = [])),
    request_body = Option<BreakupBody>,
    responses(
        (status = 200, body = BreakupAnswer),
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
        ended.map(|bond| Answer::ok(BreakupAnswer { bond }))
    })
    .await
}

/// Your bonds, alive and over, the one that was formed last first.
#[utoipa::path(
    get, path = "/api/v1/partners/history", security(("bearer" = [])),
    params(PageQuery),
    responses((status = 200, body = HistoryPage))
)]
pub async fn list_partner_history(
    State(app): State<App>,
    SignedIn { ctx, user_id, .. }: SignedIn,
    page: PageQuery,
) -> ApiResult<HistoryPage> {
    let limit = page.limit()?;
    let before = page.cursor.as_ref().map(Cursor::key).transpose().map_err(cursor_problem)?;
    let list = app.db.read(move |q| queries::list_history(q, user_id, before, limit, ctx.now));
    Ok(list.await?.into())
}
