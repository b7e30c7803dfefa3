//! One queue's share of this process, and the clock of its work.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use tokio::sync::Semaphore;

use super::{QueueConcurrency, Shared};

/// State of one queue in this process: concurrency, and jobs claimed and running.
pub(super) struct QueueRunner {
    pub shared: Arc<Shared>,
    pub share: QueueConcurrency,
    pub may_run: Arc<Semaphore>,
    /// Number of jobs of this queue claimed and not yet reported.
    pub outstanding: AtomicUsize,
    /// Number of attempts that have ended since the pace was last updated.
    pub ended: AtomicUsize,
}

#[expect(clippy::disallowed_methods, reason = "measures real work and waits")]
pub(super) fn now() -> Instant {
    Instant::now()
}
