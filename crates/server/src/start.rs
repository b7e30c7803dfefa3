//! Starts and stops a server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kith_consumers::RunningConsumers;
use kith_jobs::Workers;
use kith_kernel::{Clock, Sources, SystemClock, SystemRandom};
use kith_platform::clock::NodeClock;
use kith_platform::config::{Config, DevelopmentSecretsError};
use kith_platform::http::{self, Server};
use kith_platform::starts::ServerStart;
use kith_platform::telemetry::log::LogLevel;
use kith_platform::{AdjustableClock, App, Program, StartError as AppError};
use kith_store::{ControlSocket, EngineKind, MigrationState, OpenError, Store, StoreOptions};
use thiserror::Error;
use tokio::time::timeout;

use crate::demo::DemoError;
use crate::modules::{self, MODULES, ModulesError, migrations};
use crate::{control, demo, listen};

/// Parts of a server that tests can replace. Production uses the default value.
#[derive(Clone, Default)]
pub struct TestOverrides {
    /// Sources of time, ids and randomness. `None` uses those of the system.
    pub sources: Option<Sources>,
    /// Handle to change the log level. `None` if the process does not use Kith's log.
    pub log_level: Option<LogLevel>,
    /// True to run each transaction closure twice and roll the first run back. Tests use it to detect
    /// closures that cannot be retried.
    pub runs_twice: bool,
}

/// Running server of this process.
pub struct Running {
    /// Address on which the server listens.
    pub addr: SocketAddr,
    /// Components of the server, such as its database and configuration.
    pub app: App,
    server: Server,
    control: Option<ControlSocket>,
    /// Workers that run jobs. `None` if a test controls the clock.
    workers: Option<Workers>,
    /// Consumers that run in the background. `None` if a test controls the clock and delivers events itself.
    consumers: Option<RunningConsumers<App>>,
    /// Record of this start in the database. `None` if it could not be written.
    started: Option<ServerStart>,
}

