//! Durable consumers of events: handlers that follow the sequenced outbox, each with a cursor of its own in the database.
//!
//! A consumer handles every event of its kinds at least once, in the order of positions within each subject. The handler runs
//! in a transaction that also moves the cursor, so that its changes in the database happen exactly once; effects elsewhere are
//! deduplicated by the event's id, usually by enqueueing a job in that transaction. One node of the deployment delivers to a
//! consumer at a time; it holds a lease in the consumer's row, and every transaction verifies it.
//!
//! An event whose handler fails is retried with a growing delay while other subjects go on; later events of its own subject
//! wait for it. After [`MAX_ATTEMPTS`] it is set aside, counted by [`ConsumerStatus::set_aside`], until an operator replays it
//! or retention removes the event.

mod consumer;
mod delivery;
mod engine;
mod failures;
mod lease;
mod replay;
mod rows;
mod status;
mod supervise;

pub use consumer::{Consumer, HandlerError, StartAt, TransactionFuture, Transactions, kind_matches};
pub use delivery::{Delivery, DeliveryError, Progress};
pub use engine::{ConsumerCounts, ConsumerSet, Consumers, RunningConsumers};
pub use failures::{MAX_ATTEMPTS, MAX_PENDING, SetAsideEvent, list_set_aside};
pub use lease::{LEASE_TTL_MS, declare, forget_undeclared};
pub use replay::{ReplayError, ReplayFrom, replay, retry_set_aside};
pub use status::{ConsumerStatus, list_status};
