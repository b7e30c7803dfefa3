//! Signal that the server is stopping. The steps of stopping are in the module `serve`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

/// Stop signal of one server. Clones share the signal.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<Phases>);

#[derive(Debug, Default)]
struct Phases {
    draining: AtomicBool,
    requested: CancellationToken,
}

impl Stop {
    /// Returns true after a stop was requested. From then on, each response closes its connection, and the
    /// server is not ready.
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Relaxed)
    }

    /// Runs `work` and returns its output. Returns `None` if a stop is requested before `work` ends.
    pub async fn or<F: Future>(&self, work: F) -> Option<F::Output> {
        self.0.requested.run_until_cancelled(work).await
    }

    /// Requests the stop.
    pub(super) fn ask(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
        self.0.requested.cancel();
    }
}
