//! Conformance tests of durable consumers, on both databases.

mod deliveries;
mod engine;
mod failures;
mod leases;
mod model;
mod processes;
mod replays;
mod support;
