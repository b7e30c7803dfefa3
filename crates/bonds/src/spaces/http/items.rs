//! HTTP endpoints of items: create, list, get, replace, patch, delete and export.

use axum::extract::State;
use axum::response::Response;
use kith_kernel::{Cursor, UserId};
use kith_platform::export;
use kith_platform::{
    ApiResult, App, Json, MergePatch, PageResponse, PathId, PathParams, Preconditions, Query, Routes,
    SignedIn, WriteResponse, page_limit,
};
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::super::commands::{self, ItemChange, WriteConditions};
use super::super::list::ItemListParams;
use super::super::model::{CollectionName, Item, ItemId, SpaceError, SpaceName};
use super::super::queries::{self, BondExport, CollectionRequest};
use super::super::settings::SpaceSettings;
use crate::bonds::BondId;

type ItemPage = PageResponse<Item>;
type CollectionPath = PathParams<(SpaceName, CollectionName)>;
type ItemPath = PathParams<(SpaceName, CollectionName, ItemId)>;

pub fn routes() -> Routes {
    Routes::new()
        .routes(routes!(create_item, list_items))
        .routes(routes!(get_item, replace_item, patch_item, delete_item))
        .routes(routes!(export_bond_space))
}

/// Content of an item.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ItemBody {
    /// JSON object, nested at most 32 levels deep, with at most 10,000 values. The server setting
    /// `spaces.max_item_bytes` limits its size.
    #[schema(value_type = Object)]
    data: Map<String, Value>,
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListItemsQuery {
    /// Declared field by which to sort, ascending; with the prefix `-`, descending. If absent, the newest
    /// items come first.
    order: Option<String>,
    /// Conditions on declared fields, as a JSON object: `{"kind":"book","price":{"gte":10,"lt":20}}`. The
    /// operators are `gt`, `gte`, `lt` and `lte`. They match only values that have the type of the operand.
    filter: Option<String>,
    /// Maximum number of items per page, 1 to 100. Larger values are reduced to 100.
    #[param(default = 20, minimum = 1)]
    limit: Option<i64>,
    /// `next_cursor` of the previous page.
    cursor: Option<Cursor>,
}

fn collection_request(user: UserId, space: SpaceName, collection: CollectionName) -> CollectionRequest {
    CollectionRequest { user, space, collection }
}

/// Create an item
///
/// Creates an item in a collection of a space. A collection exists as soon as it has an item. If an
/// administrator has declared a schema for the collection, the item must match it. The server settings
/// `spaces.*` limit the items, collections and bytes of a space.
///
/// The collection `dates` is built in. Its items have `title`, `date` (`2026-02-14`) and optionally `time`
/// (`18:30`), `time_zone` (default: the zone in the caller's profile, else UTC), `repeat` (`none`, `weekly`,
/// `monthly`, `yearly`) and `remind_minutes_before` (at most 5 numbers). A date without a time begins at
/// 00:00. In other years, a repeated 29 February falls on 28 February; in shorter months, a 31st falls on
/// the last day. A local time that daylight saving skips moves forward by the skipped amount. If a local
/// time occurs twice, the first one counts.
#[utoipa::path(
    post, path = "/api/v1/spaces/{space}/{collection}", security(("bearer" = [])),
    params(
        ("space" = inline(SpaceName), Path,
            description = "`me` for the space of the caller, `bond` for the space shared with the partner."),
        ("collection" = String, Path, pattern = "^[a-z0-9_-]{1,40}$",
            description = "Name of the collection: 1 to 40 characters of `a-z`, `0-9`, `_` and `-`."),
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
    PathParams((space, collection)): CollectionPath,
    Json(body): Json<ItemBody>,
) -> ApiResult<Response> {
    let request = collection_request(caller.user_id, space, collection);
    let (data, limits) = (Value::Object(body.data), app.config.section::<SpaceSettings>());
    app.change_precomputed(&caller, move |tx, ctx, validated| {
        let created =
            commands::create(tx, ctx, &request, &data, WriteConditions { validated, limits: &limits });
        created.map(|item| WriteResponse::created(item).with_etag())
    })
    .await
}

/// List items
///
/// Returns the items of a collection, newest first, or sorted and filtered by fields that an administrator
/// has declared.
#[utoipa::path(
    get, path = "/api/v1/spaces/{space}/{collection}", security(("bearer" = [])),
    params(
        ("space" = inline(SpaceName), Path,
            description = "`me` for the space of the caller, `bond` for the space shared with the partner."),
        ("collection" = String, Path, pattern = "^[a-z0-9_-]{1,40}$",
            description = "Name of the collection: 1 to 40 characters of `a-z`, `0-9`, `_` and `-`."),
        ListItemsQuery
    ),
    responses(
        (status = 200, body = ItemPage),
        (status = 409, description = "`not_bonded`, `collection_indexing`"),
    )
)]
async fn list_items(
    State(app): State<App>,
    SignedIn { user_id, .. }: SignedIn,
    PathParams((space, collection)): CollectionPath,
    Query(query): Query<ListItemsQuery>,
) -> ApiResult<ItemPage> {
    let request = collection_request(user_id, space, collection);
    let limit = page_limit(query.limit)?;
    let ListItemsQuery { order, filter, cursor, .. } = query;
    let params = ItemListParams { order, filter, cursor, limit };
    let max_item_bytes = app.config.section::<SpaceSettings>().max_item_bytes.into();
    Ok(app.db.read(move |q| queries::list_items(q, &request, &params, max_item_bytes)).await?.into())
}

