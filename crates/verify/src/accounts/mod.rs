//! Checks of accounts on a running deployment: their features, and access control. One file per subject, one
//! function per row.

mod addresses;
mod operations;
mod ownership;
mod permissions;
mod resources;
mod sessions;
mod sign_in;
mod stored;

use kith_readiness::Check;

/// All account checks.
pub(crate) const CHECKS: &[&[Check]] = &[
    sign_in::CHECKS,
    sessions::CHECKS,
    stored::CHECKS,
    permissions::CHECKS,
    ownership::CHECKS,
    addresses::CHECKS,
    resources::CHECKS,
];

/// Default remediation.
const DEFAULT_REMEDIATION: &str = "look up the request id of the step that failed in the log";
