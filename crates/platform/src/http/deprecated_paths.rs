//! Serves operations under their deprecated paths, too.

use utoipa::openapi::Deprecated;
use utoipa_axum::router::UtoipaMethodRouter;

use crate::App;

/// OpenAPI extension of a deprecated path. Its value is the new path, whose rate limits the deprecated path
/// shares.
pub(crate) const SAME_AS: &str = "x-same-as";

/// Returns the handlers of `new` under the path `old`. The OpenAPI document marks these operations as
/// deprecated, with the new path as their summary. They share the rate limits of `new`.
///
/// # Panics
/// Panics if `new` has more than one path, which `routes!` does not allow.
pub fn deprecated_path(old: &str, new: UtoipaMethodRouter<App>) -> UtoipaMethodRouter<App> {
    let (schemas, mut paths, methods) = new;
    let (path, mut item) = paths.paths.pop().expect("a path");
    assert!(paths.paths.is_empty(), "{path} and others");
    for (method, operation) in super::operations::operations_of(&mut item) {
        operation.deprecated = Some(Deprecated::True);
        operation.summary = Some(format!("Deprecated: use `{method} {path}`"));
        operation.operation_id = operation.operation_id.take().map(|id| format!("{id}_by_old_path"));
        operation.extensions.get_or_insert_default().insert(SAME_AS.to_owned(), path.clone().into());
    }
    paths.paths.insert(old.to_owned(), item);
    (schemas, paths, methods)
}
