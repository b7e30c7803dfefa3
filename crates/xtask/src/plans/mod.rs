//! `cargo xtask plans`: checks on large tables that no statement of the tests reads many more rows than it
//! returns.
//!
//! `cargo xtask test` records statements, parameters and rows. This command fills both databases with copies
//! of these rows. It then runs every recorded statement and rolls it back.

mod clones;
mod judge;
mod postgres;
mod recordings;
mod sources;
mod sqlite;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, thread};

use anyhow::{Context as _, Result, bail};
use kith_store::testing::PLANS_FOLDER;
use kith_store::testing::server::{PostgresServer, PostgresServerOptions};

use crate::kith::{self, Start};
use crate::mode::Mode;
use crate::workspace::{root, run};
use clones::RowTemplate;
use judge::{PlanReport, Sample};
use recordings::{Statements, Table, Value};

/// Options of `cargo xtask plans`.
#[derive(clap::Args)]
pub struct Args {
    /// Number of rows of each table
    #[arg(long, default_value_t = 100_000)]
    rows: usize,
    /// Judge a statement by its cheapest recorded parameters instead of the most expensive ones
    #[arg(long)]
    lenient: bool,
    /// Folder with the recordings [default: target/plans]
    #[arg(long)]
    recorded: Option<PathBuf>,
}

/// Name prefixes of tables that are segments of one structure. Only the first two segments are filled.
const SEGMENT_PREFIXES: [&str; 2] = ["job_history_segment_", "job_log_segment_"];

/// Tables whose size depends on the configuration or on the number of processes. They do not grow with use.
const FIXED_SIZE_TABLES: &[&str] = &[
    "audit_keys",
    "collection_declarations",
    "consumers",
    "first_admin_links",
    "job_kinds",
    "job_queues",
    "job_history_ring",
    "job_workers",
    "observed_time",
    "purge_runs",
    "schema_migrations",
    "sequencer",
    "server_starts",
    "signing_keys",
];

/// Number of rows of each table for the check after a test run. A full scan still exceeds the limit about
/// twenty times, and the check takes a fifth of the time.
const ROWS_IN_CI: usize = 20_000;

/// Judges every recorded statement. Fails if one costs more than allowed.
pub fn plans(args: &Args) -> Result<()> {
    let recorded = match &args.recorded {
        Some(folder) => folder.clone(),
        None => recorded_folder()?,
    };
    let statements = recordings::statements(&recorded, &sources::test_sources(&root()?)?)
        .context("nothing is recorded; run `cargo xtask test` first")?;
    let scratch = tempfile::tempdir()?;
    let binary = kith::build(Mode::SMOKE)?;
    let empty = |name: &str, database: Option<String>| -> Result<PathBuf> {
        let data = scratch.path().join(name);
        let start = Start { binary: binary.clone(), data: data.clone(), database, ..Start::default() };
        run(&mut start.command(&["migrate", "up"]))?;
        Ok(data.join("kith.db"))
    };
    let tables = recordings::tables(&recorded, &empty("world", None)?, i64::try_from(args.rows)?)?;
    let server = PostgresServer::start(PostgresServerOptions::default())?;
    let url = server.url("postgres");
    empty("postgres", Some(url.clone()))?;
    let sample = if args.lenient { Sample::Cheapest } else { Sample::Costliest };
    let reports = judge_both(&empty("sqlite", None)?, &url, &tables, &statements, args.rows, sample)?;
    show(&tables, &reports, sample)
}

/// Configures the test run `suite` to write its recordings to the default folder, which is emptied first.
pub fn record_into_default_folder(suite: &mut Command) -> Result<()> {
    let folder = recorded_folder()?;
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    suite.env(PLANS_FOLDER, folder);
    Ok(())
}

/// Judges the recordings of the last test run with fewer rows than [`plans`] uses by default, then deletes
/// them. The recorded parameters vary between runs, so a statement fails only if it exceeds the limits with
/// all of them.
pub fn judge_recorded() -> Result<()> {
    plans(&Args { rows: ROWS_IN_CI, lenient: true, recorded: None })?;
    Ok(fs::remove_dir_all(recorded_folder()?)?)
}

fn recorded_folder() -> Result<PathBuf> {
    Ok(root()?.join("target/plans"))
}

fn judge_both(
    file: &Path,
    url: &str,
    tables: &[Table],
    statements: &Statements,
    rows: usize,
    sample: Sample,
) -> Result<[PlanReport; 2]> {
    thread::scope(|scope| {
        let sqlite = scope.spawn(|| sqlite::judge(file, tables, &statements.sqlite, rows, sample));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let postgres = runtime.block_on(postgres::judge(url, tables, &statements.postgres, rows, sample))?;
        Ok([sqlite.join().expect("no panic")?, postgres])
    })
}

fn is_filled(table: &str) -> bool {
    let is_like_others =
        SEGMENT_PREFIXES.iter().filter_map(|start| table.strip_prefix(start)).any(|n| n > "1");
    !FIXED_SIZE_TABLES.contains(&table) && !is_like_others
}

/// Returns the recorded rows of a table, followed by as many copies as `rows` requires in total.
fn filled(table: &Table, rows: usize) -> impl Iterator<Item = Vec<Value>> + '_ {
    let originals: Vec<_> = table.rows.iter().map(|row| RowTemplate::new(table, row)).collect();
    let is_filled = is_filled(&table.name) && !originals.is_empty();
    let missing = if is_filled { rows.saturating_sub(originals.len()) } else { 0 };
    let copies = (0..missing).map(move |n| {
        let count = originals.len();
        originals[n % count].copy(i64::try_from(n / count + 1).unwrap_or(i64::MAX))
    });
    table.rows.iter().cloned().chain(copies)
}

fn show(tables: &[Table], reports: &[PlanReport; 2], sample: Sample) -> Result<()> {
    let empty: Vec<_> =
        tables.iter().filter(|table| table.rows.is_empty() && is_filled(&table.name)).collect();
    for table in empty {
        println!("no rows were recorded of {}", table.name);
    }
    let mut excesses = 0;
    for report in reports {
        println!("{} statements judged", report.judged);
        for (sql, error) in &report.failed {
            println!("not judged: {error}: {}", judge::collapse_whitespace(sql));
        }
        for finding in &report.findings {
            let reason = judge::reason(&finding.sql);
            let is_excess = reason.is_none() && finding.cost.excess() > sample.tolerance(finding.engine);
            excesses += usize::from(is_excess);
            println!(
                "\n{} {}: {} (x{:.0}){}\n{}\n{}",
                finding.engine,
                finding.mode,
                finding.cost,
                finding.cost.excess(),
                match reason {
                    Some(reason) => format!(", allowed: {reason}"),
                    None if is_excess => ", NOT ALLOWED".to_owned(),
                    None => ", tolerated".to_owned(),
                },
                judge::collapse_whitespace(&finding.sql),
                finding.plan
            );
        }
    }
    if excesses > 0 {
        bail!("{excesses} statements read much more than they return: look for NOT ALLOWED above");
    }
    Ok(())
}
