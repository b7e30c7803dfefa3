//! Migrated databases that tests copy. Each process runs the migrations only once per list of modules and
//! server.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use tokio::sync::Mutex;

use super::TestDatabase;
use crate::sqlite::FILE;
use crate::{Error, ModuleMigrations, OpenError};

/// Names of modules, each with the number of its migrations.
type Schema = Vec<(&'static str, usize)>;

/// Contents of migrated SQLite files, by schema.
static FILES: Mutex<BTreeMap<Schema, Arc<[u8]>>> = Mutex::const_new(BTreeMap::new());

/// Migrated databases, by server URL and schema. They are never dropped. They are removed with the server
/// that `cargo xtask test` started.
static DATABASES: Mutex<BTreeMap<(String, Schema), Arc<TestDatabase>>> = Mutex::const_new(BTreeMap::new());

fn schema(modules: &[ModuleMigrations]) -> Schema {
    modules.iter().map(|module| (module.module, module.migrations.len())).collect()
}

impl TestDatabase {
    /// Creates a SQLite database in a new folder, migrated to `modules`.
    ///
    /// # Errors
    /// Returns the same errors as [`Store::migrate_up`](crate::Store::migrate_up).
    ///
    /// # Panics
    /// If no temporary folder can be created.
    pub async fn migrated_sqlite(modules: Vec<ModuleMigrations>) -> Result<Self, OpenError> {
        let contents = template_file(modules).await?;
        let copy = Self::sqlite();
        let folder = copy.folder().ok_or_else(|| Error::fault("no folder"))?;
        fs::write(folder.join(FILE), contents).map_err(Error::fault)?;
        Ok(copy)
    }

    /// Creates a database on the server at `admin_url`, migrated to `modules`.
    ///
    /// # Errors
    /// Returns the same errors as [`Store::migrate_up`](crate::Store::migrate_up).
    pub async fn migrated_postgres(
        admin_url: &str,
        modules: Vec<ModuleMigrations>,
    ) -> Result<Self, OpenError> {
        let template = template_database(admin_url, modules).await?;
        Self::copy_of(&template).await
    }
}

async fn template_file(modules: Vec<ModuleMigrations>) -> Result<Arc<[u8]>, OpenError> {
    let mut files = FILES.lock().await;
    let schema = schema(&modules);
    if let Some(contents) = files.get(&schema) {
        return Ok(Arc::clone(contents));
    }
    let database = TestDatabase::sqlite();
    database.migrate(modules).await?;
    let folder = database.folder().ok_or_else(|| Error::fault("no folder"))?;
    let contents: Arc<[u8]> = fs::read(folder.join(FILE)).map_err(Error::fault)?.into();
    files.insert(schema, Arc::clone(&contents));
    Ok(contents)
}

async fn template_database(
    admin_url: &str,
    modules: Vec<ModuleMigrations>,
) -> Result<Arc<TestDatabase>, OpenError> {
    let mut databases = DATABASES.lock().await;
    let key = (admin_url.to_owned(), schema(&modules));
    if let Some(template) = databases.get(&key) {
        return Ok(Arc::clone(template));
    }
    let database = TestDatabase::postgres(admin_url).await?;
    database.migrate(modules).await?;
    let template = Arc::new(database);
    databases.insert(key, Arc::clone(&template));
    Ok(template)
}
