//! Runs the consumers of a node: elects, delivers, and wakes up when events come.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kith_kernel::{Timestamp, seconds};
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
/// Shortest pause while nothing is due.
const MIN_PAUSE: Duration = Duration::from_millis(1);
/// Pause after a step that found the cursor, the lease or the log changed.
const OUTDATED_PAUSE: Duration = Duration::from_millis(50);
/// Delay of the next look after events of no interest.
const QUIET_PAUSE: Duration = Duration::from_millis(25);
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
    poll_interval: Duration,
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
    /// Consumers of `node`, whose name no other process may have.
    pub fn new(mut consumers: Vec<Consumer>, node: String) -> Self {
        // In one order on every node, so that transactions on several of them cannot wait for each other.
        consumers.sort_by_key(|consumer| consumer.name);
        let counts = consumers.iter().map(|_| Count::default()).collect();
        Self { consumers: consumers.into(), node, counts, sampled: Mutex::default() }
    }

    /// State of all consumers in the database, at most about ten seconds old; empty before the first look, and while the
    /// database cannot be read.
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

    fn count(&self, index: usize, handled: usize, set_aside: bool) {
        let Some(count) = self.counts.get(index) else { return };
        count.handled.fetch_add(handled as u64, Ordering::Relaxed);
        count.set_aside.fetch_add(u64::from(set_aside), Ordering::Relaxed);
    }
}

impl<W: Transactions> Consumers<W> {
    /// Delivery to the consumers of `set`.
    pub fn new(transactions: W, set: Arc<ConsumerSet>) -> Self {
        Self { transactions, set, poll_interval: POLL_INTERVAL }
    }

