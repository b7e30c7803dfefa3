//! Judges statements on SQLite by the steps of its virtual machine.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};
use kith_store::testing::RecordedParam;
use rusqlite::types::Value;
use rusqlite::{Connection, ErrorCode, StatementStatus, params_from_iter};

use super::filled;
use super::judge::{Cost, Finding, PlanReport, STOPPED, Sample};
use super::recordings::{Statement, Table};

/// Number of steps between two calls of the progress handler.
const PROGRESS_INTERVAL_STEPS: i32 = 10_000;
/// Maximum number of progress handler calls for all runs of one statement.
const MAX_PROGRESS_CALLS: u32 = 2_000;

/// Fills the migrated, empty database `file` and judges `statements` on it, before and after ANALYZE.
pub fn judge(
    file: &Path,
    tables: &[Table],
    statements: &[Statement],
    rows: usize,
    sample: Sample,
) -> Result<PlanReport> {
    let mut connection = Connection::open(file)?;
    fill(&connection, tables, rows)?;
    connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection
        .execute_batch("PRAGMA foreign_keys = ON; PRAGMA cache_size = -16000; PRAGMA temp_store = MEMORY")?;
    let mut report = PlanReport::default();
    for mode in ["without ANALYZE", "after ANALYZE"] {
        if mode == "after ANALYZE" {
            connection.progress_handler(0, None::<fn() -> bool>)?;
            connection.execute_batch("ANALYZE")?;
        }
        let progress_calls = bound(&mut connection)?;
        for statement in statements {
            progress_calls.store(0, Ordering::Relaxed);
            judge_statement(&connection, mode, statement, sample, &mut report);
        }
    }
    Ok(report)
}

/// Installs a progress handler that stops a statement after too many steps. Returns the counter of handler
/// calls.
fn bound(connection: &mut Connection) -> Result<Arc<AtomicU32>> {
    let progress_calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&progress_calls);
    let too_many = move || counted.fetch_add(1, Ordering::Relaxed) > MAX_PROGRESS_CALLS;
    connection.progress_handler(PROGRESS_INTERVAL_STEPS, Some(too_many))?;
    Ok(progress_calls)
}

fn fill(connection: &Connection, tables: &[Table], rows: usize) -> Result<()> {
    connection.execute_batch(
        "PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON; PRAGMA synchronous = OFF;
         PRAGMA journal_mode = MEMORY; PRAGMA cache_size = -200000; BEGIN",
    )?;
    // Indexes are created after the rows, which is faster.
    let mut indexes = connection.prepare(
        "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql NOT LIKE 'CREATE UNIQUE%'",
    )?;
    let indexes: Vec<(String, String)> =
        indexes.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    for (name, _) in &indexes {
        connection.execute_batch(&format!("DROP INDEX {name}"))?;
    }
    for table in tables.iter().filter(|table| table.name != "schema_migrations") {
        let placeholders = vec!["?"; table.columns.len()].join(", ");
        let columns = table.columns.join(", ");
        let sql = format!("INSERT OR IGNORE INTO {} ({columns}) VALUES ({placeholders})", table.name);
        let mut insert = connection.prepare(&sql)?;
        for row in filled(table, rows) {
            insert.execute(params_from_iter(row)).with_context(|| table.name.clone())?;
        }
    }
    for (_, sql) in &indexes {
        connection.execute_batch(sql)?;
    }
    connection.execute_batch("COMMIT")?;
    Ok(())
}

fn judge_statement(
    connection: &Connection,
    mode: &'static str,
    statement: &Statement,
    sample: Sample,
    report: &mut PlanReport,
) {
    let sql = to_sqlite_parameters(&statement.sql);
    let (mut judged, mut error) = (None::<Cost>, String::new());
    for params in &statement.samples {
        match cost(connection, &sql, params) {
            Ok(cost) if judged.is_none_or(|judged| sample.prefers(&cost, &judged)) => judged = Some(cost),
            Ok(_) => {}
            Err(failure) if failure.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {
                let stopped = Cost { steps: STOPPED, ..Cost::default() };
                judged = Some(judged.filter(|judged| !sample.prefers(&stopped, judged)).unwrap_or(stopped));
                break;
            }
            Err(failure) => error = failure.to_string(),
        }
    }
    let Some(cost) = judged else {
        report.failed.push((statement.sql.clone(), error));
        return;
    };
    report.judged += 1;
    if cost.excess() > 1.0 {
        let plan = plan(connection, &sql).unwrap_or_else(|error| error.to_string());
        report.findings.push(Finding { engine: "SQLite", mode, sql: statement.sql.clone(), cost, plan });
    }
}

/// Runs a statement in a transaction and rolls it back.
fn cost(connection: &Connection, sql: &str, params: &[RecordedParam]) -> Result<Cost, rusqlite::Error> {
    connection.execute_batch("BEGIN")?;
    let run = || {
        let mut statement = connection.prepare_cached(sql)?;
        statement.reset_status(StatementStatus::VmStep);
        let mut cost = Cost::default();
        let mut found = statement.query(params_from_iter(params.iter().map(value)))?;
        while found.next()?.is_some() {
            cost.rows += 1;
        }
        drop(found);
        if !statement.readonly() {
            cost.rows = cost.rows.max(connection.changes());
        }
        cost.steps = u64::try_from(statement.get_status(StatementStatus::VmStep)).unwrap_or_default();
        Ok(cost)
    };
    let cost = run();
    // SQLite may have rolled back the transaction of a stopped statement itself.
    if !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK")?;
    }
    cost
}

fn plan(connection: &Connection, sql: &str) -> Result<String, rusqlite::Error> {
    let mut explained = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
    let count = explained.parameter_count();
    let lines =
        explained.query_map(params_from_iter(vec![Value::Null; count]), |row| row.get::<_, String>(3))?;
    Ok(lines.collect::<Result<Vec<_>, _>>()?.join("\n"))
}

/// Converts `$1` to `?1`, as the store does.
fn to_sqlite_parameters(sql: &str) -> String {
    sql.replace('$', "?")
}

fn value(param: &RecordedParam) -> Value {
    match param {
        RecordedParam::Null | RecordedParam::Ints(_) | RecordedParam::Texts(_) => Value::Null,
        RecordedParam::Text(text) => Value::Text(text.clone()),
        RecordedParam::Int(number) => Value::Integer(*number),
        RecordedParam::Bool(is) => Value::Integer(i64::from(*is)),
        RecordedParam::Float(number) => Value::Real(*number),
        RecordedParam::Bytes(bytes) => Value::Blob(bytes.clone()),
    }
}
