//! Description of a consumer: what it handles, from where it starts, and how.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use kith_kernel::{Ctx, Sources};
use kith_store::{Error, SequencedEvent, Store, Tx};
use thiserror::Error;

use crate::DeliveryError;

/// Handler of a consumer.
type Handler = dyn Fn(&Tx<'_>, &Ctx, &[SequencedEvent]) -> Result<(), HandlerError> + Send + Sync;

/// Position at which a consumer starts that the database does not know yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    /// Behind the last event at the time the consumer is first declared.
    Now,
    /// The oldest event that retention has kept.
    Beginning,
}

/// Durable consumer. Clones share the handler.
#[derive(Clone)]
pub struct Consumer {
    /// Unique name; the key of its cursor in the database.
    pub name: &'static str,
    /// Kinds that it handles: `bond.created`, all kinds with a prefix (`bond.*`), or all (`*`).
    pub kinds: &'static [&'static str],
    /// Position at which it starts.
    pub start: StartAt,
    handler: Arc<Handler>,
}

/// Failure of a handler.
#[derive(Debug, Error)]
pub enum HandlerError {
    /// A statement failed. If the database is unavailable, the events are retried and no attempt is counted.
    #[error(transparent)]
    Store(#[from] Error),
    /// The handler cannot handle the events it was given.
    #[error("{0}")]
    Failed(String),
}

impl HandlerError {
    /// Failure for the given reason. The text is stored and shown to operators: it must not contain personal data.
    pub fn failed(reason: impl fmt::Display) -> Self {
        Self::Failed(reason.to_string())
    }
}

impl Consumer {
    /// Consumer that runs `handler` for batches of events, in the order of positions. All changes of a batch are committed
    /// together or not at all. A batch may be delivered again in smaller parts after a failure.
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

/// Returns true if `pattern` (a kind, a prefix with `*` at its end, or `*`) covers `kind`.
pub fn kind_matches(pattern: &str, kind: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => kind.starts_with(prefix),
        None => pattern == kind,
    }
}

/// Transaction that is under way.
pub type TransactionFuture<T> = Pin<Box<dyn Future<Output = Result<T, DeliveryError>> + Send>>;

/// Runs transactions for consumers. The server's implementation also does what must follow every commit, such as the
/// invalidation of caches by events that a handler emits.
pub trait Transactions: Clone + Send + Sync + 'static {
    /// The database.
    fn store(&self) -> &Store;

    /// Clock, ids and randomness.
    fn sources(&self) -> &Sources;

    /// Context in which `consumer` handles events.
    fn ctx(&self, consumer: &'static str) -> Ctx;

    /// Runs `run` in a transaction, possibly more than once; only its last run counts.
    fn write<T, F>(self, ctx: Ctx, run: F) -> TransactionFuture<T>
    where
        F: Fn(&Tx<'_>, &Ctx) -> Result<T, DeliveryError> + Send + 'static,
        T: Send + 'static;
}

#[cfg(test)]
mod tests {
    use super::kind_matches;

    #[test]
    fn pattern_covers_kind_prefix_or_everything() {
        assert!(kind_matches("bond.created", "bond.created"));
        assert!(!kind_matches("bond.created", "bond.created_twice"));
        assert!(kind_matches("bond.*", "bond.created"));
        assert!(!kind_matches("bond.*", "bonds"));
        assert!(kind_matches("*", "anything"));
    }
}
