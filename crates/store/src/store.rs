//! The one type the rest of Kith holds: hands closures to whichever engine is underneath and waits for the answer.

mod auditing;

use std::sync::Arc;
use std::time::{Duration, Instant};

use kith_kernel::Timestamp;
use tokio::sync::watch;

use crate::audit_keys::AuditKeyring;
use crate::job::{ReadJob, read_job, write_job};
use crate::migrate::{MigrationStatus, ModuleMigrations};
use crate::options::{EngineOptions, StoreOptions};
use crate::statements::Statements;
use crate::{
    Bell, Error, IntoOutcome, OpenError, Query, SequencedEvent, StatsSnapshot, Tx, outbox, postgres, sqlite,
};

/// A database. Clones share it.
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

/// Which database is underneath.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineKind {
    /// SQLite, in a folder of its own.
    Sqlite,
    /// PostgreSQL.
    Postgres,
}

/// What a healthy database answered.
#[derive(Clone, Copy, Debug)]
pub struct Health {
    /// How long it took to answer.
    pub round_trip: Duration,
    /// Its clock, where it has one of its own (PostgreSQL).
    pub clock: Option<ClockReading>,
}

/// What another clock shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockReading {
    /// The time there, as of now.
    pub now: Timestamp,
    /// By how much that may be wrong: half the time the question and its answer travelled.
    pub uncertainty: Duration,
}

impl Store {
    /// Opens the database and starts its threads. The schema must be up to date: see [`Store::migrate_up`].
    ///
    /// # Errors
    /// [`OpenError`] says what is in the way.
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

    /// Applies what is missing of `modules`' migrations, one node at a time, and returns what was applied.
    ///
    /// # Errors
    /// [`OpenError::Schema`] if the database holds migrations that are not in `modules`, or with another text.
    pub async fn migrate_up(
        options: &StoreOptions,
        modules: Vec<ModuleMigrations>,
        now: Timestamp,
    ) -> Result<Vec<String>, OpenError> {
        let options = options.clone();
        let run = move || crate::migrate::up(&options, &modules, now);
        tokio::task::spawn_blocking(run).await.map_err(Error::fault)?
    }

    /// Undoes the last `steps` migrations that were applied, and returns which.
    ///
    /// # Errors
    /// As for [`Store::migrate_up`].
    pub async fn migrate_down(
        options: &StoreOptions,
        modules: Vec<ModuleMigrations>,
        steps: usize,
    ) -> Result<Vec<String>, OpenError> {
        let options = options.clone();
        let run = move || crate::migrate::down(&options, &modules, steps);
        tokio::task::spawn_blocking(run).await.map_err(Error::fault)?
    }

    /// What is applied, what is missing, and what does not fit. Changes nothing.
    ///
    /// # Errors
    /// [`OpenError`] if the database cannot be reached.
    pub async fn migration_status(
        options: &StoreOptions,
        modules: Vec<ModuleMigrations>,
    ) -> Result<Vec<MigrationStatus>, OpenError> {
        let options = options.clone();
        let run = move || crate::migrate::status(&options, &modules);
        tokio::task::spawn_blocking(run).await.map_err(Error::fault)?
    }

    /// Which database this is.
    pub fn kind(&self) -> EngineKind {
        match &*self.engine {
            Engine::Sqlite(_) => EngineKind::Sqlite,
            Engine::Postgres(_) => EngineKind::Postgres,
        }
    }

