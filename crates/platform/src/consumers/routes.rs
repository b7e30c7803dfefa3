//! Maps each event kind to its counter and to the hooks of this node.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use kith_consumers::kind_matches;
use kith_store::{Error, Event, Tx};

use super::{ModuleConsumer, NodeEvent, NodeHook};
use crate::{App, Module};

/// Pause before a failed hook runs again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// Counters and hooks for events, by event kind.
#[derive(Debug)]
pub(crate) struct EventRoutes {
    kinds: HashMap<&'static str, KindRoute>,
    hooks: Vec<Hook>,
}

#[derive(Debug)]
struct Hook {
    name: &'static str,
    kinds: &'static [&'static str],
    run: NodeHook,
    /// Number of failures since the hook last succeeded. If it is not 0, a task is retrying the hook.
    failures: AtomicU64,
}

#[derive(Debug)]
struct KindRoute {
    /// Index of the kind in the list of the event kinds of all modules.
    index: usize,
    /// Indexes of the hooks for this kind.
    hooks: Vec<usize>,
}

/// Events of a transaction that must be counted or passed to hooks.
#[derive(Debug, Default)]
pub(crate) struct EmittedEvents {
    /// Indexes of the kinds of the events, for counting.
    pub kinds: Vec<usize>,
    hooked: Vec<Event>,
}

impl EventRoutes {
    pub fn new(modules: &[&'static Module]) -> Self {
        let consumers = modules.iter().flat_map(|module| module.consumers);
        let hook = |consumer: &ModuleConsumer| {
            let (name, kinds, run) = (consumer.name, consumer.kinds, consumer.as_hook()?);
            Some(Hook { name, kinds, run, failures: AtomicU64::new(0) })
        };
        let hooks: Vec<_> = consumers.filter_map(hook).collect();
        let route = |(index, kind): (usize, &'static str)| {
            let concerned = hooks.iter().enumerate().filter(|(_, hook)| hook.handles(kind));
            (kind, KindRoute { index, hooks: concerned.map(|(index, _)| index).collect() })
        };
        let kinds = super::kinds(modules).enumerate().map(route).collect();
        Self { kinds, hooks }
    }

    /// Returns the events that the transaction has emitted so far.
    pub fn emitted(&self, tx: &Tx<'_>) -> EmittedEvents {
        let mut kinds = Vec::new();
        let hooked = tx.emitted(|event| {
            kinds.extend(self.kinds.get(&*event.kind).map(|route| route.index));
            (!self.hooks_of(&event.kind).is_empty()).then(|| event.clone())
        });
        EmittedEvents { kinds, hooked }
    }

    /// Returns true if no hook is waiting to be retried after a failure.
    pub fn has_no_failures(&self) -> bool {
        self.hooks.iter().all(|hook| hook.failures.load(Ordering::Acquire) == 0)
    }

    /// Returns the indexes of the hooks for `kind`. If a newer build emitted the event, the kind may be
    /// unknown.
    fn hooks_of(&self, kind: &str) -> Vec<usize> {
        match self.kinds.get(kind) {
            Some(route) => route.hooks.clone(),
            None => (0..self.hooks.len()).filter(|index| self.hooks[*index].handles(kind)).collect(),
        }
    }
}

impl Hook {
    fn handles(&self, kind: &str) -> bool {
        self.kinds.iter().any(|pattern| kind_matches(pattern, kind))
    }

    /// Runs the hook. A panic counts as a failure.
    async fn run(&self, app: &App, event: NodeEvent<'_>) -> Result<(), Error> {
        let ran = AssertUnwindSafe((self.run)(app, event)).catch_unwind().await;
        let ran = ran.unwrap_or_else(|_| Err(Error::fault("the hook panicked")));
        ran.inspect_err(|error| tracing::warn!(%error, hook = self.name, "a hook failed and will be retried"))
    }
}

/// Runs the hooks for an event. The other hooks run even if one fails. A failed hook is retried with
/// [`NodeEvent::Missed`].
pub(super) async fn run_hooks(app: &App, event: &Event) {
    for index in app.event_routes.hooks_of(&event.kind) {
        run_hook(app, index, NodeEvent::Committed(event)).await;
    }
}

/// Runs all hooks with [`NodeEvent::Missed`].
pub(super) async fn run_all_hooks(app: &App) {
    for index in 0..app.event_routes.hooks.len() {
        run_hook(app, index, NodeEvent::Missed).await;
    }
}

async fn run_hook(app: &App, index: usize, event: NodeEvent<'_>) {
    let hook = &app.event_routes.hooks[index];
    if hook.run(app, event).await.is_err() && hook.failures.fetch_add(1, Ordering::AcqRel) == 0 {
        tokio::spawn(retry(app.clone(), index));
    }
}

/// Retries a hook until it succeeds and has not failed again in the meantime.
async fn retry(app: App, index: usize) {
    let hook = &app.event_routes.hooks[index];
    while app.stop.or(tokio::time::sleep(RETRY_PAUSE)).await.is_some() {
        let failures = hook.failures.load(Ordering::Acquire);
        let has_succeeded = hook.run(&app, NodeEvent::Missed).await.is_ok();
        let reset = || hook.failures.compare_exchange(failures, 0, Ordering::AcqRel, Ordering::Acquire);
        if has_succeeded && reset().is_ok() {
            return;
        }
    }
}

impl EmittedEvents {
    /// Runs the hooks for the events of a transaction that this node has committed or may have committed.
    pub async fn run_hooks(self, app: &App) {
        for event in self.hooked {
            run_hooks(app, &event).await;
        }
    }
}
