//! Users: accounts and sessions, blocks between users, and private nicknames.

pub mod accounts;
pub mod blocks;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod nicknames;
