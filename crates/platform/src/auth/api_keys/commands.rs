//! Commands that create and revoke API keys. Each command writes an audit entry, and emits an event for all
//! nodes.

use std::time::Duration;

use kith_kernel::{ApiKeyId, Ctx, Problem, UserId, problems};
use kith_store::{Error, NewEvent, Query, Tx};
use serde_json::json;

use super::model::{ApiKey, ApiKeyError, ApiKeyStatus, NewApiKey};
use super::text::{ApiKeyText, public_prefix};
use super::{CREATED, REVOKED, rows};
use crate::App;
use crate::auth::{Permission as _, WriteApiKeys};
use crate::http::store_problem;

/// Creates a key for `creator`. Returns the key and its complete text, which cannot be recovered later.
///
/// # Errors
/// Returns the store's error if the database fails.
pub fn create(tx: &Tx<'_>, ctx: &Ctx, creator: UserId, new: &NewApiKey) -> Result<(ApiKey, String), Error> {
    let text = ApiKeyText::new(ctx.new_id(ApiKeyId), ctx.random());
    let key = ApiKey {
        id: text.id,
        prefix: public_prefix(text.id),
        name: new.name.clone(),
        scopes: new.scopes.clone(),
        status: ApiKeyStatus::Active,
        created_by: creator,
        created_at: ctx.now,
        expires_at: new.expires_at,
        revoked_at: None,
        last_used_at: None,
    };
    rows::insert(tx, &key, &text.digest())?;
    let details = json!({ "name": key.name, "scopes": key.scopes, "expires_at": key.expires_at });
    tx.audit_with_details(ctx, CREATED, key.id, Some(creator), details);
    tx.emit(ctx, api_key_event(CREATED, &key));
    Ok((key, text.reveal()))
}

/// Creates an API key on behalf of the administrator `creator`, for the command line of the server.
///
/// # Errors
/// Returns a problem if `creator` may not create keys, if the input is invalid, or if the database fails.
pub async fn create_from_command_line(
    app: &App,
    creator: UserId,
    name: &str,
    scopes: &[String],
    lifetime: Option<Duration>,
) -> Result<(ApiKey, String), Problem> {
    let ctx = app.system_ctx("command_line");
    let role = app.access.role_of(app, creator).await?.filter(|role| role.has(WriteApiKeys::NAME));
    let role =
        role.ok_or_else(|| Problem::new(&problems::FORBIDDEN, "Only administrators can have API keys."))?;
    let expires_at = lifetime.map(|lifetime| ctx.now + lifetime);
    let new = NewApiKey::parse(role, ctx.now, name, scopes, expires_at).map_err(Problem::invalid)?;
    app.write(&ctx, move |tx, ctx| create(tx, ctx, creator, &new)).await.map_err(store_problem)
}

/// Revokes a key immediately. A key that is already revoked stays unchanged.
///
/// # Errors
/// Returns [`ApiKeyError::NotFound`] if no key has this id, and [`ApiKeyError::Store`] if the database fails.
pub fn revoke(tx: &Tx<'_>, ctx: &Ctx, id: ApiKeyId) -> Result<(), ApiKeyError> {
    tx.lock("api_key", [id])?;
    let key = rows::find(tx, id, ctx.now)?.ok_or(ApiKeyError::NotFound)?;
    if rows::revoke(tx, id, ctx.now)? {
        tx.audit(ctx, REVOKED, id);
        tx.emit(ctx, api_key_event(REVOKED, &key));
    }
    Ok(())
}

/// Returns up to `limit` keys with an id less than `before`, newest first.
///
/// # Errors
/// Returns the store's error if the database fails.
pub fn list(q: &Query<'_>, ctx: &Ctx, before: ApiKeyId, limit: i64) -> Result<Vec<ApiKey>, Error> {
    rows::list(q, before, limit, ctx.now)
}

fn api_key_event(kind: &'static str, key: &ApiKey) -> NewEvent {
    let payload = json!({ "api_key_id": key.id, "name": key.name });
    NewEvent { kind, subject: key.id.0, recipients: vec![key.created_by], payload }
}
