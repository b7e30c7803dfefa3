//! Contract of durable consumers, on both databases.

mod deliveries;
mod engine;
mod failures;
mod leases;
mod model;
mod replays;
mod support;