/// Error of starting a server.
#[derive(Debug, Error)]
pub enum StartError {
    /// The database could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A migration is pending, and `database.migrate_on_start` is off.
    #[error("the database lacks migration {0}; run `kith migrate up`, or set database.migrate_on_start")]
    MigrationPending(String),
    /// The text of an applied migration has changed.
    #[error("migration {0} was changed after it was applied")]
    MigrationChanged(String),
    /// The address cannot be bound.
    #[error("cannot listen on {addr} (`server.listen`): {source}")]
    Listen {
        /// Address that was configured.
        addr: SocketAddr,
        /// I/O error.
        source: std::io::Error,
    },
    /// The settings that choose the modules are invalid.
    #[error(transparent)]
    Modules(#[from] ModulesError),
    /// The secrets of development mode could not be read or created.
    #[error(transparent)]
    Secrets(#[from] DevelopmentSecretsError),
    /// The demo data could not be created.
    #[error(transparent)]
    Demo(#[from] DemoError),
    /// Another component did not start.
    #[error(transparent)]
    App(#[from] AppError),
}

/// Time that a stop waits for the database, in addition to the configured time for requests.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

fn grace(config: &Config) -> Duration {
    Duration::from_millis(config.server.shutdown_grace_ms.into())
}

/// Starts a server. It accepts requests on `addr` when this function returns. If the configured port is 0, a
/// free port is chosen.
///
/// # Errors
/// Returns [`StartError`]. Its message is one sentence.
pub async fn start(config: Config, overrides: TestOverrides) -> Result<Running, StartError> {
    let app = open(config, overrides).await?;
    let db = app.db.clone();
    match serve(app).await {
        Ok(running) => Ok(running),
        Err(error) => {
            db.close().await;
            Err(error)
        }
    }
}

/// Opens the database and all other components except for listeners. Commands that run without a server use
/// it, and must close the database.
///
/// # Errors
/// Returns [`StartError`]. Its message is one sentence.
pub(crate) async fn open(mut config: Config, overrides: TestOverrides) -> Result<App, StartError> {
    // The choice of modules is checked before the database is opened.
    modules::served(&config)?;
    let random = overrides.sources.as_ref().map(|sources| Arc::clone(&sources.random));
    config.fill_development_secrets(&*random.unwrap_or_else(|| Arc::new(SystemRandom)))?;
    let options = StoreOptions { runs_twice: overrides.runs_twice, ..config.store_options() };
    migrate_if_allowed(&config, &options).await?;
    let db = Store::open(options).await?;
    match open_on(db.clone(), config, overrides).await {
        Ok(app) => Ok(app),
        Err(error) => {
            db.close().await;
            Err(error)
        }
    }
}

async fn open_on(db: Store, config: Config, overrides: TestOverrides) -> Result<App, StartError> {
    let (sources, clock) = match overrides.sources {
        Some(sources) => (sources, None),
        None => {
            let clock = Arc::new(NodeClock::start(&db).await.map_err(AppError::from)?);
            (Arc::clone(&clock).sources(), Some(clock))
        }
    };
    let (sources, adjustable_clock) = if config.is_production() {
        (sources, None)
    } else {
        let adjustable_clock = AdjustableClock::resume(Arc::clone(&sources.clock), &config.data.folder)
            .map_err(AppError::from)?;
        (Sources { clock: adjustable_clock.clone(), ..sources }, Some(adjustable_clock))
    };
    let program =
        Program { modules: modules::served(&config)?, installed: MODULES, build: env!("KITH_BUILD") };
    Ok(App::new(db, config, sources, clock, adjustable_clock, overrides.log_level, program).await?)
}

async fn serve(app: App) -> Result<Running, StartError> {
    demo::create_demo_data_if_enabled(&app).await?;
    let listener = listen::bind(&app.config)?;
    let addr = listener.local_addr().map_err(AppError::from)?;
    // The cell is still empty at this point, so setting it cannot fail.
    let _ = app.addr.set(addr);
    let control = control::listen(&app, addr).map_err(AppError::from)?;
    if let Err(error) = kith_platform::audit::head::start(&app).await {
        tracing::warn!(%error, "cannot compare the audit chain with the stored head");
    }
    kith_platform::observed_time::start(&app).await.map_err(AppError::from)?;
    let workers = start_workers(&app).await?;
    let consumers = app.consumers();
    consumers.declare().await.map_err(AppError::from)?;
    let consumers = app.clock.is_some().then(|| consumers.start());
    let started = ServerStart::record(&app, addr).await.inspect_err(|error| {
        tracing::warn!(%error, "cannot record the start of this server; restarts will not be counted");
    });
    // There is no `await` from here on. A signal cancels the start at an `await`, but a server that accepts
    // requests must be stopped gracefully.
    let server = http::serve(listener, &app).map_err(AppError::from)?;
    kith_platform::consumers::every_node::start(&app);
    // This task is started last, because nothing would stop it if another component failed to start.
    if let Some(clock) = app.clock.clone().filter(|_| app.db.kind() == EngineKind::Postgres) {
        tokio::spawn(clock.run(app.db.clone(), app.stop.clone()));
    }
    Ok(Running { addr: server.addr(), app, server, control, workers, consumers, started: started.ok() })
}

/// Starts the workers for background jobs. They run the jobs of the modules' queues unless `jobs.in_process`
/// is off. Returns `None` if a test controls the clock.
async fn start_workers(app: &App) -> Result<Option<Workers>, StartError> {
    app.declare_schedules().await.map_err(AppError::from)?;
    if app.clock.is_none() {
        return Ok(None);
    }
    // A server that runs no queues still fires schedules and evicts workers that send no heartbeats.
    let own = if app.config.jobs.in_process { app.job_queues() } else { Vec::new() };
    let queues: Vec<_> = own.into_iter().map(str::to_owned).collect();
    let workers = app.start_workers(&queues, usize::from(app.config.jobs.concurrency)).await;
    Ok(Some(workers.map_err(AppError::from)?))
}

/// Migrates the schema to that of this build. Migrations of a newer build are accepted, so that old and new
/// nodes can run at the same time during a rollout.
async fn migrate_if_allowed(config: &Config, options: &StoreOptions) -> Result<(), StartError> {
    let all = Store::migration_status(options, migrations()).await?;
    let first = |state| all.iter().find(|one| one.state == state).map(|one| one.name.clone());
    if let Some(name) = first(MigrationState::Changed) {
        return Err(StartError::MigrationChanged(name));
    }
    let pending = first(MigrationState::Pending);
    match (pending, first(MigrationState::Unknown)) {
        (None, Some(unknown)) => {
            tracing::warn!(
                unknown,
                "the schema is newer than this build; all migrations of this build are applied"
            );
            Ok(())
        }
        (Some(pending), _) if !config.database.migrate_on_start => Err(StartError::MigrationPending(pending)),
        (None, None) if !config.database.migrate_on_start => Ok(()),
        _ => migrate(options).await,
    }
}

async fn migrate(options: &StoreOptions) -> Result<(), StartError> {
    for migration in Store::migrate_up(options, migrations(), SystemClock.now()).await? {
        tracing::info!(migration, "applied");
    }
    Ok(())
}

impl Running {
    /// Stops the server gracefully: completes the requests and jobs in progress, then closes the database.
    pub async fn stop(self) {
        // The wait is limited, because the database may never respond.
        let max_wait = grace(&self.app.config) + STOP_TIMEOUT;
        let workers = async {
            if let Some(workers) = self.workers
                && timeout(max_wait, workers.stop()).await.is_err()
            {
                tracing::warn!("the workers did not stop in time");
            }
        };
        let consumers = async {
            if let Some(consumers) = self.consumers
                && timeout(max_wait, consumers.stop()).await.is_err()
            {
                tracing::warn!("the event consumers did not stop in time");
            }
        };
        // All three stop at the same time, so that other nodes can claim waiting jobs while this one
        // completes its responses.
        let (cut, (), ()) = tokio::join!(self.server.stop(), workers, consumers);
        if cut > 0 {
            tracing::warn!(cut, "connections that were still busy after the grace period were closed");
        }
        drop(self.control);
        if let Some(started) = self.started {
            match timeout(STOP_TIMEOUT, started.end(&self.app)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, "cannot record the stop of this server; it will count as unclean");
                }
                Err(_) => {
                    tracing::warn!("the database does not respond; the stop of this server was not recorded")
                }
            }
        }
        match timeout(STOP_TIMEOUT, self.app.audit_head.compare_and_remember(&self.app.db)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot store the head of the audit chain at the stop");
            }
            Err(_) => tracing::warn!(
                "the database does not respond; the head of the audit chain was not stored at the stop"
            ),
        }
        self.app.db.close().await;
    }
}

#[cfg(test)]
mod tests {
    use kith_platform::MODULE;
    use kith_store::testing::TestDatabase;

