//! `cargo xtask bench jobs`: compares the job engine on both databases with BullMQ and Graphile Worker. All
//! run the same no-op jobs, in alternation.
//!
//! Processes are not pinned to cores. One contender runs at a time, and it may use all cores together with
//! its database.

mod bloat;
mod contenders;
mod figures;
mod redis;
mod report;
mod rows;

use std::fs;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use kith_store::testing::server::{PostgresServer, PostgresServerOptions};

use self::contenders::{BenchEnvironment, Contender, build_driver, install_peers};
use self::redis::Redis;
use self::report::RowComparison;
use self::rows::{JobBenchRow, ROWS};
use super::machine;
use crate::mode::Mode;
use crate::workspace::root;

/// Options of `cargo xtask bench jobs`.
#[derive(clap::Args)]
pub struct Args {
    /// Run a tenth of the jobs, as a test; the figures are not representative
    #[arg(long)]
    quick: bool,
    /// Number of runs of each row; contenders alternate [default: 5, quick: 2]
    #[arg(long)]
    pairs: Option<usize>,
    /// Measure only these rows: cycle, single, bulk, drain, latency, due, workers, million, bloat
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Measure only one side
    #[arg(long)]
    only: Option<Side>,
    #[command(flatten)]
    mode: Mode,
}

/// Side of the comparison: Kith or its peers.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Side {
    /// Kith, on both databases
    Kith,
    /// BullMQ and Graphile Worker
    Peers,
}

/// Number of jobs of a row in a smoke run.
const SMOKE_JOBS: u64 = 100;
/// Number of jobs processed while a snapshot is open.
const BLOAT_JOBS: u64 = 2_000_000;

impl Args {
    fn pairs(&self) -> usize {
        self.pairs
            .unwrap_or(if self.mode.is_smoke() {
                1
            } else if self.quick {
                2
            } else {
                5
            })
            .max(1)
    }

    /// Returns true if the row is selected. A smoke run without a selection measures only one row, with every
    /// contender.
    fn has_row(&self, name: &str) -> bool {
        match self.rows.is_empty() {
            true => !self.mode.is_smoke() || name == "cycle",
            false => self.rows.iter().any(|wanted| wanted == name),
        }
    }

    fn jobs(&self, row: &JobBenchRow, contender: Contender) -> u64 {
        self.mode.pick(row.jobs(contender, self.quick), SMOKE_JOBS)
    }

    fn measures(&self, who: Contender) -> bool {
        self.only.is_none_or(|side| (side == Side::Kith) == who.is_kith())
    }
}

/// Measures all rows, prints the table and writes `target/bench-jobs.json`.
pub fn jobs(args: &Args) -> Result<()> {
    let folder = root()?.join("target/bench-jobs");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let (kith, peers) = (args.only != Some(Side::Peers), args.only != Some(Side::Kith));
    if peers {
        install_peers()?;
    }
    let driver = if kith { Some(build_driver(args.mode)?) } else { None };
    let postgres = PostgresServer::start(PostgresServerOptions {
        fsync: true,
        parent: Some(folder.clone()),
        ..Default::default()
    })?;
    let redis = if peers { Some(Redis::start(&folder.join("redis"))?) } else { None };
    let environment = BenchEnvironment { folder, driver, postgres, redis };
    let selected = |row: &&JobBenchRow| args.has_row(row.name);
    let rows = ROWS
        .iter()
        .filter(selected)
        .filter(|row| kith || !row.own)
        .map(|row| compare(&environment, row, args));
    let rows = rows.collect::<Result<Vec<_>>>()?;
    let has_bloat = kith && args.has_row("bloat");
    let bloat_jobs = args.mode.pick(if args.quick { 100_000 } else { BLOAT_JOBS }, SMOKE_JOBS);
    let bloat = has_bloat.then(|| bloat::bloat(&environment, args.pairs(), bloat_jobs));
    report::report(&rows, bloat.transpose()?.as_ref(), args.mode)
}

/// Runs all contenders once in each round. The order rotates, so that no contender always has the same
/// position.
fn compare(environment: &BenchEnvironment, row: &'static JobBenchRow, args: &Args) -> Result<RowComparison> {
    let pairs = args.pairs();
    let who = Contender::ALL.into_iter().filter(|who| who.has(row) && args.measures(*who));
    let mut compared = RowComparison::new(row, who.collect());
    eprintln!("\n{}", row.title);
    for pair in 0..pairs {
        let length = args.mode.pick(machine::FSYNC_FOR, Duration::from_millis(200));
        let fsync = machine::fsync(&environment.folder, length)?;
        compared.fsyncs.push(fsync);
        eprintln!("  {:.0} fsync/s, p99 {:.2} ms", fsync.rate, fsync.p99_ms);
        let mut order: Vec<_> = (0..compared.runs.len()).collect();
        order.rotate_left(pair % compared.runs.len());
        for at in order {
            let contender = compared.runs[at].contender;
            let output = environment.run(contender, row, args.jobs(row, contender))?;
            eprintln!("  {}: {}", contender.name(), report::format_run(row, &output));
            compared.runs[at].outputs.push(output);
        }
    }
    Ok(compared)
}
