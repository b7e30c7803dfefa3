//! Responses of list endpoints: one page of items, and the cursor of the next page.

use std::borrow::Cow;

use axum::response::{IntoResponse, Response};
use http::header::{self, HeaderValue};
use http::uri::PathAndQuery;
use kith_kernel::{Cursor, Page};
use serde::Serialize;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

use super::Json;

/// One page of a list, created from a [`Page`] with `into()`. If another page follows, the response has the
/// header `Link: <…>; rel="next"` (RFC 8288).
///
/// A handler documents its response as `body = ThingPage`, with `type ThingPage = PageResponse<Thing>`.
#[derive(Debug, Serialize)]
pub struct PageResponse<T> {
    items: Vec<T>,
    next_cursor: Option<Cursor>,
}

impl<T> From<Page<T>> for PageResponse<T> {
    fn from(Page { items, next_cursor }: Page<T>) -> Self {
        Self { items, next_cursor }
    }
}

impl<T: Serialize> IntoResponse for PageResponse<T> {
    fn into_response(self) -> Response {
        let mut response = Json(&self).into_response();
        if let Some(cursor) = self.next_cursor {
            response.extensions_mut().insert(cursor);
        }
        response
    }
}

/// Implemented manually, because the derived schema would repeat the schema of the item in every list.
impl<T: ToSchema> PartialSchema for PageResponse<T> {
    fn schema() -> RefOr<Schema> {
        let item = Ref::from_schema_name(T::name());
        let items =
            ArrayBuilder::new().items(item).description(Some("Items of the page, in the order of the list."));
        let text = SchemaType::from_iter([Type::String, Type::Null]);
        let about = "Cursor of the next page, to be sent as `cursor`; null on the last page.";
        let next_cursor = ObjectBuilder::new().schema_type(text).description(Some(about));
        let page = ObjectBuilder::new().property("items", items).property("next_cursor", next_cursor);
        page.required("items").required("next_cursor").into()
    }
}

impl<T: ToSchema> ToSchema for PageResponse<T> {
    fn name() -> Cow<'static, str> {
        format!("{}Page", T::name()).into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((T::name().into_owned(), T::schema()));
        T::schemas(schemas);
    }
}

/// Adds the `Link` header for the next page if `response` has a cursor. `uri` is the URI of the request.
pub(super) fn add_next_link(response: &mut Response, uri: Option<&PathAndQuery>) {
    let Some(cursor) = response.extensions_mut().remove::<Cursor>() else { return };
    let link = uri.and_then(|uri| HeaderValue::try_from(next(uri, &cursor)).ok());
    if let Some(link) = link {
        response.headers_mut().append(header::LINK, link);
    }
}

/// Formats the value of the `Link` header: `uri` with `cursor` in place of its own cursor.
pub(super) fn next(uri: &PathAndQuery, cursor: &Cursor) -> String {
    let kept = uri.query().unwrap_or_default().split('&');
    let kept = kept.filter(|pair| !pair.is_empty() && pair.split('=').next() != Some("cursor"));
    // `>` would end the link, but cannot occur in a request URI that the server has accepted.
    let query: String = kept.flat_map(|pair| [pair, "&"]).collect();
    format!("<{}?{query}cursor={}>; rel=\"next\"", uri.path(), cursor.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves the readiness requirement API-04.
    #[test]
    fn next_link_replaces_only_the_cursor() {
        let cursor = Cursor::at(&5);
        let next = |uri: &str| next(&uri.parse().unwrap(), &cursor);
        let at = cursor.as_str();
        for (uri, expected) in [
            ("/list", format!("</list?cursor={at}>; rel=\"next\"")),
            ("/list?limit=2", format!("</list?limit=2&cursor={at}>; rel=\"next\"")),
            ("/list?cursor=old", format!("</list?cursor={at}>; rel=\"next\"")),
            ("/list?a=b&cursor=old&&c=%20d", format!("</list?a=b&c=%20d&cursor={at}>; rel=\"next\"")),
            ("/list?xcursor=1", format!("</list?xcursor=1&cursor={at}>; rel=\"next\"")),
        ] {
            assert_eq!(next(uri), expected);
        }
        assert!("/list?a=>;rel=x".parse::<PathAndQuery>().is_err());
    }
}
