//! What a database needs to be opened. Where these values come from is not decided here.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::AuditVault;

/// Which database, and the bounds that hold for either.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Which database.
    pub engine: EngineOptions,
    /// Transactions that may wait before further ones are refused with [`crate::Error::Busy`].
    pub write_queue: usize,
    /// Reads that may wait, likewise, where reads wait at all.
    pub read_queue: usize,
    /// How long a transaction may wait for its start, a lock or a statement.
    pub deadline: Duration,
    /// Runs each closure twice, the first run rolled back: what a test build does to find hidden state.
    pub rehearse: bool,
    /// Seals and opens the keys of the audit chain.
    pub audit_vault: Arc<dyn AuditVault>,
}

/// One of the two databases.
#[derive(Clone, Debug)]
pub enum EngineOptions {
    /// Embedded.
    Sqlite(SqliteOptions),
    /// A server.
    Postgres(PostgresOptions),
}

/// How often SQLite waits for the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Synchronous {
    /// With each commit: nothing acknowledged is lost with the power.
    #[default]
    Full,
    /// Never: fast, and unsafe with the power cut. Not for data that matters.
    Off,
}

/// SQLite in a folder of its own.
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    /// The data folder; made if absent.
    pub folder: PathBuf,
    /// How often to wait for the disk.
    pub synchronous: Synchronous,
    /// How long a read may work in place before it moves to the slow lane.
    pub read_in_place: Duration,
}

/// PostgreSQL.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// `postgres://user:password@host:port/database?sslmode=…&sslrootcert=…` of the role that serves.
    pub url: String,
    /// The same for the role that owns the tables, where it is another.
    pub migrate_url: Option<String>,
    /// For whichever of the two has no password in it.
    pub password: Option<String>,
    /// Threads, and so connections, for transactions.
    pub write_threads: usize,
    /// Threads, and so connections, for reads.
    pub read_threads: usize,
    /// Plans of statements are made anew after this time. A plan that was made for empty tables may scan what they hold later.
    pub plan_max_age: Duration,
}

/// See [`PostgresOptions::plan_max_age`].
pub(crate) const DEFAULT_PLAN_MAX_AGE: Duration = Duration::from_secs(60);

impl StoreOptions {
    /// The defaults around `engine`. Keys of the audit chain are sealed by `audit_vault`.
    pub fn new(engine: EngineOptions, audit_vault: Arc<dyn AuditVault>) -> Self {
        Self {
            engine,
            write_queue: 4_096,
            read_queue: 4_096,
            deadline: Duration::from_secs(5),
            rehearse: false,
            audit_vault,
        }
    }
}

impl SqliteOptions {
    /// The defaults in `folder`.
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            synchronous: Synchronous::Full,
            read_in_place: Duration::from_millis(2),
        }
    }
}

impl PostgresOptions {
    /// The defaults at `url`.
    pub fn at(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            migrate_url: None,
            password: None,
            write_threads: 16,
            read_threads: 8,
            plan_max_age: DEFAULT_PLAN_MAX_AGE,
        }
    }

    /// The password in an address such as `url`, if it is one and has one.
    pub fn password_in(url: &str) -> Option<Vec<u8>> {
        crate::postgres::password_in(url)
    }
}
