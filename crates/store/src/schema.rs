//! Schema of a database, the schema that the migrations of this build create, and the differences between
//! them.
//!
//! This module does not change the database. The expected schema is created in an empty SQLite database in
//! memory. This works for both databases, because migrations and names are the same for both.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::dialect::{self, Dialect};
use crate::sqlite::{self, SqliteConnection};
use crate::tx::EngineSession;
use crate::{EngineKind, Error, ModuleMigrations, OpenError, Query, params};

/// Tables of a database, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct DatabaseSchema(BTreeMap<String, Table>);

/// Table, described in terms that are the same for both databases.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Table {
    /// Type and nullability of each column, such as `TEXT NOT NULL`, by column name.
    columns: BTreeMap<String, String>,
    /// Keys, such as `PRIMARY KEY (id)`, `UNIQUE (a, b)` or `FOREIGN KEY (a) REFERENCES users`.
    keys: BTreeSet<String>,
    /// Number of CHECK constraints.
    checks: usize,
    /// Columns of non-unique indexes, such as `(a, b) WHERE …`, by the name of the index. Such indexes affect
    /// only performance.
    #[serde(skip)]
    indexes: BTreeMap<String, String>,
}

/// Differences between two schemas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Differences {
    /// Differences in tables, columns, keys and checks.
    pub structure: Vec<String>,
    /// Differences in non-unique indexes.
    pub indexes: Vec<String>,
}

impl DatabaseSchema {
    /// Returns the schema that the migrations of `modules` create in a database of this kind.
    pub fn expected_from(modules: &[ModuleMigrations], kind: EngineKind) -> Result<Self, OpenError> {
        let dialect = match kind {
            EngineKind::Sqlite => Dialect::Sqlite,
            EngineKind::Postgres => Dialect::Neutral,
        };
        let connection = SqliteConnection::in_memory()?;
        for sql in crate::migrate::up_statements(modules)? {
            connection.batch(&dialect::schema(sql, dialect))?;
        }
        let shape =
            Self::of_sqlite(&Query::new(EngineSession::Sqlite(sqlite::SqliteSession::plain(&connection))))?;
        Ok(shape)
    }

    /// Reads the schema of a SQLite database.
    pub fn of_sqlite(q: &Query<'_>) -> Result<Self, Error> {
        let sql = "SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
        let tables = q.all(sql, &[], |row| Ok((row.get::<String>(0)?, row.get::<String>(1)?)))?;
        let mut shape = Self::default();
        for (name, sql) in tables {
            let mut table = Table { checks: dialect::count_words(&sql, "CHECK"), ..Table::default() };
            read_columns(q, &name, &mut table)?;
            read_foreign_keys(q, &name, &mut table)?;
            read_indexes(q, &name, &mut table)?;
            shape.0.insert(name, table);
        }
        Ok(shape)
    }

    /// Reads the current schema of a PostgreSQL database.
    pub fn of_postgres(q: &Query<'_>) -> Result<Self, Error> {
        let mut shape = Self::default();
        let columns = q.all(POSTGRES_COLUMNS, &[], |row| {
            Ok((row.get::<String>(0)?, row.get::<String>(1)?, row.get::<String>(2)?))
        })?;
        for (table, column, kind) in columns {
            shape.0.entry(table).or_default().columns.insert(column, kind);
        }
        let keys = q.all(POSTGRES_KEYS, &[], |row| Ok((row.get::<String>(0)?, row.get::<String>(1)?)))?;
        for (table, key) in keys {
            let table = shape.0.entry(table).or_default();
            if key == "CHECK" {
                table.checks += 1;
            } else {
                table.keys.insert(key);
            }
        }
        let indexes = q.all(POSTGRES_INDEXES, &[], |row| {
            Ok((row.get::<String>(0)?, row.get::<String>(1)?, row.get::<bool>(2)?, row.get::<String>(3)?))
        })?;
        for (table, name, is_unique, columns) in indexes {
            shape.0.entry(table).or_default().add_index(name, is_unique, columns);
        }
        Ok(shape)
    }

    /// Returns the SHA-256 of all tables, columns, keys and checks, as `sha256:` and hexadecimal digits.
    pub fn digest(&self) -> String {
        let text = serde_json::to_vec(self).unwrap_or_default();
        let digest = Sha256::digest(text);
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{digest}")
    }

