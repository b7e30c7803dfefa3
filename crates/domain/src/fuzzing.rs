//! What must hold of what people send to the features, whatever it is: asked by the fuzz targets of the folder `fuzz`, and
//! of their seeds by a test. Never part of a release build.

use kith_kernel::fuzzing::Target;

pub use crate::accounts::accounts;
pub use crate::bonds::bonds;
pub use crate::json_schema::schemas;
pub use crate::spaces::{documents, lists, schedules as dates};

/// The targets of this crate.
pub const TARGETS: &[Target] = &[
    ("accounts", accounts),
    ("bonds", bonds),
    ("lists", lists),
    ("documents", documents),
    ("dates", dates),
    ("schemas", schemas),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_hold_holds_of_the_seeds() {
        kith_kernel::fuzzing::ask_of_seeds(TARGETS);
    }
}
