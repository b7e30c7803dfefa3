//! Commands on jobs, job kinds and queues, one file per subject.

mod enqueue;
mod kinds;
mod queues;

pub use enqueue::{enqueue, enqueue_all};
pub use kinds::{declare_kind, withdraw_kind};
pub use queues::{MAX_DRAINED_JOBS, drain_queue, limit_queue, pause_queue};
