//! Checks of bonds on a running deployment. Each file covers one subject, each function one row.

mod audit;
mod breakups;
mod counts;
mod history;
mod invalid_steps;
mod race;
mod requests;

use kith_readiness::Check;

/// All bond checks.
pub(crate) const CHECKS: &[&[Check]] = &[
    requests::CHECKS,
    invalid_steps::CHECKS,
    race::CHECKS,
    breakups::CHECKS,
    history::CHECKS,
    counts::CHECKS,
    audit::CHECKS,
];

/// Remediation of checks that state no other.
const DEFAULT_REMEDIATION: &str = "look up the request id of the step that failed in the log";
