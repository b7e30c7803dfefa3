//! Bonds between two users, from the partner request to the archive, and spaces, in which bonds and users
//! store JSON items.

pub mod bonds;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod spaces;
