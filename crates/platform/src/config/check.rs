//! Validates a configuration. Rejects impossible values, and values that are unsafe in the configured mode.

use kith_store::PostgresOptions;
use tracing_subscriber::filter::{LevelFilter, Targets};

use super::error::reject_if;
use super::{Config, ConfigError, Mode, Synchronous, WebOrigin, secrets};
use crate::telemetry::log::parse_level;

const MIN_PRODUCTION_PASSWORD_MEMORY_KIB: u32 = 19_456;
const MIN_PRODUCTION_PASSWORD_ITERATIONS: u32 = 2;
/// Minimum memory of argon2 with one lane, in KiB.
const MIN_PASSWORD_MEMORY_KIB: u32 = 8;

/// Rejects a configuration that is invalid or not allowed in its mode.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let (server, database, auth) = (&config.server, &config.database, &config.auth);
    let at_least_one = [
        ("server.max_body_bytes", server.max_body_bytes),
        ("server.head_timeout_ms", server.head_timeout_ms),
        ("server.body_timeout_ms", server.body_timeout_ms),
        ("server.request_timeout_ms", server.request_timeout_ms),
        ("server.keep_alive_ms", server.keep_alive_ms),
        ("database.write_threads", u32::from(database.write_threads)),
        ("database.read_threads", u32::from(database.read_threads)),
        ("auth.password_iterations", auth.password_iterations),
        ("data.event_retention_days", u32::from(config.data.event_retention_days)),
        ("jobs.concurrency", u32::from(config.jobs.concurrency)),
        ("jobs.retention_days", u32::from(config.jobs.retention_days)),
        ("jobs.max_retained", config.jobs.max_retained),
        ("jobs.dead_letter_retention_days", u32::from(config.jobs.dead_letter_retention_days)),
        ("outbound.connect_timeout_ms", config.outbound.connect_timeout_ms),
        ("outbound.timeout_ms", config.outbound.timeout_ms),
        ("outbound.max_response_bytes", config.outbound.max_response_bytes),
        ("auth.access_token_minutes", u32::from(auth.access_token_minutes)),
    ];
    for (key, number) in at_least_one {
        reject_if(config, number < 1, key, "must be at least 1")?;
    }
    let too_little = auth.password_memory_kib < MIN_PASSWORD_MEMORY_KIB;
    reject_if(config, too_little, "auth.password_memory_kib", "must be at least 8")?;
    let level = parse_level(&config.log.level);
    if let Err(error) = &level {
        reject_if(config, true, "log.level", &error.to_string())?;
    }
    check_database(config)?;
    secrets::check_flags(config)?;
    match server.mode {
        Mode::Development => check_development(config),
        Mode::Production => {
            let talks = level.is_ok_and(|level| is_debug(&level));
            reject_if(config, talks, "log.level", "must not be \"debug\" or \"trace\" in production mode")?;
            check_production(config)?;
            secrets::check(config)
        }
    }
}

/// Returns true if the level enables debug or trace events for any target.
fn is_debug(level: &Targets) -> bool {
    let least = level.iter().map(|(_, level)| level).chain(level.default_level()).max();
    least.is_some_and(|least| least >= LevelFilter::DEBUG)
}

fn check_database(config: &Config) -> Result<(), ConfigError> {
    let is_postgres = |url: &str| url.starts_with("postgres://") || url.starts_with("postgresql://");
    let url = config.database.url.expose();
    let why = "must be \"sqlite\" or begin with postgres://";
    reject_if(config, url != "sqlite" && !is_postgres(url), "database.url", why)?;
    let migrate_url = config.database.migrate_url.expose();
    let given = !migrate_url.is_empty();
    let key = "database.migrate_url";
    reject_if(config, given && !is_postgres(migrate_url), key, "must begin with postgres://")?;
    reject_if(
        config,
        given && config.is_sqlite(),
        key,
        "requires PostgreSQL, but database.url is \"sqlite\"",
    )?;
    let (password, in_url) = (config.database.password.expose(), PostgresOptions::password_in(url));
    let differ = !password.is_empty() && in_url.is_some_and(|in_url| in_url != password.as_bytes());
    let why = "differs from the password in `database.url`: set only one of them";
    reject_if(config, differ, "database.password", why)
}

fn check_development(config: &Config) -> Result<(), ConfigError> {
    let why =
        "must be a loopback address in development mode; set server.mode to \"production\" to serve others";
    reject_if(config, !config.server.listen.ip().is_loopback(), "server.listen", why)
}

fn check_production(config: &Config) -> Result<(), ConfigError> {
    let no = "must not be set in production mode";
    reject_if(config, config.server.disable_limits, "server.disable_limits", no)?;
    reject_if(config, config.server.demo, "server.demo", no)?;
    let plain = config.server.cors_origins.iter().any(WebOrigin::is_plain_http);
    reject_if(config, plain, "server.cors_origins", "must not contain http:// origins in production mode")?;
    let unsafe_writes = config.database.synchronous == Synchronous::Off;
    reject_if(config, unsafe_writes, "database.synchronous", "must be \"full\" in production mode")?;
    let auth = &config.auth;
    let weak = auth.password_memory_kib < MIN_PRODUCTION_PASSWORD_MEMORY_KIB;
    reject_if(config, weak, "auth.password_memory_kib", "must be at least 19456 in production mode")?;
    let weak = auth.password_iterations < MIN_PRODUCTION_PASSWORD_ITERATIONS;
    reject_if(config, weak, "auth.password_iterations", "must be at least 2 in production mode")
}
