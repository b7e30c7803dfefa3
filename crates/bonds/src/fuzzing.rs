//! Properties of the parsers of this crate. Fuzz targets in the folder `fuzz` check them, and a test checks them with the
//! seeds. Never part of a release build.

use kith_kernel::fuzzing::Target;

pub use crate::bonds::bonds;
pub use crate::spaces::{documents, lists, schedules as dates};

/// The targets of this crate.
pub const TARGETS: &[Target] =
    &[("bonds", bonds), ("lists", lists), ("documents", documents), ("dates", dates)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_hold_holds_of_the_seeds() {
        kith_kernel::fuzzing::ask_of_seeds(TARGETS);
    }
}
