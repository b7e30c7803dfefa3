//! Modules: the interface of a feature to the rest of the server, as plain data in one list.

use kith_jobs::schedules::DeclaredSchedule;
use kith_kernel::{Ctx, ProblemCode, UserId, days, problems};
use kith_store::{AUDIT_ARCHIVED, Error, Migration, Query, Tx};

use crate::auth::{AccessSource, api_keys};
use crate::config::ConfigSection;
use crate::consumers::{self, ModuleConsumer};
use crate::export::ExportPiece;
use crate::http::SYSTEM_TAG;
use crate::jobs::ModuleJob;
use crate::{App, audit, auth, docs, facts, health, idempotency, telemetry};

/// Handlers with their OpenAPI documentation. Undocumented handlers cannot be registered.
pub type Routes = utoipa_axum::router::OpenApiRouter<App>;

/// Feature of the server.
#[derive(Debug)]
pub struct Module {
    /// Name, such as `bonds`.
    pub name: &'static str,
    /// Names of the modules that it depends on. They must be served together with it.
    pub needs: &'static [&'static str],
    /// Groups of its operations in the API reference. The first is that of operations that [`tagged`](crate::tagged) put in
    /// no other.
    pub tags: &'static [Tag],
    /// Returns its handlers.
    pub routes: fn() -> Routes,
    /// Sections of the configuration that it owns: [`ConfigSection::of`] its settings.
    pub config: &'static [ConfigSection],
    /// Migrations of its tables, in the order of versions.
    pub migrations: &'static [Migration],
    /// Problems that it returns, besides the general ones.
    pub problems: &'static [&'static ProblemCode],
    /// Kinds of events that it emits.
    pub events: &'static [&'static str],
    /// Consumers of events of this and other modules.
    pub consumers: &'static [ModuleConsumer],
    /// Reads of users' access, if this module owns accounts.
    pub access: Option<AccessSource>,
    /// Personal data that it stores.
    pub personal: Option<PersonalData>,
    /// Hook that runs in the transaction of a new block, with both users locked. Ends or withholds what the
    /// module stores between them, such as a bond or pending requests.
    pub blocked: Option<Blocked>,
    /// Hook that runs, with both users locked, when the last block between two users is removed. Releases
    /// what [`Module::blocked`] withheld. The first user is the one who removed the block.
    pub unblocked: Option<Blocked>,
    /// Job kinds that it handles.
    pub jobs: &'static [ModuleJob],
    /// Schedules of its recurring jobs.
    pub schedules: &'static [DeclaredSchedule],
    /// Facts for administrators.
    pub facts: &'static [Fact],
    /// Columns with sealed values.
    pub sealed: &'static [SealedColumn],
}

/// Group of operations in the API reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Heading, a word or two.
    pub name: &'static str,
    /// One sentence about its operations.
    pub description: &'static str,
}

/// Column whose values are sealed under the deployment's secret, created by
/// [`sealed_column!`](crate::sealed_column). `kith keys reseal` re-encrypts them.
#[derive(Clone, Copy, Debug)]
pub struct SealedColumn {
    /// Column, as `table.column`.
    pub name: &'static str,
    /// SQL that lists up to `$2` ids and values with an id greater than `$1`, in the order of ids.
    pub list: &'static str,
    /// SQL that sets the value of row `$1` to `$3` if it is still `$2`.
    pub update: &'static str,
    /// Prefix of the id in the name under which a value is sealed.
    pub name_prefix: &'static str,
}

/// Keys of the audit chain, which are named by id and first link (`kith_store::audit_key_name`).
const SEALED_AUDIT_KEYS: SealedColumn = SealedColumn {
    name: "audit_keys.sealed",
    list: "SELECT CAST(id AS TEXT) || ':' || CAST(first_link AS TEXT), sealed FROM audit_keys
           WHERE CAST(id AS TEXT) || ':' || CAST(first_link AS TEXT) > $1
           ORDER BY CAST(id AS TEXT) || ':' || CAST(first_link AS TEXT) LIMIT $2",
    update: "UPDATE audit_keys SET sealed = $3
             WHERE CAST(id AS TEXT) || ':' || CAST(first_link AS TEXT) = $1 AND sealed = $2",
    name_prefix: "audit-key:",
};

