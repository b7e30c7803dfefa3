//! Options for opening a database. They do not depend on the source of the configuration.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::AuditVault;

/// Options of a store: the kind of database, and limits that apply to both kinds.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Database to open.
    pub engine: EngineOptions,
    /// Maximum number of queued transactions. Further transactions fail with [`crate::Error::Busy`].
    pub write_queue: usize,
    /// Maximum number of queued reads, for connections on which reads are queued. Further reads fail with
    /// [`crate::Error::Busy`].
    pub read_queue: usize,
    /// Maximum time that a transaction waits for its start, for a lock or for a statement.
    pub deadline: Duration,
    /// True if each closure is run twice and its first run is rolled back. Test builds use it to find
    /// closures with hidden state.
    pub runs_twice: bool,
    /// Vault that encrypts and decrypts the keys of the audit chain.
    pub audit_vault: Arc<dyn AuditVault>,
}

/// Kind of database with its options.
#[derive(Clone, Debug)]
pub enum EngineOptions {
    /// Embedded SQLite database.
    Sqlite(SqliteOptions),
    /// PostgreSQL server.
    Postgres(PostgresOptions),
}

/// Durability of commits in SQLite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Synchronous {
    /// Syncs to disk at each commit. No acknowledged change is lost in a power failure.
    #[default]
    Full,
    /// Never syncs to disk. This is faster, but a power failure can lose changes or damage the database. Not
    /// for production.
    Off,
}

/// Options for SQLite.
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    /// Data folder. It is created if it does not exist.
    pub folder: PathBuf,
    /// Durability of commits.
    pub synchronous: Synchronous,
    /// Maximum time that a read takes on the calling thread before it is moved to the threads for slow reads.
    pub read_in_place: Duration,
}

/// Options for PostgreSQL.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// URL for the role that serves requests:
    /// `postgres://user:password@host:port/database?sslmode=…&sslrootcert=…`.
    pub url: String,
    /// URL for the role that owns the tables, if another role owns them.
    pub migrate_url: Option<String>,
    /// Password for URLs that contain none.
    pub password: Option<String>,
    /// Number of threads for transactions. Each thread has its own connection.
    pub write_threads: usize,
    /// Number of threads for reads. Each thread has its own connection.
    pub read_threads: usize,
    /// Maximum age of a cached query plan. A plan that was made while a table was empty may scan the whole
    /// table after it has grown.
    pub plan_max_age: Duration,
}

/// Default value of [`PostgresOptions::plan_max_age`].
pub(crate) const DEFAULT_PLAN_MAX_AGE: Duration = Duration::from_secs(60);

impl StoreOptions {
    /// Creates options with the defaults for `engine`. `audit_vault` encrypts the keys of the audit chain.
    pub fn new(engine: EngineOptions, audit_vault: Arc<dyn AuditVault>) -> Self {
        Self {
            engine,
            write_queue: 4_096,
            read_queue: 4_096,
            deadline: Duration::from_secs(5),
            runs_twice: false,
            audit_vault,
        }
    }
}

impl SqliteOptions {
    /// Creates options with the defaults for a database in `folder`.
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            synchronous: Synchronous::Full,
            read_in_place: Duration::from_millis(2),
        }
    }
}

impl PostgresOptions {
    /// Creates options with the defaults for the server at `url`.
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

    /// Returns the password in a database URL, or `None` if the URL contains none or cannot be parsed.
    pub fn password_in(url: &str) -> Option<Vec<u8>> {
        crate::postgres::password_in(url)
    }
}
