//! Migrations: one SQL text for both databases, with sections for both directions and checksums. Only one
//! node can migrate at a time.

use kith_kernel::Timestamp;
use sha2::{Digest, Sha256};

use crate::dialect::{self, Dialect};
use crate::folder::DataFolder;
use crate::options::{EngineOptions, StoreOptions};
use crate::sqlite::{self, SqliteConnection};
use crate::tx::EngineSession;
use crate::{Error, OpenError, Query, Tx, params, postgres};

/// One version of a module's schema.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// Version of the migration within the module: 1, 2, 3, …
    pub version: i64,
    /// Name of the migration, such as `bonds`.
    pub name: &'static str,
    /// SQL for both directions: a line `-- up`, statements, a line `-- down`, statements.
    pub sql: &'static str,
}

/// Migrations of one module.
#[derive(Clone, Debug)]
pub struct ModuleMigrations {
    /// Name of the module.
    pub module: &'static str,
    /// Migrations in ascending order of their versions.
    pub migrations: &'static [Migration],
}

/// State of one migration in the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationStatus {
    /// Full name, such as `bonds/0001_bonds`.
    pub name: String,
    /// State.
    pub state: MigrationState,
}

/// State of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigrationState {
    /// Applied, and its content is the same as in this build.
    Applied {
        /// Time at which the migration was applied.
        at: Timestamp,
    },
    /// Not applied.
    Pending,
    /// Applied, but its content was different from that in this build.
    Changed,
    /// Applied, but unknown to this build, because the database is newer than the build.
    Unknown,
}

const TABLE: &str = "CREATE TABLE IF NOT EXISTS schema_migrations (
    module TEXT NOT NULL,
    version BIGINT NOT NULL,
    name TEXT NOT NULL,
    checksum TEXT NOT NULL,
    applied_at BIGINT NOT NULL,
    ordinal BIGINT NOT NULL,
    PRIMARY KEY (module, version)
);";

impl Migration {
    fn full_name(&self, module: &str) -> String {
        format!("{module}/{:04}_{}", self.version, self.name)
    }

    fn checksum(&self) -> String {
        Sha256::digest(self.sql).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn up(&self, module: &str) -> Result<&'static str, OpenError> {
        self.sections(module).map(|(up, _)| up)
    }

    fn down(&self, module: &str) -> Result<&'static str, OpenError> {
        self.sections(module).map(|(_, down)| down)
    }

    fn sections(&self, module: &str) -> Result<(&'static str, &'static str), OpenError> {
        let sections = self.sql.split_once("-- up\n").and_then(|(_, rest)| rest.split_once("\n-- down\n"));
        sections.ok_or_else(|| {
            let name = self.full_name(module);
            OpenError::Schema(format!("migration {name} lacks a line `-- up` or `-- down`"))
        })
    }
}

/// Connection of a role that may change the schema.
pub(crate) enum MigrationConnection {
    Sqlite { connection: SqliteConnection, _folder: DataFolder },
    Postgres(Box<postgres::MigrationLink>),
}

impl MigrationConnection {
    /// Opens the database only for reading. It creates nothing, and does not wait for a running migration.
    /// Returns `None` if there is no database.
    fn open_read_only(options: &StoreOptions) -> Result<Option<Self>, OpenError> {
        match &options.engine {
            EngineOptions::Sqlite(own) if !own.folder.join(sqlite::FILE).exists() => Ok(None),
            EngineOptions::Sqlite(_) => Self::open(options).map(Some),
            EngineOptions::Postgres(own) => {
                Ok(Some(Self::Postgres(Box::new(postgres::MigrationLink::open_read_only(own)?))))
            }
        }
    }

    fn open(options: &StoreOptions) -> Result<Self, OpenError> {
        match &options.engine {
            EngineOptions::Sqlite(own) => {
                let folder = DataFolder::claim(&own.folder)?;
                let connection = SqliteConnection::open(
                    &own.folder.join(sqlite::FILE),
                    own.synchronous,
                    sqlite::ConnectionMode::Write,
                )?;
                Ok(Self::Sqlite { connection, _folder: folder })
            }
            EngineOptions::Postgres(own) => Ok(Self::Postgres(Box::new(postgres::MigrationLink::open(own)?))),
        }
    }

