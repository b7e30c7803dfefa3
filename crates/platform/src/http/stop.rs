//! Signal that the server is stopping. The sequence of a stop is in `serve`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

/// Stop signal of one server. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<Phases>);

#[derive(Debug, Default)]
struct Phases {
    draining: AtomicBool,
    requested: CancellationToken,
}

impl Stop {
    /// Returns true once a stop was requested. Responses then close their connections, and the node is not
    /// ready.
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Relaxed)
    }

    /// Runs `work` and returns its output, or `None` once a stop is requested.
    pub async fn or<F: Future>(&self, work: F) -> Option<F::Output> {
        self.0.requested.run_until_cancelled(work).await
    }

    /// Requests the stop.
    pub(super) fn ask(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
        self.0.requested.cancel();
    }
}