/// Creates a [`SealedColumn`] for a table with a text primary key `id`. NULL values are skipped.
#[macro_export]
macro_rules! sealed_column {
    ($table:literal, $column:literal, $name_prefix:literal) => {
        $crate::SealedColumn {
            name: concat!($table, ".", $column),
            list: concat!(
                "SELECT id, ",
                $column,
                " FROM ",
                $table,
                " WHERE id > $1 AND ",
                $column,
                " IS NOT NULL ORDER BY id LIMIT $2"
            ),
            update: concat!(
                "UPDATE ",
                $table,
                " SET ",
                $column,
                " = $3 WHERE id = $1 AND ",
                $column,
                " = $2"
            ),
            name_prefix: $name_prefix,
        }
    };
}

/// Count or list for administrators and `kith verify`. Must not contain personal data.
#[derive(Clone, Copy, Debug)]
pub struct Fact {
    /// Name, such as `bonds.people_with_several_current_bonds`.
    pub name: &'static str,
    /// Reads the value.
    pub read: fn(&Query<'_>, &Ctx) -> Result<serde_json::Value, Error>,
}

/// Hook of a block. Arguments: transaction, context, blocker, blocked user.
pub type Blocked = fn(&Tx<'_>, &Ctx, UserId, UserId) -> Result<(), Error>;

/// Error of a maintenance job, for the log.
pub type UpkeepError = Box<dyn std::error::Error + Send + Sync>;

/// Number of rows by kind.
pub type Counts = Vec<(&'static str, i64)>;

/// Part of a module's export of personal data.
#[derive(Clone, Copy, Debug)]
pub enum ExportPart {
    /// Fixed text between other parts.
    Text(&'static str),
    /// Single value, of a few megabytes at most.
    Value(fn(&Query<'_>, UserId) -> Result<serde_json::Value, Error>),
    /// Text in pieces. The last argument is the cursor of the previous piece.
    Pieces(fn(&Query<'_>, UserId, Option<&str>) -> Result<ExportPiece, Error>),
}

/// Personal data that a module stores, with the hooks of its lifecycle.
#[derive(Clone, Copy, Debug)]
pub struct PersonalData {
    /// Hook that runs in the transaction in which a user deletes their account.
    pub leave: fn(&Tx<'_>, &Ctx, UserId) -> Result<(), Error>,
    /// Parts of the user's own export, which together form one JSON value.
    pub export: &'static [ExportPart],
    /// Counts the rows, by kind, that a purge would delete or empty.
    pub count: fn(&Query<'_>, UserId) -> Result<Counts, Error>,
    /// Deletes the data for good.
    pub purge: fn(&Tx<'_>, UserId) -> Result<(), Error>,
}

impl Module {
    /// Creates an empty module: `Module { routes, ..Module::named("posts") }`.
    pub const fn named(name: &'static str) -> Self {
        Self {
            name,
            needs: &[],
            tags: &[],
            routes: Routes::new,
            config: &[],
            migrations: &[],
            problems: &[],
            events: &[],
            consumers: &[],
            access: None,
            personal: None,
            blocked: None,
            unblocked: None,
            jobs: &[],
            schedules: &[],
            facts: &[],
            sealed: &[],
        }
    }
}

/// Maximum number of transactions per kind of data in one run of [`tidy`]. The rest is left for the next run.
const TIDY_BATCHES: usize = 100;
/// Maximum number of events removed per transaction.
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
    jobs: &[ModuleJob::upkeep("platform.tidy", |app| Box::pin(tidy(app)))],
    schedules: &[DeclaredSchedule::upkeep("platform.tidy", "@every 1m")],
    facts: facts::OF_THE_PLATFORM,
    sealed: &[sealed_column!("signing_keys", "sealed", ""), SEALED_AUDIT_KEYS],
    ..Module::named("platform")
};

fn routes() -> Routes {
    let about_itself = health::routes().merge(docs::routes()).merge(telemetry::routes());
    about_itself.merge(auth::routes()).merge(audit::routes()).merge(facts::routes())
}

/// Removes expired responses under idempotency keys, unused consumer cursors and old events.
async fn tidy(app: App) -> Result<(), UpkeepError> {
    let ctx = app.system_ctx("upkeep");
    for _ in 0..TIDY_BATCHES {
        if app.write(&ctx, idempotency::tidy).await? < idempotency::TIDIED {
            break;
        }
    }
    consumers::forget_removed(&app).await?;
    let before = ctx.now - days(u64::from(app.config.data.keep_events_days));
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
    use kith_store::NewEvent;

    use super::*;
    use crate::testing::TestServer;

    #[tokio::test]
    async fn old_events_are_removed_by_maintenance() {
        let test = TestServer::start(|config| config.data.keep_events_days = 2).await;
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
