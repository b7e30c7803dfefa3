//! `cargo xtask chaos jobs`: workers, whoever enqueues, the database and its backends are killed, workers are frozen and the
//! database is away for longer than a lease, while jobs run; in between nothing happens for longer than claims look behind.
//! Then the database is held against what the processes had said.

mod crew;
mod journal;
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

use self::crew::{Blows, Crew, pause};
use self::journal::Journal;
use self::processes::Program;
use self::report::{Report, write_evidence};
use self::verdict::{Left, Verdict};
use super::fresh_folder;
use crate::smoke::Mode;
use crate::workspace::{cargo, root};

/// Between two blows.
const BETWEEN_MS: std::ops::Range<u64> = 300..1_500;
/// A claim finds whatever may be hidden behind its marks within this time.
const LOOK_BEHIND: Duration = Duration::from_secs(300);
/// A transaction that schedules a job is expected to end within this time.
const COMMITTED_WITHIN: Duration = Duration::from_secs(60);
/// By how much rests are longer.
const LONGER: Duration = Duration::from_secs(10);
/// A worker's lease is 6 s; the database is away for longer.
const OUTAGE: Duration = Duration::from_secs(9);
/// The same in a smoke run, in which nothing is longer than anything.
const SMOKE: Duration = Duration::from_millis(500);

/// How many jobs, and where.
#[derive(clap::Args)]
pub struct Args {
    /// Jobs that are acknowledged in each run [default: 100000, smoke: 2000]
    #[arg(long)]
    jobs: Option<usize>,
    /// Only one of the two
    #[arg(long)]
    database: Option<Database>,
    /// What decides the blows; drawn unless given
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    mode: Mode,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Database {
    /// One process that enqueues and works
    Sqlite,
    /// Four that work, one that enqueues, and the server itself
    Postgres,
}

/// Strikes, and fails if anything is lost, done twice or accepted late.
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
    reports.iter().for_each(Report::print);
    if !args.mode.is_smoke() {
        write_evidence(&reports)?;
    }
    ensure!(
        reports.iter().all(|report| report.verdict.is_clean()),
        "jobs were not kept, or not run as promised"
    );
    Ok(())
}

fn build(mode: Mode) -> Result<PathBuf> {
    let mut build = cargo()?;
    build.args(["build", "--locked", "--example", "chaos"]);
    // The features of the whole workspace are those that the tests have built.
    build.args(mode.pick(["--release", "--package=kith-jobs"], ["--profile=dev", "--workspace"]));
    crate::workspace::run(build.stdout(Stdio::inherit()))?;
    Ok(root()?.join(mode.pick("target/release/examples/chaos", "target/debug/examples/chaos")))
}

/// What happens once, when so many of a hundred jobs are acknowledged.
#[derive(Clone, Copy, Debug)]
enum Interlude {
    Rest(Duration),
    Outage(Duration),
}

fn interludes(mode: Mode) -> Vec<(usize, Interlude)> {
    use Interlude::{Outage, Rest};
    mode.pick(
        vec![
            (25, Rest(COMMITTED_WITHIN + LONGER)),
            (35, Outage(OUTAGE)),
            (50, Rest(LOOK_BEHIND + LONGER)),
            (75, Outage(OUTAGE)),
        ],
        vec![(40, Rest(SMOKE)), (60, Outage(SMOKE))],
    )
}

fn run(database: Database, binary: &Path, jobs: usize, seed: u64, mode: Mode) -> Result<Report> {
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
    let mut crew = Crew::start(program.clone(), database)?;
    let mut blows = Blows::default();
    let mut rng = Rng::with_seed(seed);
    let mut interludes = interludes(mode).into_iter().peekable();
    let acknowledged = || program.journal().acknowledged.len();
    while acknowledged() < jobs {
        pause(rng.u64(BETWEEN_MS));
        crew.strike(&mut rng, server.as_mut(), &mut blows)?;
        if (blows.kills + blows.freezes).is_multiple_of(10) {
            eprintln!("  {} acknowledged, {blows:?}", acknowledged());
        }
        while let Some((_, what)) = interludes.next_if(|(percent, _)| acknowledged() * 100 >= jobs * percent)
        {
            eprintln!("  {} acknowledged, {what:?}", acknowledged());
            match (what, server.as_mut()) {
                (Interlude::Rest(length), _) => crew.rest(length, &mut blows)?,
                (Interlude::Outage(length), Some(server)) => crew.outage(server, length, &mut blows)?,
                // Where the database is a part of the process it is away whenever that is killed.
                (Interlude::Outage(_), None) => {}
            }
        }
    }
    crew.finish()?;
    let left = Left::read(&program.run("look")?);
    let journal = program.journal();
    let verdict = Verdict::of(&journal, &left);
    if let Some(server) = &mut server {
        server.stop(StopMode::Fast)?;
    }
    Ok(Report { name, seed, blows, tried: journal.tried, stale: journal.stale, verdict })
}
