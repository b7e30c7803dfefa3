//! Extractors for path parameters. A malformed id is rejected with 404, like an id that does not exist.

use std::str::FromStr;

use axum::extract::{FromRequestParts, Path, RawPathParams};
use http::request::Parts;
use kith_kernel::{Problem, problems};
use serde::de::DeserializeOwned;

use super::problem::ApiError;
use crate::App;

/// Last path parameter, parsed as an id: `PathId(id): PathId<BondId>`.
#[derive(Clone, Copy, Debug)]
pub struct PathId<T>(pub T);

impl<T: FromStr> FromRequestParts<App> for PathId<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let params = RawPathParams::from_request_parts(parts, app).await.ok();
        let id = params.and_then(|params| params.iter().last()?.1.parse().ok());
        id.map(Self).ok_or_else(|| Problem::new(&problems::NOT_FOUND, "No resource has this id.").into())
    }
}

/// All path parameters, in their order: `PathParams((space, id)): PathParams<(SpaceName, ItemId)>`.
#[derive(Clone, Copy, Debug)]
pub struct PathParams<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<App> for PathParams<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let params = Path::<T>::from_request_parts(parts, app).await;
        params.map(|Path(params)| Self(params)).map_err(|_| {
            Problem::new(&problems::NOT_FOUND, "The path parameters are not valid. See /docs.").into()
        })
    }
}
