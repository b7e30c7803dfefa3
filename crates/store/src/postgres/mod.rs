//! PostgreSQL engine: a fixed set of threads with one connection each, and one dedicated connection for
//! notifications and sequencing.

mod connect;
mod connection;
mod direct;
mod failure;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod hosts;
mod migration;
mod pipeline;
mod session;
mod settings;
mod threads;

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_channel::Sender;
use kith_kernel::Timestamp;
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, watch};

use crate::audit_keys::AuditKeyring;
use crate::channels::Channels;
use crate::clock_reading::ClockReading;
use crate::closures::{QueuedRead, QueuedWrite, enqueue};
use crate::options::{PostgresOptions, StoreOptions};
use crate::statements::Statements;
use crate::stats::{StatsSnapshot, StoreStats};
use crate::threads::{Threads, WriteActivity};
use crate::{Error, OpenError, Query};

pub(crate) use migration::MigrationLink;
pub(crate) use session::PostgresSession;
use settings::Settings;
pub(crate) use settings::{database_label, password_in};

/// Number of threads for slow reads.
const SLOW_THREADS: usize = 2;

/// State shared by all threads of one database.
pub(crate) struct Shared {
    pub settings: Settings,
    pub stats: StoreStats,
    pub statements: Arc<Statements>,
    pub head: watch::Sender<i64>,
    pub channels: Channels,
    /// Notified after each commit that wrote audit entries or events. The thread of the dedicated connection
    /// waits for it.
    pub committed: Notify,
    pub stop: watch::Sender<bool>,
    pub runs_twice: bool,
    pub activity: WriteActivity,
    /// Number of write connections opened so far.
    pub write_connections: AtomicU64,
    /// Server of the newest connection (see [`connection::PostgresConnection::server`]); 0 before the first
    /// connection.
    server: AtomicI64,
    /// Number of times that the server has changed.
    server_changes: Mutex<u64>,
    pub audit_keyring: Arc<AuditKeyring>,
    #[cfg(feature = "testing")]
    pub faults: crate::testing::Faults,
}

impl Shared {
    /// Records the server of a new connection. All connections to other servers, such as the former primary,
    /// are abandoned afterwards.
    fn connected(&self, connection: &connection::PostgresConnection) {
        // The counter is incremented before the new server is stored, so that every thread that sees the new
        // server also sees the increment.
        let mut changes = self.server_changes.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.server();
        if before != connection.server {
            *changes += u64::from(before != 0);
            self.server.store(connection.server, Ordering::SeqCst);
        }
    }

    fn server(&self) -> i64 {
        self.server.load(Ordering::SeqCst)
    }

    /// Returns true if the connection is open to the same server as the newest connection.
    fn is_on_server(&self, connection: &connection::PostgresConnection) -> bool {
        connection.server == self.server()
    }
}

/// Open PostgreSQL database.
pub(crate) struct Engine {
    shared: Arc<Shared>,
    writes: Sender<QueuedWrite>,
    reads: Sender<QueuedRead>,
    slow_reads: Sender<QueuedRead>,
    threads: Threads,
    pool_size: usize,
}

impl Engine {
    pub fn open(
        options: &StoreOptions,
        own: &PostgresOptions,
        audit_keyring: &Arc<AuditKeyring>,
    ) -> Result<Self, OpenError> {
        let settings = Settings::parse(&own.url, own.password.as_deref(), options.deadline)?;
        let settings = Settings { plan_max_age: own.plan_max_age, ..settings };
        migration::refuse_shared_sessions(&settings)?;
        let shared = Arc::new(Shared {
            settings,
            stats: StoreStats::default(),
            statements: Arc::default(),
            head: watch::Sender::new(0),
            channels: Channels::default(),
            committed: Notify::new(),
            stop: watch::Sender::new(false),
            runs_twice: options.runs_twice,
            activity: WriteActivity::new(own.write_threads.max(1)),
            audit_keyring: Arc::clone(audit_keyring),
            write_connections: AtomicU64::new(0),
            server: AtomicI64::new(0),
            server_changes: Mutex::default(),
            #[cfg(feature = "testing")]
            faults: crate::testing::Faults::default(),
        });
        let (writes, write_queue) = async_channel::bounded(options.write_queue);
        let (reads, read_queue) = async_channel::bounded(options.read_queue);
        let (slow_reads, slow_queue) = async_channel::bounded(options.read_queue);
        let threads = Threads::default();
        for n in 0..own.write_threads.max(1) {
            threads::write_thread(&threads, &shared, write_queue.clone(), n)?;
        }
        for _ in 0..own.read_threads.max(1) {
            threads::read_thread(&threads, &shared, read_queue.clone(), threads::ReadClass::Short)?;
        }
        for _ in 0..SLOW_THREADS {
            threads::read_thread(&threads, &shared, slow_queue.clone(), threads::ReadClass::Slow)?;
        }
        direct::thread(&threads, &shared)?;
        let pool_size = threads.count();
        Ok(Self { shared, writes, reads, slow_reads, threads, pool_size })
    }

