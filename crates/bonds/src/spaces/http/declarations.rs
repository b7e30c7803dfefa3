//! What collections are declared to hold: for administrators to say, and for everybody to see.

use axum::extract::State;
use axum::response::Response;
use kith_platform::auth::WriteCollections;
use kith_platform::{
    Allowed, Answer, ApiResult, App, Json, PageAnswer, PageQuery, PathId, Preconditions, Routes, SignedIn,
    cursor_problem,
};
use utoipa_axum::routes;

use super::super::declarations::{self, Declaration, DeclarationBody};
use super::super::model::CollectionName;
use super::super::queries::{self, DeclarationList};
use kith_json_schema as json_schema;

type DeclarationPage = PageAnswer<Declaration>;

pub fn routes() -> Routes {
    Routes::new().routes(routes!(list_collections)).routes(routes!(
        get_collection,
        declare_collection,
        withdraw_collection
    ))
}

/// The collections of which something is declared, by name.
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
    let list = DeclarationList::new(query.cursor.as_ref(), query.limit()?).map_err(cursor_problem)?;
    Ok(app.db.read(move |q| queries::list_declarations(q, &list)).await?.into())
}

/// What is declared of a collection.
#[utoipa::path(
    get, path = "/api/v1/admin/collections/{name}", security(("bearer" = ["collections.write"])),
    params(("name" = String, Path, pattern = "^[a-z0-9_-]{1,40}$", description = "Of the collection")),
    responses((status = 200, body = Declaration))
)]
async fn get_collection(
    State(app): State<App>,
    _: Allowed<WriteCollections>,
    PathId(name): PathId<CollectionName>,
) -> ApiResult<Json<Declaration>> {
    Ok(Json(app.db.read(move |q| queries::get_declaration(q, &name)).await?))
}

/// Declare what a collection holds, in every space. Items that are there stay as they are until they are written again; by
/// new fields they are known within a minute or so.
#[utoipa::path(
    put, path = "/api/v1/admin/collections/{name}", security(("bearer" = ["collections.write"])),
    params(("name" = String, Path, pattern = "^[a-z0-9_-]{1,40}$", description = "Of the collection")),
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
        declared.map(|declaration| Answer::ok(declaration).with_etag())
    })
    .await
}

/// Withdraw what is declared of a collection. Its items stay.
#[utoipa::path(
    delete, path = "/api/v1/admin/collections/{name}", security(("bearer" = ["collections.write"])),
    params(("name" = String, Path, pattern = "^[a-z0-9_-]{1,40}$", description = "Of the collection")),
    responses(
        (status = 204, description = "It holds anything from now on"),
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
        declarations::withdraw(tx, ctx, &name, &preconditions).map(|()| Answer::no_content())
    })
    .await
}
