//! Consumers of a node in the background: acquires leases, delivers events, and wakes up when events arrive.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use kith_kernel::{Timestamp, seconds};
use kith_store::{Error, Query};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::lease::{self, RENEW_INTERVAL};
use crate::status::list_status;
use crate::supervise::supervise;
use crate::{ConsumerSet, Delivery, Progress, Transactions, rows};

/// Channel that wakes consumers after a replay, and after a node has released its leases.
pub(crate) const WAKE_UP: &str = "consumers";
/// Maximum time between two checks for events. Notifications can be lost with a connection.
const POLL_INTERVAL: Duration = seconds(2);
/// Minimum pause while no work is due.
const MIN_PAUSE: Duration = Duration::from_millis(1);
/// Pause after a step that found the cursor, the lease or the log changed.
const OUTDATED_PAUSE: Duration = Duration::from_millis(50);
/// Delay before the log is read again after events of kinds that the consumer does not handle.
const QUIET_PAUSE: Duration = Duration::from_millis(25);
/// Maximum pause after a database error.
const MAX_PAUSE: Duration = seconds(5);
/// Interval at which the state of the consumers is sampled.
const SAMPLE_INTERVAL: Duration = seconds(10);
/// Interval at which a running node declares its consumers.
const DECLARE_INTERVAL: Duration = seconds(3_600);

/// Consumers of one node, and the transactions with which events are delivered to them. Clones share the set.
#[derive(Clone, Debug)]
pub struct Consumers<W> {
    transactions: W,
    set: Arc<ConsumerSet>,
    poll_interval: Duration,
}

/// Consumers running in the background until they are stopped.
#[derive(Debug)]
pub struct RunningConsumers<W> {
    consumers: Consumers<W>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl<W: Transactions> Consumers<W> {
    /// Creates the consumers of this node from `set`. Nothing runs until [`Self::run_due`] or
    /// [`Self::start`].
    pub fn new(transactions: W, set: Arc<ConsumerSet>) -> Self {
        Self { transactions, set, poll_interval: POLL_INTERVAL }
    }

    /// Sets the interval at which events, replays and leases are checked without a notification. It must be
    /// shorter than the duration of a lease.
    #[must_use]
    pub fn with_poll_interval(self, poll_interval: Duration) -> Self {
        Self { poll_interval, ..self }
    }

    /// Declares the consumers of this build in the database.
    ///
    /// # Errors
    /// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
    pub async fn declare(&self) -> Result<(), Error> {
        let (set, now) = (Arc::clone(&self.set), self.now());
        self.transactions.store().write(move |tx| lease::declare(tx, &set.consumers, now)).await
    }

    /// Delivers events until no more are due, and returns the number of events handled. Skips consumers whose
    /// lease is held by another node.
    ///
    /// # Errors
    /// Returns the error of the database, such as [`Error::Unavailable`].
    pub async fn run_due(self) -> Result<usize, Error> {
        let leased = self.acquire_leases().await?;
        let deliveries: Vec<_> = leased.into_iter().map(|index| (index, self.delivery(index))).collect();
        let mut handled = 0;
        for (index, mut delivery) in deliveries {
            loop {
                match delivery.step().await? {
                    Progress::More { handled: more, dead_lettered } => {
                        self.set.count(index, more, dead_lettered);
                        handled += more;
                    }
                    Progress::Outdated => {}
                    Progress::Idle { .. } | Progress::NotOwner => break,
                }
            }
        }
        Ok(handled)
    }

    /// Starts delivering in the background. The consumers must be declared.
    pub fn start(&self) -> RunningConsumers<W> {
        let (stop, stopped) = watch::channel(false);
        let leased = Arc::new(watch::Sender::new(BTreeSet::new()));
        let mut tasks = JoinSet::new();
        if !self.set.consumers.is_empty() {
            tasks.spawn(self.clone().supervise_leases(Arc::clone(&leased), stopped.clone()));
        }
        for index in 0..self.set.consumers.len() {
            tasks.spawn(self.clone().supervise_delivery(index, Arc::clone(&leased), stopped.clone()));
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
        lease::acquire_leases(store, consumers, set.node.clone(), self.now(), set.down())
    }

    /// Runs the task that renews leases, and restarts it after a panic.
    async fn supervise_leases(
        self,
        leased: Arc<watch::Sender<BTreeSet<usize>>>,
        stopped: watch::Receiver<bool>,
    ) {
        let start = || self.clone().renew_leases(Arc::clone(&leased), stopped.clone());
        let panicked = async || tracing::error!("the renewal of the leases of consumers panicked");
        supervise(stopped.clone(), start, panicked).await;
    }

    /// Runs the task that delivers to one consumer, and restarts it after a panic. After a panic it releases
    /// the lease, so that
    /// another node can deliver. If that fails, the lease expires.
    async fn supervise_delivery(
        self,
        index: usize,
        leased: Arc<watch::Sender<BTreeSet<usize>>>,
        stopped: watch::Receiver<bool>,
    ) {
        let start = || {
            let (this, leases, stopped) = (self.clone(), leased.subscribe(), stopped.clone());
            async move {
                this.set.set_down(index, false);
                let delivery = this.delivery(index);
                this.follow(index, delivery, leases, stopped).await;
            }
        };
        let panicked = async || {
            let name = self.set.consumers[index].name;
            tracing::error!(consumer = name, "the task that delivers to a consumer panicked");
            self.set.set_down(index, true);
            leased.send_if_modified(|leased| leased.remove(&index));
            self.release(Some(name)).await;
        };
        supervise(stopped.clone(), start, panicked).await;
    }

    /// Releases the lease of one consumer, or all leases of this node if `name` is `None`, and wakes other
    /// nodes so that they can acquire them.
    async fn release(&self, name: Option<&'static str>) {
        let node = self.set.node.clone();
        let released = self.transactions.store().write(move |tx| {
            let released = match name {
                Some(name) => rows::release(tx, &node, name)?,
                None => rows::release_all(tx, &node)?,
            };
            if released > 0 {
                tx.notify(WAKE_UP);
            }
            Ok::<_, Error>(())
        });
        if let Err(error) = released.await {
            tracing::warn!(%error, "cannot release the leases of consumers");
        }
    }

    /// Renews the leases of this node, takes over expired leases, and samples the state of all consumers.
    #[expect(clippy::disallowed_methods, reason = "declarations age in real time")]
    async fn renew_leases(
        self,
        leased: Arc<watch::Sender<BTreeSet<usize>>>,
        mut stopped: watch::Receiver<bool>,
    ) {
        let mut listener = self.transactions.store().listen(WAKE_UP);
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
                () = listener.notified() => {}
                () = self.set.renewal.notified() => {}
                _ = stopped.changed() => {}
            }
        }
    }

