//! The configuration: what can be set, and what it means. Where a value came from is `load`'s business.
//!
//! Nothing else in Kith reads the environment or a configuration file.

mod allowed_network;
mod check;
mod development;
mod env;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod load;
mod network;
pub mod reference;
mod report;
mod secret;
mod secrets;
mod web_origin;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kith_store::{EngineOptions, PostgresOptions, SqliteOptions, StoreOptions};
use serde::{Deserialize, Serialize};

pub use allowed_network::{AllowedNetwork, Port};
pub use development::DevelopmentSecretsError;
pub use error::{ConfigError, Origin};
pub use load::{Flag, Inputs};
pub use network::Network;
pub use report::SecretReport;
pub use secret::Secret;
pub use secrets::generated_secrets;
pub use web_origin::WebOrigin;

use crate::audit::SecretVault;
use load::{Origins, SecretFiles};

/// All of it, complete and checked.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Listening, limits, stopping.
    pub server: Server,
    /// How many requests are too many.
    pub limits: Limits,
    /// The data folder.
    pub data: Data,
    /// The database.
    pub database: Database,
    /// Passwords and tokens.
    pub auth: Auth,
    /// Accounts that go.
    pub accounts: Accounts,
    /// Partner bonds.
    pub partners: Partners,
    /// What spaces may hold.
    pub spaces: Spaces,
    /// What is done in the background.
    pub jobs: Jobs,
    /// Requests that Kith sends of its own accord.
    pub outbound: Outbound,
    /// Logs.
    pub log: Log,
    #[serde(skip)]
    origins: Origins,
    #[serde(skip)]
    secret_files: SecretFiles,
}

/// How much is forgiven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// On a developer's machine: loopback only, unsafe settings allowed.
    Development,
    /// Serving people.
    Production,
}

/// Section `server`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Where to listen.
    pub listen: SocketAddr,
    /// How much is forgiven.
    pub mode: Mode,
    /// Name of a set of modules to serve; all if empty.
    pub preset: String,
    /// Names of the modules to serve, instead of a preset; all if empty.
    pub modules: Vec<String>,
    /// Whether 429 limits and tiers are lifted.
    pub without_limits: bool,
    /// Whether there are a made-up world and a page that shows it.
    pub demo: bool,
    /// Largest request body.
    pub body_limit_bytes: u32,
    /// Bytes of all bodies together that are being received, beyond the first 16 KiB of each.
    pub body_memory_bytes: u32,
    /// How long a request's head may take to arrive, from its first byte.
    pub head_timeout_ms: u32,
    /// How long a request's body may take to arrive.
    pub body_timeout_ms: u32,
    /// How long a request may take altogether.
    pub request_timeout_ms: u32,
    /// How long a connection may stay open with nothing asked.
    pub keep_alive_ms: u32,
    /// Maximum number of open connections; 0 derives it from the limit of open files.
    pub max_connections: u32,
    /// Maximum number of open connections of one client network; 0 derives it from the maximum in total.
    pub max_connections_per_network: u32,
    /// How long to go on accepting once a stop was asked for.
    pub drain_ms: u32,
    /// After that: how long requests under way may take.
    pub shutdown_grace_ms: u32,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Network>,
    /// Where administration is open to; everywhere, if empty.
    pub admin_addresses: Vec<Network>,
    /// Where metrics are open to; nowhere, if empty.
    pub metrics_addresses: Vec<Network>,
    /// Origins whose pages may call.
    pub cors_origins: Vec<WebOrigin>,
}

/// Section `limits`: requests of one client address to one route, in a minute; 0 for no limit.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Of a route that none of the others is for.
    pub requests_per_minute: u32,
    /// Of one that takes a password or a token: `POST /api/v1/auth/…`.
    pub auth_per_minute: u32,
    /// Of one that lists partners: `GET /api/v1/partners/…`.
    pub partner_lists_per_minute: u32,
    /// The same for each route of jobs and queues.
    pub jobs_per_minute: u32,
    /// Exports of one user in 24 hours.
    pub exports_per_day: u32,
    /// Bytes of answers that are kept for one caller in 24 hours under idempotency keys; 0 is no limit.
    pub idempotent_bytes_per_day: u32,
}

/// Section `data`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// The folder; made if absent.
    pub folder: PathBuf,
    /// How long events are kept.
    pub keep_events_days: u16,
}

/// When a commit on SQLite is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Synchronous {
    /// When it is acknowledged.
    Full,
    /// Some time later.
    Off,
}

/// Section `database`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// `sqlite`, or PostgreSQL's address with a password in it.
    pub url: Secret,
    /// For an address that has none in it.
    pub password: Secret,
    /// The address for the role that owns the tables; empty for the same.
    pub migrate_url: Secret,
    /// When a commit is on the disk.
    pub synchronous: Synchronous,
    /// Connections for changes.
    pub write_threads: u16,
    /// Connections for reads.
    pub read_threads: u16,
    /// Whether serving brings the schema up to date.
    pub migrate_on_start: bool,
}

