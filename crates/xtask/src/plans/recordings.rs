//! Reads the recordings of a test run: statements with their parameters, and the rows of its SQLite
//! databases.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use kith_store::testing::{RecordedParam, RecordedStatement};
use rusqlite::Connection;

use super::judge::collapse_whitespace;

/// SQLite value.
pub use rusqlite::types::Value;

/// Columns that contain numeric ids, and the table to whose `id` they refer.
const REFERENCES: &[(&str, &str)] =
    &[("depends_on", "jobs"), ("job", "jobs"), ("job_id", "jobs"), ("worker", "job_workers")];

/// Rows that need a matching row in another table. When recorded databases are merged, rows with existing
/// keys are skipped. Rows that lose their match in this way are removed.
const REQUIRED_COUNTERPARTS: &[(&str, &str, &str, &str)] = &[
    ("outbox", "id", "outbox_positions", "event_id"),
    ("outbox_positions", "event_id", "outbox", "id"),
    ("audit_entries", "id", "audit_seals", "entry_id"),
    ("audit_seals", "entry_id", "audit_entries", "id"),
];

/// Comment in statements that tests build themselves.
const TEST_MARKER: &str = "-- of a test";

/// Table with its recorded rows.
#[derive(Debug)]
pub struct Table {
    pub name: String,
    pub columns: Vec<String>,
    /// Indexes of the columns of each unique index, including the primary key.
    pub unique: Vec<Vec<usize>>,
    /// Indexes of the columns that contain numeric ids of other tables.
    pub references: Vec<usize>,
    /// For each column, the difference between the numbers of consecutive copies.
    pub strides: Vec<i64>,
    pub rows: Vec<Vec<Value>>,
}

/// Statement with its recorded parameters.
#[derive(Clone)]
pub struct Statement {
    pub sql: String,
    pub samples: Vec<Vec<RecordedParam>>,
}

/// Recorded statements by engine. A statement that ran on both engines is judged on both with the parameters
/// recorded on SQLite, because only the rows of SQLite databases are recorded.
pub struct Statements {
    pub sqlite: Vec<Statement>,
    pub postgres: Vec<Statement>,
}

/// Reads the statements recorded in `folder`. Statements that occur in `of_tests`, the text of the tests, are
/// skipped.
pub fn statements(folder: &Path, of_tests: &str) -> Result<Statements> {
    let mut by_engine = [BTreeMap::<String, Vec<_>>::new(), BTreeMap::new()];
    for file in fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()? {
        if file.path().extension().is_none_or(|ending| ending != "jsonl") {
            continue;
        }
        // The last line may be truncated if the process was killed.
        let lines = fs::read_to_string(file.path())?;
        for statement in lines.lines().filter_map(|line| serde_json::from_str::<RecordedStatement>(line).ok())
        {
            let samples = by_engine[usize::from(statement.is_postgres)].entry(statement.sql).or_default();
            if !samples.contains(&statement.params) {
                samples.push(statement.params);
            }
        }
    }
    let [sqlite, mut postgres] = by_engine;
    for (sql, samples) in &mut postgres {
        if let Some(known) = sqlite.get(sql) {
            samples.clone_from(known);
        }
    }
    let all = |statements: BTreeMap<String, Vec<_>>| {
        let of_product = statements.into_iter().filter(|(sql, _)| is_of_product(sql, of_tests));
        of_product.map(|(sql, samples)| Statement { sql, samples }).collect()
    };
    Ok(Statements { sqlite: all(sqlite), postgres: all(postgres) })
}

/// Returns true if production code, not a test, runs this statement. Other statements than SELECT, INSERT,
/// UPDATE, DELETE and WITH do not count.
fn is_of_product(sql: &str, of_tests: &str) -> bool {
    let about_rows = ["SELECT", "INSERT", "UPDATE", "DELETE", "WITH"];
    about_rows.iter().any(|word| sql.trim_start().starts_with(word))
        && !sql.contains(TEST_MARKER)
        && !of_tests.contains(&collapse_whitespace(sql))
}

/// Merges the rows of all databases recorded in `folder` and returns them as tables. `empty` is a migrated
/// database without rows.
pub fn tables(folder: &Path, empty: &Path, max_rows: i64) -> Result<Vec<Table>> {
    let world = Connection::open(empty)?;
    world
        .execute_batch("PRAGMA foreign_keys = OFF; PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY")?;
    let names = names_of(&world, "main")?;
    let databases = databases(folder)?;
    let mut left_out = 0;
    for database in &databases {
        // A copy that was made while the database was in use may be inconsistent.
        if let Err(error) = merge(&world, &names, database, max_rows) {
            println!("{} is left out: {error:#}", database.display());
            left_out += 1;
        }
    }
    ensure!(left_out * 10 <= databases.len(), "{left_out} of {} databases cannot be read", databases.len());
    for (table, column, placed, by) in REQUIRED_COUNTERPARTS {
        world
            .execute(&format!("DELETE FROM {table} WHERE {column} NOT IN (SELECT {by} FROM {placed})"), [])?;
    }
    let mut tables: Vec<_> = names.iter().map(|name| table(&world, name, max_rows)).collect::<Result<_>>()?;
    set_reference_strides(&mut tables);
    Ok(tables)
}