    pub fn tables(&self) -> usize {
        self.0.len()
    }

    pub fn indexes(&self) -> usize {
        self.0.values().map(|table| table.indexes.len()).sum()
    }

    /// Returns the differences between this schema and `expected`.
    pub fn differences(&self, expected: &Self) -> Differences {
        let mut found = Differences::default();
        let names: BTreeSet<_> = self.0.keys().chain(expected.0.keys()).collect();
        for name in names {
            match (self.0.get(name), expected.0.get(name)) {
                (Some(table), Some(expected)) => table.differ(name, expected, &mut found),
                (None, _) => found.structure.push(format!("table {name} is missing")),
                (_, None) => found.structure.push(format!("table {name} is unexpected")),
            }
        }
        found
    }
}

impl Table {
    fn add_index(&mut self, name: String, is_unique: bool, columns: String) {
        if is_unique {
            self.keys.insert(format!("UNIQUE INDEX {name} {columns}"));
        } else {
            self.indexes.insert(name, columns);
        }
    }

    fn differ(&self, name: &str, expected: &Self, found: &mut Differences) {
        differ(&format!("column {name}."), &self.columns, &expected.columns, &mut found.structure);
        found.structure.extend(expected.keys.difference(&self.keys).map(|key| format!("{name} lacks {key}")));
        found
            .structure
            .extend(self.keys.difference(&expected.keys).map(|key| format!("{name} has unexpected {key}")));
        if self.checks != expected.checks {
            let (has, should) = (self.checks, expected.checks);
            found.structure.push(format!("{name} has {has} CHECKs instead of {should}"));
        }
        differ("index ", &self.indexes, &expected.indexes, &mut found.indexes);
    }
}

fn differ(
    what: &str,
    own: &BTreeMap<String, String>,
    expected: &BTreeMap<String, String>,
    found: &mut Vec<String>,
) {
    for (name, should) in expected {
        match own.get(name) {
            None => found.push(format!("{what}{name} is missing")),
            Some(is) if is != should => found.push(format!("{what}{name} is {is} instead of {should}")),
            Some(_) => {}
        }
    }
    found.extend(
        own.keys()
            .filter(|name| !expected.contains_key(*name))
            .map(|name| format!("{what}{name} is unexpected")),
    );
}

fn read_columns(q: &Query<'_>, name: &str, table: &mut Table) -> Result<(), Error> {
    let sql = "SELECT name, type, \"notnull\", pk FROM pragma_table_info($1)";
    let columns = q.all(sql, params![name], |row| {
        Ok((row.get::<String>(0)?, row.get::<String>(1)?, row.get::<i64>(2)?, row.get::<i64>(3)?))
    })?;
    let mut key: Vec<_> =
        columns.iter().filter(|(.., pk)| *pk > 0).map(|(name, .., pk)| (*pk, &**name)).collect();
    key.sort_unstable();
    if !key.is_empty() {
        let key: Vec<_> = key.into_iter().map(|(_, name)| name).collect();
        table.keys.insert(format!("PRIMARY KEY ({})", key.join(", ")));
    }
    for (name, kind, not_null, pk) in columns {
        // Columns of a primary key cannot be null, even if they are not declared NOT NULL.
        let not_null = if not_null > 0 || pk > 0 { " NOT NULL" } else { "" };
        table.columns.insert(name, format!("{kind}{not_null}"));
    }
    Ok(())
}

fn read_foreign_keys(q: &Query<'_>, name: &str, table: &mut Table) -> Result<(), Error> {
    let sql = "SELECT group_concat(\"from\", ', '), \"table\", on_delete
               FROM (SELECT * FROM pragma_foreign_key_list($1) ORDER BY id, seq) GROUP BY id, \"table\", on_delete";
    let keys = q.all(sql, params![name], |row| {
        Ok((row.get::<String>(0)?, row.get::<String>(1)?, row.get::<String>(2)?))
    })?;
    for (columns, of, on_delete) in keys {
        table.keys.insert(format!("FOREIGN KEY ({columns}) REFERENCES {of}, {on_delete} ON DELETE"));
    }
    Ok(())
}

