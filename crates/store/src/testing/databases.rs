//! Temporary databases for tests.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use kith_kernel::Timestamp;

use crate::options::{EngineOptions, PostgresOptions, SqliteOptions, StoreOptions};
use crate::test_vault::TestVault;
use crate::{ModuleMigrations, OpenError, Store};

/// Database for one test: a temporary folder, or a new database on a server. Dropping it removes the
/// database.
#[derive(Debug)]
pub struct TestDatabase {
    location: Location,
}

#[derive(Debug)]
enum Location {
    Folder(tempfile::TempDir),
    Server { admin_url: String, name: String },
}

/// Counter that makes database names unique within the process.
static COUNT: AtomicU32 = AtomicU32::new(0);

impl TestDatabase {
    /// Creates an empty SQLite database in a new folder.
    ///
    /// # Panics
    /// If no temporary folder can be created.
    pub fn sqlite() -> Self {
        Self { location: Location::Folder(tempfile::tempdir().expect("a temporary folder")) }
    }

    /// Creates an empty database on the server at `admin_url`, which must name an existing database.
    ///
    /// # Errors
    /// Returns the error of the server.
    pub async fn postgres(admin_url: &str) -> Result<Self, OpenError> {
        let name = format!("kith_test_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self::create(admin_url, name, None).await
    }

    /// Creates a copy of `template`. No connection may use the template during this call.
    pub(super) async fn copy_of(template: &Self) -> Result<Self, OpenError> {
        let Location::Server { admin_url, name: template } = &template.location else {
            return Err(OpenError::Settings("a template is a database on a server".into()));
        };
        let name = format!("kith_test_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self::create(admin_url, name, Some(template)).await
    }

    async fn create(admin_url: &str, name: String, template: Option<&str>) -> Result<Self, OpenError> {
        let template =
            template.map(|template| format!(" TEMPLATE {template} STRATEGY file_copy")).unwrap_or_default();
        crate::postgres::run_apart(admin_url.to_owned(), format!("CREATE DATABASE {name}{template}")).await?;
        Ok(Self { location: Location::Server { admin_url: admin_url.to_owned(), name } })
    }

    /// Returns the database URL, in the form used in the configuration.
    pub fn url(&self) -> String {
        match &self.location {
            Location::Folder(_) => "sqlite".to_owned(),
            Location::Server { admin_url, name } => with_database(admin_url, name),
        }
    }

    /// Returns the data folder, or `None` on PostgreSQL.
    pub fn folder(&self) -> Option<&Path> {
        match &self.location {
            Location::Folder(folder) => Some(folder.path()),
            Location::Server { .. } => None,
        }
    }

    /// Returns options that open the database.
    pub fn options(&self) -> StoreOptions {
        let engine = match &self.location {
            Location::Folder(folder) => {
                EngineOptions::Sqlite(SqliteOptions::in_folder(PathBuf::from(folder.path())))
            }
            Location::Server { .. } => EngineOptions::Postgres(PostgresOptions {
                write_threads: 8,
                read_threads: 4,
                ..PostgresOptions::at(self.url())
            }),
        };
        StoreOptions::new(engine, TestVault::with_secret(1))
    }

    /// Migrates the database to `modules`.
    ///
    /// # Errors
    /// Returns the same errors as [`Store::migrate_up`].
    pub async fn migrate(&self, modules: Vec<ModuleMigrations>) -> Result<(), OpenError> {
        Store::migrate_up(&self.options(), modules, Timestamp::EPOCH).await.map(drop)
    }
}

/// Returns the URL of another database on the same server.
fn with_database(url: &str, name: &str) -> String {
    let (base, query) = url.split_once('?').map_or((url, None), |(base, query)| (base, Some(query)));
    let server = base.rsplit_once('/').map_or(base, |(server, _)| server);
    query.map_or_else(|| format!("{server}/{name}"), |query| format!("{server}/{name}?{query}"))
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        match &self.location {
            Location::Folder(folder) => super::recorder::save_database(folder.path()),
            Location::Server { admin_url, name } => {
                let (url, sql) = (admin_url.clone(), format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"));
                // If the server has stopped, the database is not deleted, which does no harm.
                let _ = std::thread::spawn(move || crate::postgres::run_once(&url, &sql)).join();
            }
        }
    }
}
