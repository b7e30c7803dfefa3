//! What a feature is to the rest of Kith: plain data, gathered in one list by the server.

use kith_jobs::schedules::DeclaredSchedule;
use kith_kernel::{Ctx, ProblemCode, UserId, days, problems};
use kith_store::{AUDIT_ARCHIVED, Error, Migration, Query, Tx};

use crate::auth::{AccessSource, api_keys};
use crate::consumers::{self, ModuleConsumer};
use crate::export::ExportPiece;
use crate::http::SYSTEM_TAG;
use crate::jobs::ModuleJob;
use crate::{App, audit, auth, docs, facts, health, idempotency, telemetry};

/// Handlers together with their documentation: none can be registered without it.
pub type Routes = utoipa_axum::router::OpenApiRouter<App>;

/// A feature.
#[derive(Debug)]
pub struct Module {
    /// `bonds`.
    pub name: &'static str,
    /// Names of the modules that it builds on. They must be served with it.
    pub needs: &'static [&'static str],
    /// Groups of its operations in the API reference. The first is that of operations that [`tagged`](crate::tagged) put in
    /// no other.
    pub tags: &'static [Tag],
    /// Its handlers.
    pub routes: fn() -> Routes,
    /// Its tables, in order of their versions.
    pub migrations: &'static [Migration],
    /// The problems it answers with, beside the general ones.
    pub problems: &'static [&'static ProblemCode],
    /// The kinds of events it emits.
    pub events: &'static [&'static str],
    /// Its reactions to events, of its own and of other modules.
    pub consumers: &'static [ModuleConsumer],
    /// How it tells what people may do, if it is the one that keeps accounts.
    pub access: Option<AccessSource>,
    /// What it keeps about people.
    pub personal: Option<PersonalData>,
    /// What must happen at once when somebody blocks somebody: the first shuts the door on the second. Both are locked.
    pub blocked: Option<Blocked>,
    /// What it opens once no block stands any more between the two, of whom the first has let the second in.
    pub unblocked: Option<Blocked>,
    /// What it does in the background.
    pub jobs: &'static [ModuleJob],
    /// What of that it does again and again, and when.
    pub schedules: &'static [DeclaredSchedule],
    /// What it tells administrators of what it keeps.
    pub facts: &'static [Fact],
    /// What it keeps sealed.
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

/// A column whose values are sealed under the deployment's secret, made by [`sealed_column!`](crate::sealed_column).
/// `kith keys reseal` seals them again.
#[derive(Clone, Copy, Debug)]
pub struct SealedColumn {
    /// `table.column`.
    pub name: &'static str,
    /// Lists ids and values behind `$1`, at most `$2`, in the order of ids.
    pub list: &'static str,
    /// Sets the value of row `$1` to `$3` if it is still `$2`.
    pub update: &'static str,
    /// Stands before the id in the name under which a value is sealed.
    pub name_prefix: &'static str,
}

/// The keys of the audit chain, which are named by their id and their first link (`kith_store::audit_key_name`).
const SEALED_AUDIT_KEYS: SealedColumn = SealedColumn {
    name: "audit_keys.sealed",
    list: "SELECT CAST(id AS TEXT) || ':' || CAST(first_link AS TEXT), sealed FROM audit_keys
           WHERE CAST(id AS TEXT) || ':' || CAST(first_link AS TEXT) > $1
           ORDER BY CAST(id AS TEXT) || ':' || CAST(first_link AS TEXT) LIMIT $2",
    update: "UPDATE audit_keys SET sealed = $3
             WHERE CAST(id AS TEXT) || ':' || CAST(first_link AS TEXT) = $1 AND sealed = $2",
    name_prefix: "audit-key:",
};

/// A [`SealedColumn`] of a table with a primary key `id` of text; NULL where there is nothing.
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

/// Something a module counts or lists for administrators and for `kith verify`: never anything personal.
#[derive(Clone, Copy, Debug)]
pub struct Fact {
    /// `bonds.people_with_several_current_bonds`.
    pub name: &'static str,
    /// Reads it.
    pub read: fn(&Query<'_>, &Ctx) -> Result<serde_json::Value, Error>,
}

/// Closes a module's doors between the one who blocks and the one who is blocked.
pub type Blocked = fn(&Tx<'_>, &Ctx, UserId, UserId) -> Result<(), Error>;

/// Why something was not done that is done by itself, for the log.
pub type UpkeepError = Box<dyn std::error::Error + Send + Sync>;

/// Rows by kind.
pub type Counts = Vec<(&'static str, i64)>;

/// A part of what a module exports about a person.
#[derive(Clone, Copy, Debug)]
pub enum ExportPart {
    /// This text, between other parts.
    Text(&'static str),
    /// One value, of some kilobytes up to a few megabytes.
    Value(fn(&Query<'_>, UserId) -> Result<serde_json::Value, Error>),
    /// Text in pieces, each of which goes on where the one before has ended.
    Pieces(fn(&Query<'_>, UserId, Option<&str>) -> Result<ExportPiece, Error>),
}

/// What a module keeps about a person, and what becomes of it when they leave.
#[derive(Clone, Copy, Debug)]
pub struct PersonalData {
    /// What must happen at once when somebody deletes their account.
    pub leave: fn(&Tx<'_>, &Ctx, UserId) -> Result<(), Error>,
    /// All of it, for themselves: parts that make one JSON value, one after the other.
    pub export: &'static [ExportPart],
    /// How many rows of which kind a purge would take away or empty.
    pub count: fn(&Query<'_>, UserId) -> Result<Counts, Error>,
    /// Takes them away.
    pub purge: fn(&Tx<'_>, UserId) -> Result<(), Error>,
}

impl Module {
    /// A module of this name that has nothing yet: `Module { routes, ..Module::named("posts") }`.
    pub const fn named(name: &'static str) -> Self {
        Self {
            name,
            needs: &[],
            tags: &[],
            routes: Routes::new,
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

/// Most transactions of each sort in one run of [`tidy`]; the rest waits for the next run.
const TIDY_BATCHES: usize = 100;
/// Events removed in one transaction.
const EVENTS_AT_ONCE: i64 = 500;

/// The platform's own: health, metrics, the OpenAPI document, signing keys.
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

/// Removes answers to writes that have expired, and events that are old.
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
    async fn old_events_are_removed_by_upkeep() {
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
