//! The parts of one running server, shared by all its requests. Two may live in one process.

use std::cell::OnceCell;
use std::ops::Deref;
use std::sync::Arc;

use kith_kernel::{Ctx, Sources, Timestamp};
use kith_store::MigrationState::{Applied, Pending, Unknown};
use kith_store::{Error, IntoOutcome, MigrationStatus, Query, STORE_MIGRATIONS, Store, Tx};
use thiserror::Error;

use crate::auth::Tokens;
use crate::auth::passwords::Passwords;
use crate::clock::NodeClock;
use crate::config::Config;
use crate::http::{Asset, Stop, openapi};
use crate::module::Module;
use crate::telemetry::Metrics;
use crate::telemetry::log::LogLevel;

/// A handle to the parts. Clones share them.
#[derive(Clone)]
pub struct App(Arc<AppInner>);

/// The parts.
pub struct AppInner {
    /// The database.
    pub db: Store,
    /// The configuration.
    pub config: Config,
    /// Time, ids and randomness.
    pub sources: Sources,
    /// Makes and checks access tokens.
    pub tokens: Tokens,
    /// Hashes passwords.
    pub passwords: Passwords,
    /// Counts.
    pub metrics: Metrics,
    /// What is logged.
    pub log_level: LogLevel,
    /// Says when to stop.
    pub stop: Stop,
    /// The features it serves.
    pub modules: &'static [&'static Module],
    /// The OpenAPI document, as JSON.
    pub openapi: Arc<Asset>,
    /// The clock that follows the database's, unless `sources` came from elsewhere.
    pub clock: Option<Arc<NodeClock>>,
    /// When it was put together.
    pub started: Timestamp,
}

/// Why the parts could not be put together.
#[derive(Debug, Error)]
pub enum StartError {
    /// The database does not work.
    #[error(transparent)]
    Store(#[from] Error),
    /// The key that was written is not there.
    #[error("the database has no signing key although one was just written")]
    NoSigningKey,
    /// A thread or a listener could not be had.
    #[error("the system refused: {0}")]
    System(#[from] std::io::Error),
}

impl App {
    /// Puts the parts together around an open database whose schema is up to date.
    ///
    /// # Errors
    /// [`StartError`] if the signing key cannot be read or a thread cannot be started.
    pub async fn new(
        db: Store,
        config: Config,
        sources: Sources,
        clock: Option<Arc<NodeClock>>,
        log_level: Option<LogLevel>,
        modules: &'static [&'static Module],
    ) -> Result<Self, StartError> {
        let document = openapi::document(modules);
        let passwords = Passwords::start(&config.auth, Arc::clone(&sources.random))?;
        let metrics = Metrics::new(&document, db.clone(), passwords.counts(), clock.clone());
        let inner = AppInner {
            tokens: Tokens::load(&db, &sources, &config.auth).await?,
            passwords,
            metrics,
            log_level: log_level.unwrap_or_else(|| LogLevel::unheard(&config.log.level)),
            stop: Stop::default(),
            modules,
            openapi: Asset::new("application/json", openapi::to_json(&document)),
            clock,
            started: sources.clock.now(),
            db,
            config,
            sources,
        };
        Ok(Self(Arc::new(inner)))
    }

    /// Runs a command in a transaction, which is how every handler changes anything. The command gets the context as
    /// of the moment at which the transaction starts: what the request waited for lies behind it. The closure may
    /// be run more than once, and gets the same moment each time.
    ///
    /// # Errors
    /// The closure's own, or the store's turned into it.
    pub async fn write<F, O>(&self, ctx: &Ctx, run: F) -> Result<O::Value, O::Error>
    where
        F: Fn(&Tx<'_>, &Ctx) -> O + Send + 'static,
        O: IntoOutcome,
        O::Value: Send + 'static,
        O::Error: From<Error> + Send + 'static,
    {
        let arrived = ctx.clone();
        let started = OnceCell::new();
        self.db.write(move |tx| run(tx, started.get_or_init(|| arrived.renewed()))).await
    }

    /// How each migration stands, asked of the database that is open. One that only a newer build knows does no
    /// harm: old and new nodes serve beside each other while a new version is rolled out.
    ///
    /// # Errors
    /// The database's.
    pub async fn migrations(&self) -> Result<Vec<MigrationStatus>, Error> {
        let applied = self.db.read(applied_migrations).await?;
        let store = STORE_MIGRATIONS.migrations.iter().map(|one| (STORE_MIGRATIONS.module, one));
        let modules =
            self.modules.iter().flat_map(|module| module.migrations.iter().map(|one| (module.name, one)));
        let own: Vec<_> =
            store.chain(modules).map(|(module, one)| full_name(module, one.version, one.name)).collect();
        let pending = own.iter().filter(|name| applied.iter().all(|known| known.name != **name));
        let pending: Vec<_> = pending.cloned().map(|name| MigrationStatus { name, state: Pending }).collect();
        let known = applied.into_iter().map(|one| if own.contains(&one.name) { one } else { unknown(one) });
        Ok(known.chain(pending).collect())
    }
}

impl Deref for App {
    type Target = AppInner;
    fn deref(&self) -> &AppInner {
        &self.0
    }
}

fn applied_migrations(q: &Query<'_>) -> Result<Vec<MigrationStatus>, Error> {
    let sql = "SELECT module, version, name, applied_at FROM schema_migrations ORDER BY ordinal";
    q.all(sql, &[], |row| {
        let name = full_name(&row.get::<String>(0)?, row.get(1)?, &row.get::<String>(2)?);
        Ok(MigrationStatus { name, state: Applied { at: row.get(3)? } })
    })
}

fn full_name(module: &str, version: i64, name: &str) -> String {
    format!("{module}/{version:04}_{name}")
}

fn unknown(one: MigrationStatus) -> MigrationStatus {
    MigrationStatus { state: Unknown, ..one }
}

#[cfg(test)]
mod tests {
    use kith_kernel::{Actor, RequestId, seconds};

    use super::*;
    use crate::testing::TestServer;

    #[tokio::test]
    async fn a_command_happens_when_its_transaction_starts_however_often_it_is_run() {
        let test = TestServer::start(|_| {}).await;
        let request_id = RequestId::accept("waits-a-while").unwrap();
        let ctx = Ctx::new(test.app.sources.clone(), Actor::Anonymous, request_id);
        test.clock.advance(seconds(5));
        let (clock, (runs, seen)) = (Arc::clone(&test.clock), std::sync::mpsc::channel());
        let run = move |_: &Tx<'_>, ctx: &Ctx| {
            runs.send(ctx.now).unwrap();
            clock.advance(seconds(1));
            Ok::<_, Error>(ctx.now)
        };
        let started = ctx.now + seconds(5);
        assert_eq!(test.app.write(&ctx, run).await.unwrap(), started);
        assert_eq!(seen.iter().collect::<Vec<_>>(), [started, started], "the store rehearses");
    }
}
