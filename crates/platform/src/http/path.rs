//! Typed ids from the path. One that is malformed names nothing, so it answers as an absent one does.

use std::str::FromStr;

use axum::extract::{FromRequestParts, RawPathParams};
use http::request::Parts;
use kith_kernel::{Problem, problems};

use super::problem::ApiError;
use crate::App;

/// The last id in the path: `PathId(id): PathId<BondId>`.
#[derive(Clone, Copy, Debug)]
pub struct PathId<T>(pub T);

impl<T: FromStr> FromRequestParts<App> for PathId<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let params = RawPathParams::from_request_parts(parts, app).await.ok();
        let id = params.and_then(|params| params.iter().last()?.1.parse().ok());
        id.map(Self)
            .ok_or_else(|| Problem::new(&problems::NOT_FOUND, "There is nothing with this id.").into())
    }
}