    /// Looks for events, replays and leases only this often unless it is woken. Leases must not run out meanwhile.
    #[must_use]
    pub fn with_poll_interval(self, poll_interval: Duration) -> Self {
        Self { poll_interval, ..self }
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
        let leased = self.acquire_leases().await?;
        let deliveries: Vec<_> = leased.into_iter().map(|index| (index, self.delivery(index))).collect();
        let mut handled = 0;
        for (index, mut delivery) in deliveries {
            loop {
                match delivery.step().await? {
                    Progress::More { handled: more, set_aside } => {
                        self.set.count(index, more, set_aside);
                        handled += more;
                    }
                    Progress::Outdated => {}
                    Progress::Idle { .. } | Progress::NotOwner => break,
                }
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
            tasks.spawn(self.clone().renew_leases(leased, stopped.clone()));
        }
        for index in 0..self.set.consumers.len() {
            let delivery = self.delivery(index);
            tasks.spawn(self.clone().follow(index, delivery, leases.clone(), stopped.clone()));
        }
        RunningConsumers { consumers: self.clone(), stop, tasks }
    }

    fn delivery(&self, index: usize) -> Delivery<W> {
        let consumer = self.set.consumers[index].clone();
        Delivery::new(self.transactions.clone(), consumer, self.set.node.clone())
    }

    fn now(&self) -> Timestamp {
        self.transactions.sources().clock.now()
    }

    fn acquire_leases(&self) -> impl Future<Output = Result<BTreeSet<usize>, Error>> + use<W> {
        let Self { transactions, set, .. } = self;
        let (store, consumers) = (transactions.store().clone(), Arc::clone(&set.consumers));
        lease::acquire_leases(store, consumers, set.node.clone(), self.now())
    }

    /// Renews the leases of this node, takes those that others have lost, and samples the state.
    #[expect(clippy::disallowed_methods, reason = "declarations age in real time")]
    async fn renew_leases(self, leased: watch::Sender<BTreeSet<usize>>, mut stopped: watch::Receiver<bool>) {
        let mut bell = self.transactions.store().bell(WAKE_UP);
        let (mut sampled_at, mut declared_at) = (None, Instant::now());
        while !*stopped.borrow() {
            match self.acquire_leases().await {
                Ok(indexes) => {
                    leased.send_if_modified(|known| {
                        let is_new = *known != indexes;
                        *known = indexes;
                        is_new
                    });
                }
                Err(error) => tracing::warn!(%error, "the leases of consumers cannot be renewed"),
            }
            self.sample(&mut sampled_at).await;
            if declared_at.elapsed() >= DECLARE_INTERVAL && self.declare().await.is_ok() {
                declared_at = Instant::now();
            }
            tokio::select! {
                () = tokio::time::sleep(RENEW_INTERVAL.max(self.poll_interval)) => {}
                () = bell.rung() => {}
                _ = stopped.changed() => {}
            }
        }
    }

    /// Reads the state of all consumers if the last sample is old.
    #[expect(clippy::disallowed_methods, reason = "samples age in real time")]
    async fn sample(&self, sampled_at: &mut Option<Instant>) {
        if sampled_at.is_some_and(|at| at.elapsed() < SAMPLE_INTERVAL) {
            return;
        }
        let now = self.now();
        let statuses = self.transactions.store().read(move |q: &Query<'_>| list_status(q, now)).await;
        match &statuses {
            Ok(_) => *sampled_at = Some(Instant::now()),
            Err(error) => tracing::warn!(%error, "the lag of consumers cannot be read"),
        }
        *self.set.sampled.lock().unwrap_or_else(PoisonError::into_inner) = statuses.unwrap_or_default();
    }

    /// Delivers to one consumer whenever this node holds its lease.
    async fn follow(
        self,
        index: usize,
        mut delivery: Delivery<W>,
        mut leases: watch::Receiver<BTreeSet<usize>>,
        mut stopped: watch::Receiver<bool>,
    ) {
        let store = self.transactions.store().clone();
        let (mut head, mut bell) = (store.head(), store.bell(WAKE_UP));
        let mut state = FollowState::default();
        while !*stopped.borrow() {
            // Before the step, so that an event which comes meanwhile is not missed.
            head.mark_unchanged();
            bell.hush();
            let is_leased = leases.borrow_and_update().contains(&index);
            let pause = match is_leased {
                true => self.step(index, &mut delivery, &mut state).await,
                false => self.poll_interval,
            };
            if pause.is_zero() {
                continue;
            }
            let wakes_at_head = is_leased && state.errors == 0;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = woken(&mut head, state.is_quiet), if wakes_at_head => {}
                () = bell.rung() => {}
                changed = leases.changed() => if changed.is_err() { return },
                _ = stopped.changed() => {}
            }
        }
    }

    /// Takes a step, and returns how long to wait before the next one at most.
    async fn step(&self, index: usize, delivery: &mut Delivery<W>, state: &mut FollowState) -> Duration {
        let progress = delivery.step().await;
        if progress.is_ok() {
            state.errors = 0;
        }
        match progress {
            Ok(Progress::More { handled, set_aside }) => {
                self.set.count(index, handled, set_aside);
                Duration::ZERO
            }
            Ok(Progress::Idle { until, has_passed }) => {
                state.is_quiet = has_passed;
                let now = self.now();
                let until = until.map_or(self.poll_interval, |until| until.since(now));
                until.clamp(MIN_PAUSE, self.poll_interval)
            }
            Ok(Progress::NotOwner) => self.poll_interval,
            Ok(Progress::Outdated) => OUTDATED_PAUSE,
            Err(error) => {
                tracing::warn!(%error, consumer = delivery.name(), "events cannot be delivered at the moment");
                state.errors = state.errors.saturating_add(1);
                (Duration::from_millis(100) * 2_u32.pow(state.errors.min(6))).min(MAX_PAUSE)
            }
        }
    }
}

/// State of a task that follows the log.
#[derive(Debug, Default)]
struct FollowState {
    /// Errors of the database in a row.
    errors: u32,
    /// Whether the last events were of no interest to the consumer.
    is_quiet: bool,
}

/// Returns when the head of the log moves. A consumer that did not want the last events is woken a little later, so that traffic of
/// no interest costs it few reads.
async fn woken(head: &mut watch::Receiver<i64>, is_quiet: bool) {
    if head.changed().await.is_err() {
        std::future::pending().await
    }
    if is_quiet {
        tokio::time::sleep(QUIET_PAUSE).await;
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
