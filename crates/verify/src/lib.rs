//! The checks of a running deployment that `kith verify` makes: a folder or a file per module, a file per subject, a
//! function per row. They use the network only and depend on no feature; what an answer must hold is stated from the
//! documentation of the API.

mod accounts;
mod bonds;
mod callbacks;
mod cast;
mod jobs;
mod networks;
mod nicknames;
mod platform;
pub mod spellings;

use kith_readiness::Check;

/// All checks, in the order in which they run.
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
