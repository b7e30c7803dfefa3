//! HTTP endpoints of collection declarations. Administrators can write declarations; all users can list
//! them.

use axum::extract::State;
use axum::response::Response;
use kith_platform::auth::WriteCollections;
use kith_platform::{
    Allowed, ApiResult, App, Json, PageQuery, PageResponse, PathId, Preconditions, Routes, SignedIn,
    WriteResponse, cursor_problem,
};
use utoipa_axum::routes;

use super::super::declaration::Declaration;
use super::super::declarations::{self, DeclarationBody};
use super::super::model::CollectionName;
use super::super::queries::{self, DeclarationFilter};
use kith_json_schema as json_schema;

type DeclarationPage = PageResponse<Declaration>;

pub fn routes() -> Routes {
    Routes::new().routes(routes!(list_collections)).routes(routes!(
        get_collection,
        declare_collection,
        withdraw_collection
    ))
}

/// List declared collections
///
/// Returns the declarations of all collections, ordered by name.
#[utoipa::path(
    get, path = "/api/v1/collections", security(("bearer" = [])),
    params(PageQuery),
    responses((status = 200, body = DeclarationPage))
)]
async fn list_collections(
    State(app): State<App>,
    _: SignedIn,
    query: PageQuery,
) -> ApiResult<DeclarationPage> {
    let list = DeclarationFilter::new(query.cursor.as_ref(), query.limit()?).map_err(cursor_problem)?;
    Ok(app.db.read(move |q| queries::list_declarations(q, &list)).await?.into())
}

/// Get a collection declaration
///
/// Returns the declaration of one collection. Requires the permission `collections.write`.
#[utoipa::path(
    get, path = "/api/v1/admin/collections/{name}", security(("bearer" = ["collections.write"])),
    params((
        "name" = String, Path, pattern = "^[a-z0-9_-]{1,40}$",
        description = "Name of the collection: 1 to 40 characters of `a-z`, `0-9`, `_` and `-`."
    )),
    responses((status = 200, body = Declaration))
)]
async fn get_collection(
    State(app): State<App>,
    _: Allowed<WriteCollections>,
    PathId(name): PathId<CollectionName>,
) -> ApiResult<Json<Declaration>> {
    Ok(Json(app.db.read(move |q| queries::get_declaration(q, &name)).await?))
}

/// Declare a collection
///
/// Sets the JSON Schema and the list fields of a collection in all spaces. Existing items are not validated
/// until they are next written. After a change of the fields, existing items are indexed in the background.
/// Until all are indexed, lists that use fields return 409 `collection_indexing`. If the declaration is
/// unchanged, nothing happens. With `If-Match`, the declaration must not have changed since it was read.
/// Requires the permission `collections.write`.
#[utoipa::path(
    put, path = "/api/v1/admin/collections/{name}", security(("bearer" = ["collections.write"])),
    params((
        "name" = String, Path, pattern = "^[a-z0-9_-]{1,40}$",
        description = "Name of the collection: 1 to 40 characters of `a-z`, `0-9`, `_` and `-`."
    )),
    request_body = DeclarationBody,
    responses(
        (status = 200, body = Declaration),
        (status = 409, description = "`collection_built_in`"),
        Preconditions,
    )
)]
async fn declare_collection(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteCollections>,
    PathId(name): PathId<CollectionName>,
    preconditions: Preconditions,
    Json(body): Json<DeclarationBody>,
) -> ApiResult<Response> {
    let checked = declarations::check(&name, body)?;
    if let Some(schema) = checked.schema.clone() {
        app.compute_for(&caller, move || json_schema::check_declared(&schema)).await?;
    }
    app.change(&caller, move |tx, ctx| {
        let declared = declarations::declare(tx, ctx, &name, &checked, &preconditions);
        declared.map(|declaration| WriteResponse::ok(declaration).with_etag())
    })
    .await
}

/// Withdraw a collection declaration
///
/// Removes the schema and the list fields of a collection. Its items stay, and new items can have any
/// content. Requires the permission `collections.write`.
#[utoipa::path(
    delete, path = "/api/v1/admin/collections/{name}", security(("bearer" = ["collections.write"])),
    params((
        "name" = String, Path, pattern = "^[a-z0-9_-]{1,40}$",
        description = "Name of the collection: 1 to 40 characters of `a-z`, `0-9`, `_` and `-`."
    )),
    responses(
        (status = 204, description = "The declaration is withdrawn. New items can have any content."),
        (status = 409, description = "`collection_built_in`"),
        Preconditions,
    )
)]
async fn withdraw_collection(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteCollections>,
    PathId(name): PathId<CollectionName>,
    preconditions: Preconditions,
) -> ApiResult<Response> {
    app.change(&caller, move |tx, ctx| {
        declarations::withdraw(tx, ctx, &name, &preconditions).map(|()| WriteResponse::no_content())
    })
    .await
}
