//! Conformance tests of the job engine on both databases. They are derived from its guarantees and not from
//! its implementation.

mod support;

mod batches;
mod claims;
mod database_crashes;
mod endings;
mod enqueues;
mod evictions;
mod flows;
mod history;
mod leases;
mod limits;
mod load;
mod maintenance;
mod model;
mod races;
mod workers;
