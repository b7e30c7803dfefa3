//! Facts about the database for administrators: version, effective durability settings, schema, privileges,
//! statement times.
//!
//! The facts contain neither rows of user data nor statement parameters.

use std::time::Duration;

use serde_json::{Value, json};

use crate::migrate::{self, MigrationState};
use crate::schema::{DatabaseSchema, Differences};
use crate::{EngineKind, Error, ModuleMigrations, Query, STATEMENT_BUCKETS_US, StatementTimes, Store};

/// Maximum number of statements in each list of statements.
const MAX_LISTED_STATEMENTS: usize = 20;
/// Number of rows above which sequential scans of a table are reported.
const LARGE_TABLE_ROWS: i64 = 10_000;

/// Time limit for reading the facts. Reading the system catalogues can take longer than the time limit of a
/// request.
const FACTS_TIMEOUT: Duration = Duration::from_secs(10);

impl Store {
    /// Returns all facts as a JSON object, grouped by subject. `modules` are the migrations that this build
    /// expects.
    ///
    /// # Errors
    /// Returns [`enum@Error`] if the database cannot answer.
    pub async fn facts(&self, modules: Vec<ModuleMigrations>) -> Result<Value, Error> {
        let kind = self.kind();
        // The settings are read on a write connection, because these settings determine the durability of
        // commits.
        let durability = match kind {
            EngineKind::Sqlite => self.write_with_timeout(FACTS_TIMEOUT, |tx| sqlite_durability(tx)).await?,
            EngineKind::Postgres => {
                self.write_with_timeout(FACTS_TIMEOUT, |tx| postgres_durability(tx)).await?
            }
        };
        let more = self.export(move |q| read(q, kind, &modules)).await?;
        let mut facts = json!({
            "engine": match kind { EngineKind::Sqlite => "sqlite", EngineKind::Postgres => "postgres" },
            "durability": durability,
            "pool": { "size": self.pool_size() },
            "statements": self.statement_facts(),
        });
        if let (Some(facts), Value::Object(more)) = (facts.as_object_mut(), more) {
            facts.extend(more);
        }
        Ok(facts)
    }

    /// Returns the sum of the measured times of all statements.
    pub fn statement_times(&self) -> StatementTimes {
        let all = self.statements().snapshot();
        all.iter().fold(StatementTimes::default(), |sum, (_, times)| sum.with(times))
    }

    fn statement_facts(&self) -> Value {
        let mut all = self.statements().snapshot();
        all.retain(|(_, times)| times.count > 0);
        let to_json = |(sql, times): &(&str, StatementTimes)| {
            json!({
                "statement": sql.split_whitespace().collect::<Vec<_>>().join(" "),
                "count": times.count,
                "total_us": times.total_us,
                "mean_us": times.total_us / times.count.max(1),
                "p95_us": times.p95_us(),
                "max_us": times.max_us,
                "above_100_ms": times.above(STATEMENT_BUCKETS_US[9]),
            })
        };
        all.sort_by_key(|(_, times)| std::cmp::Reverse(times.total_us));
        let by_total_time: Vec<_> = all.iter().take(MAX_LISTED_STATEMENTS).map(to_json).collect();
        all.sort_by_key(|(_, times)| std::cmp::Reverse(times.p95_us()));
        let slowest: Vec<_> = all.iter().take(MAX_LISTED_STATEMENTS).map(to_json).collect();
        json!({ "known": all.len(), "by_total_time": by_total_time, "slowest": slowest })
    }
}

fn read(q: &Query<'_>, kind: EngineKind, modules: &[ModuleMigrations]) -> Result<Value, Error> {
    let expected = DatabaseSchema::expected_from(modules, kind).map_err(Error::fault)?;
    let (found, mut facts) = match kind {
        EngineKind::Sqlite => (DatabaseSchema::of_sqlite(q)?, sqlite(q)?),
        EngineKind::Postgres => (DatabaseSchema::of_postgres(q)?, postgres(q)?),
    };
    let Differences { structure, indexes } = found.differences(&expected);
    facts["schema"] = json!({
        "tables": found.tables(),
        "indexes": found.indexes(),
        "digest": found.digest(),
        "expected_digest": expected.digest(),
        "differences": structure,
        "index_differences": indexes,
    });
    facts["migrations"] = migrations(q, modules)?;
    Ok(facts)
}

