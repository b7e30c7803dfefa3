//! All settings of the configuration and their meaning. The module `load` merges the sources.
//!
//! No other part of Kith reads environment variables or a configuration file.

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
mod section;
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
pub use section::{ConfigSection, SettingFault, Settings, at_least_one};
pub use web_origin::WebOrigin;

use crate::audit::SecretVault;
use load::{Origins, SecretFiles};
use section::Sections;

/// Complete, validated configuration.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Listener, limits and shutdown.
    pub server: Server,
    /// Rate limits.
    pub limits: Limits,
    /// Data folder.
    pub data: Data,
    /// Database.
    pub database: Database,
    /// Passwords and tokens.
    pub auth: Auth,
    /// Job workers.
    pub jobs: Jobs,
    /// Outbound requests.
    pub outbound: Outbound,
    /// Logging.
    pub log: Log,
    #[serde(skip)]
    sections: Sections,
    #[serde(skip)]
    origins: Origins,
    #[serde(skip)]
    secret_files: SecretFiles,
}

/// Mode of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Development: listens on loopback addresses only, and allows unsafe settings.
    Development,
    /// Production: requires secrets and safe settings.
    Production,
}

/// Section `server`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Mode of the server.
    pub mode: Mode,
    /// Name of a preset, which is a set of modules to serve. If empty, all modules are served.
    pub preset: String,
    /// Names of the modules to serve instead of a preset. If empty, all modules are served.
    pub modules: Vec<String>,
    /// Disables rate limits and request tiers.
    pub disable_limits: bool,
    /// Creates demo data and serves `/demo`.
    pub demo: bool,
    /// Maximum size of a request body in bytes.
    pub max_body_bytes: u32,
    /// Maximum total size in bytes of all bodies that are being received. The first 16 KiB of each body do
    /// not count.
    pub max_body_memory_bytes: u32,
    /// Maximum time from the first byte of a request to the end of its headers.
    pub head_timeout_ms: u32,
    /// Maximum time to receive a request body.
    pub body_timeout_ms: u32,
    /// Maximum time to handle a request.
    pub request_timeout_ms: u32,
    /// Maximum time that a connection may be idle.
    pub keep_alive_ms: u32,
    /// Maximum number of open connections. If 0, it depends on the limit of open file descriptors.
    pub max_connections: u32,
    /// Maximum number of open connections of one client network. If 0, it depends on the total maximum.
    pub max_connections_per_network: u32,
    /// Time for which new connections are still accepted after the server was asked to stop.
    pub drain_ms: u32,
    /// Maximum time to wait for requests in progress after `drain_ms`.
    pub shutdown_grace_ms: u32,
    /// Proxies whose `X-Forwarded-For` is trusted.
    pub trusted_proxies: Vec<Network>,
    /// Networks that may use administrative endpoints; empty allows all.
    pub admin_addresses: Vec<Network>,
    /// Networks that may read metrics; empty allows none.
    pub metrics_addresses: Vec<Network>,
    /// Origins of web pages that may call the API.
    pub cors_origins: Vec<WebOrigin>,
}

/// Section `limits`: requests per minute of one client network to one route; 0 means no limit.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Limit of all routes for which no other limit applies.
    pub requests_per_minute: u32,
    /// Limit of routes that receive a password or a token, such as `POST /api/v1/auth/…`.
    pub auth_per_minute: u32,
    /// Maximum number of exports per user in 24 hours; 0 means no limit.
    pub exports_per_day: u32,
    /// Maximum number of bytes of responses that are stored under idempotency keys, per caller in 24 hours; 0
    /// means no limit.
    pub idempotency_bytes_per_day: u32,
}

/// Section `data`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Data folder; created if it does not exist.
    pub folder: PathBuf,
    /// Number of days for which events are retained.
    pub event_retention_days: u16,
}

/// Durability of commits on SQLite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Synchronous {
    /// A commit is written to disk before the client gets the response.
    Full,
    /// A commit is written to disk some time after the client gets the response.
    Off,
}