    /// Runs a transaction within the default deadline. The closure may be run more than once; only its last run
    /// counts. When this returns `Ok`, or the error of a `CommitRefusal`, the change is on disk.
    ///
    /// # Errors
    /// The closure's own; but once a statement has failed, that statement's [`enum@Error`] turned into it, whatever
    /// the closure made of it.
    pub async fn write<F, O>(&self, run: F) -> Result<O::Value, O::Error>
    where
        F: Fn(&Tx<'_>) -> O + Send + 'static,
        O: IntoOutcome,
        O::Value: Send + 'static,
        O::Error: From<Error> + Send + 'static,
    {
        self.write_within(self.deadline, run).await
    }

    /// The same within `patience`, counted from now. A transaction that has not started by then never does.
    ///
    /// # Errors
    /// As for [`Store::write`].
    #[expect(clippy::disallowed_methods, reason = "deadlines are about real waiting")]
    pub async fn write_within<F, O>(&self, patience: Duration, run: F) -> Result<O::Value, O::Error>
    where
        F: Fn(&Tx<'_>) -> O + Send + 'static,
        O: IntoOutcome,
        O::Value: Send + 'static,
        O::Error: From<Error> + Send + 'static,
    {
        let (job, answer) = write_job(run, Instant::now() + patience);
        let queued = match &*self.engine {
            Engine::Sqlite(engine) => engine.enqueue_write(job),
            Engine::Postgres(engine) => engine.enqueue_write(job),
        };
        queued?;
        answer.await.unwrap_or_else(|_| Err(Error::unavailable("the store has shut down").into()))
    }

    /// Runs a read. On SQLite in place: it is for microseconds, and one that takes longer is run again elsewhere.
    ///
    /// # Errors
    /// The closure's own, or [`enum@Error`] turned into it.
    pub async fn read<F, T, E>(&self, run: F) -> Result<T, E>
    where
        F: Fn(&Query<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        match &*self.engine {
            Engine::Sqlite(engine) => match engine.read_in_place(&run) {
                Some(answer) => answer,
                None => self.queue_read(run, |job| engine.enqueue_slow_read(job)).await,
            },
            Engine::Postgres(engine) => self.queue_read(run, |job| engine.enqueue_read(job)).await,
        }
    }

    /// Runs a long read, away from the short ones, all of whose statements see the same state.
    ///
    /// # Errors
    /// The closure's own, or [`enum@Error`] turned into it.
    pub async fn export<F, T, E>(&self, run: F) -> Result<T, E>
    where
        F: Fn(&Query<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        match &*self.engine {
            Engine::Sqlite(engine) => self.queue_read(run, |job| engine.enqueue_slow_read(job)).await,
            Engine::Postgres(engine) => self.queue_read(run, |job| engine.enqueue_slow_read(job)).await,
        }
    }

    #[expect(clippy::disallowed_methods, reason = "deadlines are about real waiting")]
    async fn queue_read<F, T, E>(
        &self,
        run: F,
        enqueue: impl FnOnce(Box<dyn ReadJob>) -> Result<(), Error>,
    ) -> Result<T, E>
    where
        F: Fn(&Query<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let (job, answer) = read_job(run, Instant::now() + self.deadline);
        enqueue(job)?;
        answer.await.unwrap_or_else(|_| Err(Error::unavailable("the store has shut down").into()))
    }

    /// Asks the database whether it is there.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and the like if it is not.
    #[expect(clippy::disallowed_methods, reason = "measures the round trip")]
    pub async fn health(&self) -> Result<Health, Error> {
        let asked = Instant::now();
        let clock = match &*self.engine {
            Engine::Sqlite(_) => self.read(|q| q.one("SELECT 1", &[], |_| Ok(()))).await.map(|_| None)?,
            Engine::Postgres(_) => {
                let (read, at) = self.read(postgres::read_clock).await?;
                Some(ClockReading { now: read.now + at.elapsed(), ..read })
            }
        };
        Ok(Health { round_trip: asked.elapsed(), clock })
    }

    /// The counters.
    pub fn stats(&self) -> StatsSnapshot {
        match &*self.engine {
            Engine::Sqlite(engine) => engine.stats(),
            Engine::Postgres(engine) => engine.stats(),
        }
    }

    /// For how long no transaction has begun or ended although all threads that write are busy. Zero when any is idle.
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

    /// How many connections it has open at most, where they are what runs out (PostgreSQL).
    pub fn pool_size(&self) -> Option<usize> {
        match &*self.engine {
            Engine::Sqlite(_) => None,
            Engine::Postgres(engine) => Some(engine.pool_size()),
        }
    }

    /// How often connections have led to another server than those before, or to one that has restarted. A failover may
    /// undo commits: who remembers what was read before a change has to read it again. Always 0 on SQLite.
    pub fn server_changes(&self) -> u64 {
        match &*self.engine {
            Engine::Sqlite(_) => 0,
            Engine::Postgres(engine) => engine.server_changes(),
        }
    }

    /// The last position given to an event, as far as this process knows; wakes its watchers when it grows, and when a
    /// failover has undone some.
    pub fn head(&self) -> watch::Receiver<i64> {
        match &*self.engine {
            Engine::Sqlite(engine) => engine.head(),
            Engine::Postgres(engine) => engine.head(),
        }
    }

    /// The bell of this name: see [`Tx::ring`].
    pub fn bell(&self, name: &str) -> Bell {
        match &*self.engine {
            Engine::Sqlite(engine) => engine.bells().listen(name),
            Engine::Postgres(engine) => engine.bells().listen(name),
        }
    }

    /// At most `limit` events behind `position`, in order.
    ///
    /// # Errors
    /// [`enum@Error`] if the database cannot be read.
    pub async fn events_after(&self, position: i64, limit: i64) -> Result<Vec<SequencedEvent>, Error> {
        self.read(move |q| outbox::events_after(q, position, limit)).await
    }

    /// At most `limit` events before `position`, the newest first.
    ///
    /// # Errors
    /// [`enum@Error`] if the database cannot be read.
    pub async fn events_before(&self, position: i64, limit: i64) -> Result<Vec<SequencedEvent>, Error> {
        self.read(move |q| outbox::events_before(q, position, limit)).await
    }

    /// The last position given to an event, asked of the database.
    ///
    /// # Errors
    /// [`enum@Error`] if the database cannot be read.
    pub async fn last_position(&self) -> Result<i64, Error> {
        self.read(outbox::last_position).await
    }

    /// When the oldest event was emitted that has no position yet: how far the sequencer is behind. Nothing, where it
    /// is not behind; always on SQLite, where events get their positions with the commit.
    ///
    /// # Errors
    /// [`enum@Error`] if the database cannot be read.
    pub async fn oldest_unplaced(&self) -> Result<Option<Timestamp>, Error> {
        match &*self.engine {
            Engine::Sqlite(_) => Ok(None),
            Engine::Postgres(_) => self.read(outbox::oldest_unplaced).await,
        }
    }

    /// Removes at most `limit` of the oldest events that are older than `before`, and returns how many. Events that a consumer
    /// has not passed or is going to retry stay, and so do the newest event and the last entry of each user's log.
    ///
    /// # Errors
    /// Whatever the database answers.
    pub async fn remove_events(&self, before: Timestamp, limit: i64) -> Result<u64, Error> {
        self.write(move |tx| outbox::remove_events(tx, before, limit)).await
    }

    /// Stops taking work, finishes what is queued, and ends the threads. Threads that do not end within seconds are abandoned.
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
    /// Switches a fault on; it strikes once, at the next place it fits.
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
