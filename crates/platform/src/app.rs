//! The parts of one running server, shared by all its requests. Two may live in one process.

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use kith_consumers::ConsumerSet;
use kith_jobs::{JOBS_MIGRATIONS, Jobs};
use kith_kernel::{Actor, Ctx, RequestId, Sources, Timestamp};
use kith_store::MigrationState::{Applied, Pending, Unknown};
use kith_store::{
    AuditHeadFile, EngineKind, Error, IntoOutcome, MigrationStatus, OpenError, Outcome, Query,
    STORE_MIGRATIONS, Store, Tx,
};
use thiserror::Error;

use crate::audit::head::RememberedHead;
use crate::auth::api_keys::KnownKeys;
use crate::auth::passwords::Passwords;
use crate::auth::{AccessCache, Keyring, Tokens};
use crate::cache::Hearing;
use crate::clock::NodeClock;
use crate::compute::Compute;
use crate::config::Config;
use crate::consumers::{self, EmittedEvents, EventRoutes};
use crate::development::AheadClock;
use crate::export::Exports;
use crate::http::{Asset, BodyMemory, BodySchemas, Stop, openapi};
use crate::idempotency::KeptBytes;
use crate::module::Module;
use crate::observed_time::ObservedTime;
use crate::outbound::Outbound;
use crate::telemetry::Metrics;
use crate::telemetry::log::LogLevel;

/// A handle to the parts. Clones share them.
#[derive(Clone)]
pub struct App(Arc<AppInner>);

/// The parts.
pub struct AppInner {
    /// The database.
    pub db: Store,
    /// The job engine.
    pub jobs: Jobs,
    /// The configuration.
    pub config: Config,
    /// Time, ids and randomness.
    pub sources: Sources,
    /// What the secrets of the configuration are used for.
    pub keyring: Arc<Keyring>,
    /// Time that has really passed, as far as this process has seen.
    pub observed_time: ObservedTime,
    /// The head of the audit chain, remembered outside the database.
    pub audit_head: RememberedHead,
    /// Makes and checks access tokens.
    pub tokens: Tokens,
    /// What people may do.
    pub(crate) access: AccessCache,
    /// What programs may do.
    pub(crate) api_keys: KnownKeys,
    /// Whether it hears what happens on other nodes.
    pub(crate) hearing: Hearing,
    /// What concerns an event, by its kind.
    pub(crate) event_routes: Arc<EventRoutes>,
    /// Durable consumers of the modules.
    pub(crate) consumer_set: Arc<ConsumerSet>,
    /// Hashes passwords.
    pub passwords: Passwords,
    /// What bodies take that are being received.
    pub(crate) body_memory: BodyMemory,
    /// Who exports.
    pub(crate) exports: Exports,
    /// How much is kept under the idempotency keys of each caller.
    pub(crate) kept_bytes: Arc<KeptBytes>,
    /// Computes on what others send.
    pub compute: Compute,
    /// Sends requests to others.
    pub outbound: Outbound,
    /// Counts.
    pub metrics: Metrics,
    /// What is logged.
    pub log_level: LogLevel,
    /// Whether neither 429 limits nor tiers hold.
    pub(crate) without_limits: AtomicBool,
    /// Says when to stop.
    pub stop: Stop,
    /// The features it serves.
    pub modules: &'static [&'static Module],
    /// The features whose tables the database has, served or not.
    pub installed: &'static [&'static Module],
    /// Its version, and behind a `+` the commit it was built from, as far as that is known.
    pub build: &'static str,
    /// The OpenAPI document, as JSON.
    pub openapi: Arc<Asset>,
    /// The schemas of request bodies.
    pub(crate) body_schemas: BodySchemas,
    /// The clock that follows the database's, unless `sources` came from elsewhere.
    pub clock: Option<Arc<NodeClock>>,
    /// The clock that development mode can put forward.
    pub ahead: Option<Arc<AheadClock>>,
    /// When it was put together.
    pub started: Timestamp,
    /// Where it listens, once it does.
    pub addr: OnceLock<SocketAddr>,
}

/// What is run.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// The features it serves.
    pub modules: &'static [&'static Module],
    /// The features whose tables the database has, served or not.
    pub installed: &'static [&'static Module],
    /// Its version, and behind a `+` the commit it was built from, as far as that is known.
    pub build: &'static str,
}

