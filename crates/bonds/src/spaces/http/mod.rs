//! HTTP endpoints of spaces. The rules for items and declarations are in `commands.rs` and
//! `declarations.rs`.

mod declarations;
mod items;

use kith_kernel::{Problem, ProblemCode, problems};
use kith_platform::{Routes, bad_query, store_problem};

use super::model::SpaceError;

static NOT_BONDED: ProblemCode = ProblemCode { code: "not_bonded", status: 409, title: "No active bond" };
static ITEM_TOO_LARGE: ProblemCode =
    ProblemCode { code: "item_too_large", status: 413, title: "Item too large" };
static SPACE_FULL: ProblemCode = ProblemCode { code: "space_full", status: 409, title: "Space full" };
static COLLECTION_INDEXING: ProblemCode =
    ProblemCode { code: "collection_indexing", status: 409, title: "Collection indexing" };
static COLLECTION_BUILT_IN: ProblemCode =
    ProblemCode { code: "collection_built_in", status: 409, title: "Built-in collection" };

/// Problem codes that these endpoints return, in addition to the general ones.
pub const PROBLEMS: &[&ProblemCode] =
    &[&NOT_BONDED, &ITEM_TOO_LARGE, &SPACE_FULL, &COLLECTION_INDEXING, &COLLECTION_BUILT_IN];

/// Returns the routes of spaces.
pub fn routes() -> Routes {
    items::routes().merge(declarations::routes())
}

impl From<SpaceError> for Problem {
    fn from(error: SpaceError) -> Self {
        match error {
            SpaceError::NotBonded => Self::new(
                &NOT_BONDED,
                "You have no active bond, so there is no shared space. The space of a former bond returns when the bond is restored.",
            ),
            SpaceError::Unvalidated(error) => error.into(),
            SpaceError::ItemNotFound => {
                Self::new(&problems::NOT_FOUND, "The collection has no item with this ID.")
            }
            SpaceError::SpaceNotFound => Self::new(
                &problems::NOT_FOUND,
                "You have no bond with this ID, or its space has been purged.",
            ),
            SpaceError::DeclarationNotFound => {
                Self::new(&problems::NOT_FOUND, "This collection is not declared.")
            }
            SpaceError::BuiltIn => {
                Self::new(&COLLECTION_BUILT_IN, "A built-in collection cannot be declared or withdrawn.")
            }
            SpaceError::Invalid(faults) => Self::invalid(faults),
            SpaceError::BadQuery(faults) => bad_query(faults),
            SpaceError::Indexing => {
                let detail = "The fields of this collection have changed and its items are being indexed. List without order and filter, or try again later.";
                Self::new(&COLLECTION_INDEXING, detail).retry_after(60)
            }
            SpaceError::ItemTooLarge { limit } => Self::new(
                &ITEM_TOO_LARGE,
                format!(
                    "The data may have {limit} bytes without white space (setting `spaces.max_item_bytes`)."
                ),
            ),
            SpaceError::SpaceFull { limit, unit } => Self::new(
                &SPACE_FULL,
                format!(
                    "A space can contain {limit} {unit} (setting `spaces.max_{unit}`). Delete some first."
                ),
            ),
            SpaceError::Changed(changed) => changed.into(),
            SpaceError::Store(error) => store_problem(error),
        }
    }
}
