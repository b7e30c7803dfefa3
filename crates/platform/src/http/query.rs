//! Extracts query parameters strictly. The error for an unknown parameter contains its name.

use axum::extract::FromRequestParts;
use http::request::Parts;
use kith_kernel::{Cursor, FieldError, PageLimit, Problem};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa::IntoParams;

use super::problem::{ApiError, bad_query};
use crate::App;

/// Extractor that deserializes the query into `T`. Derive `T` with `deny_unknown_fields`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<App> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, ApiError> {
        parse(parts.uri.query().unwrap_or_default()).map(Self).map_err(ApiError::from)
    }
}

/// Pagination parameters of a list without filters. The query type of a list with filters declares `limit`
/// and `cursor` itself, and its handler calls [`page_limit`].
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// Maximum number of items per page, 1 to 100. Larger values are reduced to 100; values below 1 are
    /// rejected.
    #[param(default = 20, minimum = 1)]
    pub limit: Option<i64>,
    /// `next_cursor` of the previous page. Absent for the first page.
    pub cursor: Option<Cursor>,
}

impl PageQuery {
    /// Returns the page size.
    ///
    /// # Errors
    /// Returns a 400 problem if `limit` is less than 1.
    pub fn limit(&self) -> Result<PageLimit, Problem> {
        page_limit(self.limit)
    }
}

impl FromRequestParts<App> for PageQuery {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        Query::from_request_parts(parts, app).await.map(|Query(page)| page)
    }
}

/// Returns the page size for the query parameter `limit`.
///
/// # Errors
/// Returns a 400 problem if `requested` is less than 1.
pub fn page_limit(requested: Option<i64>) -> Result<PageLimit, Problem> {
    requested
        .map_or_else(|| Some(PageLimit::default()), PageLimit::new)
        .ok_or_else(|| bad_query(vec![FieldError::new("?limit", "too_small", "Must be at least 1.")]))
}

pub(super) fn parse<T: DeserializeOwned>(query: &str) -> Result<T, Problem> {
    // The databases cannot store U+0000 in text.
    let nul = form_urlencoded::parse(query.as_bytes()).find(|(_, value)| value.contains('\0'));
    if let Some((name, _)) = nul {
        let detail = "Text must not contain U+0000.";
        return Err(bad_query(vec![FieldError::new(format!("?{name}"), "forbidden_character", detail)]));
    }
    let pairs = serde_urlencoded::Deserializer::new(form_urlencoded::parse(query.as_bytes()));
    serde_path_to_error::deserialize(pairs).map_err(|error| {
        let message = error.inner().to_string();
        let quoted = message.split('`').nth(1).unwrap_or_default();
        let name = if message.starts_with("missing field") || message.starts_with("duplicate field") {
            quoted.to_owned()
        } else {
            error.path().to_string()
        };
        let (code, detail) = match message.split(' ').next() {
            Some("unknown") if message.starts_with("unknown field") => {
                ("unknown_parameter", "This parameter does not exist.")
            }
            Some("missing") => ("missing", "This parameter is required."),
            Some("duplicate") => ("duplicate_parameter", "This parameter occurs twice."),
            _ => ("invalid", "The value is not valid for this parameter."),
        };
        bad_query(vec![FieldError::new(format!("?{name}"), code, detail)])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_list_parameters_are_reported() {
        for (query, pointer, code) in [
            ("limit=x", "?limit", "invalid"),
            ("limit=1&page=2", "?page", "unknown_parameter"),
            ("limit=1&limit=2", "?limit", "duplicate_parameter"),
            ("cursor=a%00b", "?cursor", "forbidden_character"),
        ] {
            let error = &parse::<PageQuery>(query).unwrap_err().errors[0];
            assert_eq!((&*error.pointer, error.code), (pointer, code), "{query}");
        }
    }

    #[test]
    fn page_limit_has_default_and_minimum() {
        let limit = |query| parse::<PageQuery>(query).unwrap().limit();
        assert_eq!(limit(""), Ok(PageLimit::default()));
        assert_eq!(limit("limit=500").unwrap().rows(), 101);
        assert_eq!(limit("limit=0").unwrap_err().errors[0].pointer, "?limit");
    }
}
