//! Conformance tests of the job engine on both databases, written from its guarantees and not from its
//! implementation.

mod support;

mod batches;
mod claims;
mod crowds;
mod database_crashes;
mod endings;
mod enqueues;
mod flows;
mod history;
mod leases;
mod limits;
mod maintenance;
mod model;
mod races;
mod rescues;
mod workers;
