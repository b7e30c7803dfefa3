//! Connections that are used before the threads start: for migrations, and to reject a connection pooler in
//! transaction mode.

use std::time::Duration;

use super::connection::PostgresConnection;
use super::failure::classify;
use super::session::{PostgresSession, TransactionMode};
use super::settings::Settings;
use crate::options::PostgresOptions;
use crate::tx::EngineSession;
use crate::{Error, OpenError, Query};

/// Returns an error if two connections share one session, which can happen behind a connection pooler in
/// transaction mode. Advisory locks would then be ineffective.
pub(super) fn refuse_shared_sessions(settings: &Settings) -> Result<(), OpenError> {
    let mark = "SELECT set_config('kith.session', 'first', false)";
    let read = "SELECT COALESCE(current_setting('kith.session', true), '')";
    let first = PostgresConnection::connect(settings, None, |_| {})?;
    let second = PostgresConnection::connect(settings, None, |_| {})?;
    let ask = |connection: &PostgresConnection, sql| {
        connection.wait(connection.client.simple_query(sql)).map_err(Error::unavailable)
    };
    ask(&first, mark)?;
    let seen = ask(&second, read)?;
    let shared = seen.iter().any(|message| {
        matches!(message, tokio_postgres::SimpleQueryMessage::Row(row) if row.get(0).is_some_and(|seen| !seen.is_empty()))
    });
    if shared {
        return Err(OpenError::Settings(
            "the database URL leads to a connection pooler in transaction mode (such as PgBouncer with \
             pool_mode=transaction): Kith holds locks and listens on its connections, so use the server's \
             address or a pool in session mode"
                .into(),
        ));
    }
    Ok(())
}

/// Connection of the role that owns the tables. It usually holds the migration lock.
pub(crate) struct MigrationLink {
    connection: PostgresConnection,
    run_role: Option<String>,
}

/// SQL that acquires the advisory lock for migrations. Its two-part key cannot collide with
/// [`super::lock_key`].
const LOCK_MIGRATION: &str = "SELECT pg_advisory_lock(1262703720, 1)";

/// SQL that returns the current role, database and schema. The last column is true if the role may create
/// tables in the schema.
const SCHEMA: &str = "SELECT current_user::text, current_database()::text, current_schema()::text,
                             COALESCE(has_schema_privilege(current_schema(), 'CREATE'), false)";

/// Maximum idle time of a migrating session. After it the server ends the session, so that other nodes can
/// migrate. A migration does no work between its statements.
const IDLE_SESSION_TIMEOUT: Duration = Duration::from_secs(30);

/// Statement timeout of migrations, whose statements can take long.
const MIGRATION_TIMEOUT: Duration = Duration::from_secs(24 * 3_600);

impl MigrationLink {
    /// Connects and waits until no other node is migrating.
    pub fn open(own: &PostgresOptions) -> Result<Self, OpenError> {
        let opened = Self::open_read_only(own)?;
        opened.batch(LOCK_MIGRATION)?;
        Ok(opened)
    }

    /// Connects without acquiring the migration lock.
    pub fn open_read_only(own: &PostgresOptions) -> Result<Self, OpenError> {
        let password = own.password.as_deref();
        let run = Settings::parse(&own.url, password, MIGRATION_TIMEOUT)?;
        let owner = match &own.migrate_url {
            Some(url) => Settings::parse(url, password, MIGRATION_TIMEOUT)?,
            None => run.clone(),
        };
        let run_role = run.user().filter(|role| owner.user() != Some(role)).map(str::to_owned);
        refuse_shared_sessions(&owner)?;
        Ok(Self {
            connection: PostgresConnection::connect(
                &owner.with_idle_limit(IDLE_SESSION_TIMEOUT),
                None,
                |_| {},
            )?,
            run_role,
        })
    }

    pub fn session(&self) -> PostgresSession<'_> {
        PostgresSession::new(&self.connection, TransactionMode::Plain)
    }

    /// Checks that the role may create tables. Since PostgreSQL 15, only the owner of the database may create
    /// tables in schema `public` by default.
    ///
    /// # Errors
    /// Returns [`OpenError::Settings`] with instructions if the role may not create tables, or the error of
    /// the query.
    pub fn check_writable(&self, q: &Query<'_>) -> Result<(), OpenError> {
        let grants = q.one(SCHEMA, &[], |row| {
            Ok((row.get::<String>(0)?, row.get::<String>(1)?, row.get(2)?, row.get::<bool>(3)?))
        })?;
        let Some((role, database, schema, may_create)) = grants else { return Ok(()) };
        match schema {
            Some(_) if may_create => Ok(()),
            Some::<String>(schema) => Err(OpenError::Settings(format!(
                "role {role} may not create tables in schema {schema} of database {database}. As a superuser run: \
                 ALTER DATABASE \"{database}\" OWNER TO \"{role}\"; or, in that database: \
                 GRANT CREATE ON SCHEMA \"{schema}\" TO \"{role}\";"
            ))),
            None => Err(OpenError::Settings(format!(
                "database {database} has no schema in which role {role} can create tables: create the schema \
                 that its search_path names, or GRANT CREATE, USAGE ON SCHEMA public TO \"{role}\";"
            ))),
        }
    }

    pub fn batch(&self, sql: &str) -> Result<(), Error> {
        self.connection.batch(sql).map_err(|failure| classify(&failure, true).0)
    }

    /// Grants the serving role the privileges to read and write rows and to truncate segments. The role gets
    /// no privileges to change the schema, and cannot rewrite the audit log.
    pub fn grant_to_run_role(&self) -> Result<(), Error> {
        let Some(role) = &self.run_role else { return Ok(()) };
        let quoted = |name: &str| name.replace('"', "\"\"");
        let schema = Query::new(EngineSession::Postgres(self.session()));
        let schema = schema.one("SELECT CAST(current_schema() AS TEXT)", &[], |row| row.get::<String>(0))?;
        let role_text = role.replace('\'', "''");
        let (role, schema) = (quoted(role), quoted(&schema.unwrap_or_default()));
        self.batch(&format!(
            "GRANT USAGE ON SCHEMA \"{schema}\" TO \"{role}\";
             GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA \"{schema}\" TO \"{role}\";
             REVOKE INSERT, UPDATE, DELETE ON schema_migrations FROM \"{role}\";
             REVOKE UPDATE, DELETE ON audit_entries, audit_seals FROM \"{role}\";
             REVOKE DELETE ON audit_keys FROM \"{role}\";
             REVOKE UPDATE ON audit_details FROM \"{role}\";
             DO $$ DECLARE segment TEXT; BEGIN
                 FOR segment IN SELECT tablename FROM pg_tables
                     WHERE schemaname = current_schema() AND tablename LIKE '%\\_segment\\__'
                 LOOP EXECUTE format('GRANT TRUNCATE ON %I TO %I', segment, '{role_text}'); END LOOP;
             END $$"
        ))
    }
}
