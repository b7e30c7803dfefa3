//! What shows on a running deployment that accounts do what they should, and that nobody does what is not theirs to do.
//! A file a subject, a function a row.

mod addresses;
mod operations;
mod ownership;
mod permissions;
mod resources;
mod sessions;
mod sign_in;
mod stored;

use kith_readiness::Check;

/// All of them.
pub(crate) const CHECKS: &[&[Check]] = &[
    sign_in::CHECKS,
    sessions::CHECKS,
    stored::CHECKS,
    permissions::CHECKS,
    ownership::CHECKS,
    addresses::CHECKS,
    resources::CHECKS,
];

/// What mends most of what can go wrong here.
const LOOK_IT_UP: &str = "look up the request id of the step that failed in the log";
