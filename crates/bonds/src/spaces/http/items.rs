//! Items: made, read, replaced, patched, deleted, listed, and exported.

use axum::extract::State;
use axum::response::Response;
use kith_kernel::{Cursor, UserId};
use kith_platform::export;
use kith_platform::{
    Answer, ApiResult, App, Json, MergePatch, PageAnswer, PathId, PathParams, Preconditions, Query, Routes,
    SignedIn, page_limit,
};
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::super::commands::{self, Asked, Change, Terms};
use super::super::list::ListRequest;
use super::super::model::{CollectionName, Item, ItemId, SpaceError, SpaceName};
use super::super::queries::{self, BondExport};
use crate::bonds::BondId;

type ItemPage = PageAnswer<Item>;
type InCollection = PathParams<(SpaceName, CollectionName)>;
type OfItem = PathParams<(SpaceName, CollectionName, ItemId)>;

pub fn routes() -> Routes {
    Routes::new()
        .routes(routes!(create_item, list_items))
        .routes(routes!(get_item, replace_item, patch_item, delete_item))
        .routes(routes!(export_bond_space))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ItemBody {
    /// Whatever the app keeps, as long as it is an object.
    #[schema(value_type = Object)]
    data: Map<String, Value>,
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// A declared field to order by, with `-` before it from the greatest down; without one the newest come first.
    order: Option<String>,
    /// What declared fields must be, as a JSON object: `{"kind":"book","price":{"gte":10,"lt":20}}`. Limits are `gt`,
    /// `gte`, `lt` and `lte`, and hold for values of their own type.
    filter: Option<String>,
    /// Items on a page; more than 100 counts as 100.
    #[param(default = 20, minimum = 1)]
    limit: Option<i64>,
    /// `next_cursor` of the page before.
    cursor: Option<Cursor>,
}

fn asked(user: UserId, space: SpaceName, collection: CollectionName) -> Asked {
    Asked { user, space, collection }
}

/// Keep something new.
///
/// A collection is there once something is in it. `dates` is built in: `title`, `date` (`2026-02-14`), and optionally
/// `time` (`18:30`), `time_zone` (of the profile, else UTC), `repeat` (`none`, `weekly`, `monthly`, `yearly`) and
/// `remind_minutes_before` (at most 5). A date without a time begins at 00:00. The 29th of February falls on the 28th in
/// other years, a 31st on the last day of a shorter month; a time that the clocks skip is as much later, and of one that
/// comes twice it is the first.
#[utoipa::path(
    post, path = "/api/v1/spaces/{space}/{collection}", security(("bearer" = [])),
    params(
        ("space" = inline(SpaceName), Path, description = "One's own, or the one shared with one's partner"),
        ("collection" = String, Path, pattern = "^[a-z0-9_-]{1,40}$", description = "Of the app's choice"),
    ),
    request_body = ItemBody,
    responses(
        (status = 201, body = Item),
        (status = 409, description = "`not_bonded`, `space_full`"),
        (status = 413, description = "`item_too_large`, `body_too_large`"),
    )
)]
async fn create_item(
    State(app): State<App>,
    caller: SignedIn,
    PathParams((space, collection)): InCollection,
    Json(body): Json<ItemBody>,
) -> ApiResult<Response> {
    let asked = asked(caller.user_id, space, collection);
    let (data, limits) = (Value::Object(body.data), app.config.spaces.clone());
    app.change_precomputed(&caller, move |tx, ctx, validated| {
        let created = commands::create(tx, ctx, &asked, &data, Terms { validated, limits: &limits });
        created.map(|item| Answer::created(item).with_etag())
    })
    .await
}

/// What is kept in a collection: the newest first, or by fields that an administrator has declared.
#[utoipa::path(
    get, path = "/api/v1/spaces/{space}/{collection}", security(("bearer" = [])),
    params(
        ("space" = inline(SpaceName), Path, description = "One's own, or the one shared with one's partner"),
        ("collection" = String, Path, pattern = "^[a-z0-9_-]{1,40}$", description = "Of the app's choice"),
        ListQuery
    ),
    responses(
        (status = 200, body = ItemPage),
        (status = 409, description = "`not_bonded`, `collection_indexing`"),
    )
)]
async fn list_items(
    State(app): State<App>,
    SignedIn { user_id, .. }: SignedIn,
    PathParams((space, collection)): InCollection,
    Query(query): Query<ListQuery>,
) -> ApiResult<ItemPage> {
    let asked = asked(user_id, space, collection);
    let limit = page_limit(query.limit)?;
    let ListQuery { order, filter, cursor, .. } = query;
    let request = ListRequest { order, filter, cursor, limit };
    let max_item_bytes = app.config.spaces.item_bytes.into();
    Ok(app.db.read(move |q| queries::list_items(q, &asked, &request, max_item_bytes)).await?.into())
}

/// One item.
#[utoipa::path(
    get, path = "/api/v1/spaces/{space}/{collection}/{id}", security(("bearer" = [])),
    params(
        ("space" = inline(SpaceName), Path, description = "One's own, or the one shared with one's partner"),
        ("collection" = String, Path, pattern = "^[a-z0-9_-]{1,40}$", description = "Of the app's choice"),
        ("id" = ItemId, Path, description = "Of the item"),
    ),
    responses(
        (status = 200, body = Item),
        (status = 409, description = "`not_bonded`"),
    )
)]
async fn get_item(
    State(app): State<App>,
    SignedIn { user_id, .. }: SignedIn,
    PathParams((space, collection, id)): OfItem,
) -> ApiResult<Json<Item>> {
    let asked = asked(user_id, space, collection);
    Ok(Json(app.db.read(move |q| queries::get_item(q, &asked, id)).await?))
}