/// Get an item
///
/// Returns one item of a collection.
#[utoipa::path(
    get, path = "/api/v1/spaces/{space}/{collection}/{id}", security(("bearer" = [])),
    params(
        ("space" = inline(SpaceName), Path,
            description = "`me` for the space of the caller, `bond` for the space shared with the partner."),
        ("collection" = String, Path, pattern = "^[a-z0-9_-]{1,40}$",
            description = "Name of the collection: 1 to 40 characters of `a-z`, `0-9`, `_` and `-`."),
        ("id" = ItemId, Path, description = "ID of the item."),
    ),
    responses(
        (status = 200, body = Item),
        (status = 409, description = "`not_bonded`"),
    )
)]
async fn get_item(
    State(app): State<App>,
    SignedIn { user_id, .. }: SignedIn,
    PathParams((space, collection, id)): ItemPath,
) -> ApiResult<Json<Item>> {
    let request = collection_request(user_id, space, collection);
    Ok(Json(app.db.read(move |q| queries::get_item(q, &request, id)).await?))
}

/// Replace an item
///
/// Replaces the data of an item. If the new data equals the old data, nothing changes. With `If-Match`, the
/// item must not have changed since it was read.
#[utoipa::path(
    put, path = "/api/v1/spaces/{space}/{collection}/{id}", security(("bearer" = [])),
    params(
        ("space" = inline(SpaceName), Path,
            description = "`me` for the space of the caller, `bond` for the space shared with the partner."),
        ("collection" = String, Path, pattern = "^[a-z0-9_-]{1,40}$",
            description = "Name of the collection: 1 to 40 characters of `a-z`, `0-9`, `_` and `-`."),
        ("id" = ItemId, Path, description = "ID of the item."),
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
    PathParams((space, collection, id)): ItemPath,
    preconditions: Preconditions,
    Json(body): Json<ItemBody>,
) -> ApiResult<Response> {
    let request = collection_request(caller.user_id, space, collection);
    change(&app, &caller, request, id, ItemChange::Replace(Value::Object(body.data)), preconditions).await
}

/// Update an item
///
/// Applies a JSON Merge Patch (RFC 7396) to the data of an item: `null` removes a field. With `If-Match`, the
/// item must not have changed since it was read.
#[utoipa::path(
    patch, path = "/api/v1/spaces/{space}/{collection}/{id}", security(("bearer" = [])),
    params(
        ("space" = inline(SpaceName), Path,
            description = "`me` for the space of the caller, `bond` for the space shared with the partner."),
        ("collection" = String, Path, pattern = "^[a-z0-9_-]{1,40}$",
            description = "Name of the collection: 1 to 40 characters of `a-z`, `0-9`, `_` and `-`."),
        ("id" = ItemId, Path, description = "ID of the item."),
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
    PathParams((space, collection, id)): ItemPath,
    preconditions: Preconditions,
    MergePatch(body): MergePatch<ItemBody>,
) -> ApiResult<Response> {
    let request = collection_request(caller.user_id, space, collection);
    change(&app, &caller, request, id, ItemChange::Merge(Value::Object(body.data)), preconditions).await
}

async fn change(
    app: &App,
    caller: &SignedIn,
    request: CollectionRequest,
    id: ItemId,
    change: ItemChange,
    preconditions: Preconditions,
) -> ApiResult<Response> {
    let limits = app.config.section::<SpaceSettings>();
    app.change_precomputed(caller, move |tx, ctx, validated| {
        let changed = commands::update(
            tx,
            ctx,
            &request,
            id,
            &change,
            &preconditions,
            WriteConditions { validated, limits: &limits },
        );
        changed.map(|item| WriteResponse::ok(item).with_etag())
    })
    .await
}

/// Delete an item
///
/// Deletes an item. With `If-Match`, the item must not have changed since it was read.
#[utoipa::path(
    delete, path = "/api/v1/spaces/{space}/{collection}/{id}", security(("bearer" = [])),
    params(
        ("space" = inline(SpaceName), Path,
            description = "`me` for the space of the caller, `bond` for the space shared with the partner."),
        ("collection" = String, Path, pattern = "^[a-z0-9_-]{1,40}$",
            description = "Name of the collection: 1 to 40 characters of `a-z`, `0-9`, `_` and `-`."),
        ("id" = ItemId, Path, description = "ID of the item."),
    ),
    responses(
        (status = 204, description = "The item is deleted."),
        (status = 409, description = "`not_bonded`"),
        Preconditions,
    )
)]
async fn delete_item(
    State(app): State<App>,
    caller: SignedIn,
    PathParams((space, collection, id)): ItemPath,
    preconditions: Preconditions,
) -> ApiResult<Response> {
    let request = collection_request(caller.user_id, space, collection);
    app.change(&caller, move |tx, ctx| {
        commands::delete(tx, ctx, &request, id, &preconditions).map(|()| WriteResponse::no_content())
    })
    .await
}

/// Export the space of a bond
///
/// Returns all items in the space of a bond that the caller has or had. Available after the bond has ended,
/// until its archive is purged. A large export is streamed while it is read: a change made meanwhile may or
/// may not be included. One export per user runs at a time. The server setting `limits.exports_per_day`
/// limits exports per day.
#[utoipa::path(
    get, path = "/api/v1/spaces/bonds/{bond_id}/export", security(("bearer" = [])),
    params(("bond_id" = BondId, Path, description = "ID of a bond that the caller has or had.")),
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
