//! Components of a running server, shared by all requests. Several servers can run in one process.

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
    AuditHeadFile, EngineKind, Error, IntoTxOutcome, MigrationStatus, OpenError, Query, STORE_MIGRATIONS,
    Store, Transaction, Tx, TxOutcome,
};
use thiserror::Error;

use crate::audit::head::RememberedHead;
use crate::auth::api_keys::ApiKeyCache;
use crate::auth::passwords::Passwords;
use crate::auth::{AccessCache, Keyring, Tokens};
use crate::cache::InvalidationFeed;
use crate::clock::NodeClock;
use crate::compute::Compute;
use crate::config::Config;
use crate::consumers::{self, EmittedEvents, EventRoutes};
use crate::development::AdjustableClock;
use crate::export::Exports;
use crate::http::{Asset, BodyMemory, BodySchemas, Stop, openapi};
use crate::idempotency::StoredBytesLimiter;
use crate::module::Module;
use crate::observed_time::ObservedTime;
use crate::outbound::Outbound;
use crate::telemetry::Metrics;
use crate::telemetry::log::LogLevel;

/// Handle of the components of a server. Clones refer to the same components.
#[derive(Clone)]
pub struct App(Arc<AppInner>);

/// Components of a server.
pub struct AppInner {
    /// Database.
    pub db: Store,
    /// Job engine.
    pub jobs: Jobs,
    /// Configuration.
    pub config: Config,
    /// Clock, id generator and random generator.
    pub sources: Sources,
    /// Keys derived from the configured secrets.
    pub keyring: Arc<Keyring>,
    /// Elapsed time that this process has observed. Clock jumps do not count.
    pub observed_time: ObservedTime,
    /// Head of the audit chain, stored outside the database.
    pub audit_head: RememberedHead,
    /// Issuer and verifier of access tokens.
    pub tokens: Tokens,
    /// Cache of the roles and open sessions of users.
    pub(crate) access: AccessCache,
    /// Cached API keys.
    pub(crate) api_keys: ApiKeyCache,
    /// State of receiving events from other nodes.
    pub(crate) invalidation_feed: InvalidationFeed,
    /// Counters and hooks for events, by event kind.
    pub(crate) event_routes: Arc<EventRoutes>,
    /// Durable consumers of the modules.
    pub(crate) consumer_set: Arc<ConsumerSet>,
    /// Password hashing threads.
    pub passwords: Passwords,
    /// Limit on the total memory of request bodies that are being received.
    pub(crate) body_memory: BodyMemory,
    /// Running and recent exports.
    pub(crate) exports: Exports,
    /// Limit on the bytes of responses that each caller can store under idempotency keys.
    pub(crate) stored_bytes: Arc<StoredBytesLimiter>,
    /// Threads for computations on client input.
    pub compute: Compute,
    /// Sender of outbound requests.
    pub outbound: Outbound,
    /// Metrics.
    pub metrics: Metrics,
    /// Log level.
    pub log_level: LogLevel,
    /// True if rate limits and the limits on sent requests (request tiers) are disabled.
    pub(crate) limits_disabled: AtomicBool,
    /// Stop signal.
    pub stop: Stop,
    /// Modules that this server serves.
    pub modules: &'static [&'static Module],
    /// Modules whose tables the database has, whether they are served or not.
    pub installed: &'static [&'static Module],
    /// Version of the build, followed by `+` and the commit if that is known.
    pub build: &'static str,
    /// OpenAPI document as JSON.
    pub openapi: Arc<Asset>,
    /// Schemas of request bodies.
    pub(crate) body_schemas: BodySchemas,
    /// Clock that follows the database's clock. `None` if `sources` has another clock.
    pub clock: Option<Arc<NodeClock>>,
    /// Clock that can be moved forward; `None` outside development mode.
    pub adjustable_clock: Option<Arc<AdjustableClock>>,
    /// Time at which the components were created.
    pub started: Timestamp,
    /// Address of the listener, once it is bound.
    pub addr: OnceLock<SocketAddr>,
}

/// Modules and version of the program that a server runs.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Modules that the server serves.
    pub modules: &'static [&'static Module],
    /// Modules whose tables the database has, whether they are served or not.
    pub installed: &'static [&'static Module],
    /// Version of the build, followed by `+` and the commit if that is known.
    pub build: &'static str,
}

/// Error of starting a server.
#[derive(Debug, Error)]
pub enum StartError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] Error),
    /// The database URL is invalid, or the database cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// No key can sign tokens now, although one was just created.
    #[error("the database has no signing key although one was just created")]
    NoSigningKey,
    /// A stored key was encrypted with another secret.
    #[error(
        "the keys in the database are encrypted under another secret than `auth.jwt_secret` (JWT_SECRET). If \
         this data began in development mode, run `kith keys reseal` with this configuration: it reads the \
         old secret from secrets.toml in the data folder. If the secret was changed, set JWT_SECRET_PREVIOUS \
         to the old one, start, and run `kith keys reseal`"
    )]
    SealedWithUnknownSecret,
    /// The operating system could not provide a thread or a listener.
    #[error("the operating system returned an error: {0}")]
    System(#[from] std::io::Error),
}

