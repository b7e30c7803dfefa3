//! Runs the consumers of a node: elects, delivers, and wakes up when events come.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kith_kernel::uuid::Uuid;
use kith_kernel::{Sources, Timestamp, seconds};
use kith_store::{Error, Query};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::lease::{self, RENEW_INTERVAL};
use crate::status::{ConsumerStatus, list_status};
use crate::{Consumer, Delivery, Progress, Transactions, rows};

/// Bell that wakes consumers after a replay and after a node has given up its leases.
pub(crate) const WAKE_UP: &str = "consumers";
/// Longest time without a look for events; wake-ups may be lost with a connection.
const POLL_INTERVAL: Duration = seconds(2);
/// Longest pause after an error of the database.
const MAX_PAUSE: Duration = seconds(5);
/// Age at which the sampled state is read again.
const SAMPLE_INTERVAL: Duration = seconds(10);
/// Time between declarations of the consumers of a running node.
const DECLARE_INTERVAL: Duration = seconds(3_600);

/// Consumers of one node, with its identity and its counters.
#[derive(Debug)]
pub struct ConsumerSet {
    consumers: Arc<[Consumer]>,
    node: String,
    counts: Vec<Count>,
    sampled: Mutex<Vec<ConsumerStatus>>,
}

/// Consumers of one node, ready to be delivered to. Clones share the set.
#[derive(Clone, Debug)]
pub struct Consumers<W> {
    transactions: W,
    set: Arc<ConsumerSet>,
}

/// Counters of one consumer since the process started.
#[derive(Debug, Default)]
struct Count {
    handled: AtomicU64,
    set_aside: AtomicU64,
}

/// Events that this process has handled and set aside for one consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsumerCounts {
    /// Name of the consumer.
    pub name: &'static str,
    /// Events handled.
    pub handled: u64,
    /// Events set aside.
    pub set_aside: u64,
}

/// Consumers that run until they are stopped.
#[derive(Debug)]
pub struct RunningConsumers<W> {
    consumers: Consumers<W>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl ConsumerSet {
    /// Consumers of a node with a new identity.
    pub fn new(consumers: Vec<Consumer>, sources: &Sources) -> Self {
        let node: Uuid = sources.ids.next(sources.clock.now());
        let counts = consumers.iter().map(|_| Count::default()).collect();
        Self { consumers: consumers.into(), node: node.to_string(), counts, sampled: Mutex::default() }
    }

    /// State of all consumers in the database, at most about ten seconds old; empty before the first look.
    pub fn sampled(&self) -> Vec<ConsumerStatus> {
        self.sampled.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counters of this process.
    pub fn counts(&self) -> Vec<ConsumerCounts> {
        let counts = self.consumers.iter().zip(&self.counts).map(|(consumer, count)| ConsumerCounts {
            name: consumer.name,
            handled: count.handled.load(Ordering::Relaxed),
            set_aside: count.set_aside.load(Ordering::Relaxed),
        });
        counts.collect()
    }

    fn count(&self, place: usize, handled: usize, set_aside: bool) {
        let Some(count) = self.counts.get(place) else { return };
        count.handled.fetch_add(handled as u64, Ordering::Relaxed);
        count.set_aside.fetch_add(u64::from(set_aside), Ordering::Relaxed);
    }
}

impl<W: Transactions> Consumers<W> {
    /// Delivery to the consumers of `set`.
    pub fn new(transactions: W, set: Arc<ConsumerSet>) -> Self {
        Self { transactions, set }
    }

    /// Makes the consumers of this build known to the database.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn declare(&self) -> Result<(), Error> {
        let (set, now) = (Arc::clone(&self.set), self.now());
        self.transactions.store().write(move |tx| lease::declare(tx, &set.consumers, now)).await
    }

    /// Delivers until nothing is left that is due, and returns how many events were handled. Consumers that another node
    /// delivers to are left out.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn run_due(self) -> Result<usize, Error> {
        let leased = self.campaign().await?;
        let deliveries: Vec<_> = leased.into_iter().map(|place| (place, self.delivery(place))).collect();
        let mut handled = 0;
        for (place, mut delivery) in deliveries {
            while let Progress::More { handled: more, set_aside } = delivery.step().await? {
                self.set.count(place, more, set_aside);
                handled += more;
            }
        }
        Ok(handled)
    }

    /// Starts to deliver in the background. The consumers must be declared.
    pub fn start(&self) -> RunningConsumers<W> {
        let (stop, stopped) = watch::channel(false);
        let (leased, leases) = watch::channel(BTreeSet::new());
        let mut tasks = JoinSet::new();
        if !self.set.consumers.is_empty() {
            tasks.spawn(self.clone().keep_leases(leased, stopped.clone()));
        }
        for place in 0..self.set.consumers.len() {
            let delivery = self.delivery(place);
            tasks.spawn(self.clone().follow(place, delivery, leases.clone(), stopped.clone()));
        }
        RunningConsumers { consumers: self.clone(), stop, tasks }
    }

