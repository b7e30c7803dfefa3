//! SQLite connection: opening it, and running statements on it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rusqlite::{CachedStatement, Connection, ErrorCode, OpenFlags, params_from_iter};

use crate::error::Cause;
use crate::options::Synchronous;
use crate::statements::{Statements, Stopwatch, Times};
use crate::value::{Param, Row};
use crate::{Error, dialect};

/// Maximum number of prepared statements cached per connection.
const STATEMENT_CACHE_CAPACITY: usize = 512;

/// Time that a connection waits for a lock of another connection. Only a checkpoint that restarts the log
/// holds such a lock.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Number of virtual machine instructions between two checks of the clock. They take about ten microseconds.
const STEPS_BETWEEN_CLOCK_CHECKS: i32 = 1_000;

/// Connection with a cache of its statements in SQLite's notation.
pub(crate) struct SqliteConnection {
    pub raw: Connection,
    texts: RefCell<HashMap<(usize, usize), TranslatedStatement>>,
    /// Object in which the times of statements are recorded, if they are measured.
    measured: Option<Arc<Statements>>,
}

/// Statement in SQLite's notation, with the object in which its times are recorded.
#[derive(Clone)]
struct TranslatedStatement {
    text: Arc<str>,
    times: Option<Arc<Times>>,
}

/// Purpose of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionMode {
    Write,
    Read,
}

impl SqliteConnection {
    pub fn open(file: &Path, synchronous: Synchronous, mode: ConnectionMode) -> Result<Self, Error> {
        if mode == ConnectionMode::Write {
            create_private_file(file)?;
        }
        let mut flags = OpenFlags::SQLITE_OPEN_NO_MUTEX;
        flags |= match mode {
            ConnectionMode::Write => OpenFlags::SQLITE_OPEN_READ_WRITE,
            ConnectionMode::Read => OpenFlags::SQLITE_OPEN_READ_ONLY,
        };
        let raw = Connection::open_with_flags(file, flags).map_err(sqlite_error)?;
        raw.set_prepared_statement_cache_capacity(STATEMENT_CACHE_CAPACITY);
        // This is the query planner stability guarantee. Without it, SQLite plans a statement again when the
        // value of a parameter might affect the plan.
        raw.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)
            .map_err(sqlite_error)?;
        raw.busy_timeout(BUSY_TIMEOUT).map_err(sqlite_error)?;
        let synchronous = match synchronous {
            Synchronous::Full => "FULL",
            Synchronous::Off => "OFF",
        };
        let pragma =
            |name, value: &dyn rusqlite::ToSql| raw.pragma_update(None, name, value).map_err(sqlite_error);
        if mode == ConnectionMode::Write {
            pragma("journal_mode", &"WAL")?;
            pragma("synchronous", &synchronous)?;
            pragma("wal_autocheckpoint", &0)?;
        }
        pragma("foreign_keys", &true)?;
        pragma("cache_size", &-16_000)?;
        pragma("temp_store", &"MEMORY")?;
        Ok(Self { raw, texts: RefCell::default(), measured: None })
    }

    /// Opens an empty database in memory. It is dropped with the connection.
    pub fn in_memory() -> Result<Self, Error> {
        let raw = Connection::open_in_memory().map_err(sqlite_error)?;
        Ok(Self { raw, texts: RefCell::default(), measured: None })
    }

    /// Makes the connection record the times of statements in `statements`.
    pub fn measured_in(self, statements: &Arc<Statements>) -> Self {
        Self { measured: Some(Arc::clone(statements)), ..self }
    }

    /// Makes statements on this connection stop at the time that is set in the returned object.
    #[expect(clippy::disallowed_methods, reason = "bounds real work")]
    pub fn stoppable(&mut self) -> Result<Arc<StopAt>, Error> {
        let stop_at = Arc::new(StopAt { base: Instant::now(), ns: AtomicU64::new(u64::MAX) });
        let watch = Arc::clone(&stop_at);
        self.raw
            .progress_handler(STEPS_BETWEEN_CLOCK_CHECKS, Some(move || watch.is_reached()))
            .map_err(sqlite_error)?;
        Ok(stop_at)
    }

    fn prepare(&self, sql: &'static str) -> Result<(CachedStatement<'_>, Stopwatch), Error> {
        let key = (sql.as_ptr().addr(), sql.len());
        let statement = self.texts.borrow_mut().entry(key).or_insert_with(|| self.translate(sql)).clone();
        let stopwatch = Stopwatch::start(statement.times);
        Ok((self.raw.prepare_cached(&statement.text).map_err(sqlite_error)?, stopwatch))
    }

    fn translate(&self, sql: &'static str) -> TranslatedStatement {
        let times = self.measured.as_ref().map(|statements| statements.of(sql));
        TranslatedStatement { text: dialect::to_sqlite(sql).into(), times }
    }

    /// Runs a statement without parameters whose result is not needed, such as `COMMIT`.
    pub fn command(&self, sql: &str) -> Result<(), Error> {
        self.raw.prepare_cached(sql).and_then(|mut statement| statement.execute([])).map_err(sqlite_error)?;
        Ok(())
    }

    /// Runs several statements.
    pub fn batch(&self, sql: &str) -> Result<(), Error> {
        self.raw.execute_batch(sql).map_err(sqlite_error)
    }
}

