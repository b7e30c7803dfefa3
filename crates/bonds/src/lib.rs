//! Bonds between two users, from the partner request to the archive, and the spaces whose items bonds and users keep.

pub mod bonds;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod spaces;