    const fn dialect(&self) -> Dialect {
        match self {
            Self::Sqlite { .. } => Dialect::Sqlite,
            Self::Postgres(_) => Dialect::Postgres,
        }
    }

    fn tx(&self) -> Tx<'_> {
        Tx::new(match self {
            Self::Sqlite { connection, .. } => {
                EngineSession::Sqlite(sqlite::SqliteSession::plain(connection))
            }
            Self::Postgres(connection) => EngineSession::Postgres(connection.session()),
        })
    }

    fn check_writable(&self) -> Result<(), OpenError> {
        match self {
            Self::Sqlite { .. } => Ok(()),
            Self::Postgres(connection) => connection.check_writable(&self.tx()),
        }
    }

    fn batch(&self, sql: &str) -> Result<(), Error> {
        match self {
            Self::Sqlite { connection, .. } => connection.batch(sql),
            Self::Postgres(connection) => connection.batch(sql),
        }
    }

    /// Runs `change` in a transaction and rolls it back on error.
    fn atomically(&self, change: impl FnOnce(&Tx<'_>) -> Result<(), Error>) -> Result<(), Error> {
        self.batch("BEGIN")?;
        let changed = change(&self.tx()).and_then(|()| self.batch("COMMIT"));
        if changed.is_err() {
            // The first error describes the cause. If ROLLBACK also fails, the connection is lost, which also
            // rolls the change back.
            let _ = self.batch("ROLLBACK");
        }
        changed
    }

    fn applied(&self) -> Result<Vec<Applied>, Error> {
        applied(&self.tx())
    }

    fn has_table(&self) -> Result<bool, Error> {
        let sql = match self {
            Self::Sqlite { .. } => "SELECT COUNT(*) FROM sqlite_schema WHERE name = 'schema_migrations'",
            Self::Postgres(_) => {
                "SELECT COUNT(*) FROM pg_tables WHERE tablename = 'schema_migrations' AND schemaname = current_schema()"
            }
        };
        Ok(self.tx().one(sql, &[], |row| row.get::<i64>(0))?.unwrap_or(0) > 0)
    }
}

fn applied(q: &Query<'_>) -> Result<Vec<Applied>, Error> {
    let sql = "SELECT module, version, name, checksum, applied_at FROM schema_migrations ORDER BY ordinal";
    q.all(sql, &[], |row| {
        Ok(Applied {
            module: row.get(0)?,
            version: row.get(1)?,
            name: row.get(2)?,
            checksum: row.get(3)?,
            at: row.get(4)?,
        })
    })
}

struct Applied {
    module: String,
    version: i64,
    name: String,
    checksum: String,
    at: Timestamp,
}

fn find<'m>(modules: &'m [ModuleMigrations], applied: &Applied) -> Option<(&'static str, &'m Migration)> {
    let module = modules.iter().find(|module| module.module == applied.module)?;
    let migration = module.migrations.iter().find(|migration| migration.version == applied.version)?;
    Some((module.module, migration))
}

/// Returns the statements that create the tables of `modules` in an empty database, in order.
pub(crate) fn up_statements(modules: &[ModuleMigrations]) -> Result<Vec<&'static str>, OpenError> {
    let ups = modules.iter().flat_map(|module| module.migrations.iter().map(|one| one.up(module.module)));
    std::iter::once(Ok(TABLE)).chain(ups).collect()
}

/// Returns the state of each migration in the database on which `q` runs.
pub(crate) fn compare_open(
    q: &Query<'_>,
    modules: &[ModuleMigrations],
) -> Result<Vec<MigrationStatus>, Error> {
    Ok(compare(&applied(q)?, modules))
}

pub(crate) fn status(
    options: &StoreOptions,
    modules: &[ModuleMigrations],
) -> Result<Vec<MigrationStatus>, OpenError> {
    let applied = match MigrationConnection::open_read_only(options)? {
        Some(place) if place.has_table()? => place.applied()?,
        _ => Vec::new(),
    };
    Ok(compare(&applied, modules))
}