    use super::*;

    fn config(database: &TestDatabase, migrate_on_start: bool) -> Config {
        let mut config = Config::default();
        config.server.listen = ([127, 0, 0, 1], 0).into();
        config.server.drain_ms = 0;
        config.data.folder = database.folder().expect("a folder").to_owned();
        config.database.migrate_on_start = migrate_on_start;
        config.auth.password_memory_kib = 8;
        config
    }

    /// Applies `change` to the migration table of a database. Starts a server on it with `migrate_on_start`
    /// off, and then on. Returns the errors of both starts.
    async fn start_after(change: &'static str) -> [Option<String>; 2] {
        let database = TestDatabase::sqlite();
        database.migrate(migrations()).await.unwrap();
        let db = Store::open(database.options()).await.unwrap();
        db.write(move |tx| tx.exec(change, &[])).await.unwrap();
        db.close().await;
        let mut refusals = [None, None];
        for (refusal, migrate_on_start) in refusals.iter_mut().zip([false, true]) {
            match start(config(&database, migrate_on_start), TestOverrides::default()).await {
                Ok(running) => running.stop().await,
                Err(error) => *refusal = Some(error.to_string()),
            }
        }
        refusals
    }

    const FUTURE_MIGRATION: &str =
        "INSERT INTO schema_migrations (module, version, name, checksum, applied_at, ordinal)
         VALUES ('chat', 1, 'chat', '', 0, 99)";

    #[tokio::test]
    async fn database_with_newer_schema_is_served() {
        assert_eq!(start_after(FUTURE_MIGRATION).await, [None, None]);
    }

    #[tokio::test]
    async fn changed_migration_prevents_start() {
        let message = "migration platform/0001_platform was changed after it was applied";
        let change = "UPDATE schema_migrations SET checksum = '' WHERE module = 'platform'";
        assert_eq!(start_after(change).await, [Some(message.to_owned()), Some(message.to_owned())]);
    }

    #[tokio::test]
    async fn pending_migration_on_newer_schema_prevents_start() {
        let change = "UPDATE schema_migrations SET module = 'chat' WHERE module = 'bonds'";
        let [looked, migrated] = start_after(change).await.map(Option::unwrap);
        assert!(looked.contains("lacks migration bonds/0001_bonds"), "{looked}");
        assert!(
            migrated.contains("chat/0001_bonds") && migrated.contains("unknown to this build"),
            "{migrated}"
        );
    }

    #[tokio::test]
    async fn stop_is_bounded_despite_blocked_transaction() {
        let database = TestDatabase::sqlite();
        let mut config = config(&database, true);
        config.server.shutdown_grace_ms = 100;
        let running = start(config, TestOverrides::default()).await.unwrap();
        let (started, starts) = std::sync::mpsc::channel();
        let db = running.app.db.clone();
        tokio::spawn(async move {
            db.write(move |_: &kith_store::Tx<'_>| {
                started.send(()).unwrap();
                // Blocks the thread until the test ends.
                loop {
                    std::thread::park();
                }
                #[expect(unreachable_code, reason = "fixes the type of the closure")]
                Ok::<(), kith_store::Error>(())
            })
            .await
        });
        tokio::task::spawn_blocking(move || starts.recv()).await.unwrap().unwrap();
        timeout(Duration::from_secs(30), running.stop())
            .await
            .expect("the server stops although a transaction is blocked");
    }

    #[tokio::test]
    async fn empty_database_is_migrated_if_allowed() {
        let database = TestDatabase::sqlite();
        let refused = start(config(&database, false), TestOverrides::default()).await.err().unwrap();
        assert!(matches!(refused, StartError::MigrationPending(_)), "{refused}");
        let running = start(config(&database, true), TestOverrides::default()).await.unwrap();
        assert!(running.app.migrations().await.unwrap().iter().any(|one| one.name.starts_with(MODULE.name)));
        running.stop().await;
    }
}
