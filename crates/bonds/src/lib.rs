//! Bonds between two users, from the partner request to the archive, and the spaces that store JSON items of
//! bonds and users.

pub mod bonds;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod spaces;
