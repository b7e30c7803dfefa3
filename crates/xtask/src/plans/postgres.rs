//! Judges statements on PostgreSQL by the tuples that they read and the pages that they touch.

use std::fmt::Write as _;
use std::pin::pin;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures_util::SinkExt as _;
use kith_store::testing::RecordedParam;
use serde_json::Value as Json;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, CopyInSink, NoTls, SimpleQueryMessage};

use super::filled;
use super::judge::{Cost, Finding, PlanReport, STOPPED, Sample};
use super::recordings::{Statement, Table, Value};

/// Statement timeout in milliseconds. A statement that exceeds it counts as too expensive.
const MAX_MS: u32 = 3_000;

/// Number of bytes to collect before they are sent to a table.
const CHUNK: usize = 1 << 20;

/// Fills the migrated, empty database at `url` and judges `statements` on it. They run with generic plans
/// before and after ANALYZE, and with custom plans after it.
pub async fn judge(
    url: &str,
    tables: &[Table],
    statements: &[Statement],
    rows: usize,
    sample: Sample,
) -> Result<PlanReport> {
    let client = connect(url).await?;
    let statements = with_recent_watermark(statements, rows);
    client.batch_execute("SET plan_cache_mode = force_generic_plan").await?;
    let mut report = PlanReport::default();
    let prepared = prepare(&client, &statements, &mut report).await?;
    fill(&connect(url).await?, tables, rows).await?;
    let modes = [
        ("without ANALYZE", ""),
        ("after ANALYZE", "SET statement_timeout = 0; ANALYZE"),
        ("after ANALYZE, plans for the parameters", "SET plan_cache_mode = force_custom_plan"),
    ];
    for (mode, before) in modes {
        client.batch_execute(before).await?;
        client.batch_execute(&format!("SET statement_timeout = {MAX_MS}")).await?;
        for statement in &prepared {
            judge_statement(&client, mode, statement, sample, &mut report).await?;
        }
    }
    Ok(report)
}

/// Returns the transaction number that [`write_row`] writes for a row.
fn transaction_of(row: usize) -> usize {
    3 + row / 100
}

/// Sets the watermark parameter of the sequencer's statements to a transaction near the newest rows, as in
/// operation.
fn with_recent_watermark(statements: &[Statement], rows: usize) -> Vec<Statement> {
    let watermark = i64::try_from(transaction_of(rows.saturating_sub(1))).unwrap_or(i64::MAX);
    let at_the_mark = |statement: &Statement| {
        let mut statement = statement.clone();
        if statement.sql.contains(".tx >= $1") {
            statement.samples.iter_mut().for_each(|sample| sample[0] = RecordedParam::Int(watermark));
        }
        statement
    };
    statements.iter().map(at_the_mark).collect()
}

async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Statement that is prepared on the server.
struct Prepared<'s> {
    name: String,
    sql: &'s str,
    samples: &'s [Vec<RecordedParam>],
}

async fn prepare<'s>(
    client: &Client,
    statements: &'s [Statement],
    report: &mut PlanReport,
) -> Result<Vec<Prepared<'s>>> {
    let mut prepared = Vec::new();
    for (n, statement) in statements.iter().enumerate() {
        let name = format!("s{n}");
        match client.batch_execute(&format!("PREPARE {name} AS {}", statement.sql)).await {
            Ok(()) => prepared.push(Prepared { name, sql: &statement.sql, samples: &statement.samples }),
            Err(error) => report.failed.push((statement.sql.clone(), error_message(&error))),
        }
    }
    Ok(prepared)
}

fn error_message(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}

async fn fill(client: &Client, tables: &[Table], rows: usize) -> Result<()> {
    // Foreign keys and triggers are disabled, and check constraints are dropped, because copied rows would
    // violate them.
    client.batch_execute("SET session_replication_role = replica; SET synchronous_commit = off").await?;
    let checks = "SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname)
                  FROM pg_constraint WHERE contype = 'c' AND conrelid <> 0";
    for row in client.query(checks, &[]).await? {
        client.batch_execute(row.get(0)).await?;
    }
    for table in tables.iter().filter(|table| table.name != "schema_migrations") {
        fill_table(client, table, rows).await.with_context(|| table.name.clone())?;
    }
    Ok(())
}

async fn fill_table(client: &Client, table: &Table, rows: usize) -> Result<()> {
    let columns = table.columns.join(", ");
    client.batch_execute(&format!("DELETE FROM {}", table.name)).await?;
    let sink: CopyInSink<Bytes> =
        client.copy_in(&format!("COPY {} ({columns}) FROM STDIN", table.name)).await?;
    let mut sink = pin!(sink);
    let mut chunk = String::new();
    for (n, row) in filled(table, rows).enumerate() {
        write_row(&mut chunk, table, &row, n);
        if chunk.len() > CHUNK {
            sink.send(std::mem::take(&mut chunk).into()).await?;
        }
    }
    sink.send(chunk.into()).await?;
    sink.close().await?;
    Ok(())
}

