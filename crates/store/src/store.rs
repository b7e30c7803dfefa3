//! Store: passes closures to the engine of the chosen database and waits for their results.

mod auditing;

use std::sync::Arc;
use std::time::{Duration, Instant};

use kith_kernel::Timestamp;
use tokio::sync::watch;

use crate::audit_keys::AuditKeyring;
use crate::clock_reading::ClockReading;
use crate::closures::{QueuedRead, QueuedWrite, ReadClosure, Transaction, queued_read, shut_down};
use crate::migrate::{MigrationStatus, ModuleMigrations};
use crate::options::{EngineOptions, StoreOptions};
use crate::statements::Statements;
use crate::{
    ChannelListener, Error, IntoTxOutcome, OpenError, Query, SequencedEvent, StatsSnapshot, Tx, outbox,
    postgres, sqlite,
};

/// Open database. Clones share the connections.
#[derive(Clone)]
pub struct Store {
    engine: Arc<Engine>,
    deadline: Duration,
    audit_keyring: Arc<AuditKeyring>,
}

enum Engine {
    Sqlite(sqlite::Engine),
    Postgres(postgres::Engine),
}

/// Kind of database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineKind {
    /// SQLite in a data folder.
    Sqlite,
    /// PostgreSQL server.
    Postgres,
}

/// Result of a successful health check.
#[derive(Clone, Copy, Debug)]
pub struct Health {
    /// Time that the database took to respond.
    pub round_trip: Duration,
    /// Clock of the database server (PostgreSQL); `None` on SQLite.
    pub clock: Option<ClockReading>,
}

impl Store {
    /// Opens the database and starts its threads. The schema must be up to date (see [`Store::migrate_up`]).
    ///
    /// # Errors
    /// Returns [`OpenError`] if the data folder is in use, the settings are invalid or the database cannot be
    /// reached.
    pub async fn open(options: StoreOptions) -> Result<Self, OpenError> {
        let deadline = options.deadline;
        let audit_keyring = Arc::new(AuditKeyring::new(Arc::clone(&options.audit_vault)));
        let keyring = Arc::clone(&audit_keyring);
        let engine = tokio::task::spawn_blocking(move || match options.engine.clone() {
            EngineOptions::Sqlite(own) => sqlite::Engine::open(&options, &own, &keyring).map(Engine::Sqlite),
            EngineOptions::Postgres(own) => {
                postgres::Engine::open(&options, &own, &keyring).map(Engine::Postgres)
            }
        });
        let engine = engine.await.map_err(Error::fault)??;
        Ok(Self { engine: Arc::new(engine), deadline, audit_keyring })
    }

    /// Applies the pending migrations of `modules` and returns their names. Only one node can migrate at a
    /// time.
    ///
    /// # Errors
    /// Returns [`OpenError::Schema`] if the database has migrations that are not in `modules`, or whose
    /// content differs.
    pub async fn migrate_up(
        options: &StoreOptions,
        modules: Vec<ModuleMigrations>,
        now: Timestamp,
    ) -> Result<Vec<String>, OpenError> {
        let options = options.clone();
        let run = move || crate::migrate::up(&options, &modules, now);
        tokio::task::spawn_blocking(run).await.map_err(Error::fault)?
    }

    /// Reverts the `steps` migrations that were applied last, and returns their names.
    ///
    /// # Errors
    /// Returns the same errors as [`Store::migrate_up`].
    pub async fn migrate_down(
        options: &StoreOptions,
        modules: Vec<ModuleMigrations>,
        steps: usize,
    ) -> Result<Vec<String>, OpenError> {
        let options = options.clone();
        let run = move || crate::migrate::down(&options, &modules, steps);
        tokio::task::spawn_blocking(run).await.map_err(Error::fault)?
    }

    /// Returns the state of each migration: applied, pending, changed or unknown. Does not change the
    /// database.
    ///
    /// # Errors
    /// Returns [`OpenError`] if the database cannot be reached.
    pub async fn migration_status(
        options: &StoreOptions,
        modules: Vec<ModuleMigrations>,
    ) -> Result<Vec<MigrationStatus>, OpenError> {
        let options = options.clone();
        let run = move || crate::migrate::status(&options, &modules);
        tokio::task::spawn_blocking(run).await.map_err(Error::fault)?
    }

    /// Returns the kind of database.
    pub fn kind(&self) -> EngineKind {
        match &*self.engine {
            Engine::Sqlite(_) => EngineKind::Sqlite,
            Engine::Postgres(_) => EngineKind::Postgres,
        }
    }