fn read_indexes(q: &Query<'_>, name: &str, table: &mut Table) -> Result<(), Error> {
    let sql = "SELECT name, \"unique\", origin, partial FROM pragma_index_list($1) WHERE origin <> 'pk'";
    let indexes = q.all(sql, params![name], |row| {
        Ok((row.get::<String>(0)?, row.get::<i64>(1)?, row.get::<String>(2)?, row.get::<i64>(3)?))
    })?;
    for (name, unique, origin, partial) in indexes {
        let sql = "SELECT COALESCE(name, '(expression)') || CASE WHEN \"desc\" = 1 THEN ' DESC' ELSE '' END
                   FROM pragma_index_xinfo($1) WHERE \"key\" = 1 ORDER BY seqno";
        let columns = q.all(sql, params![name], |row| row.get::<String>(0))?.join(", ");
        if origin == "u" {
            table.keys.insert(format!("UNIQUE ({columns})"));
        } else {
            let partial = if partial > 0 { " WHERE" } else { "" };
            table.add_index(name, unique > 0, format!("({columns}){partial}"));
        }
    }
    Ok(())
}

const POSTGRES_COLUMNS: &str = "SELECT CAST(c.relname AS TEXT), CAST(a.attname AS TEXT),
        upper(format_type(a.atttypid, a.atttypmod))
        || CASE WHEN l.collname <> 'C' THEN ' COLLATE ' || CAST(l.collname AS TEXT) ELSE '' END
        || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END
     FROM pg_attribute a
     JOIN pg_class c ON c.oid = a.attrelid
     JOIN pg_namespace n ON n.oid = c.relnamespace
     LEFT JOIN pg_collation l ON l.oid = a.attcollation
     WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped";

const POSTGRES_KEYS: &str = "SELECT CAST(c.relname AS TEXT),
        CASE o.contype WHEN 'p' THEN 'PRIMARY KEY (' || k.columns || ')'
            WHEN 'u' THEN 'UNIQUE (' || k.columns || ')'
            WHEN 'f' THEN 'FOREIGN KEY (' || k.columns || ') REFERENCES ' || CAST(f.relname AS TEXT) || ', '
                || CASE o.confdeltype WHEN 'a' THEN 'NO ACTION' WHEN 'c' THEN 'CASCADE' WHEN 'r' THEN 'RESTRICT'
                       WHEN 'n' THEN 'SET NULL' ELSE 'SET DEFAULT' END || ' ON DELETE'
            ELSE 'CHECK' END
        || CASE WHEN o.convalidated THEN '' ELSE ' NOT VALID' END
     FROM pg_constraint o
     JOIN pg_class c ON c.oid = o.conrelid
     JOIN pg_namespace n ON n.oid = c.relnamespace
     LEFT JOIN pg_class f ON f.oid = o.confrelid
     LEFT JOIN LATERAL (
         SELECT string_agg(CAST(a.attname AS TEXT), ', ' ORDER BY u.place) AS columns
         FROM unnest(o.conkey) WITH ORDINALITY AS u (number, place)
         JOIN pg_attribute a ON a.attrelid = o.conrelid AND a.attnum = u.number) k ON TRUE
     WHERE n.nspname = current_schema() AND o.contype IN ('p', 'u', 'f', 'c')";

/// SQL that selects indexes. It excludes the indexes of primary and unique keys, and invalid indexes, which
/// PostgreSQL does not use.
const POSTGRES_INDEXES: &str = "SELECT CAST(t.relname AS TEXT), CAST(i.relname AS TEXT), x.indisunique,
        '(' || k.columns || ')' || CASE WHEN x.indpred IS NULL THEN '' ELSE ' WHERE' END
     FROM pg_index x
     JOIN pg_class i ON i.oid = x.indexrelid
     JOIN pg_class t ON t.oid = x.indrelid
     JOIN pg_namespace n ON n.oid = t.relnamespace
     JOIN LATERAL (
         SELECT string_agg(
             CASE WHEN x.indkey[s - 1] = 0 THEN '(expression)'
                 ELSE replace(pg_get_indexdef(x.indexrelid, s, TRUE), '\"', '') END
             || CASE WHEN x.indoption[s - 1] & 1 = 1 THEN ' DESC' ELSE '' END, ', ' ORDER BY s) AS columns
         FROM generate_series(1, x.indnkeyatts) AS s) k ON TRUE
     WHERE n.nspname = current_schema() AND x.indisvalid
       AND NOT EXISTS (SELECT 1 FROM pg_constraint o WHERE o.conindid = i.oid AND o.contype IN ('p', 'u'))";