fn migrations(q: &Query<'_>, modules: &[ModuleMigrations]) -> Result<Value, Error> {
    let state = |state| match state {
        MigrationState::Applied { .. } => "applied",
        MigrationState::Pending => "pending",
        MigrationState::Unknown => "unknown",
        MigrationState::Changed => "changed",
    };
    let all = migrate::compare_open(q, modules)?;
    Ok(all.into_iter().map(|one| json!({ "name": one.name, "state": state(one.state) })).collect())
}

fn sqlite_durability(q: &Query<'_>) -> Result<Value, Error> {
    let number = |sql| q.one(sql, &[], |row| row.get::<i64>(0));
    let synchronous = match number("PRAGMA synchronous")? {
        Some(0) => "off",
        Some(1) => "normal",
        Some(2) => "full",
        Some(3) => "extra",
        _ => "unknown",
    };
    Ok(json!({
        "journal_mode": q.one("PRAGMA journal_mode", &[], |row| row.get::<String>(0))?,
        "synchronous": synchronous,
        "foreign_keys": number("PRAGMA foreign_keys")? == Some(1),
    }))
}

fn sqlite(q: &Query<'_>) -> Result<Value, Error> {
    let version = q.one("SELECT sqlite_version()", &[], |row| row.get::<String>(0))?;
    Ok(json!({ "version": version }))
}

fn postgres_durability(q: &Query<'_>) -> Result<Value, Error> {
    let sql = "SELECT current_setting('fsync'), current_setting('full_page_writes'),
                      current_setting('synchronous_commit'), current_setting('data_checksums')";
    let read = q.one(sql, &[], |row| {
        Ok(json!({
            "fsync": row.get::<String>(0)?,
            "full_page_writes": row.get::<String>(1)?,
            "synchronous_commit": row.get::<String>(2)?,
            "data_checksums": row.get::<String>(3)?,
        }))
    })?;
    read.ok_or_else(|| Error::fault("the query for the settings returned no row"))
}

fn postgres(q: &Query<'_>) -> Result<Value, Error> {
    let server = q.one(SERVER, &[], |row| {
        Ok(json!({
            "version": row.get::<String>(0)?,
            "server": {
                "version_number": row.get::<i64>(1)?,
                "listen_addresses": row.get::<String>(2)?,
                "port": row.get::<i64>(3)?,
                "address": row.get::<Option<String>>(4)?,
                "max_connections": row.get::<i64>(5)?,
                "reserved_connections": row.get::<i64>(6)?,
            },
        }))
    })?;
    let mut facts = server.ok_or_else(|| Error::fault("the query for the server's facts returned no row"))?;
    let connections = q.one(CONNECTIONS, &[], |row| {
        let (all, encrypted, remote) = (row.get::<i64>(0)?, row.get::<i64>(1)?, row.get::<i64>(2)?);
        Ok(json!({ "all": all, "encrypted": encrypted, "remote": remote }))
    })?;
    facts["connections"] = connections.unwrap_or_default();
    facts["role"] = role(q)?;
    facts["unused_indexes"] = q.all(UNUSED_INDEXES, &[], |row| row.get::<String>(0))?.into();
    let scans = q.all(LARGE_SCANS, crate::params![LARGE_TABLE_ROWS], |row| {
        Ok(json!({ "table": row.get::<String>(0)?, "rows": row.get::<i64>(1)?, "scans": row.get::<i64>(2)? }))
    })?;
    facts["scans_of_large_tables"] = scans.into();
    Ok(facts)
}

