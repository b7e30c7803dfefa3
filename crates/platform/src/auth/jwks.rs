//! The public keys, where anyone who checks our tokens finds them.

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

/// The keys that access tokens are signed with. A new one stands here for as long as this answer may be kept, and a minute
/// more, before it is used.
#[utoipa::path(
    get, path = "/.well-known/jwks.json",
    operation_id = "list_signing_keys",
    responses((status = 200, description = "A JSON Web Key Set (RFC 7517)", body = JsonWebKeySet))
)]
async fn keys(State(app): State<App>) -> Response {
    let mut response = Json(app.tokens.published_lately(&app, app.sources.clock.now()).await).into_response();
    let max_age = format!("public, max-age={}", JWKS_MAX_AGE.as_secs());
    let max_age = HeaderValue::try_from(max_age).expect("digits are legal in a header");
    response.headers_mut().insert(header::CACHE_CONTROL, max_age);
    response
}
