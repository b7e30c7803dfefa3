//! Checks that `kith verify` runs against a deployment. There is one folder or file per module, one file per
//! subject, and one function per row. Checks use only the network and no code of the features. The expected
//! responses are taken from the API documentation.

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