/// Why the parts could not be put together.
#[derive(Debug, Error)]
pub enum StartError {
    /// The database does not work.
    #[error(transparent)]
    Store(#[from] Error),
    /// The database's address cannot be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The key that was written is not there.
    #[error("the database has no signing key although one was just written")]
    NoSigningKey,
    /// The keys in the database cannot be opened.
    #[error(
        "the keys in the database were sealed with another secret than `auth.jwt_secret` (JWT_SECRET). If this data \
         began in development mode, run `kith keys reseal` with this configuration: it reads the old secret from \
         secrets.toml in the data folder. If the secret was changed, set JWT_SECRET_PREVIOUS to the old one, start, and \
         run `kith keys reseal`"
    )]
    KeySealedOtherwise,
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
        ahead: Option<Arc<AheadClock>>,
        log_level: Option<LogLevel>,
        Program { modules, installed, build }: Program,
    ) -> Result<Self, StartError> {
        let (document, operations) = openapi::document_with_operations(modules);
        let document = Bytes::from(document);
        let passwords = Passwords::start(&config.auth, Arc::clone(&sources.random))?;
        let jobs = Jobs::new(db.clone(), sources.clone());
        let consumer_set =
            Arc::new(ConsumerSet::new(consumers::durable(modules), consumers::node_name(&sources)));
        let metrics = Metrics::new(
            &operations,
            consumers::kinds(modules),
            Arc::clone(&consumer_set),
            jobs.clone(),
            passwords.counts(),
            clock.clone(),
            config.data.folder.clone(),
        );
        let keyring = Arc::new(Keyring::new(&config.auth));
        let tokens = Tokens::load(&db, &sources, &keyring, &config.auth).await?;
        if let Err(error) = db.check_audit_keys().await {
            return Err(match error {
                Error::Fault(_) => StartError::KeySealedOtherwise,
                other => other.into(),
            });
        }
        let head_file = AuditHeadFile::of(&config.store_options(), &config.data.folder)?;
        // SQLite belongs to one process: whatever changes, changes here.
        let hearing = Hearing::new(db.kind() == EngineKind::Sqlite);
        let source = modules.iter().find_map(|module| module.access);
        let inner = AppInner {
            observed_time: ObservedTime::default(),
            audit_head: RememberedHead::new(head_file),
            tokens,
            keyring,
            access: AccessCache::new(source, hearing.clone()),
            api_keys: KnownKeys::new(hearing.clone()),
            hearing,
            event_routes: Arc::new(EventRoutes::new(modules)),
            consumer_set,
            passwords,
            body_memory: BodyMemory::new(
                usize::try_from(config.server.body_memory_bytes).unwrap_or(usize::MAX),
            ),
            exports: Exports::new(config.limits.exports_per_day, Arc::clone(&sources.clock)),
            kept_bytes: Arc::new(KeptBytes::new(
                config.limits.idempotent_bytes_per_day,
                Arc::clone(&sources.clock),
            )),
            compute: Compute::start()?,
            outbound: Outbound::new(&config),
            metrics,
            log_level: log_level.unwrap_or_else(|| LogLevel::unheard(&config.log.level)),
            without_limits: AtomicBool::new(config.server.without_limits),
            stop: Stop::default(),
            modules,
            installed,
            build,
            openapi: Asset::new("application/json", document.clone()),
            body_schemas: BodySchemas::new(document),
            clock,
            ahead,
            started: sources.clock.real_now(),
            addr: OnceLock::new(),
            jobs,
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
        O: IntoOutcome + 'static,
        O::Value: Send + 'static,
        O::Error: From<Error> + Send + 'static,
    {
        let arrived = ctx.clone();
        let started = OnceCell::new();
        let emitted = Arc::new(Mutex::new(EmittedEvents::default()));
        // Not the whole app: the store, which is part of it, must not be dropped by its own thread.
        let (routes, told) = (Arc::clone(&self.event_routes), Arc::clone(&emitted));
        let run = move |tx: &Tx<'_>| {
            let outcome = run(tx, started.get_or_init(|| arrived.renewed())).into_outcome();
            let emitted = match outcome {
                Outcome::Commit(_) | Outcome::CommitRefusal(_) => routes.emitted(tx),
                Outcome::Rollback(_) => EmittedEvents::default(),
            };
            *told.lock().unwrap_or_else(PoisonError::into_inner) = emitted;
            outcome
        };
        let app = self.clone();
        // A task of its own: what was committed is heeded even if whoever asked for it has hung up by then.
        let heeded = tokio::spawn(async move {
            let answer = app.db.write(run).await;
            let emitted = std::mem::take(&mut *emitted.lock().unwrap_or_else(PoisonError::into_inner));
            if answer.is_ok() {
                app.metrics.count_events(&emitted.kinds);
            }
            // Before the caller is answered: a revoked session or key is refused from the answer on.
            emitted.run_hooks(&app).await;
            answer
        });
        match heeded.await {
            Ok(answer) => answer,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }

    /// Whether neither 429 limits nor tiers hold: set by `server.without_limits`, or in development mode at run time.
    pub fn is_without_limits(&self) -> bool {
        self.without_limits.load(Ordering::Relaxed)
    }

    /// The context of what Kith does by itself.
    pub fn system_ctx(&self, part: &'static str) -> Ctx {
        let id = self.sources.ids.next(self.sources.clock.now());
        Ctx::new(self.sources.clone(), Actor::System(part), RequestId::from_uuid(id))
    }

    /// How each migration stands, asked of the database that is open. One that only a newer build knows does no
    /// harm: old and new nodes serve beside each other while a new version is rolled out.
    ///
    /// # Errors
    /// The database's.
    pub async fn migrations(&self) -> Result<Vec<MigrationStatus>, Error> {
        let applied = self.db.read(applied_migrations).await?;
        let below = [STORE_MIGRATIONS, JOBS_MIGRATIONS];
        let below = below.iter().flat_map(|all| all.migrations.iter().map(|one| (all.module, one)));
        let modules =
            self.installed.iter().flat_map(|module| module.migrations.iter().map(|one| (module.name, one)));
        let own: Vec<_> =
            below.chain(modules).map(|(module, one)| full_name(module, one.version, one.name)).collect();
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