fn databases(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let file = entry?.path().join("kith.db");
        if file.is_file() {
            found.push(file);
        }
    }
    ensure!(!found.is_empty(), "no databases were recorded in {}", folder.display());
    found.sort();
    Ok(found)
}

fn names_of(connection: &Connection, schema: &str) -> Result<BTreeSet<String>> {
    let sql =
        format!("SELECT name FROM {schema}.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'");
    let mut statement = connection.prepare(&sql)?;
    let names = statement.query_map([], |row| row.get(0))?;
    Ok(names.collect::<Result<_, _>>()?)
}

/// Merges the rows of one database. If it cannot be read completely, none of its rows are merged. Rows whose
/// key already exists are skipped.
fn merge(world: &Connection, names: &BTreeSet<String>, database: &Path, max_rows: i64) -> Result<()> {
    world.execute("ATTACH ?1 AS recorded", [database.to_string_lossy()])?;
    let merged = merge_attached(world, names, max_rows);
    if merged.is_err() && !world.is_autocommit() {
        world.execute_batch("ROLLBACK")?;
    }
    world.execute_batch("DETACH recorded")?;
    merged
}

fn merge_attached(world: &Connection, names: &BTreeSet<String>, max_rows: i64) -> Result<()> {
    // Databases of migration tests may have other tables and columns.
    let theirs = names_of(world, "recorded")?;
    world.execute_batch("BEGIN")?;
    for name in names.intersection(&theirs).filter(|name| *name != "schema_migrations") {
        let count: i64 =
            world.query_row(&format!("SELECT COUNT(*) FROM main.{name}"), [], |row| row.get(0))?;
        let columns = columns_of(world, "main", name)?;
        if count < max_rows && columns_of(world, "recorded", name)? == columns {
            let columns = columns.join(", ");
            let sql = format!(
                "INSERT OR IGNORE INTO main.{name} ({columns}) SELECT {columns} FROM recorded.{name} LIMIT {}",
                max_rows - count
            );
            world.execute(&sql, [])?;
        }
    }
    world.execute_batch("COMMIT")?;
    Ok(())
}

fn columns_of(connection: &Connection, schema: &str, table: &str) -> Result<Vec<String>> {
    let mut statement = connection.prepare(&format!("PRAGMA {schema}.table_info({table})"))?;
    let names = statement.query_map([], |row| row.get(1))?;
    Ok(names.collect::<Result<_, _>>()?)
}

fn table(world: &Connection, name: &str, max_rows: i64) -> Result<Table> {
    let columns = columns_of(world, "main", name)?;
    let sql = format!("SELECT {} FROM {name} LIMIT {max_rows}", columns.join(", "));
    let mut statement = world.prepare(&sql)?;
    let rows: Vec<Vec<Value>> = statement
        .query_map([], |row| (0..columns.len()).map(|at| row.get(at)).collect())?
        .collect::<Result<_, _>>()?;
    let strides = (0..columns.len()).map(|column| stride(&rows, column)).collect();
    let unique = unique_of(world, name, &columns)?;
    Ok(Table { name: name.to_owned(), columns, unique, references: Vec::new(), strides, rows })
}

/// Sets the stride of each column that contains numeric ids of another table to the stride of that table.
fn set_reference_strides(tables: &mut [Table]) {
    let id_stride = |table: &Table| {
        let id = table.columns.iter().position(|column| column == "id")?;
        Some((table.name.clone(), table.strides[id]))
    };
    let strides: BTreeMap<_, _> = tables.iter().filter_map(id_stride).collect();
    for table in tables {
        for column in 0..table.columns.len() {
            let referred = REFERENCES.iter().find(|(name, _)| *name == table.columns[column]);
            let has_numbers = table.rows.iter().any(|row| matches!(row[column], Value::Integer(_)));
            if let Some(stride) = referred.and_then(|(_, to)| strides.get(*to)).filter(|_| has_numbers) {
                table.references.push(column);
                table.strides[column] = *stride;
            }
        }
    }
}

/// Returns a difference between copies that is large enough to keep their numbers distinct.
fn stride(rows: &[Vec<Value>], column: usize) -> i64 {
    let numbers = rows.iter().filter_map(|row| match row[column] {
        Value::Integer(number) => Some(number),
        _ => None,
    });
    let (low, high) = numbers.fold((i64::MAX, i64::MIN), |(low, high), n| (low.min(n), high.max(n)));
    if low > high { 1 } else { high.saturating_sub(low).saturating_add(1).min(1 << 40) }
}

fn unique_of(world: &Connection, name: &str, columns: &[String]) -> Result<Vec<Vec<usize>>> {
    let number = |column: &String| columns.iter().position(|known| known == column);
    let mut keys = world.prepare(&format!("SELECT name FROM pragma_table_info('{name}') WHERE pk > 0"))?;
    let key: Vec<String> = keys.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut unique = vec![key.iter().filter_map(number).collect::<Vec<_>>()];
    let mut indexes =
        world.prepare(&format!("SELECT name FROM pragma_index_list('{name}') WHERE \"unique\""))?;
    let indexes: Vec<String> = indexes.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for index in indexes {
        let mut parts = world.prepare(&format!("SELECT name FROM pragma_index_info('{index}')"))?;
        let parts: Vec<Option<String>> = parts.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        unique.push(parts.iter().flatten().filter_map(number).collect());
    }
    unique.retain(|columns| !columns.is_empty());
    unique.dedup();
    Ok(unique)
}
