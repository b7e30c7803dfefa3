//! Says that the server stops, to whoever must know. When and how is decided in `serve`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

/// Shared by the parts of one server. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<Phases>);

#[derive(Debug, Default)]
struct Phases {
    draining: AtomicBool,
    asked: CancellationToken,
}

impl Stop {
    /// Whether a stop has been asked for: answers then end their connections, and the node is not ready.
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Relaxed)
    }

    /// What `work` gives, or nothing once a stop is asked for.
    pub async fn or<F: Future>(&self, work: F) -> Option<F::Output> {
        self.0.asked.run_until_cancelled(work).await
    }

    /// Asks for it.
    pub(super) fn ask(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
        self.0.asked.cancel();
    }
}
