//! Operations that are reachable by a path they had before, too.

use utoipa::openapi::Deprecated;
use utoipa_axum::router::UtoipaMethodRouter;

use crate::App;

/// Under which an operation names the path whose limits it shares.
pub(crate) const SAME_AS: &str = "x-same-as";

/// The handlers of `new` under the path `old`: documented as deprecated, and counted by the same limits.
///
/// # Panics
/// If `new` is of more than one path, which `routes!` does not admit.
pub fn old_path(old: &str, new: UtoipaMethodRouter<App>) -> UtoipaMethodRouter<App> {
    let (schemas, mut paths, methods) = new;
    let (path, mut item) = paths.paths.pop().expect("a path");
    assert!(paths.paths.is_empty(), "{path} and others");
    for (_, operation) in super::openapi::operations_of(&mut item) {
        operation.deprecated = Some(Deprecated::True);
        operation.operation_id = operation.operation_id.take().map(|id| format!("{id}_by_old_path"));
        operation.extensions.get_or_insert_default().insert(SAME_AS.to_owned(), path.clone().into());
    }
    paths.paths.insert(old.to_owned(), item);
    (schemas, paths, methods)
}