    pub fn enqueue_write(&self, closure: QueuedWrite) -> Result<(), Error> {
        enqueue(&self.shared.stats, || Ok(self.writes.try_send(closure)?))
    }

    pub fn enqueue_read(&self, closure: QueuedRead) -> Result<(), Error> {
        enqueue(&self.shared.stats, || Ok(self.reads.try_send(closure)?))
    }

    pub fn enqueue_slow_read(&self, closure: QueuedRead) -> Result<(), Error> {
        enqueue(&self.shared.stats, || Ok(self.slow_reads.try_send(closure)?))
    }

    pub fn stats(&self) -> StatsSnapshot {
        self.shared.stats.snapshot()
    }

    /// Returns for how long all write threads have been busy while none of them started new work.
    pub fn write_stall(&self) -> Duration {
        self.shared.activity.stalled()
    }

    pub fn statements(&self) -> &Statements {
        &self.shared.statements
    }

    /// Returns the maximum number of open connections.
    pub fn pool_size(&self) -> usize {
        self.pool_size
    }

    pub fn server_changes(&self) -> u64 {
        *self.shared.server_changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn watch_last_position(&self) -> watch::Receiver<i64> {
        self.shared.head.subscribe()
    }

    pub fn channels(&self) -> &Channels {
        &self.shared.channels
    }

    #[cfg(feature = "testing")]
    pub fn faults(&self) -> &crate::testing::Faults {
        &self.shared.faults
    }

    pub fn close(&self) {
        self.writes.close();
        self.reads.close();
        self.slow_reads.close();
        self.shared.stop.send_replace(true);
        let _ = self.threads.wait();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}

/// Returns the key of an advisory lock. The same arguments give the same key in all builds and on all nodes.
pub(crate) fn lock_key(what: &str, key: &str) -> i64 {
    let digest = Sha256::new().chain_update(what).chain_update([0]).chain_update(key).finalize();
    i64::from_be_bytes(std::array::from_fn(|at| digest[at]))
}

/// Reads the server's clock and returns it with the local time of the reading. Only the statement is
/// measured, without the time spent waiting in the queue or for a connection.
#[expect(clippy::disallowed_methods, reason = "measures the round trip")]
pub(crate) fn read_clock(q: &Query<'_>) -> Result<(ClockReading, Instant), Error> {
    let ask = || {
        let sql = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)";
        q.one(sql, &[], |row| row.get::<Timestamp>(0))
    };
    // The first query may have to be prepared. The second query takes exactly one round trip.
    ask()?;
    let started = Instant::now();
    let there = ask()?.ok_or_else(|| Error::fault("the query for the time returned no row"))?;
    let uncertainty = started.elapsed() / 2;
    Ok((ClockReading { now: there + uncertainty, uncertainty }, Instant::now()))
}

/// Runs statements on a new connection. Tests use it to create and drop databases.
#[cfg(feature = "testing")]
pub(crate) fn run_once(url: &str, sql: &str) -> Result<(), OpenError> {
    let settings = Settings::parse(url, None, Duration::from_secs(60))?;
    let connection = connection::PostgresConnection::connect(&settings, None, |_| {})?;
    connection.batch(sql).map_err(|failure| Error::unavailable(failure).into())
}

/// Asynchronous variant of [`run_once`].
#[cfg(feature = "testing")]
pub(crate) async fn run_apart(url: String, sql: String) -> Result<(), OpenError> {
    tokio::task::spawn_blocking(move || run_once(&url, &sql)).await.map_err(Error::fault)?
}
