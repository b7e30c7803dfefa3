//! `cargo xtask chaos jobs`: injects faults while jobs run. It kills workers, enqueuers, the database and its
//! backends, freezes workers, and stops the database for longer than a lease. The system also idles for
//! longer than the interval of the claims' full scan. In the end, the database is compared with the record of
//! the processes.

mod journal;
mod process_group;
mod processes;
mod report;
mod verdict;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use fastrand::Rng;
use kith_store::testing::server::{PostgresServer, PostgresServerOptions, StopMode};

use self::journal::Journal;
use self::process_group::{FaultCounts, ProcessGroup, pause};
use self::processes::Program;
use self::report::{JobChaosReport, write_evidence};
use self::verdict::{FinalState, JobVerdict};
use super::fresh_folder;
use crate::mode::Mode;
use crate::workspace::{cargo, root};

/// Time between two faults in milliseconds.
const FAULT_INTERVAL_MS: std::ops::Range<u64> = 300..1_500;
/// Interval of the full scan that finds jobs behind the claim watermarks.
const FULL_SCAN_INTERVAL: Duration = Duration::from_secs(300);
/// Assumed maximum duration of a transaction that schedules a job.
const MAX_COMMIT_DELAY: Duration = Duration::from_secs(60);
/// Margin by which idle periods exceed the two durations above.
const IDLE_MARGIN: Duration = Duration::from_secs(10);
/// Duration of a database outage. It is longer than a worker's lease of 6 s.
const OUTAGE: Duration = Duration::from_secs(9);
/// Duration of each idle period and outage in a smoke run.
const SMOKE: Duration = Duration::from_millis(500);

/// Options of `cargo xtask chaos jobs`.
#[derive(clap::Args)]
pub struct Args {
    /// Jobs that are acknowledged in each run [default: 100000, smoke: 2000]
    #[arg(long)]
    jobs: Option<usize>,
    /// Test only one database
    #[arg(long)]
    database: Option<Database>,
    /// Seed of the random faults [default: random]
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    mode: Mode,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Database {
    /// SQLite: one process that enqueues and works
    Sqlite,
    /// PostgreSQL: four workers, one enqueuer, and the database server
    Postgres,
}

/// Runs jobs while faults are injected. Fails if a job is lost, its effect happens twice, or a stale report
/// is accepted.
pub fn jobs(args: &Args) -> Result<()> {
    let binary = build(args.mode)?;
    let jobs = args.jobs.unwrap_or(args.mode.pick(100_000, 2_000));
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let mut reports = Vec::new();
    for database in [Database::Sqlite, Database::Postgres] {
        if args.database.is_none_or(|only| only == database) {
            reports.push(run(database, &binary, jobs, seed, args.mode)?);
        }
    }
    println!();
    reports.iter().for_each(JobChaosReport::print);
    if !args.mode.is_smoke() {
        write_evidence(&reports)?;
    }
    ensure!(
        reports.iter().all(|report| report.verdict.is_clean()),
        "jobs were lost or not run as guaranteed"
    );
    Ok(())
}

fn build(mode: Mode) -> Result<PathBuf> {
    let mut build = cargo()?;
    build.args(["build", "--locked", "--example", "chaos"]);
    // The tests were built with the features of the whole workspace. A smoke build selects the same features
    // and so reuses their build.
    build.args(mode.pick(["--release", "--package=kith-jobs"], ["--profile=dev", "--workspace"]));
    crate::workspace::run(build.stdout(Stdio::inherit()))?;
    Ok(root()?.join(mode.pick("target/release/examples/chaos", "target/debug/examples/chaos")))
}

/// Event that happens once, at a given percentage of acknowledged jobs.
#[derive(Clone, Copy, Debug)]
enum ScheduledEvent {
    Idle(Duration),
    Outage(Duration),
}

fn events(mode: Mode) -> Vec<(usize, ScheduledEvent)> {
    use ScheduledEvent::{Idle, Outage};
    mode.pick(
        vec![
            (25, Idle(MAX_COMMIT_DELAY + IDLE_MARGIN)),
            (35, Outage(OUTAGE)),
            (50, Idle(FULL_SCAN_INTERVAL + IDLE_MARGIN)),
            (75, Outage(OUTAGE)),
        ],
        vec![(40, Idle(SMOKE)), (60, Outage(SMOKE))],
    )
}

fn run(database: Database, binary: &Path, jobs: usize, seed: u64, mode: Mode) -> Result<JobChaosReport> {
    let (name, folder) = match database {
        Database::Sqlite => ("SQLite, one process", "jobs-sqlite"),
        Database::Postgres => ("PostgreSQL, four worker processes", "jobs-postgres"),
    };
    let folder = fresh_folder(folder)?;
    eprintln!("\n{name}: {jobs} jobs, seed {seed}, in {}", folder.display());
    let mut server = match database {
        Database::Sqlite => None,
        Database::Postgres => {
            Some(PostgresServer::start(PostgresServerOptions { fsync: true, ..Default::default() })?)
        }
    };
    let place = match &server {
        None => ["--data".to_owned(), folder.join("data").display().to_string()],
        Some(server) => ["--database".to_owned(), server.url("postgres")],
    };
    let journal = Arc::new(Mutex::new(Journal::default()));
    let program = Program { binary: binary.to_owned(), place, log: folder.join("log"), journal };
    program.run("migrate")?;
    let mut group = ProcessGroup::start(program.clone(), database)?;
    let mut faults = FaultCounts::default();
    let mut rng = Rng::with_seed(seed);
    let mut events = events(mode).into_iter().peekable();
    let acknowledged = || program.journal().acknowledged.len();
    while acknowledged() < jobs {
        pause(rng.u64(FAULT_INTERVAL_MS));
        group.inject_fault(&mut rng, server.as_mut(), &mut faults)?;
        if (faults.kills + faults.freezes).is_multiple_of(10) {
            eprintln!("  {} acknowledged, {faults:?}", acknowledged());
        }
        while let Some((_, what)) = events.next_if(|(percent, _)| acknowledged() * 100 >= jobs * percent) {
            eprintln!("  {} acknowledged, {what:?}", acknowledged());
            match (what, server.as_mut()) {
                (ScheduledEvent::Idle(length), _) => group.idle(length, &mut faults)?,
                (ScheduledEvent::Outage(length), Some(server)) => {
                    group.outage(server, length, &mut faults)?
                }
                // SQLite has no server to stop. The database is unavailable whenever its process is killed.
                (ScheduledEvent::Outage(_), None) => {}
            }
        }
    }
    group.finish()?;
    let final_state = FinalState::read(&program.run("look")?);
    let journal = program.journal();
    let verdict = JobVerdict::of(&journal, &final_state);
    if let Some(server) = &mut server {
        server.stop(StopMode::Fast)?;
    }
    Ok(JobChaosReport { name, seed, faults, max_number: journal.max_number, stale: journal.stale, verdict })
}
