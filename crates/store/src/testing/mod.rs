//! For tests: databases of their own, and faults that can be switched on. Never part of a release build.

mod databases;
mod faults;
mod recorder;
pub mod server;
mod templates;

pub use crate::test_vault::TestVault;
pub use databases::TestDatabase;
pub use faults::Fault;
pub(crate) use faults::Faults;
pub(crate) use recorder::record;
pub use recorder::{PLANS_FOLDER, RecordedParam, RecordedStatement};
