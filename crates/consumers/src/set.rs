//! Set of the consumers of one node, with counters of this process.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::Consumer;
use crate::status::ConsumerStatus;

/// Consumers of one node, with the name of the node and counters.
#[derive(Debug)]
pub struct ConsumerSet {
    pub(crate) consumers: Arc<[Consumer]>,
    pub(crate) node: String,
    counts: Vec<Count>,
    /// Wakes the task that renews the leases.
    pub(crate) renewal: Notify,
    pub(crate) sampled: Mutex<Vec<ConsumerStatus>>,
}

/// Counters and status of one consumer since the process started.
#[derive(Debug, Default)]
struct Count {
    handled: AtomicU64,
    dead_lettered: AtomicU64,
    panics: AtomicU64,
    /// True if the delivery task has panicked and is not restarted yet. Meanwhile this node acquires no lease
    /// for the consumer.
    is_down: AtomicBool,
}

/// Number of events that this process has handled and dead-lettered for one consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsumerCounts {
    /// Name of the consumer.
    pub name: &'static str,
    /// Events handled.
    pub handled: u64,
    /// Events dead-lettered.
    pub dead_lettered: u64,
    /// Number of panics of the delivery task outside the handler.
    pub panics: u64,
}

impl ConsumerSet {
    /// Creates the consumers of `node`. The name `node` must be unique among all processes.
    pub fn new(mut consumers: Vec<Consumer>, node: String) -> Self {
        // Every node uses the same order, so that transactions cannot deadlock.
        consumers.sort_by_key(|consumer| consumer.name);
        let counts = consumers.iter().map(|_| Count::default()).collect();
        Self { consumers: consumers.into(), node, counts, renewal: Notify::new(), sampled: Mutex::default() }
    }

    /// Returns the state of all consumers in the database, sampled about every ten seconds. The list is empty
    /// before the first sample, and after the database could not be read.
    pub fn sampled(&self) -> Vec<ConsumerStatus> {
        self.sampled.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the counters of this process.
    pub fn counts(&self) -> Vec<ConsumerCounts> {
        let counts = self.consumers.iter().zip(&self.counts).map(|(consumer, count)| ConsumerCounts {
            name: consumer.name,
            handled: count.handled.load(Ordering::Relaxed),
            dead_lettered: count.dead_lettered.load(Ordering::Relaxed),
            panics: count.panics.load(Ordering::Relaxed),
        });
        counts.collect()
    }

    pub(crate) fn count(&self, index: usize, handled: usize, dead_lettered: bool) {
        let Some(count) = self.counts.get(index) else { return };
        count.handled.fetch_add(handled as u64, Ordering::Relaxed);
        count.dead_lettered.fetch_add(u64::from(dead_lettered), Ordering::Relaxed);
    }

    pub(crate) fn set_down(&self, index: usize, is_down: bool) {
        let Some(count) = self.counts.get(index) else { return };
        count.panics.fetch_add(u64::from(is_down), Ordering::Relaxed);
        count.is_down.store(is_down, Ordering::SeqCst);
        self.renewal.notify_one();
    }

    /// Returns the indexes of the consumers that this node cannot deliver to at the moment.
    pub(crate) fn down(&self) -> BTreeSet<usize> {
        let counts = self.counts.iter().enumerate();
        counts.filter(|(_, count)| count.is_down.load(Ordering::SeqCst)).map(|(index, _)| index).collect()
    }
}
