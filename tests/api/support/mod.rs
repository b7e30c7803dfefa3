//! Test support: servers, databases, accounts, clients, and readers of audit entries and events.

mod api_keys;
mod app;
mod browser;
mod client;
mod contract;
mod dump;
mod engine;
pub mod forge;
mod hold;
mod operations;
mod partners;
mod process;
mod receiver;
mod spaces;
mod trace;
mod trials;

pub use api_keys::{API_KEYS, ApiKey};
pub use app::{PASSWORD, TestApp, TestUser, race, restore_limits};
pub use browser::Browser;
pub use client::{Client, TestResponse, X_REQUEST_ID};
pub use engine::Engine;
pub(crate) use engine::on_every_engine;
pub use hold::hold_transaction;
pub use operations::{Access, Operation, Request};
pub use partners::{BREAKUP, REQUESTS};
pub use process::{
    Kith, MAX_WAIT, SERVE, bare_kith, failing_stderr, kith, kith_on, latency_bound, options_on,
    successful_stdout,
};
pub use receiver::{ReceivedRequest, Receiver, Reply};
pub use spaces::item;
pub use trace::AuditLine;
pub use trials::note_trials;

/// Returns the number of rounds of a race: `KITH_TEST_ROUNDS` if set, otherwise `default`.
pub fn rounds(default: usize) -> usize {
    std::env::var("KITH_TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