/// Point in time that threads can share without a lock, stored as nanoseconds since `base`.
pub(crate) struct StopAt {
    base: Instant,
    ns: AtomicU64,
}

impl StopAt {
    pub fn set(&self, at: Instant) {
        let ns = u64::try_from(at.saturating_duration_since(self.base).as_nanos()).unwrap_or(u64::MAX);
        self.ns.store(ns, Ordering::Relaxed);
    }

    pub fn never(&self) {
        self.ns.store(u64::MAX, Ordering::Relaxed);
    }

    fn is_reached(&self) -> bool {
        self.base.elapsed().as_nanos() > u128::from(self.ns.load(Ordering::Relaxed))
    }
}

/// Creates the database file with mode 0600 if it does not exist. SQLite creates the files beside it with the
/// same mode.
fn create_private_file(file: &Path) -> Result<(), Error> {
    use std::os::unix::fs::OpenOptionsExt;
    let opened = std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(file);
    opened.map(drop).map_err(Error::unavailable)
}

/// Use of a connection by a closure.
pub(crate) struct SqliteSession<'c> {
    pub connection: &'c SqliteConnection,
    #[cfg(feature = "testing")]
    pub faults: Option<&'c crate::testing::Faults>,
}

impl<'c> SqliteSession<'c> {
    /// Creates a session without fault injection.
    pub fn plain(connection: &'c SqliteConnection) -> Self {
        Self {
            connection,
            #[cfg(feature = "testing")]
            faults: None,
        }
    }

    pub fn each(
        &self,
        sql: &'static str,
        params: &[Param<'_>],
        take: &mut dyn FnMut(&Row<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.inject_fault()?;
        let (mut statement, _stopwatch) = self.connection.prepare(sql)?;
        let mut rows = statement.query(params_from_iter(params)).map_err(sqlite_error)?;
        while let Some(row) = rows.next().map_err(sqlite_error)? {
            take(&Row::Sqlite(row))?;
        }
        Ok(())
    }

    pub fn exec(&self, sql: &'static str, params: &[Param<'_>]) -> Result<u64, Error> {
        self.inject_fault()?;
        let (mut statement, _stopwatch) = self.connection.prepare(sql)?;
        let changed = statement.execute(params_from_iter(params)).map_err(sqlite_error)?;
        Ok(changed as u64)
    }

    #[cfg(not(feature = "testing"))]
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "faults are injected in test builds only"
    )]
    const fn inject_fault(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Injects the requested fault at a statement. It exists only in test builds.
    #[cfg(feature = "testing")]
    fn inject_fault(&self) -> Result<(), Error> {
        use crate::testing::Fault;
        match self.faults.and_then(crate::testing::Faults::at_statement) {
            None => Ok(()),
            Some(Fault::ConnectionLost { .. }) => {
                // SQLite can do this when the disk fails: it rolls back the whole transaction, not only the
                // savepoint.
                self.connection.batch("ROLLBACK")?;
                Err(Error::unavailable("injected: the whole transaction was lost"))
            }
            Some(_) => Err(Error::unavailable("injected: database or disk is full")),
        }
    }
}

/// Maps a SQLite error to the error for the caller.
pub(crate) fn sqlite_error(error: rusqlite::Error) -> Error {
    let rusqlite::Error::SqliteFailure(code, _) = &error else {
        return Error::fault(error);
    };
    match code.code {
        ErrorCode::OperationInterrupted => Error::DeadlinePassed,
        ErrorCode::ConstraintViolation => Error::Constraint(Cause::new(error)),
        ErrorCode::DiskFull
        | ErrorCode::SystemIoFailure
        | ErrorCode::CannotOpen
        | ErrorCode::DatabaseBusy
        | ErrorCode::DatabaseLocked
        | ErrorCode::OutOfMemory
        | ErrorCode::ReadOnly
        | ErrorCode::FileLockingProtocolFailed => Error::unavailable(error),
        _ => Error::fault(error),
    }
}
