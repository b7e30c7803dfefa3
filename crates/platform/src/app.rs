//! The parts of one running server, shared by all its requests. Two may live in one process.

use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use kith_kernel::{Sources, Timestamp};
use kith_store::{Error, Query, STORE_MIGRATIONS, Store};
use thiserror::Error;

use crate::auth::Tokens;
use crate::auth::passwords::Passwords;
use crate::clock::NodeClock;
use crate::config::Config;
use crate::http::{Stop, openapi};
use crate::module::Module;
use crate::telemetry::Metrics;

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
    /// Says when to stop.
    pub stop: Stop,
    /// The features it serves.
    pub modules: &'static [&'static Module],
    /// The OpenAPI document, as JSON.
    pub openapi: Bytes,
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
        modules: &'static [&'static Module],
    ) -> Result<Self, StartError> {
        let document = openapi::document(modules);
        let passwords = Passwords::start(&config.auth, Arc::clone(&sources.random))?;
        let metrics = Metrics::new(&document, db.clone(), passwords.queue(), clock.clone());
        let inner = AppInner {
            tokens: Tokens::load(&db, &sources, &config.auth).await?,
            passwords,
            metrics,
            stop: Stop::default(),
            modules,
            openapi: openapi::to_json(&document),
            clock,
            started: sources.clock.now(),
            db,
            config,
            sources,
        };
        Ok(Self(Arc::new(inner)))
    }

    /// How many of this build's migrations the database lacks. Ones that only a newer build knows do no harm: old
    /// and new nodes serve beside each other while a new version is rolled out.
    pub(crate) async fn missing_migrations(&self) -> Result<usize, Error> {
        let applied: Vec<(String, i64)> = self.db.read(applied_migrations).await?;
        let own = self.modules.iter().flat_map(|m| m.migrations.iter().map(|one| (m.name, one.version)));
        let store = STORE_MIGRATIONS.migrations.iter().map(|one| (STORE_MIGRATIONS.module, one.version));
        let is_applied =
            |needed: (&str, i64)| applied.iter().any(|(module, version)| needed == (module, *version));
        Ok(own.chain(store).filter(|needed| !is_applied(*needed)).count())
    }
}

impl Deref for App {
    type Target = AppInner;
    fn deref(&self) -> &AppInner {
        &self.0
    }
}

fn applied_migrations(q: &Query<'_>) -> Result<Vec<(String, i64)>, Error> {
    q.all("SELECT module, version FROM schema_migrations", &[], |row| Ok((row.get(0)?, row.get(1)?)))
}
