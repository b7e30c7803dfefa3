//! Durable consumers of events: handlers that read the event log in order, each with its own cursor in the
//! database.
//!
//! A consumer handles every event of its kinds at least once, in order of position within each subject. The
//! handler runs in a transaction that also advances the cursor, so that its changes in the database happen
//! exactly once. Other effects must be deduplicated by the event's id, usually by enqueueing a job in that
//! transaction. Only one node at a time delivers to a consumer. This node holds a lease in the consumer's
//! row, and every transaction verifies the lease.
//!
//! An event whose handler fails is retried with increasing delays. Meanwhile, events of other subjects are
//! delivered, and later events of the same subject wait. After [`MAX_ATTEMPTS`] the event is dead-lettered,
//! and counted in [`ConsumerStatus::dead_letters`], until an operator retries it or retention removes it.

mod consumer;
mod delivery;
mod engine;
mod failures;
mod lease;
mod replay;
mod rows;
mod set;
mod status;
mod supervise;

pub use consumer::{Consumer, HandlerError, StartAt, TransactionFuture, Transactions, kind_matches};
pub use delivery::{Delivery, DeliveryError, Progress};
pub use engine::{Consumers, RunningConsumers};
pub use failures::{DeadLetteredEvent, MAX_ATTEMPTS, MAX_PENDING, list_dead_letters};
pub use lease::{LEASE_TTL_MS, declare, delete_undeclared};
pub use replay::{ReplayError, ReplayFrom, replay, retry_dead_letters};
pub use set::{ConsumerCounts, ConsumerSet};
pub use status::{ConsumerStatus, list_status};