fn compare(applied: &[Applied], modules: &[ModuleMigrations]) -> Vec<MigrationStatus> {
    let known = applied.iter().map(|row| match find(modules, row) {
        None => MigrationStatus {
            name: format!("{}/{:04}_{}", row.module, row.version, row.name),
            state: MigrationState::Unknown,
        },
        Some((module, migration)) => {
            let same = migration.checksum() == row.checksum;
            let state = if same { MigrationState::Applied { at: row.at } } else { MigrationState::Changed };
            MigrationStatus { name: migration.full_name(module), state }
        }
    });
    let pending = pending(applied, modules).map(|(module, migration)| MigrationStatus {
        name: migration.full_name(module),
        state: MigrationState::Pending,
    });
    known.chain(pending).collect()
}

fn pending<'m>(
    applied: &'m [Applied],
    modules: &'m [ModuleMigrations],
) -> impl Iterator<Item = (&'static str, &'m Migration)> {
    let all = modules.iter().flat_map(|module| module.migrations.iter().map(|m| (module.module, m)));
    all.filter(|(module, migration)| {
        !applied.iter().any(|row| row.module == *module && row.version == migration.version)
    })
}

/// Returns an error if the database has migrations that this build does not know, or whose content differs in
/// this build.
fn check(applied: &[Applied], modules: &[ModuleMigrations]) -> Result<(), OpenError> {
    for found in compare(applied, modules) {
        let fault = match found.state {
            MigrationState::Applied { .. } | MigrationState::Pending => continue,
            MigrationState::Changed => "was changed after it was applied",
            MigrationState::Unknown => "is unknown to this build, which is older than the database",
        };
        return Err(OpenError::Schema(format!("migration {} {fault}", found.name)));
    }
    Ok(())
}

pub(crate) fn up(
    options: &StoreOptions,
    modules: &[ModuleMigrations],
    now: Timestamp,
) -> Result<Vec<String>, OpenError> {
    let place = MigrationConnection::open(options)?;
    let is_empty = !place.has_table()?;
    if is_empty || pending(&place.applied()?, modules).next().is_some() {
        place.check_writable()?;
    }
    if is_empty {
        place.batch(&dialect::schema(TABLE, place.dialect()))?;
    }
    let applied = place.applied()?;
    check(&applied, modules)?;
    let mut names = Vec::new();
    for (ordinal, (module, migration)) in (applied.len() as i64 + 1..).zip(pending(&applied, modules)) {
        let schema = dialect::schema(migration.up(module)?, place.dialect());
        place.atomically(|tx| {
            place.batch(&schema)?;
            tx.exec(
                "INSERT INTO schema_migrations (module, version, name, checksum, applied_at, ordinal)
                 VALUES ($1, $2, $3, $4, $5, $6)",
                params![module, migration.version, migration.name, migration.checksum(), now, ordinal],
            )?;
            Ok(())
        })?;
        names.push(migration.full_name(module));
    }
    if let MigrationConnection::Postgres(connection) = &place {
        connection.grant_to_run_role()?;
    }
    Ok(names)
}

/// Runs `change` in a transaction, as the role that owns the tables.
pub(crate) fn as_owner<T>(
    options: &StoreOptions,
    change: impl FnOnce(&Tx<'_>) -> Result<T, Error>,
) -> Result<T, OpenError> {
    let Some(place) = MigrationConnection::open_read_only(options)? else {
        return Err(Error::unavailable("the database does not exist").into());
    };
    let mut changed = None;
    place.atomically(|tx| {
        changed = Some(change(tx)?);
        Ok(())
    })?;
    changed.ok_or_else(|| Error::fault("the change was not run").into())
}

pub(crate) fn down(
    options: &StoreOptions,
    modules: &[ModuleMigrations],
    steps: usize,
) -> Result<Vec<String>, OpenError> {
    let place = MigrationConnection::open(options)?;
    if !place.has_table()? {
        return Ok(Vec::new());
    }
    let applied = place.applied()?;
    check(&applied, modules)?;
    let mut names = Vec::new();
    for row in applied.iter().rev().take(steps) {
        let Some((module, migration)) = find(modules, row) else { continue };
        let schema = dialect::schema(migration.down(module)?, place.dialect());
        place.atomically(|tx| {
            place.batch(&schema)?;
            tx.exec(
                "DELETE FROM schema_migrations WHERE module = $1 AND version = $2",
                params![module, migration.version],
            )?;
            Ok(())
        })?;
        names.push(migration.full_name(module));
    }
    Ok(names)
}
