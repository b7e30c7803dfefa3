//! Event consumers of modules. Each reacts to events, either once per deployment or on every node.

pub mod every_node;
pub mod operator;
mod routes;
#[cfg(test)]
mod tests;

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use kith_consumers::{
    Consumer, Consumers, DeliveryError, HandlerError, StartAt, TransactionFuture, Transactions,
    delete_undeclared,
};
use kith_kernel::{Ctx, Sources, days};
use kith_store::{Error, Event, SequencedEvent, Store, Tx};

use crate::jobs::process_name;
use crate::{App, Module};

pub(crate) use routes::{EmittedEvents, EventRoutes};

/// Time after which the cursor of a consumer is deleted if no node declares the consumer. It is longer than
/// any expected error of a clock.
const UNDECLARED_RETENTION: Duration = days(30);

/// Handler of a durable consumer. Receives up to 500 events, in the order of their positions. Its changes and
/// the consumer's cursor are committed in one transaction. After a failure, the events are delivered again in
/// smaller batches, until the failing event is alone in a batch.
pub type EventHandler = fn(&Tx<'_>, &Ctx, &[SequencedEvent]) -> Result<(), HandlerError>;

/// Hook that runs on every node.
pub type NodeHook = for<'a> fn(&'a App, NodeEvent<'a>) -> HookFuture<'a>;

/// Future of a [`NodeHook`].
pub type HookFuture<'a> = Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>>;

/// Argument of a [`NodeHook`].
#[derive(Clone, Copy, Debug)]
pub enum NodeEvent<'a> {
    /// An event was committed, by this node or another one. The same event can be reported twice. An event of
    /// this node can be reported before older events of other nodes.
    Committed(&'a Event),
    /// Events may have been missed, or a failover may have undone them. Cached data may be stale.
    Missed,
}

/// Reaction of a module to events. Listed in [`Module::consumers`].
#[derive(Clone, Copy)]
pub struct ModuleConsumer {
    /// Unique name: the name of the module, a dot, and the purpose. It identifies the cursor in the database.
    pub name: &'static str,
    /// Event kinds that the consumer receives: single kinds (`bond.created`), all kinds with a prefix
    /// (`bond.*`), or all kinds (`*`).
    pub kinds: &'static [&'static str],
    reaction: Reaction,
}

#[derive(Clone, Copy)]
enum Reaction {
    Durable { start: StartAt, handler: EventHandler },
    EveryNode(NodeHook),
}

impl ModuleConsumer {
    /// Creates a durable consumer. One node handles each event at least once. Events with the same subject
    /// are handled in the order of their positions. A new consumer receives only events that are emitted
    /// after its first start.
    pub const fn durable(name: &'static str, kinds: &'static [&'static str], handler: EventHandler) -> Self {
        Self { name, kinds, reaction: Reaction::Durable { start: StartAt::Now, handler } }
    }

    /// Makes a new consumer start with the oldest retained event.
    ///
    /// # Panics
    /// Panics at compile time if the consumer runs on every node.
    #[must_use]
    pub const fn from_beginning(self) -> Self {
        let Reaction::Durable { handler, .. } = self.reaction else {
            panic!("hooks of every node have no cursor")
        };
        Self { reaction: Reaction::Durable { start: StartAt::Beginning, handler }, ..self }
    }

    /// Creates a hook that runs on every node for each event. The node that commits the event runs the hook
    /// before it sends the response; other nodes run it when they read the event from the log. Use it to
    /// update caches. The hook must be idempotent.
    pub const fn every_node(name: &'static str, kinds: &'static [&'static str], hook: NodeHook) -> Self {
        Self { name, kinds, reaction: Reaction::EveryNode(hook) }
    }

    /// Returns true if one node of the deployment handles each event, and false if every node does.
    pub const fn is_durable(&self) -> bool {
        matches!(self.reaction, Reaction::Durable { .. })
    }

    fn as_consumer(self) -> Option<Consumer> {
        match self.reaction {
            Reaction::Durable { start, handler } => {
                Some(Consumer::new(self.name, self.kinds, start, handler))
            }
            Reaction::EveryNode(_) => None,
        }
    }

    fn as_hook(self) -> Option<NodeHook> {
        match self.reaction {
            Reaction::EveryNode(hook) => Some(hook),
            Reaction::Durable { .. } => None,
        }
    }
}

impl fmt::Debug for ModuleConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModuleConsumer").field("name", &self.name).field("kinds", &self.kinds).finish()
    }
}

/// Returns all event kinds of the modules, in order.
pub(crate) fn kinds(modules: &[&'static Module]) -> impl Iterator<Item = &'static str> {
    modules.iter().flat_map(|module| module.events).copied()
}

/// Returns the name with which this process leases consumers. It consists of host, process id and an id of
/// the server.
pub(crate) fn node_name(sources: &Sources) -> String {
    format!("{}:{}", process_name(), sources.ids.next(sources.clock.now()))
}

/// Returns the durable consumers of all modules.
pub(crate) fn durable(modules: &[&'static Module]) -> Vec<Consumer> {
    modules.iter().flat_map(|module| module.consumers).filter_map(|consumer| consumer.as_consumer()).collect()
}

impl Transactions for App {
    fn store(&self) -> &Store {
        &self.db
    }

    fn sources(&self) -> &Sources {
        &self.sources
    }

    fn ctx(&self, consumer: &'static str) -> Ctx {
        self.system_ctx(consumer)
    }

    fn write<T, F>(self, ctx: Ctx, run: F) -> TransactionFuture<T>
    where
        F: Fn(&Tx<'_>, &Ctx) -> Result<T, DeliveryError> + Send + 'static,
        T: Send + 'static,
    {
        Box::pin(async move { Self::write(&self, &ctx, run).await })
    }
}

impl App {
    /// Returns the durable consumers of the modules that this node serves.
    pub fn consumers(&self) -> Consumers<Self> {
        Consumers::new(self.clone(), self.consumer_set.clone())
    }

    /// Delivers events to the consumers of this node until no event is due. Returns a boxed future, because
    /// otherwise the compiler cannot prove that the futures of callers are `Send`.
    pub(crate) fn consume_due(&self) -> Pin<Box<dyn Future<Output = Result<usize, Error>> + Send>> {
        let consumers = self.consumers();
        Box::pin(async move { consumers.run_due().await })
    }
}

/// Deletes the cursors of consumers that no node has declared for 30 days. First declares the consumers of
/// this build, so that they are not deleted.
pub(crate) async fn forget_removed(app: &App) -> Result<(), Error> {
    app.consumers().declare().await?;
    let before = app.sources.clock.now() - UNDECLARED_RETENTION;
    for name in app.db.write(move |tx| delete_undeclared(tx, before)).await? {
        tracing::warn!(consumer = name, "deleted the cursor of a consumer that no node declares");
    }
    Ok(())
}
