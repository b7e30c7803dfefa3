//! State of one queue in this process, and the real-time clock of the workers.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use tokio::sync::Semaphore;

use super::{QueueConcurrency, Shared};

/// State of one queue in this process: its concurrency, and the number of jobs claimed and running.
pub(super) struct QueueRunner {
    pub shared: Arc<Shared>,
    pub share: QueueConcurrency,
    pub may_run: Arc<Semaphore>,
    /// Number of jobs of this queue that were claimed and are not reported yet.
    pub outstanding: AtomicUsize,
    /// Number of attempts that have ended since the number of jobs to claim in advance was last calculated.
    pub ended: AtomicUsize,
}

#[expect(clippy::disallowed_methods, reason = "measures real work and waits")]
pub(super) fn now() -> Instant {
    Instant::now()
}
