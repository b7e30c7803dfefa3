//! Health checks: database, clock, audit log, purges, memory and disk.

use std::path::Path;
use std::time::{Duration, Instant};

use kith_store::{EngineKind, MigrationState};

use super::report::{HealthCheck, HealthStatus, NamedCheck};
use crate::App;
use crate::audit::head::HeadOutcome;
use crate::purge::{self, PurgeOutcome};
use crate::telemetry::{disk_free, resident_bytes};

/// Time after which a health check treats the database as unreachable.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(2);
/// Duration of a write stall from which the server is not ready. Statements are cancelled earlier than this,
/// so a stall of this length does not end by itself.
const MAX_WRITE_STALL: Duration = Duration::from_secs(10);
/// Free disk space in bytes below which a server on SQLite is not ready, because its writes will soon fail.
pub(super) const MIN_WRITABLE_BYTES: u64 = 16 << 20;
/// Free disk space in bytes below which the health check warns. Below a tenth of this value, the check fails.
pub(super) const LOW_DISK_BYTES: u64 = 1024 * 1024 * 1024;
pub(super) const CRITICAL_DISK_BYTES: u64 = LOW_DISK_BYTES / 10;

pub(super) fn draining(app: &App) -> NamedCheck {
    let check = if app.stop.is_draining() {
        HealthCheck::pass().with_status(HealthStatus::Fail, "The server is shutting down.")
    } else {
        HealthCheck::pass()
    };
    ("server:draining", check)
}

/// Checks that the database responds within [`DATABASE_TIMEOUT`] and has all migrations of this build.
#[expect(clippy::disallowed_methods, reason = "measures the response time of the database")]
pub(super) async fn database(app: &App) -> NamedCheck {
    let started = Instant::now();
    let migrations = tokio::time::timeout(DATABASE_TIMEOUT, app.migrations()).await;
    let took = HealthCheck::measured(started.elapsed().as_micros(), "us");
    let check = match migrations {
        Ok(Ok(all)) if all.iter().all(|one| one.state != MigrationState::Pending) => took,
        Ok(Ok(_)) => took.with_status(
            HealthStatus::Fail,
            "The database schema is older than this build. Run `kith migrate up`.",
        ),
        Ok(Err(error)) => {
            tracing::warn!(%error, "the database failed the health check");
            took.with_status(HealthStatus::Fail, "The database does not respond.")
        }
        Err(_) => took.with_status(HealthStatus::Fail, "The database did not respond within 2 seconds."),
    };
    ("database:responseTime", check)
}

/// Checks that writes are not stuck. `stall` is the time for which all write threads have been busy without
/// starting or ending a transaction.
pub(super) fn writes(stall: Duration) -> NamedCheck {
    let check = HealthCheck::measured(stall.as_millis(), "ms");
    let stuck = "No transaction has started or ended for 10 seconds.";
    (
        "database:writeStall",
        if stall < MAX_WRITE_STALL { check } else { check.with_status(HealthStatus::Fail, stuck) },
    )
}

pub(super) fn clock(app: &App) -> NamedCheck {
    let check = app.clock.as_deref().map_or_else(HealthCheck::pass, |clock| {
        let skew = HealthCheck::measured(clock.skew_ms(), "ms");
        if clock.is_tolerable() {
            skew
        } else {
            skew.with_status(
                HealthStatus::Fail,
                "The system clock deviates from the database's clock by more than 500 ms.",
            )
        }
    });
    ("clock:skew", check)
}

/// Checks that the audit chain contains the stored head. The result is never worse than a warning, because
/// stopping requests to this server does not repair the audit log.
pub(super) fn audit_head(app: &App) -> NamedCheck {
    let warn = |output| HealthCheck::pass().with_status(HealthStatus::Warn, output);
    let check = match app.audit_head.outcome() {
        HeadOutcome::Unknown | HeadOutcome::Contained => HealthCheck::pass(),
        HeadOutcome::Missing(_) => {
            warn("The audit log was changed, truncated or restored. Run `kith audit verify`.")
        }
        HeadOutcome::Unreadable(_) => {
            warn("The head of the audit chain cannot be written to the data folder.")
        }
    };
    ("audit:head", check)
}

/// Checks for delayed purges. The result is never worse than a warning, because delayed purges do not affect
/// requests.
pub(super) async fn purges(app: &App) -> NamedCheck {
    let delayed = tokio::time::timeout(DATABASE_TIMEOUT, app.db.read(purge::find_delayed)).await;
    let check = match delayed {
        Ok(Ok(Some(PurgeOutcome { backlog, fault }))) => {
            let output = match fault {
                Some(_) => "Some due items were not purged. `GET /api/v1/admin/facts` has the reason.",
                None => "More items are due than one run purges.",
            };
            HealthCheck::measured(backlog, "items").with_status(HealthStatus::Warn, output)
        }
        // `database:responseTime` reports an unreachable database.
        Ok(Ok(None) | Err(_)) | Err(_) => HealthCheck::pass(),
    };
    ("purges:backlog", check)
}

pub(super) fn memory() -> NamedCheck {
    (
        "memory:resident",
        resident_bytes().map_or_else(HealthCheck::pass, |bytes| HealthCheck::measured(bytes, "bytes")),
    )
}

pub(super) fn disk(app: &App) -> NamedCheck {
    let check = disk_free(nearest_existing_folder(&app.config.data.folder))
        .map_or_else(HealthCheck::pass, |(free, _)| check_free_disk(free));
    ("disk:free", check)
}

/// Returns `folder`, or its nearest ancestor that exists. With PostgreSQL, the data folder may not exist.
pub(crate) fn nearest_existing_folder(folder: &Path) -> &Path {
    folder.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."))
}

/// Checks that the disk of the data folder has space for writes. Applies to SQLite only.
pub(super) fn writable_disk(app: &App) -> NamedCheck {
    let free = if app.db.kind() == EngineKind::Sqlite {
        disk_free(nearest_existing_folder(&app.config.data.folder))
    } else {
        None
    };
    ("disk:writable", free.map_or_else(HealthCheck::pass, |(free, _)| check_writable_disk(free)))
}

pub(super) fn check_writable_disk(free_bytes: u64) -> HealthCheck {
    if free_bytes < MIN_WRITABLE_BYTES {
        return HealthCheck::pass().with_status(HealthStatus::Fail, "The disk of the data folder is full.");
    }
    HealthCheck::pass()
}

pub(super) fn check_free_disk(free_bytes: u64) -> HealthCheck {
    let free = HealthCheck::measured(free_bytes, "bytes");
    match free_bytes {
        0..CRITICAL_DISK_BYTES => {
            free.with_status(HealthStatus::Fail, "Less than 0.1 GiB of disk space is free.")
        }
        CRITICAL_DISK_BYTES..LOW_DISK_BYTES => {
            free.with_status(HealthStatus::Warn, "Less than 1 GiB of disk space is free.")
        }
        _ => free,
    }
}

pub(super) fn uptime(app: &App) -> NamedCheck {
    ("server:uptime", HealthCheck::measured(app.sources.clock.real_now().since(app.started).as_secs(), "s"))
}
