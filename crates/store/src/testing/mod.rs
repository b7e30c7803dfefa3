//! Test support: temporary databases and servers, and fault injection. Release builds do not contain it.

mod databases;
mod engines;
mod faults;
mod recorder;
pub mod server;
mod templates;

pub use crate::test_vault::TestVault;
pub use databases::TestDatabase;
pub use engines::{postgres_url, run_on};
pub use faults::Fault;
pub(crate) use faults::Faults;
pub(crate) use recorder::record;
pub use recorder::{PLANS_FOLDER, RecordedParam, RecordedStatement};
