//! Connections for what happens before the threads start: migrating, and refusing a pooler that shares sessions.

use std::time::Duration;

use super::failure::classify;
use super::link::{Frame, Link, Session};
use super::settings::Settings;
use crate::options::PostgresOptions;
use crate::tx::Session as AnySession;
use crate::{Error, OpenError, Query};

/// Two connections must be two sessions: behind a pooler that lends them by transaction they may be one, and locks
/// would protect nobody.
pub(super) fn refuse_shared_sessions(settings: &Settings) -> Result<(), OpenError> {
    let mark = "SELECT set_config('kith.session', 'first', false)";
    let read = "SELECT COALESCE(current_setting('kith.session', true), '')";
    let first = Link::connect(settings, None, |_| {})?;
    let second = Link::connect(settings, None, |_| {})?;
    let ask = |link: &Link, sql| link.wait(link.client.simple_query(sql)).map_err(Error::unavailable);
    ask(&first, mark)?;
    let seen = ask(&second, read)?;
    let shared = seen.iter().any(|message| {
        matches!(message, tokio_postgres::SimpleQueryMessage::Row(row) if row.get(0).is_some_and(|seen| !seen.is_empty()))
    });
    if shared {
        return Err(OpenError::Settings(
            "the database's address leads through a connection pooler in transaction mode (such as PgBouncer with \
             pool_mode=transaction): Kith keeps locks and listens on its connections, so give it the server's own \
             address or a pool in session mode"
                .into(),
        ));
    }
    Ok(())
}

/// The connection of the role that owns the tables, while it holds the lock that keeps other nodes from migrating.
pub(crate) struct MigrationLink {
    link: Link,
    run_role: Option<String>,
}

/// The key that migrating nodes lock, in the space of two numbers, apart from [`super::lock_key`].
const MIGRATING: &str = "SELECT pg_advisory_lock(1262703720, 1)";

/// Who asks, and where its tables would be made.
const SCHEMA: &str = "SELECT current_user::text, current_database()::text, current_schema()::text,
                             COALESCE(has_schema_privilege(current_schema(), 'CREATE'), false)";

/// Idle limit of the session that migrates, after which others may migrate: nothing happens between statements.
const FROZEN: Duration = Duration::from_secs(30);

/// Migrations may take long.
const MIGRATION_PATIENCE: Duration = Duration::from_secs(24 * 3_600);

impl MigrationLink {
    /// Connects, and waits until no other node migrates.
    pub fn open(own: &PostgresOptions) -> Result<Self, OpenError> {
        let opened = Self::look(own)?;
        opened.batch(MIGRATING)?;
        Ok(opened)
    }

    /// Connects, without keeping anybody from migrating.
    pub fn look(own: &PostgresOptions) -> Result<Self, OpenError> {
        let password = own.password.as_deref();
        let run = Settings::parse(&own.url, password, MIGRATION_PATIENCE)?;
        let owner = match &own.migrate_url {
            Some(url) => Settings::parse(url, password, MIGRATION_PATIENCE)?,
            None => run.clone(),
        };
        let run_role = run.user().filter(|role| owner.user() != Some(role)).map(str::to_owned);
        refuse_shared_sessions(&owner)?;
        Ok(Self { link: Link::connect(&owner.with_idle_limit(FROZEN), None, |_| {})?, run_role })
    }

    pub fn session(&self) -> Session<'_> {
        Session::new(&self.link, Frame::Plain)
    }

    /// Says what to do if the role may not make tables: since PostgreSQL 15 only a database's owner may, in `public`.
    ///
    /// # Errors
    /// [`OpenError::Settings`] if it may not; the server's.
    pub fn check_writable(&self, q: &Query<'_>) -> Result<(), OpenError> {
        let asked = q.one(SCHEMA, &[], |row| {
            Ok((row.get::<String>(0)?, row.get::<String>(1)?, row.get(2)?, row.get::<bool>(3)?))
        })?;
        let Some((role, database, schema, may_create)) = asked else { return Ok(()) };
        match schema {
            Some(_) if may_create => Ok(()),
            Some::<String>(schema) => Err(OpenError::Settings(format!(
                "role {role} may not create tables in schema {schema} of database {database}. As a superuser run: \
                 ALTER DATABASE \"{database}\" OWNER TO \"{role}\"; or, in that database: \
                 GRANT CREATE ON SCHEMA \"{schema}\" TO \"{role}\";"
            ))),
            None => Err(OpenError::Settings(format!(
                "database {database} has no schema in which role {role} can create tables: make the schema that its \
                 search_path names, or GRANT CREATE, USAGE ON SCHEMA public TO \"{role}\";"
            ))),
        }
    }

    pub fn batch(&self, sql: &str) -> Result<(), Error> {
        self.link.batch(sql).map_err(|failure| classify(&failure, true).0)
    }

    /// Lets the role that serves read and write rows and empty segments as a whole, and nothing else: no schema, and no
    /// history of its own making.
    pub fn grant_to_run_role(&self) -> Result<(), Error> {
        let Some(role) = &self.run_role else { return Ok(()) };
        let quoted = |name: &str| name.replace('"', "\"\"");
        let schema = Query::new(AnySession::Postgres(self.session()));
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
