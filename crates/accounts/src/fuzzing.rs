//! Lists the fuzz targets for the parsers of this crate. The folder `fuzz` runs them. A test runs them on
//! the seed inputs. They are not part of release builds.

use kith_kernel::fuzzing::Target;

pub use crate::accounts::accounts;

/// Fuzz targets of this crate.
pub const TARGETS: &[Target] = &[("accounts", accounts)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_inputs_satisfy_properties() {
        kith_kernel::fuzzing::run_on_seeds(TARGETS);
    }
}