/// Put other data in the place of an item's. With `If-Match`, only if it is still what was read.
#[utoipa::path(
    put, path = "/api/v1/spaces/{space}/{collection}/{id}", security(("bearer" = [])),
    params(
        ("space" = inline(SpaceName), Path, description = "One's own, or the one shared with one's partner"),
        ("collection" = String, Path, pattern = "^[a-z0-9_-]{1,40}$", description = "Of the app's choice"),
        ("id" = ItemId, Path, description = "Of the item"),
    ),
    request_body = ItemBody,
    responses(
        (status = 200, body = Item),
        (status = 409, description = "`not_bonded`, `space_full`"),
        Preconditions,
        (status = 413, description = "`item_too_large`, `body_too_large`"),
    )
)]
async fn replace_item(
    State(app): State<App>,
    caller: SignedIn,
    PathParams((space, collection, id)): OfItem,
    preconditions: Preconditions,
    Json(body): Json<ItemBody>,
) -> ApiResult<Response> {
    let asked = asked(caller.user_id, space, collection);
    change(&app, &caller, asked, id, Change::Replace(Value::Object(body.data)), preconditions).await
}

/// Change some of an item's data, as JSON Merge Patch does (RFC 7396): null takes a field away. With `If-Match`, only if it
/// is still what was read.
#[utoipa::path(
    patch, path = "/api/v1/spaces/{space}/{collection}/{id}", security(("bearer" = [])),
    params(
        ("space" = inline(SpaceName), Path, description = "One's own, or the one shared with one's partner"),
        ("collection" = String, Path, pattern = "^[a-z0-9_-]{1,40}$", description = "Of the app's choice"),
        ("id" = ItemId, Path, description = "Of the item"),
    ),
    request_body(content((ItemBody = "application/json"), (ItemBody = "application/merge-patch+json"))),
    responses(
        (status = 200, body = Item),
        (status = 409, description = "`not_bonded`, `space_full`"),
        Preconditions,
        (status = 413, description = "`item_too_large`, `body_too_large`"),
    )
)]
async fn patch_item(
    State(app): State<App>,
    caller: SignedIn,
    PathParams((space, collection, id)): OfItem,
    preconditions: Preconditions,
    MergePatch(body): MergePatch<ItemBody>,
) -> ApiResult<Response> {
    let asked = asked(caller.user_id, space, collection);
    change(&app, &caller, asked, id, Change::Merge(Value::Object(body.data)), preconditions).await
}

async fn change(
    app: &App,
    caller: &SignedIn,
    asked: Asked,
    id: ItemId,
    change: Change,
    preconditions: Preconditions,
) -> ApiResult<Response> {
    let limits = app.config.spaces.clone();
    app.change_precomputed(caller, move |tx, ctx, validated| {
        let changed = commands::update(
            tx,
            ctx,
            &asked,
            id,
            &change,
            &preconditions,
            Terms { validated, limits: &limits },
        );
        changed.map(|item| Answer::ok(item).with_etag())
    })
    .await
}

/// Take an item away. With `If-Match`, only if it is still what was read.
#[utoipa::path(
    delete, path = "/api/v1/spaces/{space}/{collection}/{id}", security(("bearer" = [])),
    params(
        ("space" = inline(SpaceName), Path, description = "One's own, or the one shared with one's partner"),
        ("collection" = String, Path, pattern = "^[a-z0-9_-]{1,40}$", description = "Of the app's choice"),
        ("id" = ItemId, Path, description = "Of the item"),
    ),
    responses(
        (status = 204, description = "It is gone"),
        (status = 409, description = "`not_bonded`"),
        Preconditions,
    )
)]
async fn delete_item(
    State(app): State<App>,
    caller: SignedIn,
    PathParams((space, collection, id)): OfItem,
    preconditions: Preconditions,
) -> ApiResult<Response> {
    let asked = asked(caller.user_id, space, collection);
    app.change(&caller, move |tx, ctx| {
        commands::delete(tx, ctx, &asked, id, &preconditions).map(|()| Answer::no_content())
    })
    .await
}

/// All that you and a partner kept together, also after the bond has ended, until it is purged for good. A large export is
/// streamed while it is read. One runs at a time, and `limits.exports_per_day` says how many a day.
#[utoipa::path(
    get, path = "/api/v1/spaces/bonds/{bond_id}/export", security(("bearer" = [])),
    params(("bond_id" = BondId, Path, description = "Of a bond that you have or had")),
    responses(
        (status = 200, body = BondExport),
        (status = 409, description = "`export_running`"),
    )
)]
async fn export_bond_space(
    State(app): State<App>,
    SignedIn { user_id, .. }: SignedIn,
    PathId(bond): PathId<BondId>,
) -> ApiResult<Response> {
    let sections = app.db.read(move |q| queries::export_bond(q, user_id, bond));
    let sections = sections.await.map_err(|error: SpaceError| error)?;
    export::answer(&app, app.begin_export(user_id)?, sections).await
}
