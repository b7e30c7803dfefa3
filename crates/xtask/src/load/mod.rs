//! Single-threaded load generator for loopback servers. It must not be the bottleneck of a measurement.

mod connection;
mod draw;
mod drive;
pub mod http;
pub mod people;

use std::time::Instant;

pub use connection::{Connection, send_all, send_all_patiently};
pub use draw::{Pairs, Zipf};
pub use drive::{Plan, Seen, Source, drive};

/// Returns the current instant, for measurements.
#[expect(clippy::disallowed_methods, reason = "measures durations; no rule depends on them")]
pub fn now() -> Instant {
    Instant::now()
}

/// Runs a future on a single-threaded runtime.
pub fn on_one_thread<T>(load: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, load)
}