/// Section `auth`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// Memory of one password hash.
    pub password_memory_kib: u32,
    /// Passes of one password hash.
    pub password_iterations: u32,
    /// Threads that hash; 0 for one less than there are cores.
    pub hash_threads: u16,
    /// How long an access token is valid.
    pub access_token_minutes: u16,
    /// Wraps the secrets that the database keeps; empty until somebody sets it or development mode makes it.
    pub jwt_secret: Secret,
    /// Keys the refresh tokens; empty until somebody sets it or development mode makes it.
    pub jwt_refresh_secret: Secret,
    /// The value that `jwt_secret` had before, while it is rotated.
    pub jwt_secret_previous: Secret,
    /// The value that `jwt_refresh_secret` had before, while it is rotated.
    pub jwt_refresh_secret_previous: Secret,
}

/// Section `accounts`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Accounts {
    /// Accounts purged in one run, the longest due first; the rest waits for the next run, a minute later.
    pub purge_most: u16,
    /// Share of the established accounts that may be due at once; beyond it none of these is purged.
    pub max_purge_share_percent: u8,
}

/// Section `partners`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Partners {
    /// What the link of an invite looks like, with `{code}` in it.
    pub invite_link: String,
}

/// Section `spaces`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Spaces {
    /// Largest item, as JSON without white space.
    pub item_bytes: u32,
    /// Items in one space.
    pub most_items: u32,
    /// Collections in one space.
    pub most_collections: u32,
    /// All items of one space together.
    pub most_bytes: u32,
    /// How long what an archived bond held is kept.
    pub keep_archives_days: u16,
    /// Archives held, and purged, in one run, the longest due first; the rest waits for the next run.
    pub purge_most: u16,
}

/// Section `jobs`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Jobs {
    /// Whether the serving process runs jobs itself.
    pub in_process: bool,
    /// Jobs of one queue that it runs at once.
    pub concurrency: u16,
    /// How long a stop waits for jobs that run.
    pub grace_ms: u32,
    /// How long ended jobs are kept.
    pub keep_days: u16,
    /// Ended jobs that are kept at most.
    pub keep_most: u32,
    /// How long dead letters are kept.
    pub keep_dead_days: u16,
}

/// Section `outbound`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Outbound {
    /// Internal addresses that may be asked.
    pub allowed_networks: Vec<AllowedNetwork>,
    /// Ports that may be asked on public addresses; every one, if empty.
    pub ports: Vec<Port>,
    /// Whether http:// may be asked in production mode.
    pub plain_http: bool,
    /// How long a connection may take.
    pub connect_timeout_ms: u32,
    /// How long a request may take altogether.
    pub timeout_ms: u32,
    /// How much of an answer is read.
    pub response_bytes: u32,
}

/// Section `log`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Of each line.
    pub format: LogFormat,
    /// Least level, by target where wanted.
    pub level: String,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Pretty on a terminal, else JSON.
    Auto,
    /// For machines.
    Json,
    /// For people.
    Pretty,
}

impl Config {
    /// Whether nobody set the key `section.key`.
    pub fn is_default(&self, key: &str) -> bool {
        !self.origins.contains_key(key)
    }

    /// Whether this is production mode.
    pub fn is_production(&self) -> bool {
        self.server.mode == Mode::Production
    }

    /// Whether the database is SQLite.
    pub fn is_sqlite(&self) -> bool {
        self.database.url.expose() == "sqlite"
    }

    /// What the store needs to know. In development mode the secrets must have been filled in, unless only the schema is
    /// looked at or changed.
    pub fn store_options(&self) -> StoreOptions {
        let database = &self.database;
        let engine = if self.is_sqlite() {
            EngineOptions::Sqlite(SqliteOptions {
                synchronous: database.synchronous.into(),
                ..SqliteOptions::in_folder(&self.data.folder)
            })
        } else {
            let (migrate_url, password) = (database.migrate_url.expose(), database.password.expose());
            EngineOptions::Postgres(PostgresOptions {
                migrate_url: (!migrate_url.is_empty()).then(|| migrate_url.to_owned()),
                password: (!password.is_empty()).then(|| password.to_owned()),
                write_threads: usize::from(database.write_threads),
                read_threads: usize::from(database.read_threads),
                ..PostgresOptions::at(database.url.expose())
            })
        };
        StoreOptions::new(engine, Arc::new(SecretVault::new(&self.auth)))
    }
}

impl From<Synchronous> for kith_store::Synchronous {
    fn from(own: Synchronous) -> Self {
        match own {
            Synchronous::Full => Self::Full,
            Synchronous::Off => Self::Off,
        }
    }
}

impl Auth {
    /// How many threads hash passwords.
    pub fn hash_thread_count(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        match self.hash_threads {
            0 => cores().saturating_sub(1).max(1),
            asked => usize::from(asked),
        }
    }
}

/// A key that counts milliseconds, as a duration.
pub(crate) fn millis(ms: u32) -> Duration {
    Duration::from_millis(u64::from(ms))
}
