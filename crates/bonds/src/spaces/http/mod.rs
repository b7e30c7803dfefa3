//! Requests and answers about spaces. What an item may be is decided in `commands.rs` and `declarations.rs`, never here.

mod declarations;
mod items;

use kith_kernel::{Problem, ProblemCode, problems};
use kith_platform::{Routes, bad_query, store_problem};

use super::model::SpaceError;

static NOT_BONDED: ProblemCode =
    ProblemCode { code: "not_bonded", status: 409, title: "You have no partner" };
static ITEM_TOO_LARGE: ProblemCode =
    ProblemCode { code: "item_too_large", status: 413, title: "The item is too large" };
static SPACE_FULL: ProblemCode = ProblemCode { code: "space_full", status: 409, title: "The space is full" };
static COLLECTION_INDEXING: ProblemCode =
    ProblemCode { code: "collection_indexing", status: 409, title: "The collection is being indexed" };
static COLLECTION_BUILT_IN: ProblemCode =
    ProblemCode { code: "collection_built_in", status: 409, title: "This collection is built in" };

/// What these handlers answer with, beside the general problems.
pub const PROBLEMS: &[&ProblemCode] =
    &[&NOT_BONDED, &ITEM_TOO_LARGE, &SPACE_FULL, &COLLECTION_INDEXING, &COLLECTION_BUILT_IN];

/// The handlers.
pub fn routes() -> Routes {
    items::routes().merge(declarations::routes())
}

impl From<SpaceError> for Problem {
    fn from(error: SpaceError) -> Self {
        match error {
            SpaceError::NotBonded => Self::new(
                &NOT_BONDED,
                "Two partners share a space; what former ones kept comes back with them.",
            ),
            SpaceError::Unvalidated(awaits) => awaits.into(),
            SpaceError::ItemNotFound => Self::new(&problems::NOT_FOUND, "There is no such item."),
            SpaceError::SpaceNotFound => Self::new(
                &problems::NOT_FOUND,
                "You have no bond with this id, or its space is gone for good.",
            ),
            SpaceError::DeclarationNotFound => {
                Self::new(&problems::NOT_FOUND, "Nothing is declared of this collection.")
            }
            SpaceError::BuiltIn => Self::new(&COLLECTION_BUILT_IN, "Kith itself says what it holds."),
            SpaceError::Invalid(faults) => Self::invalid(faults),
            SpaceError::BadQuery(faults) => bad_query(faults),
            SpaceError::Indexing => {
                let detail =
                    "Its fields were declared anew; until all items are known by them, list without.";
                Self::new(&COLLECTION_INDEXING, detail).retry_after(60)
            }
            SpaceError::ItemTooLarge { most } => Self::new(
                &ITEM_TOO_LARGE,
                format!("Without white space the data may have {most} bytes (`spaces.item_bytes`)."),
            ),
            SpaceError::SpaceFull { most, what } => {
                Self::new(&SPACE_FULL, format!("A space may hold {most} {what} (`spaces.most_{what}`)."))
            }
            SpaceError::Changed(changed) => changed.into(),
            SpaceError::Store(error) => store_problem(error),
        }
    }
}
