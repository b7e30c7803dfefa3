//! Users: their accounts and sessions, whom they block, and the nicknames that they give to others.

pub mod accounts;
pub mod blocks;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod nicknames;
