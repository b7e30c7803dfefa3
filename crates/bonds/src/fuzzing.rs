//! Lists the fuzz targets for the parsers of this crate. The folder `fuzz` runs them. A test runs them on
//! the seed inputs. They are not part of release builds.

use kith_kernel::fuzzing::Target;

pub use crate::bonds::bonds;
pub use crate::spaces::{documents, lists, schedules as dates};

/// Fuzz targets of this crate.
pub const TARGETS: &[Target] =
    &[("bonds", bonds), ("lists", lists), ("documents", documents), ("dates", dates)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_inputs_satisfy_properties() {
        kith_kernel::fuzzing::run_on_seeds(TARGETS);
    }
}
