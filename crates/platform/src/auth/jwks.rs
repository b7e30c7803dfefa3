//! HTTP endpoint that returns the public keys for verifying access tokens.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use utoipa_axum::routes;

use super::signing_keys::{JWKS_MAX_AGE, JsonWebKeySet};
use crate::http::Json;
use crate::{App, Routes};

pub(crate) fn routes() -> Routes {
    Routes::new().routes(routes!(keys))
}

/// Get the JSON Web Key Set
///
/// Returns the public keys for verifying access tokens. The response may be cached for five minutes. A new
/// key is published six minutes before it first signs a token, unless an operator rotates keys at once.
#[utoipa::path(
    get, path = "/.well-known/jwks.json",
    operation_id = "list_signing_keys",
    responses((status = 200, description = "JSON Web Key Set (RFC 7517).", body = JsonWebKeySet))
)]
async fn keys(State(app): State<App>) -> Response {
    let mut response = Json(app.tokens.current_key_set(&app, app.sources.clock.now()).await).into_response();
    let max_age = format!("public, max-age={}", JWKS_MAX_AGE.as_secs());
    let max_age = HeaderValue::try_from(max_age).expect("digits are legal in a header");
    response.headers_mut().insert(header::CACHE_CONTROL, max_age);
    response
}