/// Appends row `n` of a table in the text format of COPY.
fn write_row(line: &mut String, table: &Table, row: &[Value], n: usize) {
    for (at, value) in row.iter().enumerate() {
        if at > 0 {
            line.push('\t');
        }
        let written = match value {
            // Each group of a hundred rows gets the number of one completed transaction.
            Value::Integer(_) if table.columns[at] == "tx" => write!(line, "{}", transaction_of(n)),
            Value::Null => write!(line, "\\N"),
            Value::Integer(number) => write!(line, "{number}"),
            Value::Real(number) => write!(line, "{number}"),
            Value::Text(text) => {
                let text = text.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n");
                write!(line, "{}", text.replace('\r', "\\r"))
            }
            Value::Blob(bytes) => write!(line, "\\\\x{}", hex(bytes)),
        };
        written.expect("a text");
    }
    line.push('\n');
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

async fn judge_statement(
    client: &Client,
    mode: &'static str,
    statement: &Prepared<'_>,
    sample: Sample,
    report: &mut PlanReport,
) -> Result<()> {
    let (mut judged, mut error) = (None::<(Cost, String)>, String::new());
    for params in statement.samples {
        match cost(client, statement, params).await {
            Ok(found) if judged.as_ref().is_none_or(|(judged, _)| sample.prefers(&found.0, judged)) => {
                judged = Some(found);
            }
            Ok(_) => {}
            Err(failure) => error = failure,
        }
    }
    let Some((cost, plan)) = judged else {
        report.failed.push((statement.sql.to_owned(), error));
        return Ok(());
    };
    report.judged += 1;
    if cost.excess() > 1.0 {
        let sql = statement.sql.to_owned();
        report.findings.push(Finding { engine: "PostgreSQL", mode, sql, cost, plan });
    }
    Ok(())
}

/// Runs a statement in a transaction and rolls it back. Returns its cost and its plan.
async fn cost(
    client: &Client,
    statement: &Prepared<'_>,
    params: &[RecordedParam],
) -> Result<(Cost, String), String> {
    let values: Vec<_> = params.iter().map(literal).collect();
    let values = if values.is_empty() { String::new() } else { format!("({})", values.join(", ")) };
    let sql = format!(
        "BEGIN; EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) EXECUTE {}{values}; ROLLBACK",
        statement.name
    );
    let answered = client.simple_query(&sql).await;
    let messages = match answered {
        Ok(messages) => messages,
        Err(error) => {
            client.batch_execute("ROLLBACK").await.map_err(|error| error.to_string())?;
            if error.code() == Some(&SqlState::QUERY_CANCELED) {
                let cost = Cost { tuples: STOPPED, ..Cost::default() };
                return Ok((cost, "stopped".to_owned()));
            }
            return Err(error_message(&error));
        }
    };
    let text = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    let explained: Json = serde_json::from_str(text.ok_or("no plan")?).map_err(|error| error.to_string())?;
    let plan = &explained[0]["Plan"];
    let is_change = plan["Node Type"] == "ModifyTable";
    let rows = if is_change { &plan["Plans"][0] } else { plan };
    let pages = ["Shared Hit Blocks", "Shared Read Blocks"].map(|name| number(plan, name)).iter().sum();
    let cost = Cost { rows: runs(rows), tuples: tuples(plan), pages, steps: 0 };
    let mut lines = String::new();
    outline(plan, 0, &mut lines);
    Ok((cost, lines))
}

fn number(plan: &Json, name: &str) -> u64 {
    plan[name].as_f64().unwrap_or_default() as u64
}

/// Returns the number of rows that a plan node returned in all loops.
fn runs(plan: &Json) -> u64 {
    number(plan, "Actual Rows") * number(plan, "Actual Loops")
}

/// Returns the number of tuples that the scans of a plan read, including those that a filter removed.
fn tuples(plan: &Json) -> u64 {
    let is_scan = plan["Relation Name"].is_string() && plan["Node Type"] != "ModifyTable"
        || plan["Node Type"] == "Bitmap Index Scan";
    let own = if is_scan {
        let passed =
            ["Rows Removed by Filter", "Rows Removed by Index Recheck"].map(|name| number(plan, name));
        runs(plan) + passed.iter().sum::<u64>() * number(plan, "Actual Loops")
    } else {
        0
    };
    own + plan["Plans"].as_array().into_iter().flatten().map(tuples).sum::<u64>()
}

/// Formats a plan with one line per node.
fn outline(plan: &Json, depth: usize, lines: &mut String) {
    let text = |name: &str| plan[name].as_str().map(|text| format!(" {text}")).unwrap_or_default();
    let conditions = ["Index Cond", "Recheck Cond", "Hash Cond", "Filter"]
        .map(|name| plan[name].as_str().map(|text| format!(" {name}: {text}")).unwrap_or_default());
    lines.push_str(&format!(
        "{:depth$}{}{}{} rows={} removed={}{}\n",
        "",
        plan["Node Type"].as_str().unwrap_or_default(),
        text("Index Name"),
        text("Relation Name"),
        runs(plan),
        number(plan, "Rows Removed by Filter"),
        conditions.concat(),
        depth = depth * 2
    ));
    for part in plan["Plans"].as_array().into_iter().flatten() {
        outline(part, depth + 1, lines);
    }
}

/// Formats a parameter as an SQL literal.
fn literal(param: &RecordedParam) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let array = |parts: Vec<String>| quoted(&format!("{{{}}}", parts.join(",")));
    match param {
        RecordedParam::Null => "NULL".to_owned(),
        RecordedParam::Text(text) => quoted(text),
        RecordedParam::Int(number) => quoted(&number.to_string()),
        RecordedParam::Bool(is) => quoted(&is.to_string()),
        RecordedParam::Float(number) => quoted(&number.to_string()),
        RecordedParam::Bytes(bytes) => quoted(&format!("\\x{}", hex(bytes))),
        RecordedParam::Ints(all) => {
            array(all.iter().map(|n| n.map_or_else(|| "NULL".to_owned(), |n| n.to_string())).collect())
        }
        RecordedParam::Texts(all) => {
            let element = |text: &String| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
            array(all.iter().map(|text| text.as_ref().map_or_else(|| "NULL".to_owned(), element)).collect())
        }
    }
}