    /// Runs a transaction within the default deadline. The closure can be called more than once; only its
    /// last call takes effect. When this function returns `Ok`, or the error of a `CommitRefusal`, the change
    /// is on disk.
    ///
    /// # Errors
    /// Returns the closure's own error. If a statement failed, returns the [`enum@Error`] of that statement,
    /// converted to `O::Error`, whatever the closure returned.
    pub async fn write<F, O>(&self, run: F) -> Result<O::Value, O::Error>
    where
        F: Fn(&Tx<'_>) -> O + Send + 'static,
        O: IntoTxOutcome,
        O::Value: Send + 'static,
        O::Error: From<Error> + Send + 'static,
    {
        self.write_with_timeout(self.deadline, run).await
    }

    /// Runs a transaction that must start within `timeout` from now.
    ///
    /// # Errors
    /// Returns the same errors as [`Store::write`].
    #[expect(clippy::disallowed_methods, reason = "deadlines are measured in real time")]
    pub async fn write_with_timeout<F, O>(&self, timeout: Duration, run: F) -> Result<O::Value, O::Error>
    where
        F: Fn(&Tx<'_>) -> O + Send + 'static,
        O: IntoTxOutcome,
        O::Value: Send + 'static,
        O::Error: From<Error> + Send + 'static,
    {
        let (transaction, result) = Transaction::new(run);
        self.run_until(transaction, Instant::now() + timeout).await?;
        result.take()
    }

    /// Runs a transaction within the default deadline, as [`Store::write`] does, but the closure stores its
    /// result itself. `Ok` means that the transaction ended as the closure decided.
    ///
    /// # Errors
    /// Returns the store's error if a statement or the commit failed.
    #[expect(clippy::disallowed_methods, reason = "deadlines are measured in real time")]
    pub async fn run(&self, transaction: Transaction) -> Result<(), Error> {
        self.run_until(transaction, Instant::now() + self.deadline).await
    }

    async fn run_until(&self, transaction: Transaction, deadline: Instant) -> Result<(), Error> {
        let (closure, outcome) = QueuedWrite::new(transaction.0, deadline);
        match &*self.engine {
            Engine::Sqlite(engine) => engine.enqueue_write(closure)?,
            Engine::Postgres(engine) => engine.enqueue_write(closure)?,
        }
        outcome.await.unwrap_or_else(|_| Err(shut_down()))
    }

    /// Runs a read. On SQLite it runs on the calling thread. If it takes more than a few milliseconds, it is
    /// run again on a thread for slow reads.
    ///
    /// # Errors
    /// Returns the closure's own error, or [`enum@Error`] converted to `E`.
    pub async fn read<F, T, E>(&self, run: F) -> Result<T, E>
    where
        F: Fn(&Query<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        if let Engine::Sqlite(engine) = &*self.engine {
            let mut result = None;
            if let Some(ended) = engine.read_in_place(&mut |query| result = Some(run(query))) {
                ended?;
                return result.unwrap_or_else(|| Err(Error::fault("the closure was not run").into()));
            }
        }
        let (closure, result) = queued_read(run);
        self.queue_read(closure, matches!(&*self.engine, Engine::Sqlite(_))).await?;
        result.take()
    }

    /// Runs a long read on a separate thread. All its statements see the same snapshot.
    ///
    /// # Errors
    /// Returns the closure's own error, or [`enum@Error`] converted to `E`.
    pub async fn export<F, T, E>(&self, run: F) -> Result<T, E>
    where
        F: Fn(&Query<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let (closure, result) = queued_read(run);
        self.queue_read(closure, true).await?;
        result.take()
    }

    #[expect(clippy::disallowed_methods, reason = "deadlines are measured in real time")]
    async fn queue_read(&self, closure: ReadClosure, is_slow: bool) -> Result<(), Error> {
        let (closure, outcome) = QueuedRead::new(closure, Instant::now() + self.deadline);
        match &*self.engine {
            Engine::Sqlite(engine) => engine.enqueue_slow_read(closure)?,
            Engine::Postgres(engine) if is_slow => engine.enqueue_slow_read(closure)?,
            Engine::Postgres(engine) => engine.enqueue_read(closure)?,
        }
        outcome.await.unwrap_or_else(|_| Err(shut_down()))
    }

    /// Checks that the database responds, and measures the round trip.
    ///
    /// # Errors
    /// Returns [`Error::Unavailable`], [`Error::Busy`] or [`Error::DeadlinePassed`] if the database does not
    /// respond.
    #[expect(clippy::disallowed_methods, reason = "measures the round trip")]
    pub async fn health(&self) -> Result<Health, Error> {
        let started = Instant::now();
        let clock = match &*self.engine {
            Engine::Sqlite(_) => self.read(|q| q.one("SELECT 1", &[], |_| Ok(()))).await.map(|_| None)?,
            Engine::Postgres(_) => {
                let (read, at) = self.read(postgres::read_clock).await?;
                Some(ClockReading { now: read.now + at.elapsed(), ..read })
            }
        };
        Ok(Health { round_trip: started.elapsed(), clock })
    }

    /// Returns a snapshot of the counters and gauges.
    pub fn stats(&self) -> StatsSnapshot {
        match &*self.engine {
            Engine::Sqlite(engine) => engine.stats(),
            Engine::Postgres(engine) => engine.stats(),
        }
    }

    /// Returns for how long all write threads have been busy while no transaction started or ended. Returns
    /// zero if a write thread is idle.
    pub fn write_stall(&self) -> Duration {
        match &*self.engine {
            Engine::Sqlite(engine) => engine.write_stall(),
            Engine::Postgres(engine) => engine.write_stall(),
        }
    }

    pub(crate) fn statements(&self) -> &Statements {
        match &*self.engine {
            Engine::Sqlite(engine) => engine.statements(),
            Engine::Postgres(engine) => engine.statements(),
        }
    }

    /// Returns the maximum number of open connections (PostgreSQL), or `None` on SQLite.
    pub fn pool_size(&self) -> Option<usize> {
        match &*self.engine {
            Engine::Sqlite(_) => None,
            Engine::Postgres(engine) => Some(engine.pool_size()),
        }
    }

    /// Returns how often the connections moved to another server, or to the same server after a restart. A
    /// failover can undo commits, so caches that were filled earlier must be refreshed. Always 0 on SQLite.
    pub fn server_changes(&self) -> u64 {
        match &*self.engine {
            Engine::Sqlite(_) => 0,
            Engine::Postgres(engine) => engine.server_changes(),
        }
    }

    /// Returns a receiver of the last event position known to this process. It is notified when the position
    /// grows, and when a failover has reduced it.
    pub fn watch_last_position(&self) -> watch::Receiver<i64> {
        match &*self.engine {
            Engine::Sqlite(engine) => engine.watch_last_position(),
            Engine::Postgres(engine) => engine.watch_last_position(),
        }
    }

    /// Returns a listener on the channel `name` (see [`Tx::notify`]).
    pub fn listen(&self, name: &str) -> ChannelListener {
        match &*self.engine {
            Engine::Sqlite(engine) => engine.channels().listen(name),
            Engine::Postgres(engine) => engine.channels().listen(name),
        }
    }

    /// Returns up to `limit` events after `position`, in order.
    ///
    /// # Errors
    /// Returns [`enum@Error`] if the database cannot be read.
    pub async fn events_after(&self, position: i64, limit: i64) -> Result<Vec<SequencedEvent>, Error> {
        self.read(move |q| outbox::events_after(q, position, limit)).await
    }

    /// Returns up to `limit` events before `position`, newest first.
    ///
    /// # Errors
    /// Returns [`enum@Error`] if the database cannot be read.
    pub async fn events_before(&self, position: i64, limit: i64) -> Result<Vec<SequencedEvent>, Error> {
        self.read(move |q| outbox::events_before(q, position, limit)).await
    }

    /// Returns the last position assigned to an event, or 0 if there is none. It is read from the database.
    ///
    /// # Errors
    /// Returns [`enum@Error`] if the database cannot be read.
    pub async fn last_position(&self) -> Result<i64, Error> {
        self.read(outbox::last_position).await
    }

    /// Returns the time of the oldest event that has no position yet, or `None` if all events have one. It
    /// shows how far the sequencer is behind. Always `None` on SQLite, where a commit also assigns the
    /// positions.
    ///
    /// # Errors
    /// Returns [`enum@Error`] if the database cannot be read.
    pub async fn oldest_unsequenced(&self) -> Result<Option<Timestamp>, Error> {
        match &*self.engine {
            Engine::Sqlite(_) => Ok(None),
            Engine::Postgres(_) => self.read(outbox::oldest_unsequenced).await,
        }
    }

    /// Removes up to `limit` of the oldest events that are older than `before`, and returns the number of
    /// events removed. Does not remove events that a consumer has not passed or will retry, the newest event,
    /// and the last entry of each user's log.
    ///
    /// # Errors
    /// Returns [`enum@Error`] if the database cannot be written.
    pub async fn remove_events(&self, before: Timestamp, limit: i64) -> Result<u64, Error> {
        self.write(move |tx| outbox::remove_events(tx, before, limit)).await
    }

    /// Stops accepting transactions and reads, finishes the queued ones and ends the threads. Threads that do
    /// not end within five seconds are abandoned.
    pub async fn close(&self) {
        let engine = Arc::clone(&self.engine);
        let run = move || match &*engine {
            Engine::Sqlite(engine) => engine.close(),
            Engine::Postgres(engine) => engine.close(),
        };
        if tokio::task::spawn_blocking(run).await.is_err() {
            tracing::error!("closing the store panicked");
        }
    }
}

#[cfg(feature = "testing")]
impl Store {
    /// Injects a fault. It occurs once, at the next operation to which it applies.
    pub fn inject(&self, fault: crate::testing::Fault) {
        match &*self.engine {
            Engine::Sqlite(engine) => engine.faults().inject(fault),
            Engine::Postgres(engine) => engine.faults().inject(fault),
        }
    }
}

const _: fn() = || {
    fn is_send<T: Send + Sync>() {}
    is_send::<Store>();
};
