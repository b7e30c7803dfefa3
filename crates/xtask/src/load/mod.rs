//! A small load generator of our own, on one thread: it must never be what is measured. It speaks to loopback only.

mod connection;
mod draw;
mod drive;
pub mod http;
pub mod people;

use std::time::Instant;

pub use connection::{Connection, send_all, send_all_patiently};
pub use draw::{Pairs, Zipf};
pub use drive::{Plan, Seen, Source, drive};

/// The moment that a measurement begins at.
#[expect(clippy::disallowed_methods, reason = "measuring is what this is for; no rule goes by it")]
pub fn now() -> Instant {
    Instant::now()
}

/// Runs load on this thread alone.
pub fn on_one_thread<T>(load: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, load)
}