    fn delivery(&self, place: usize) -> Delivery<W> {
        let consumer = self.set.consumers[place].clone();
        Delivery::new(self.transactions.clone(), consumer, self.set.node.clone())
    }

    fn now(&self) -> Timestamp {
        self.transactions.sources().clock.now()
    }

    fn campaign(&self) -> impl Future<Output = Result<BTreeSet<usize>, Error>> + use<W> {
        let Self { transactions, set } = self;
        let (store, consumers) = (transactions.store().clone(), Arc::clone(&set.consumers));
        lease::campaign(store, consumers, set.node.clone(), self.now())
    }

    /// Renews the leases of this node, takes those that others have lost, and samples the state.
    async fn keep_leases(self, leased: watch::Sender<BTreeSet<usize>>, mut stopped: watch::Receiver<bool>) {
        let mut bell = self.transactions.store().bell(WAKE_UP);
        let (mut sampled_at, mut declared_at) = (None, self.now());
        while !*stopped.borrow() {
            match self.campaign().await {
                Ok(places) => {
                    leased.send_if_modified(|known| {
                        let is_new = *known != places;
                        *known = places;
                        is_new
                    });
                }
                Err(error) => tracing::warn!(%error, "the leases of consumers cannot be renewed"),
            }
            self.sample(&mut sampled_at).await;
            if self.now().since(declared_at) >= DECLARE_INTERVAL && self.declare().await.is_ok() {
                declared_at = self.now();
            }
            tokio::select! {
                () = tokio::time::sleep(RENEW_INTERVAL) => {}
                () = bell.rung() => {}
                _ = stopped.changed() => {}
            }
        }
    }

    /// Reads the state of all consumers if the last sample is old.
    async fn sample(&self, sampled_at: &mut Option<Timestamp>) {
        let now = self.now();
        if sampled_at.is_some_and(|at| now.since(at) < SAMPLE_INTERVAL) {
            return;
        }
        match self.transactions.store().read(move |q: &Query<'_>| list_status(q, now)).await {
            Ok(statuses) => {
                *self.set.sampled.lock().unwrap_or_else(PoisonError::into_inner) = statuses;
                *sampled_at = Some(now);
            }
            Err(error) => tracing::warn!(%error, "the lag of consumers cannot be read"),
        }
    }

    /// Delivers to one consumer whenever this node holds its lease.
    async fn follow(
        self,
        place: usize,
        mut delivery: Delivery<W>,
        mut leases: watch::Receiver<BTreeSet<usize>>,
        mut stopped: watch::Receiver<bool>,
    ) {
        let store = self.transactions.store().clone();
        let (mut head, mut bell) = (store.head(), store.bell(WAKE_UP));
        let mut errors = 0_u32;
        while !*stopped.borrow() {
            // Before the step, so that an event which comes meanwhile is not missed.
            head.mark_unchanged();
            bell.hush();
            let is_leased = leases.borrow_and_update().contains(&place);
            let pause = if is_leased {
                match self.step(place, &mut delivery, &mut errors).await {
                    None => continue,
                    Some(pause) => pause,
                }
            } else {
                POLL_INTERVAL
            };
            let is_paused = errors > 0;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = head.changed(), if is_leased && !is_paused => {}
                () = bell.rung() => {}
                changed = leases.changed() => if changed.is_err() { return },
                _ = stopped.changed() => {}
            }
        }
    }

    /// Takes a step; returns how long to wait before the next one, or `None` if there may be more to do at once.
    async fn step(&self, place: usize, delivery: &mut Delivery<W>, errors: &mut u32) -> Option<Duration> {
        match delivery.step().await {
            Ok(Progress::More { handled, set_aside }) => {
                self.set.count(place, handled, set_aside);
                *errors = 0;
                None
            }
            Ok(Progress::Idle { until }) => {
                *errors = 0;
                let now = self.now();
                Some(until.map_or(POLL_INTERVAL, |until| until.since(now)).min(POLL_INTERVAL))
            }
            Ok(Progress::NotOwner) => Some(POLL_INTERVAL),
            Err(error) => {
                tracing::warn!(%error, consumer = delivery.name(), "events cannot be delivered at the moment");
                *errors = errors.saturating_add(1);
                Some((Duration::from_millis(100) * 2_u32.pow((*errors).min(6))).min(MAX_PAUSE))
            }
        }
    }
}

impl<W: Transactions> RunningConsumers<W> {
    /// Finishes the steps that have begun and gives up the leases of this node, so that another node goes on at once.
    pub async fn stop(self) {
        let Self { consumers, stop, mut tasks } = self;
        stop.send_replace(true);
        while tasks.join_next().await.is_some() {}
        let node = consumers.set.node.clone();
        let released = consumers.transactions.store().write(move |tx| {
            if rows::release(tx, &node)? > 0 {
                tx.ring(WAKE_UP);
            }
            Ok::<_, Error>(())
        });
        if let Err(error) = released.await {
            tracing::warn!(%error, "the leases of consumers could not be given up");
        }
    }
}
