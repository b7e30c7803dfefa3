//! Module of the platform itself.

use kith_jobs::schedules::DeclaredSchedule;
use kith_kernel::{days, problems};
use kith_store::AUDIT_ARCHIVED;

use crate::auth::api_keys;
use crate::http::SYSTEM_TAG;
use crate::jobs::{MaintenanceError, ModuleJob};
use crate::module::{Module, Routes, SealedColumn};
use crate::{App, audit, auth, consumers, docs, facts, health, idempotency, sealed_column, telemetry};

/// Encrypted keys of the audit chain. A key is identified by its id and first link
/// (`kith_store::audit_key_name`).
const SEALED_AUDIT_KEYS: SealedColumn = SealedColumn {
    name: "audit_keys.sealed",
    list: "SELECT CAST(id AS TEXT) || ':' || CAST(first_link AS TEXT), sealed FROM audit_keys
           WHERE CAST(id AS TEXT) || ':' || CAST(first_link AS TEXT) > $1
           ORDER BY CAST(id AS TEXT) || ':' || CAST(first_link AS TEXT) LIMIT $2",
    update: "UPDATE audit_keys SET sealed = $3
             WHERE CAST(id AS TEXT) || ':' || CAST(first_link AS TEXT) = $1 AND sealed = $2",
    name_prefix: "audit-key:",
};

/// Maximum number of transactions for each kind of data in one run of [`tidy`]. The next run removes the
/// rest.
const TIDY_BATCHES: usize = 100;
/// Maximum number of events that one transaction removes.
const EVENTS_AT_ONCE: i64 = 500;

/// Module of the platform itself: health, metrics, OpenAPI document, signing keys, API keys and audit log.
pub static MODULE: Module = Module {
    tags: &[SYSTEM_TAG],
    routes,
    migrations: auth::MIGRATIONS,
    problems: problems::ALL,
    events: &[
        auth::KEY_PUBLISHED,
        api_keys::CREATED,
        api_keys::REVOKED,
        audit::head::HEAD_NOTED,
        audit::head::HEAD_ACCEPTED,
        AUDIT_ARCHIVED,
    ],
    consumers: auth::CONSUMERS,
    personal: Some(api_keys::PERSONAL),
    jobs: &[ModuleJob::maintenance("platform.tidy", |app| Box::pin(tidy(app)))],
    schedules: &[DeclaredSchedule::maintenance("platform.tidy", "@every 1m")],
    facts: facts::PLATFORM_FACTS,
    sealed: &[sealed_column!("signing_keys", "sealed", ""), SEALED_AUDIT_KEYS],
    ..Module::named("platform")
};

fn routes() -> Routes {
    let about_itself = health::routes().merge(docs::routes()).merge(telemetry::routes());
    about_itself.merge(auth::routes()).merge(audit::routes()).merge(facts::routes())
}

/// Removes expired responses of idempotency keys, cursors of undeclared consumers, and old events.
async fn tidy(app: App) -> Result<(), MaintenanceError> {
    let ctx = app.system_ctx("maintenance");
    for _ in 0..TIDY_BATCHES {
        if app.write(&ctx, idempotency::remove_expired).await? < idempotency::MAX_REMOVED_ROWS {
            break;
        }
    }
    consumers::forget_removed(&app).await?;
    let before = ctx.now - days(u64::from(app.config.data.event_retention_days));
    for _ in 0..TIDY_BATCHES {
        if app.db.remove_events(before, EVENTS_AT_ONCE).await? < EVENTS_AT_ONCE.unsigned_abs() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use kith_kernel::uuid::Uuid;
    use kith_store::{Error, NewEvent};

    use super::*;
    use crate::testing::TestServer;

    #[tokio::test]
    async fn old_events_are_removed_by_maintenance() {
        let test = TestServer::start(|config| config.data.event_retention_days = 2).await;
        let emit = async || {
            let ctx = test.app.system_ctx("test");
            let event = || NewEvent {
                kind: "thing.done",
                subject: Uuid::nil(),
                recipients: vec![],
                payload: serde_json::json!({}),
            };
            let emitted = test.app.write(&ctx, move |tx, ctx| {
                tx.emit(ctx, event());
                Ok::<_, Error>(())
            });
            emitted.await.unwrap();
        };
        let positions = async || {
            let events = test.app.db.events_after(0, 10).await.unwrap();
            events.into_iter().map(|event| event.position).collect::<Vec<_>>()
        };
        emit().await;
        test.clock.advance(days(1));
        emit().await;
        emit().await;
        tidy(test.app.clone()).await.unwrap();
        assert_eq!(positions().await, [1, 2, 3]);
        test.clock.advance(days(1) + kith_kernel::seconds(1));
        tidy(test.app.clone()).await.unwrap();
        assert_eq!(positions().await, [2, 3]);
    }
}
