//! HTTP endpoints for administering API keys. Only the response that creates a key contains its secret.

use axum::extract::State;
use axum::response::Response;
use kith_kernel::uuid::Uuid;
use kith_kernel::{ApiKeyId, Cursor, Page, Problem, Timestamp, problems};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::super::{Allowed, AllowedUser, ReadApiKeys, WriteApiKeys};
use super::model::{ApiKey, ApiKeyError, NewApiKey};
use super::{commands, rows};
use crate::http::{PathId, cursor_problem, store_problem};
use crate::{ApiResult, App, Json, PageQuery, PageResponse, Routes, WriteResponse};

type ApiKeyPage = PageResponse<ApiKey>;

pub(crate) fn routes() -> Routes {
    Routes::new().routes(routes!(create_api_key, list_api_keys)).routes(routes!(get_api_key, revoke_api_key))
}

/// API key to create.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewApiKeyBody {
    /// Name that tells administrators what the key is used for. 1 to 80 characters.
    name: String,
    /// Permissions of the key: 1 to 50, each held by the caller's own role. `users.set_role`,
    /// `users.suspend`, `users.verify` and `api_keys.write` cannot be granted to a key.
    #[schema(example = json!(["jobs.read"]))]
    scopes: Vec<String>,
    /// Time from which the key is rejected; must be in the future. If null or absent, the key does not
    /// expire.
    #[serde(default)]
    expires_at: Option<Timestamp>,
}

/// API key that was just created, with its secret.
#[derive(Serialize, ToSchema)]
struct CreatedApiKey {
    #[serde(flatten)]
    about: ApiKey,
    /// Complete API key, to be sent as `Authorization: Bearer <key>`. It is returned only once; the server
    /// stores only a digest of its secret.
    #[schema(
        example = "kith_06gvr4a6tpo03dm123evt0lv9s_a3c5ho4obr67uo21hangphdbb1vk5gin1a4415d9t36apk7mahe1dk8h2k"
    )]
    key: String,
}

/// Create an API key
///
/// Creates a key that programs send in place of an access token. The key is valid only while the user who
/// created it may create keys: it is rejected while that user is suspended, deleted or no longer an
/// administrator. API keys cannot create API keys. The response is the only one that contains the key.
/// Requires the permission `api_keys.write`.
#[utoipa::path(
    post, path = "/api/v1/admin/api-keys", security(("bearer" = ["api_keys.write"])),
    request_body = NewApiKeyBody,
    responses((status = 201, body = CreatedApiKey))
)]
async fn create_api_key(
    State(app): State<App>,
    AllowedUser { caller, .. }: AllowedUser<WriteApiKeys>,
    Json(body): Json<NewApiKeyBody>,
) -> ApiResult<Response> {
    let NewApiKeyBody { name, scopes, expires_at } = body;
    let new = NewApiKey::parse(caller.role, caller.ctx.now, &name, &scopes, expires_at);
    let new = new.map_err(Problem::invalid)?;
    let creator = caller.user_id;
    app.change(&caller, move |tx, ctx| {
        let (about, key) = commands::create(tx, ctx, creator, &new)?;
        Ok::<_, ApiKeyError>(WriteResponse::created(CreatedApiKey { about, key }))
    })
    .await
}

/// List API keys
///
/// Returns the API keys of all users, newest first, including expired and revoked ones. Requires the
/// permission `api_keys.read`.
#[utoipa::path(
    get, path = "/api/v1/admin/api-keys", security(("bearer" = ["api_keys.read"])),
    params(PageQuery),
    responses((status = 200, body = ApiKeyPage))
)]
async fn list_api_keys(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<ReadApiKeys>,
    page: PageQuery,
) -> ApiResult<ApiKeyPage> {
    let limit = page.limit()?;
    let before = page.cursor.as_ref().map(Cursor::key).transpose().map_err(cursor_problem)?;
    let before = before.unwrap_or(ApiKeyId(Uuid::max()));
    let rows = app.db.read(move |q| commands::list(q, &caller.ctx, before, limit.rows())).await;
    Ok(Page::from_rows(rows.map_err(store_problem)?, limit, |key| key.id).into())
}

/// Get an API key
///
/// Returns an API key without its secret. Requires the permission `api_keys.read`.
#[utoipa::path(
    get, path = "/api/v1/admin/api-keys/{id}", security(("bearer" = ["api_keys.read"])),
    params(("id" = ApiKeyId, Path, description = "ID of the API key.")),
    responses(
        (status = 200, body = ApiKey),
        (status = 404, description = "No API key has this ID."),
    )
)]
async fn get_api_key(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<ReadApiKeys>,
    PathId(id): PathId<ApiKeyId>,
) -> ApiResult<Json<ApiKey>> {
    let found = app.db.read(move |q| rows::find(q, id, caller.ctx.now)).await.map_err(store_problem)?;
    Ok(Json(found.ok_or(ApiKeyError::NotFound)?))
}

/// Revoke an API key
///
/// Revokes the key permanently. The node that handles the request rejects the key at once; other nodes reject
/// it within about a second. If the key is already revoked, nothing changes. API keys cannot revoke API keys.
/// Requires the permission `api_keys.write`.
#[utoipa::path(
    delete, path = "/api/v1/admin/api-keys/{id}", security(("bearer" = ["api_keys.write"])),
    params(("id" = ApiKeyId, Path, description = "ID of the API key.")),
    responses(
        (status = 204, description = "The API key is revoked."),
        (status = 404, description = "No API key has this ID."),
    )
)]
async fn revoke_api_key(
    State(app): State<App>,
    AllowedUser { caller, .. }: AllowedUser<WriteApiKeys>,
    PathId(id): PathId<ApiKeyId>,
) -> ApiResult<Response> {
    app.change(&caller, move |tx, ctx| commands::revoke(tx, ctx, id).map(|()| WriteResponse::no_content()))
        .await
}

impl From<ApiKeyError> for Problem {
    fn from(error: ApiKeyError) -> Self {
        match error {
            ApiKeyError::NotFound => Self::new(&problems::NOT_FOUND, "No API key has this id."),
            ApiKeyError::Store(error) => store_problem(error),
        }
    }
}
