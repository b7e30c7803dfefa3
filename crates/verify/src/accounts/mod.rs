//! Checks of accounts on a running deployment: their features and their access control. Each file covers one
//! subject, each function one row.

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

/// Remediation of checks that state no other.
const DEFAULT_REMEDIATION: &str = "look up the request id of the step that failed in the log";
