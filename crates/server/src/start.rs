//! Starts one server from its configuration and stops it again.

use std::net::SocketAddr;
use std::sync::Arc;

use kith_kernel::{Clock, Sources, SystemClock};
use kith_platform::clock::NodeClock;
use kith_platform::config::Config;
use kith_platform::http::{self, Server};
use kith_platform::{App, StartError as AppError};
use kith_store::{ControlSocket, EngineKind, MigrationState, OpenError, Store, StoreOptions};
use thiserror::Error;

use crate::modules::{MODULES, migrations};
use crate::{control, listen};

/// Where a test may put its own parts in. The default is what serves people.
#[derive(Clone, Default)]
pub struct Seams {
    /// Time, ids and randomness; the system's own unless given.
    pub sources: Option<Sources>,
    /// Whether the store runs each closure twice, the first run rolled back.
    pub rehearse: bool,
}

/// A server that answers.
pub struct Running {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its parts.
    pub app: App,
    server: Server,
    control: Option<ControlSocket>,
}

/// Why a server did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The database is in the way.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The schema lacks something, and `database.migrate_on_start` is off.
    #[error("the database lacks migration {0}; run `kith migrate up`, or set database.migrate_on_start")]
    Behind(String),
    /// The address cannot be listened on.
    #[error("cannot listen on {addr} (`server.listen`): {source}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Another part did not start.
    #[error(transparent)]
    App(#[from] AppError),
}

/// Starts a server; when this returns, it answers at `addr`. Port 0 listens on any free port.
///
/// # Errors
/// [`StartError`] says in one sentence what is in the way.
pub async fn start(config: Config, seams: Seams) -> Result<Running, StartError> {
    let options = StoreOptions { rehearse: seams.rehearse, ..config.store_options() };
    bring_schema_up(&config, &options).await?;
    let db = Store::open(options).await?;
    match start_on(db.clone(), config, seams.sources).await {
        Ok(running) => Ok(running),
        Err(error) => {
            db.close().await;
            Err(error)
        }
    }
}

async fn start_on(db: Store, config: Config, sources: Option<Sources>) -> Result<Running, StartError> {
    let (sources, clock) = match sources {
        Some(sources) => (sources, None),
        None => {
            let clock = Arc::new(NodeClock::start(&db).await.map_err(AppError::from)?);
            (Arc::clone(&clock).sources(), Some(clock))
        }
    };
    let app = App::new(db, config, sources, clock, MODULES).await?;
    if let Some(clock) = app.clock.clone().filter(|_| app.db.kind() == EngineKind::Postgres) {
        tokio::spawn(clock.keep(app.db.clone(), app.stop.clone()));
    }
    let control = control::listen(&app).map_err(AppError::from)?;
    let listener = listen::bind(&app.config)?;
    let server = http::serve(listener, &app).map_err(AppError::from)?;
    Ok(Running { addr: server.addr(), app, server, control })
}

async fn bring_schema_up(config: &Config, options: &StoreOptions) -> Result<(), StartError> {
    if config.database.migrate_on_start {
        let applied = Store::migrate_up(options, migrations(), SystemClock.now()).await?;
        for migration in applied {
            tracing::info!(migration, "applied");
        }
        return Ok(());
    }
    let all = Store::migration_status(options, migrations()).await?;
    let behind = all.into_iter().find(|one| one.state == MigrationState::Pending);
    behind.map_or(Ok(()), |one| Err(StartError::Behind(one.name)))
}

impl Running {
    /// Stops as an operator wants it: finishes what has begun, then closes the database. Returns when all is done.
    pub async fn stop(self) {
        let cut = self.server.stop().await;
        if cut > 0 {
            tracing::warn!(cut, "connections were cut that were still busy after the grace");
        }
        drop(self.control);
        self.app.db.close().await;
    }
}