    /// Samples the state of all consumers if the last sample is older than [`SAMPLE_INTERVAL`].
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

    /// Delivers to one consumer while this node holds its lease.
    async fn follow(
        self,
        index: usize,
        mut delivery: Delivery<W>,
        mut leases: watch::Receiver<BTreeSet<usize>>,
        mut stopped: watch::Receiver<bool>,
    ) {
        let store = self.transactions.store().clone();
        let (mut head, mut listener) = (store.watch_last_position(), store.listen(WAKE_UP));
        let mut state = FollowState::default();
        while !*stopped.borrow() {
            // The change is marked as seen before the step, so that an event that arrives during the step is
            // not missed.
            head.mark_unchanged();
            listener.discard_pending();
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
                () = wait_for_head(&mut head, state.skipped_last), if wakes_at_head => {}
                () = listener.notified() => {}
                changed = leases.changed() => if changed.is_err() { return },
                _ = stopped.changed() => {}
            }
        }
    }

    /// Retries a due event or delivers the next batch. Returns the maximum time to wait before the next call.
    async fn step(&self, index: usize, delivery: &mut Delivery<W>, state: &mut FollowState) -> Duration {
        let progress = delivery.step().await;
        if progress.is_ok() {
            state.errors = 0;
        }
        match progress {
            Ok(Progress::More { handled, dead_lettered }) => {
                self.set.count(index, handled, dead_lettered);
                Duration::ZERO
            }
            Ok(Progress::Idle { until, has_skipped }) => {
                state.skipped_last = has_skipped;
                let now = self.now();
                let until = until.map_or(self.poll_interval, |until| until.since(now));
                until.clamp(MIN_PAUSE, self.poll_interval)
            }
            // The lease was just released or lost. The next renewal updates `leases`.
            Ok(Progress::NotOwner) => RENEW_INTERVAL,
            Ok(Progress::Outdated) => OUTDATED_PAUSE,
            Err(error) => {
                tracing::warn!(%error, consumer = delivery.name(), "events cannot be delivered at the moment");
                state.errors = state.errors.saturating_add(1);
                (Duration::from_millis(100) * 2_u32.pow(state.errors.min(6))).min(MAX_PAUSE)
            }
        }
    }
}

/// State of the task that delivers to one consumer.
#[derive(Debug, Default)]
struct FollowState {
    /// Number of consecutive database errors.
    errors: u32,
    /// True if the events scanned last were of kinds that the consumer does not handle.
    skipped_last: bool,
}

/// Waits until the last position of the log changes. If `is_quiet`, waits another [`QUIET_PAUSE`], so that
/// events of other kinds cause few reads.
async fn wait_for_head(head: &mut watch::Receiver<i64>, is_quiet: bool) {
    if head.changed().await.is_err() {
        std::future::pending().await
    }
    if is_quiet {
        tokio::time::sleep(QUIET_PAUSE).await;
    }
}

impl<W: Transactions> RunningConsumers<W> {
    /// Waits for the running steps to finish and releases the leases of this node, so that another node can
    /// acquire them immediately.
    pub async fn stop(self) {
        let Self { consumers, stop, mut tasks } = self;
        stop.send_replace(true);
        while tasks.join_next().await.is_some() {}
        consumers.release(None).await;
    }
}
