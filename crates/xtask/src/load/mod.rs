//! Load generator for servers on loopback. It runs on one thread and must not be the bottleneck of a
//! measurement.

pub mod accounts;
mod connection;
mod generator;
pub mod http;
mod sampling;

use std::time::Instant;

pub use connection::{Connection, send_all, send_all_patiently};
pub use generator::{LoadResult, Plan, Source, generate_load};
pub use sampling::{Pairs, Zipf};

/// Returns the current instant of the real clock, for measurements.
#[expect(clippy::disallowed_methods, reason = "measures durations; no rule depends on them")]
pub fn now() -> Instant {
    Instant::now()
}

/// Runs a future on a single-threaded runtime.
pub fn on_one_thread<T>(load: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, load)
}
