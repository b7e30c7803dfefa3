//! Consumer definition: the events it handles, where it starts, and its handler.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use kith_kernel::{Ctx, Sources};
use kith_store::{Error, SequencedEvent, Store, Tx};
use thiserror::Error;

use crate::DeliveryError;

/// Function that handles a batch of events.
type Handler = dyn Fn(&Tx<'_>, &Ctx, &[SequencedEvent]) -> Result<(), HandlerError> + Send + Sync;

/// Start position of a consumer that is not yet known to the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    /// Start after the last event in the log at the time when the consumer is first declared.
    Now,
    /// Start with the oldest event that retention has not removed.
    Beginning,
}

/// Durable consumer of events. Clones share the handler.
#[derive(Clone)]
pub struct Consumer {
    /// Unique name; the key of its cursor in the database.
    pub name: &'static str,
    /// Kinds of events to handle: `bond.created`, all kinds with a prefix (`bond.*`), or all (`*`).
    pub kinds: &'static [&'static str],
    /// Start position.
    pub start: StartAt,
    handler: Arc<Handler>,
}

/// Failure of a handler.
#[derive(Debug, Error)]
pub enum HandlerError {
    /// A statement failed. If the database is unavailable, the events are retried and no attempt is counted.
    #[error(transparent)]
    Store(#[from] Error),
    /// The handler cannot handle the given events.
    #[error("{0}")]
    Failed(String),
}

impl HandlerError {
    /// Creates a failure with a reason. The text is stored and shown to operators, and must not contain
    /// personal data.
    pub fn failed(reason: impl fmt::Display) -> Self {
        Self::Failed(reason.to_string())
    }
}

impl Consumer {
    /// Creates a consumer that runs `handler` on batches of events, in order of position. The changes of a
    /// batch are committed together or not at all. After a failure, the events of a batch can be delivered
    /// again in smaller batches.
    pub fn new<F>(name: &'static str, kinds: &'static [&'static str], start: StartAt, handler: F) -> Self
    where
        F: Fn(&Tx<'_>, &Ctx, &[SequencedEvent]) -> Result<(), HandlerError> + Send + Sync + 'static,
    {
        Self { name, kinds, start, handler: Arc::new(handler) }
    }

    /// Returns true if the consumer handles events of `kind`.
    pub fn handles(&self, kind: &str) -> bool {
        self.kinds.iter().any(|pattern| kind_matches(pattern, kind))
    }

    pub(crate) fn handle(
        &self,
        tx: &Tx<'_>,
        ctx: &Ctx,
        events: &[SequencedEvent],
    ) -> Result<(), HandlerError> {
        (self.handler)(tx, ctx, events)
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, kinds, start, .. } = self;
        f.debug_struct("Consumer").field("name", name).field("kinds", kinds).field("start", start).finish()
    }
}

/// Returns true if `pattern` (a kind, a prefix followed by `*`, or `*`) matches `kind`.
pub fn kind_matches(pattern: &str, kind: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => kind.starts_with(prefix),
        None => pattern == kind,
    }
}

/// Future of a transaction that a consumer runs.
pub type TransactionFuture<T> = Pin<Box<dyn Future<Output = Result<T, DeliveryError>> + Send>>;

/// Runs the transactions of consumers. The server's implementation also does the work that must follow every
/// commit, such as invalidating caches for the events that a handler emits.
pub trait Transactions: Clone + Send + Sync + 'static {
    /// Returns the database.
    fn store(&self) -> &Store;

    /// Returns the clock, the id generator and the random generator.
    fn sources(&self) -> &Sources;

    /// Returns the context in which `consumer` handles events.
    fn ctx(&self, consumer: &'static str) -> Ctx;

    /// Runs `run` in a transaction. `run` can be called more than once; only its last call is committed.
    fn write<T, F>(self, ctx: Ctx, run: F) -> TransactionFuture<T>
    where
        F: Fn(&Tx<'_>, &Ctx) -> Result<T, DeliveryError> + Send + 'static,
        T: Send + 'static;
}

#[cfg(test)]
mod tests {
    use super::kind_matches;

    #[test]
    fn pattern_matches_kind_prefix_or_all() {
        assert!(kind_matches("bond.created", "bond.created"));
        assert!(!kind_matches("bond.created", "bond.created_twice"));
        assert!(kind_matches("bond.*", "bond.created"));
        assert!(!kind_matches("bond.*", "bonds"));
        assert!(kind_matches("*", "anything"));
    }
}
