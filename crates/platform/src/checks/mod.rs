//! What shows on a running deployment that the platform does what it should. A file a subject, a function a row.

mod surface;

use kith_readiness::Check;

/// All of them.
pub(crate) const CHECKS: &[&[Check]] = &[surface::CHECKS];
