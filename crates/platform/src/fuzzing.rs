//! What must hold of whatever comes over the wire or stands in a configuration: asked by the fuzz targets of the folder
//! `fuzz`, and of their seeds by a test. Never part of a release build.

pub use kith_kernel::fuzzing::{Target, ask_of_seeds};

pub use crate::auth::fuzzing::tokens;
pub use crate::config::fuzzing::config;
pub use crate::http::fuzzing::{body, negotiation, provenance, query};
pub use crate::outbound::fuzzing::targets;

/// The targets of this crate.
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
    fn what_must_hold_holds_of_the_seeds() {
        ask_of_seeds(TARGETS);
    }
}
