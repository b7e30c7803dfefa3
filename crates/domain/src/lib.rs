//! The features, a folder each, all laid out the same way. A module uses only what another's `mod.rs` hands out.

pub mod accounts;
pub mod blocks;
pub mod bonds;
pub mod callbacks;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod jobs;
mod json_schema;
pub mod nicknames;
pub mod schedules;
pub mod spaces;
