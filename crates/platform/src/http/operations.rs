//! Lists the operations of a path or a document.

use http::Method;
use utoipa::openapi::path::Operation;
use utoipa::openapi::{OpenApi, PathItem};

/// Returns all operations of `item`, each with its method.
pub(super) fn operations_of(item: &mut PathItem) -> impl Iterator<Item = (Method, &mut Operation)> {
    let slots = [
        (Method::GET, &mut item.get),
        (Method::PUT, &mut item.put),
        (Method::POST, &mut item.post),
        (Method::DELETE, &mut item.delete),
        (Method::PATCH, &mut item.patch),
    ];
    slots.into_iter().filter_map(|(method, slot)| Some((method, slot.as_mut()?)))
}

/// Returns all operations of the document, each with path template and method.
pub fn operations(document: &OpenApi) -> impl Iterator<Item = (&str, Method, &Operation)> {
    document.paths.paths.iter().flat_map(|(path, item)| {
        let slots = [
            (Method::GET, &item.get),
            (Method::PUT, &item.put),
            (Method::POST, &item.post),
            (Method::DELETE, &item.delete),
            (Method::PATCH, &item.patch),
        ];
        slots.into_iter().filter_map(move |(method, slot)| Some((path.as_str(), method, slot.as_ref()?)))
    })
}