impl App {
    /// Creates the components around an open database with an up-to-date schema.
    ///
    /// # Errors
    /// Returns a [`StartError`] if the keys cannot be read or a thread cannot be started.
    pub async fn new(
        db: Store,
        mut config: Config,
        sources: Sources,
        clock: Option<Arc<NodeClock>>,
        adjustable_clock: Option<Arc<AdjustableClock>>,
        log_level: Option<LogLevel>,
        Program { modules, installed, build }: Program,
    ) -> Result<Self, StartError> {
        let (document, operations) = openapi::document_with_operations(modules);
        let document = Bytes::from(document);
        // Defaults are parsed here, so that no request has to parse them.
        installed.iter().chain(modules).for_each(|module| config.add_defaults(module.config));
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
                Error::Fault(_) => StartError::SealedWithUnknownSecret,
                other => other.into(),
            });
        }
        let head_file = AuditHeadFile::of(&config.store_options(), &config.data.folder)?;
        // On SQLite, no other process changes the database.
        let invalidation_feed = InvalidationFeed::new(db.kind() == EngineKind::Sqlite);
        let source = modules.iter().find_map(|module| module.access);
        let inner = AppInner {
            observed_time: ObservedTime::default(),
            audit_head: RememberedHead::new(head_file),
            tokens,
            keyring,
            access: AccessCache::new(source, invalidation_feed.clone()),
            api_keys: ApiKeyCache::new(invalidation_feed.clone()),
            invalidation_feed,
            event_routes: Arc::new(EventRoutes::new(modules)),
            consumer_set,
            passwords,
            body_memory: BodyMemory::new(
                usize::try_from(config.server.max_body_memory_bytes).unwrap_or(usize::MAX),
            ),
            exports: Exports::new(config.limits.exports_per_day, Arc::clone(&sources.clock)),
            stored_bytes: Arc::new(StoredBytesLimiter::new(
                config.limits.idempotency_bytes_per_day,
                Arc::clone(&sources.clock),
            )),
            compute: Compute::start()?,
            outbound: Outbound::new(&config),
            metrics,
            log_level: log_level.unwrap_or_else(|| LogLevel::detached(&config.log.level)),
            limits_disabled: AtomicBool::new(config.server.disable_limits),
            stop: Stop::default(),
            modules,
            installed,
            build,
            openapi: Asset::new("application/json", document.clone()),
            body_schemas: BodySchemas::new(document),
            clock,
            adjustable_clock,
            started: sources.clock.real_now(),
            addr: OnceLock::new(),
            jobs,
            db,
            config,
            sources,
        };
        Ok(Self(Arc::new(inner)))
    }

    /// Runs a command in a transaction. Every handler that writes calls this method or [`App::change`]. The
    /// command receives a context whose time is the start of the transaction, which can be later than the
    /// arrival of the request. If the transaction is retried, the closure runs again with the same time.
    ///
    /// # Errors
    /// Returns the closure's error, or the store's error converted to it.
    pub async fn write<F, O>(&self, ctx: &Ctx, run: F) -> Result<O::Value, O::Error>
    where
        F: Fn(&Tx<'_>, &Ctx) -> O + Send + 'static,
        O: IntoTxOutcome + 'static,
        O::Value: Send + 'static,
        O::Error: From<Error> + Send + 'static,
    {
        let arrived = ctx.clone();
        let started = OnceCell::new();
        let emitted = Arc::new(Mutex::new(EmittedEvents::default()));
        // The closure does not capture the whole app. Otherwise the thread of the store could drop the store
        // itself.
        let (routes, noted) = (Arc::clone(&self.event_routes), Arc::clone(&emitted));
        let (transaction, result) = Transaction::new(move |tx: &Tx<'_>| {
            // A run that panics must not emit the events of an earlier run.
            *noted.lock().unwrap_or_else(PoisonError::into_inner) = EmittedEvents::default();
            let outcome = run(tx, started.get_or_init(|| arrived.refreshed())).into_outcome();
            let emitted = match outcome {
                TxOutcome::Commit(_) | TxOutcome::CommitRefusal(_) => routes.emitted(tx),
                TxOutcome::Rollback(_) => EmittedEvents::default(),
            };
            *noted.lock().unwrap_or_else(PoisonError::into_inner) = emitted;
            outcome
        });
        self.run_with_hooks(transaction, emitted).await?;
        result.take()
    }

    /// Runs a transaction and then the hooks of the events that it emitted. Uses a separate task, so that the
    /// hooks run after a commit even if the client has disconnected.
    async fn run_with_hooks(
        &self,
        transaction: Transaction,
        emitted: Arc<Mutex<EmittedEvents>>,
    ) -> Result<(), Error> {
        let app = self.clone();
        let task = tokio::spawn(async move {
            let ended = app.db.run(transaction).await;
            let emitted = std::mem::take(&mut *emitted.lock().unwrap_or_else(PoisonError::into_inner));
            if ended.is_ok() {
                app.metrics.record_events(&emitted.kinds);
            }
            // Hooks run before the response is sent, so that a revoked session or key is rejected from then
            // on.
            emitted.run_hooks(&app).await;
            ended
        });
        match task.await {
            Ok(ended) => ended,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }

    /// Returns true if rate limits and request tiers are disabled, by `server.disable_limits` or at run time
    /// in development mode.
    pub fn are_limits_disabled(&self) -> bool {
        self.limits_disabled.load(Ordering::Relaxed)
    }

    /// Creates the context for work that the server does without a request. `part` is the name of the
    /// component.
    pub fn system_ctx(&self, part: &'static str) -> Ctx {
        let id = self.sources.ids.next(self.sources.clock.now());
        Ctx::new(self.sources.clone(), Actor::System(part), RequestId::from_uuid(id))
    }

    /// Returns the status of all migrations in the open database. Migrations of a newer build are reported as
    /// unknown. They are not an error, because nodes of two versions run together during an upgrade.
    ///
    /// # Errors
    /// Returns the store's error if the database cannot be read.
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
    async fn retried_command_keeps_transaction_start_time() {
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
        assert_eq!(
            seen.iter().collect::<Vec<_>>(),
            [started, started],
            "the store runs the transaction twice, with the same time"
        );
    }
}
