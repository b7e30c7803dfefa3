//! What shows on a running deployment that the platform does what it should. A file a subject, a function a row.

mod caching;
mod surface;
mod tokens;
mod traces;

use kith_readiness::Check;

/// All of them.
pub(crate) const CHECKS: &[&[Check]] = &[surface::CHECKS, tokens::CHECKS, traces::CHECKS, caching::CHECKS];
