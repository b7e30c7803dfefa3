//! What shows on a running deployment that bonds do what they should. A file a subject, a function a row.

mod audit;
mod counts;
mod history;
mod partings;
mod race;
mod refusals;
mod requests;

use kith_readiness::Check;

/// All of them.
pub(crate) const CHECKS: &[&[Check]] = &[
    requests::CHECKS,
    refusals::CHECKS,
    race::CHECKS,
    partings::CHECKS,
    history::CHECKS,
    counts::CHECKS,
    audit::CHECKS,
];

/// What mends most of what can go wrong here.
const LOOK_IT_UP: &str = "look up the request id of the step that failed in the log";
