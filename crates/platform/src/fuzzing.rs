//! Properties that must hold for all input from the network and from configuration files. The fuzz targets in
//! the folder `fuzz` check them, and a test checks them on the seed files. Not part of release builds.

pub use kith_kernel::fuzzing::{Target, run_on_seeds};

pub use crate::auth::fuzzing::tokens;
pub use crate::config::fuzzing::{config, config_of};
pub use crate::http::fuzzing::{body, negotiation, provenance, query};
pub use crate::outbound::fuzzing::targets;

/// Fuzz targets of this crate.
pub const TARGETS: &[Target] = &[
    ("negotiation", negotiation),
    ("provenance", provenance),
    ("body", body),
    ("query", query),
    ("tokens", tokens),
    ("config", config),
    ("targets", targets),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_inputs_satisfy_properties() {
        run_on_seeds(TARGETS);
    }
}