/// Section `database`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// `sqlite`, or a PostgreSQL URL, which can contain a password.
    pub url: Secret,
    /// Password, used if the URL contains none.
    pub password: Secret,
    /// Database URL for the role that owns the tables. If empty, `url` is used.
    pub migrate_url: Secret,
    /// Durability of commits on SQLite.
    pub synchronous: Synchronous,
    /// Maximum number of connections for writes.
    pub write_threads: u16,
    /// Maximum number of connections for reads.
    pub read_threads: u16,
    /// Applies pending migrations when the server starts.
    pub migrate_on_start: bool,
}

/// Section `auth`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// Memory cost of a password hash in KiB.
    pub password_memory_kib: u32,
    /// Time cost of a password hash: number of passes.
    pub password_iterations: u32,
    /// Number of hashing threads; 0 means one less than the number of cores.
    pub hash_threads: u16,
    /// Lifetime of an access token in minutes.
    pub access_token_minutes: u16,
    /// Secret from which the key is derived that encrypts secrets in the database. Empty until it is
    /// configured or development mode generates it.
    pub jwt_secret: Secret,
    /// Secret that authenticates refresh tokens. Empty until it is configured or development mode generates
    /// it.
    pub jwt_refresh_secret: Secret,
    /// Previous value of `jwt_secret` during a rotation.
    pub jwt_secret_previous: Secret,
    /// Previous value of `jwt_refresh_secret` during a rotation.
    pub jwt_refresh_secret_previous: Secret,
}

/// Section `jobs`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Jobs {
    /// Runs job workers in the server process.
    pub in_process: bool,
    /// Maximum number of concurrent jobs per queue.
    pub concurrency: u16,
    /// Maximum time to wait for running jobs when the server stops.
    pub shutdown_grace_ms: u32,
    /// Number of days for which finished jobs are retained.
    pub retention_days: u16,
    /// Maximum number of finished jobs that are retained.
    pub max_retained: u32,
    /// Number of days for which dead letters are retained.
    pub dead_letter_retention_days: u16,
}

/// Section `outbound`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Outbound {
    /// Internal networks to which requests may be sent.
    pub allowed_networks: Vec<AllowedNetwork>,
    /// Allowed ports on public addresses; empty allows all.
    pub ports: Vec<Port>,
    /// Allows `http://` targets in production mode.
    pub allow_plain_http: bool,
    /// Maximum time of each step of establishing a connection: name resolution, TCP, TLS.
    pub connect_timeout_ms: u32,
    /// Maximum total time of a request.
    pub timeout_ms: u32,
    /// Maximum number of bytes of a response that are read.
    pub max_response_bytes: u32,
}

/// Section `log`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Format of log lines.
    pub format: LogFormat,
    /// Minimum level of log events, optionally different per target.
    pub level: String,
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Human-readable if standard error is a terminal, otherwise JSON.
    Auto,
    /// JSON.
    Json,
    /// Human-readable.
    Pretty,
}

impl Config {
    /// Returns true if the key `section.key` has its default value because no source sets it.
    pub fn is_default(&self, key: &str) -> bool {
        !self.origins.contains_key(key)
    }

    /// Returns the settings of a module. Returns the defaults if the configuration was loaded without that
    /// module.
    pub fn section<S: Settings>(&self) -> Arc<S> {
        self.sections.get()
    }

    /// Changes the settings of a module. The new settings are not validated.
    pub fn change_section<S: Settings>(&mut self, change: impl FnOnce(&mut S)) {
        let mut settings = S::clone(&self.section());
        change(&mut settings);
        self.sections.insert(S::SECTION, Arc::new(settings));
    }

    /// Returns true in production mode.
    pub fn is_production(&self) -> bool {
        self.server.mode == Mode::Production
    }

    /// Returns true if the database is SQLite.
    pub fn is_sqlite(&self) -> bool {
        self.database.url.expose() == "sqlite"
    }

    /// Returns the options for opening the database. In development mode, call
    /// [`Config::fill_development_secrets`] first, unless only the schema is read or changed.
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
    /// Returns the number of hashing threads.
    pub fn hash_thread_count(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        match self.hash_threads {
            0 => cores().saturating_sub(1).max(1),
            configured => usize::from(configured),
        }
    }
}

/// Converts a setting in milliseconds to a duration.
pub(crate) fn millis(ms: u32) -> Duration {
    Duration::from_millis(u64::from(ms))
}