/// Lists the privileges of the current role that it should not have, and those that it lacks.
fn role(q: &Query<'_>) -> Result<Value, Error> {
    let too_much = q.all(ROLE, &[], |row| row.get::<String>(0))?;
    let rights = q.all(TABLE_RIGHTS, &[], |row| {
        Ok((row.get::<String>(0)?, row.get::<String>(1)?, row.get::<bool>(2)?))
    })?;
    let (mut besides, mut missing) = (too_much, Vec::new());
    for (table, right, has) in rights {
        match (is_wanted(&table, &right), has) {
            (true, false) => missing.push(format!("{right} on {table}")),
            (false, true) => besides.push(format!("{right} on {table}")),
            _ => {}
        }
    }
    Ok(json!({ "besides": besides, "missing": missing }))
}

/// Returns true for privileges that migrations grant: all privileges on rows, except those that would allow
/// rewriting the audit log.
fn is_wanted(table: &str, right: &str) -> bool {
    match (table, right) {
        ("schema_migrations", right) => right == "SELECT",
        ("audit_entries" | "audit_seals", right) => ["SELECT", "INSERT"].contains(&right),
        ("audit_keys", "DELETE") | ("audit_details", "UPDATE") => false,
        (_, right) => ["SELECT", "INSERT", "UPDATE", "DELETE"].contains(&right),
    }
}

const SERVER: &str = "SELECT current_setting('server_version'),
        CAST(current_setting('server_version_num') AS BIGINT), current_setting('listen_addresses'),
        CAST(current_setting('port') AS BIGINT), host(inet_server_addr()),
        CAST(current_setting('max_connections') AS BIGINT),
        CAST(current_setting('superuser_reserved_connections') AS BIGINT)";

const CONNECTIONS: &str = "SELECT COUNT(*), COUNT(*) FILTER (WHERE s.ssl),
        COUNT(*) FILTER (WHERE a.client_addr IS NOT NULL AND NOT (a.client_addr <<= '127.0.0.0/8' OR a.client_addr = '::1'))
     FROM pg_stat_activity a JOIN pg_stat_ssl s ON s.pid = a.pid
     WHERE a.datname = current_database() AND a.usename = current_user AND a.application_name = 'kith'";

const ROLE: &str = "SELECT b.what
     FROM pg_roles r, LATERAL (VALUES
         ('being superuser', r.rolsuper), ('making databases', r.rolcreatedb), ('making roles', r.rolcreaterole),
         ('replication', r.rolreplication), ('passing row security', r.rolbypassrls),
         ('CREATE in its schema', has_schema_privilege(current_schema(), 'CREATE')),
         ('CREATE in its database', has_database_privilege(current_database(), 'CREATE')),
         ('owning tables', EXISTS (
             SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p') AND pg_has_role(c.relowner, 'MEMBER')))
     ) AS b (what, has)
     WHERE r.rolname = current_user AND b.has";

const TABLE_RIGHTS: &str = "SELECT CAST(c.relname AS TEXT), p.name, has_table_privilege(c.oid, p.name)
     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,
         (VALUES ('SELECT'), ('INSERT'), ('UPDATE'), ('DELETE'), ('TRUNCATE'), ('REFERENCES'), ('TRIGGER')) AS p (name)
     WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p')
       -- Segments are emptied as a whole.
       AND NOT (p.name = 'TRUNCATE' AND c.relname LIKE '%\\_segment\\__')
     ORDER BY 1, 2";

const UNUSED_INDEXES: &str = "SELECT CAST(indexrelname AS TEXT) FROM pg_stat_user_indexes
     WHERE schemaname = current_schema() AND idx_scan = 0 ORDER BY 1";

/// SQL that lists large tables that were read by sequential scans since the statistics were last reset.
const LARGE_SCANS: &str = "SELECT CAST(relname AS TEXT), n_live_tup, seq_scan FROM pg_stat_user_tables
     WHERE schemaname = current_schema() AND n_live_tup > $1 AND seq_scan > 0 ORDER BY 1";
