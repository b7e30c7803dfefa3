//! Tags of the OpenAPI document, which group the operations. Their order is the one in which a new user needs
//! them.

use utoipa::openapi::path::Operation;
use utoipa::openapi::{Deprecated, OpenApi, tag};

use super::operations::{operations, operations_of};
use crate::module::{Module, Routes, Tag};

/// Operations for administrators and operators: all paths below `/api/v1/admin/`, and operations with this
/// tag.
const ADMINISTRATION: Tag = Tag {
    name: "Administration",
    description: "Manage accounts, API keys and settings. Each operation names the permission that it requires.",
};
/// Operations of the server itself.
pub(crate) const SYSTEM_TAG: Tag = Tag {
    name: "System",
    description: "Health, metrics and documentation of this server. They need no access token.",
};
/// Operations at deprecated paths.
const DEPRECATED: Tag = Tag {
    name: "Deprecated",
    description: "Former paths. They behave like their replacements and share their rate limits.",
};
/// Tags that come after the tags of the modules, in this order.
const LAST: &[&str] = &[ADMINISTRATION.name, SYSTEM_TAG.name, DEPRECATED.name];
/// Extension that contains the position of an operation within its tag. The page at `/docs` sorts by it.
const ORDER: &str = "x-order";

/// Adds the operations of `routes` to the group `tag`. The tag must be one of their module's
/// [`Module::tags`], or one of the tags that all modules share.
#[must_use]
pub fn tagged(tag: &'static str, mut routes: Routes) -> Routes {
    for item in routes.get_openapi_mut().paths.paths.values_mut() {
        for (_, operation) in operations_of(item) {
            operation.tags = Some(vec![tag.to_owned()]);
        }
    }
    routes
}

/// Sets the tag of an operation of `module`. The operations of a tag are shown in ascending `order`.
pub(super) fn tag(operation: &mut Operation, module: &Module, path: &str, order: usize) {
    let own = operation.tags.take().and_then(|tags| tags.into_iter().next()).filter(|tag| !tag.is_empty());
    let name = match operation.deprecated {
        Some(Deprecated::True) => DEPRECATED.name.to_owned(),
        _ if path.starts_with("/api/v1/admin/") => ADMINISTRATION.name.to_owned(),
        _ => own.unwrap_or_else(|| module.tags.first().map_or(module.name, |tag| tag.name).to_owned()),
    };
    operation.tags = Some(vec![name]);
    operation.extensions.get_or_insert_default().insert(ORDER.to_owned(), order.into());
}

/// Adds descriptions of all tags that operations of `document` have.
pub(super) fn describe_tags(document: &mut OpenApi, modules: &[&Module]) {
    let shared = [ADMINISTRATION, SYSTEM_TAG, DEPRECATED];
    let mut tags: Vec<Tag> = Vec::new();
    for tag in modules.iter().flat_map(|module| module.tags).chain(&shared) {
        let is_used = |tag: &Tag| operations(document).any(|(_, _, operation)| has_tag(operation, tag));
        if !tags.contains(tag) && is_used(tag) {
            tags.push(*tag);
        }
    }
    tags.sort_by_key(|tag| LAST.iter().position(|last| *last == tag.name).map_or(0, |position| position + 1));
    let described =
        |tag: Tag| tag::TagBuilder::new().name(tag.name).description(Some(tag.description)).build();
    document.tags = Some(tags.into_iter().map(described).collect());
}

fn has_tag(operation: &Operation, tag: &Tag) -> bool {
    operation.tags.iter().flatten().any(|name| name == tag.name)
}
