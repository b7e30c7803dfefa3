//! Runs the consumers of a node: acquires leases, delivers events, and wakes up when events arrive.

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
/// Maximum time between checks for events, because notifications can be lost with a connection.
const POLL_INTERVAL: Duration = seconds(2);
/// Minimum pause while nothing is due.
const MIN_PAUSE: Duration = Duration::from_millis(1);
/// Pause after a step that found the cursor, the lease or the log changed.
const OUTDATED_PAUSE: Duration = Duration::from_millis(50);
/// Delay of the next check after events of other kinds.
const QUIET_PAUSE: Duration = Duration::from_millis(25);
/// Maximum pause after a database error.
const MAX_PAUSE: Duration = seconds(5);
/// Interval at which the state of the consumers is sampled.
const SAMPLE_INTERVAL: Duration = seconds(10);
/// Interval at which a running node declares its consumers.
const DECLARE_INTERVAL: Duration = seconds(3_600);

/// Consumers of one node with the means to deliver to them. Clones share the set.
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
    /// Creates the delivery to the consumers of `set`.
    pub fn new(transactions: W, set: Arc<ConsumerSet>) -> Self {
        Self { transactions, set, poll_interval: POLL_INTERVAL }
    }

    /// Sets the interval for checking events, replays and leases without a notification. Leases must last
    /// longer than that.
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

    /// Delivers until nothing more is due, and returns the number of events handled. Skips consumers whose
    /// lease another node holds.
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

    /// Keeps the task alive that renews leases.
    async fn supervise_leases(
        self,
        leased: Arc<watch::Sender<BTreeSet<usize>>>,
        stopped: watch::Receiver<bool>,
    ) {
        let start = || self.clone().renew_leases(Arc::clone(&leased), stopped.clone());
        let panicked = async || tracing::error!("the renewal of the leases of consumers panicked");
        supervise(stopped.clone(), start, panicked).await;
    }

    /// Keeps the task alive that delivers to one consumer. After a panic the lease is released, so that
    /// another node can deliver to it, at the latest after the lease has expired.
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

    /// Gives up the lease of one consumer or of all, and wakes the nodes that may take it.
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

    /// Renews the leases of this node, takes over expired ones, and samples the state.
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

    /// Samples the state of all consumers if the last sample is old.
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
            // Marked before the step, so that an event that arrives meanwhile is not missed.
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
            // The lease has just been released or lost; the next renewal finds out.
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

/// State of a delivery task.
#[derive(Debug, Default)]
struct FollowState {
    /// Number of consecutive database errors.
    errors: u32,
    /// True if the last events were of other kinds.
    skipped_last: bool,
}

/// Waits until the head of the log moves. If the last events were of other kinds, waits a little longer, so
/// that traffic of other kinds causes few reads.
async fn wait_for_head(head: &mut watch::Receiver<i64>, is_quiet: bool) {
    if head.changed().await.is_err() {
        std::future::pending().await
    }
    if is_quiet {
        tokio::time::sleep(QUIET_PAUSE).await;
    }
}

impl<W: Transactions> RunningConsumers<W> {
    /// Finishes the running steps and releases the leases of this node, so that another node can take over at
    /// once.
    pub async fn stop(self) {
        let Self { consumers, stop, mut tasks } = self;
        stop.send_replace(true);
        while tasks.join_next().await.is_some() {}
        consumers.release(None).await;
    }
}
