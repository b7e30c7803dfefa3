//! The answer to whoever asks for a list: a page of it, and where the next one is.

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

/// A page of a list; `page.into()` makes it. The edge adds `Link: <…>; rel="next"` (RFC 8288) if there is more.
///
/// A handler documents it as `body = ThingPage`, by `type ThingPage = PageAnswer<Thing>`.
#[derive(Debug, Serialize)]
pub struct PageAnswer<T> {
    items: Vec<T>,
    next_cursor: Option<Cursor>,
}

impl<T> From<Page<T>> for PageAnswer<T> {
    fn from(Page { items, next_cursor }: Page<T>) -> Self {
        Self { items, next_cursor }
    }
}

impl<T: Serialize> IntoResponse for PageAnswer<T> {
    fn into_response(self) -> Response {
        let mut response = Json(&self).into_response();
        if let Some(cursor) = self.next_cursor {
            response.extensions_mut().insert(cursor);
        }
        response
    }
}

/// Not derived: that would write out the item's schema in each list's.
impl<T: ToSchema> PartialSchema for PageAnswer<T> {
    fn schema() -> RefOr<Schema> {
        let item = Ref::from_schema_name(T::name());
        let items = ArrayBuilder::new().items(item).description(Some("In the list's order."));
        let text = SchemaType::from_iter([Type::String, Type::Null]);
        let about = "Goes into `cursor` to get the next page; null on the last.";
        let next_cursor = ObjectBuilder::new().schema_type(text).description(Some(about));
        let page = ObjectBuilder::new().property("items", items).property("next_cursor", next_cursor);
        page.required("items").required("next_cursor").into()
    }
}

impl<T: ToSchema> ToSchema for PageAnswer<T> {
    fn name() -> Cow<'static, str> {
        format!("{}Page", T::name()).into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((T::name().into_owned(), T::schema()));
        T::schemas(schemas);
    }
}

/// Says where the next page is, if `response` is one that has a next. `asked` is where it itself was.
pub(super) fn link_next(response: &mut Response, asked: Option<&PathAndQuery>) {
    let Some(cursor) = response.extensions_mut().remove::<Cursor>() else { return };
    let link = asked.and_then(|asked| HeaderValue::try_from(next(asked, &cursor)).ok());
    if let Some(link) = link {
        response.headers_mut().append(header::LINK, link);
    }
}

/// The same address with another cursor.
pub(super) fn next(asked: &PathAndQuery, cursor: &Cursor) -> String {
    let kept = asked.query().unwrap_or_default().split('&');
    let kept = kept.filter(|pair| !pair.is_empty() && pair.split('=').next() != Some("cursor"));
    // What would end the link, `>`, is in no address that the server has taken.
    let query: String = kept.flat_map(|pair| [pair, "&"]).collect();
    format!("<{}?{query}cursor={}>; rel=\"next\"", asked.path(), cursor.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// API-04.
    #[test]
    fn the_next_page_is_the_same_question_from_another_place() {
        let cursor = Cursor::at(&5);
        let next = |asked: &str| next(&asked.parse().unwrap(), &cursor);
        let at = cursor.as_str();
        for (asked, expected) in [
            ("/list", format!("</list?cursor={at}>; rel=\"next\"")),
            ("/list?limit=2", format!("</list?limit=2&cursor={at}>; rel=\"next\"")),
            ("/list?cursor=old", format!("</list?cursor={at}>; rel=\"next\"")),
            ("/list?a=b&cursor=old&&c=%20d", format!("</list?a=b&c=%20d&cursor={at}>; rel=\"next\"")),
            ("/list?xcursor=1", format!("</list?xcursor=1&cursor={at}>; rel=\"next\"")),
        ] {
            assert_eq!(next(asked), expected);
        }
        assert!("/list?a=>;rel=x".parse::<PathAndQuery>().is_err());
    }
}
