//! Checks that `kith verify` runs against a deployment: one folder or file per module, one file per subject,
//! one function per row. They use the network only and depend on no feature. Expected responses are stated
//! from the API documentation.

mod accounts;
mod bonds;
mod callbacks;
mod jobs;
mod networks;
mod nicknames;
mod platform;
pub mod spellings;
mod synthetic_accounts;

use kith_readiness::Check;

/// Returns all checks in the order in which they run.
pub fn checks() -> Vec<&'static Check> {
    let rows = [
        platform::CHECKS,
        accounts::CHECKS,
        bonds::CHECKS,
        &[nicknames::CHECKS],
        &[callbacks::CHECKS],
        &[jobs::CHECKS],
    ];
    rows.into_iter().flatten().copied().flatten().collect()
}
