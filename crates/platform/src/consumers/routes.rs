//! Finds what concerns an event by its kind: its counter, and the hooks of this node.

use std::collections::HashMap;
use std::time::Duration;

use kith_consumers::kind_matches;
use kith_store::{Error, Event, Tx};

use super::{ModuleConsumer, NodeEvent, NodeHook};
use crate::{App, Module};

/// Pause before a hook that has failed is run again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// Counters and hooks by kind of event.
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
}

#[derive(Debug)]
struct KindRoute {
    /// Place of the kind among all that modules list.
    place: usize,
    /// Places of its hooks.
    hooks: Vec<usize>,
}

/// Events of a transaction, as far as they concern this node at once.
#[derive(Debug, Default)]
pub(crate) struct EmittedEvents {
    /// Places of their kinds, to count them by.
    pub kinds: Vec<usize>,
    hooked: Vec<Event>,
}

impl EventRoutes {
    pub fn new(modules: &[&'static Module]) -> Self {
        let consumers = modules.iter().flat_map(|module| module.consumers);
        let hook = |consumer: &ModuleConsumer| {
            Some(Hook { name: consumer.name, kinds: consumer.kinds, run: consumer.hook()? })
        };
        let hooks: Vec<_> = consumers.filter_map(hook).collect();
        let route = |(place, kind): (usize, &'static str)| {
            let concerned = hooks.iter().enumerate().filter(|(_, hook)| hook.handles(kind));
            (kind, KindRoute { place, hooks: concerned.map(|(place, _)| place).collect() })
        };
        let kinds = super::kinds(modules).enumerate().map(route).collect();
        Self { kinds, hooks }
    }

    /// Events of the transaction so far.
    pub fn emitted(&self, tx: &Tx<'_>) -> EmittedEvents {
        let mut emitted = EmittedEvents::default();
        tx.emitted(|event| {
            let route = self.kinds.get(&*event.kind)?;
            emitted.kinds.push(route.place);
            if !route.hooks.is_empty() {
                emitted.hooked.push(event.clone());
            }
            None::<()>
        });
        emitted
    }

    /// Hooks for events of `kind`, which may be one that only a newer build emits.
    fn hooks_of<'a>(&'a self, kind: &'a str) -> Box<dyn Iterator<Item = &'a Hook> + Send + 'a> {
        match self.kinds.get(kind) {
            Some(route) => Box::new(route.hooks.iter().filter_map(|place| self.hooks.get(*place))),
            None => Box::new(self.hooks.iter().filter(move |hook| hook.handles(kind))),
        }
    }
}

impl Hook {
    async fn run(&self, app: &App, news: NodeEvent<'_>) -> Result<(), Error> {
        let ran = (self.run)(app, news).await;
        ran.inspect_err(
            |error| tracing::warn!(%error, hook = self.name, "a hook has failed and is run again"),
        )
    }

    fn handles(&self, kind: &str) -> bool {
        self.kinds.iter().any(|pattern| kind_matches(pattern, kind))
    }
}

/// Runs the hooks for an event that another node has committed.
///
/// # Errors
/// The first that fails; those behind it have not run.
pub(super) async fn run_hooks(app: &App, event: &Event) -> Result<(), Error> {
    for hook in app.event_routes.hooks_of(&event.kind) {
        hook.run(app, NodeEvent::Committed(event)).await?;
    }
    Ok(())
}

/// Runs all hooks because events may have been missed.
///
/// # Errors
/// The first that fails; those behind it have not run.
pub(super) async fn run_all_hooks(app: &App) -> Result<(), Error> {
    for hook in &app.event_routes.hooks {
        hook.run(app, NodeEvent::Missed).await?;
    }
    Ok(())
}

impl EmittedEvents {
    /// Runs the hooks for events that this node has committed, or may have committed. One that fails is run again in the
    /// background until it succeeds.
    pub async fn run_hooks(self, app: &App) {
        for event in self.hooked {
            if run_hooks(app, &event).await.is_err() {
                tokio::spawn(retry(app.clone(), event));
            }
        }
    }
}

async fn retry(app: App, event: Event) {
    while app.stop.or(tokio::time::sleep(RETRY_PAUSE)).await.is_some() {
        if run_hooks(&app, &event).await.is_ok() {
            return;
        }
    }
}
