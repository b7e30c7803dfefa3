//! `cargo xtask chaos jobs`: workers, whoever enqueues, and the database are killed, and workers frozen past their lease,
//! while jobs run; then the database is held against what the processes had said.

mod journal;
mod processes;
mod verdict;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;
use fastrand::Rng;
use kith_store::testing::server::{PostgresServer, PostgresServerOptions, StopMode};
use serde_json::json;

use self::journal::Journal;
use self::processes::{Process, Program, now_ms};
use self::verdict::{Left, Verdict};
use super::fresh_folder;
use crate::evidence::{self, Outcome, Row, Tests, Trials};
use crate::load::now;
use crate::smoke::Mode;
use crate::workspace::{cargo, root};

/// Worker processes on PostgreSQL.
const WORKERS: usize = 4;
/// Jobs that run at once in each, and how long each takes at most.
const CONCURRENCY: u64 = 20;
const MOST_MS: u64 = 20;
/// Jobs are enqueued at this rate, so that blows fall among them.
const PER_S: u64 = 1_500;
/// Between two blows.
const BETWEEN_MS: std::ops::Range<u64> = 300..1_500;
/// A worker's lease is 6 s; frozen ones sleep longer.
const FROZEN_MS: std::ops::Range<i64> = 7_000..10_000;
/// When the last blow has fallen, everything is done within this time.
const DONE_WITHIN: Duration = Duration::from_secs(120);

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

/// What fell on whom.
#[derive(Clone, Copy, Debug, Default)]
struct Blows {
    kills: u32,
    freezes: u32,
    database_kills: u32,
}

struct Report {
    name: &'static str,
    seed: u64,
    blows: Blows,
    verdict: Verdict,
    stale: i64,
}

/// Strikes, and fails if anything is lost, done twice or accepted late.
pub fn jobs(args: &Args) -> Result<()> {
    let binary = build(args.mode)?;
    let jobs = args.jobs.unwrap_or(args.mode.pick(100_000, 2_000));
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let mut reports = Vec::new();
    for database in [Database::Sqlite, Database::Postgres] {
        if args.database.is_none_or(|only| only == database) {
            reports.push(run(database, &binary, jobs, seed)?);
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

fn run(database: Database, binary: &Path, jobs: usize, seed: u64) -> Result<Report> {
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
    while program.journal().acknowledged.len() < jobs {
        pause(rng.u64(BETWEEN_MS));
        crew.strike(&mut rng, server.as_mut(), &mut blows)?;
        if (blows.kills + blows.freezes).is_multiple_of(10) {
            eprintln!("  {} acknowledged, {blows:?}", program.journal().acknowledged.len());
        }
    }
    crew.finish(&program)?;
    let left = Left::read(&program.run("look")?);
    let journal = program.journal();
    let verdict = Verdict::of(&journal, &left);
    if let Some(server) = &mut server {
        server.stop(StopMode::Fast)?;
    }
    Ok(Report { name, seed, blows, stale: journal.stale, verdict })
}

/// The processes of one run.
struct Crew {
    program: Program,
    database: Database,
    /// On PostgreSQL the last one enqueues; on SQLite there is one.
    all: Vec<Process>,
    thaw_at: Option<(usize, i64)>,
}

impl Crew {
    fn start(program: Program, database: Database) -> Result<Self> {
        let mut crew = Self { program, database, all: Vec::new(), thaw_at: None };
        let count = if database == Database::Sqlite { 1 } else { WORKERS + 1 };
        for at in 0..count {
            let process = crew.fresh(at)?;
            crew.all.push(process);
        }
        Ok(crew)
    }

    /// Another process in this place.
    fn fresh(&self, at: usize) -> Result<Process> {
        let task = match self.database {
            Database::Sqlite => "both",
            Database::Postgres if at == WORKERS => "enqueue",
            Database::Postgres => "work",
        };
        let from = self.program.journal().tried + 1;
        let words = ["--from", &from.to_string(), "--rate", &PER_S.to_string()].map(str::to_owned);
        let mut more = words.to_vec();
        more.extend(
            ["--concurrency", &CONCURRENCY.to_string(), "--most-ms", &MOST_MS.to_string()].map(str::to_owned),
        );
        self.program.start(task, &more)
    }

    fn strike(
        &mut self,
        rng: &mut Rng,
        server: Option<&mut PostgresServer>,
        blows: &mut Blows,
    ) -> Result<()> {
        if let Some((at, _)) = self.thaw_at.filter(|(_, when)| *when <= now_ms()) {
            self.all[at].thaw()?;
            self.thaw_at = None;
        }
        for process in &mut self.all {
            ensure!(!process.has_ended()?, "a process ended by itself; see {}", self.program.log.display());
        }
        let at = rng.usize(..self.all.len());
        let Some(server) = server else { return self.kill(at, blows) };
        match rng.u32(..100) {
            0..7 => {
                server.kill()?;
                server.start_again()?;
                blows.database_kills += 1;
            }
            7..25 if self.thaw_at.is_none() && at != WORKERS => {
                self.all[at].freeze()?;
                self.thaw_at = Some((at, now_ms() + rng.i64(FROZEN_MS)));
                blows.freezes += 1;
            }
            _ if !self.all[at].is_frozen() => self.kill(at, blows)?,
            _ => {}
        }
        Ok(())
    }

    fn kill(&mut self, at: usize, blows: &mut Blows) -> Result<()> {
        self.all.swap_remove(at).kill()?;
        let fresh = self.fresh(at)?;
        self.all.push(fresh);
        let last = self.all.len() - 1;
        self.all.swap(at, last);
        blows.kills += 1;
        Ok(())
    }

    /// Nothing more is enqueued and nobody struck; what is there is done, and all leave in peace.
    fn finish(mut self, program: &Program) -> Result<()> {
        if let Some((at, _)) = self.thaw_at.take() {
            self.all[at].thaw()?;
        }
        self.all.iter_mut().for_each(|process| process.order("stop"));
        let began = now();
        loop {
            program.journal().left = None;
            self.all[0].order("left");
            pause(500);
            let left = program.journal().left;
            if left == Some(0) {
                break;
            }
            if began.elapsed() > DONE_WITHIN {
                bail!("{left:?} jobs have not ended {DONE_WITHIN:?} after the last blow");
            }
        }
        eprintln!("  everything has ended {:.1} s after the last blow", began.elapsed().as_secs_f64());
        for process in self.all {
            process.leave().context("leaving in peace")?;
        }
        Ok(())
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the moment of a blow is drawn, and nothing else says when it has come"
)]
fn pause(ms: u64) {
    thread::sleep(Duration::from_millis(ms));
}

impl Report {
    fn print(&self) {
        let Self { name, seed, blows, verdict, stale } = self;
        let Blows { kills, freezes, database_kills } = blows;
        println!("jobs on {name} (seed {seed})");
        println!(
            "  {kills} kills of processes, {freezes} frozen past their lease, {database_kills} kills of the database"
        );
        println!(
            "  {} acknowledged, {} executed, {} pending, {} dead letters: {} lost",
            verdict.acknowledged,
            verdict.executed,
            verdict.pending,
            verdict.dead,
            verdict.lost.len()
        );
        println!(
            "  {} jobs run again, {} wrong effects, {} attempts together",
            verdict.run_again,
            verdict.wrong_effects.len(),
            verdict.together.len()
        );
        println!(
            "  {} attempts frozen, {} of them ended late and counted for nothing ({stale} told so); {} stale ends accepted",
            verdict.frozen,
            verdict.fenced_off,
            verdict.stale_accepted.len()
        );
        verdict.faults().iter().for_each(|fault| println!("  - {fault}"));
    }

    fn figures(&self) -> serde_json::Value {
        let Self { name, seed, blows, verdict, stale } = self;
        json!({
            "on": name,
            "seed": seed,
            "kills": blows.kills,
            "freezes": blows.freezes,
            "database_kills": blows.database_kills,
            "acknowledged": verdict.acknowledged,
            "executed": verdict.executed,
            "pending": verdict.pending,
            "dead": verdict.dead,
            "lost": verdict.lost.len(),
            "run_again": verdict.run_again,
            "wrong_effects": verdict.wrong_effects.len(),
            "together": verdict.together.len(),
            "frozen_attempts": verdict.frozen,
            "fenced_off": verdict.fenced_off,
            "told_stale": stale,
            "stale_accepted": verdict.stale_accepted.len(),
        })
    }
}

/// A hundred thousand acknowledged jobs show what the rows ask for; fewer show only what went wrong.
fn write_evidence(reports: &[Report]) -> Result<()> {
    let verdicts = || reports.iter().map(|report| &report.verdict);
    let acknowledged: usize = verdicts().map(|verdict| verdict.acknowledged).sum();
    let (kills, freezes) = reports.iter().fold((0, 0), |(kills, freezes), report| {
        (kills + report.blows.kills + report.blows.database_kills, freezes + report.blows.freezes)
    });
    let count = |of: fn(&Verdict) -> usize| verdicts().map(of).sum::<usize>();
    let figures = || json!(reports.iter().map(Report::figures).collect::<Vec<_>>());
    let row = |id, faults: usize, is_enough: bool, summary: String| {
        (is_enough || faults > 0).then(|| Row {
            id,
            result: Outcome::of(faults == 0),
            figures: figures(),
            summary,
        })
    };
    let (lost, pending) = (count(|v| v.lost.len()), count(|v| v.pending));
    let (wrong, again) = (count(|v| v.wrong_effects.len()), count(|v| v.run_again));
    let (stale, fenced) = (count(|v| v.stale_accepted.len()), count(|v| v.fenced_off));
    let together = count(|v| v.together.len());
    let is_large = acknowledged >= 100_000;
    let has_four = reports.iter().any(|report| report.name.contains("four"));
    let rows = [
        row(
            "DRV-06",
            lost + pending,
            is_large && kills > 0,
            format!("{kills} kills, {acknowledged} jobs acknowledged, {lost} lost, {pending} left over"),
        ),
        row("DRV-07", wrong, is_large && again > 0, format!("{again} jobs run again, {wrong} effects wrong")),
        row(
            "DRV-08",
            stale + together,
            freezes > 0 && fenced > 0,
            format!(
                "{freezes} workers frozen past their lease, {fenced} late ends fenced off, {stale} accepted"
            ),
        ),
        row(
            "JOB-04",
            together,
            has_four && is_large,
            format!("four worker processes, {acknowledged} jobs, {together} run by two at once"),
        ),
    ];
    let trials = reports.iter().filter(|report| report.verdict.is_clean()).map(|report| Trials {
        row: "DRV-06".to_owned(),
        what: format!(
            "jobs on {}: nothing of {} acknowledgements lost",
            report.name, report.verdict.acknowledged
        ),
        trials: u64::from(report.blows.kills + report.blows.freezes + report.blows.database_kills),
    });
    let tests = Tests { trials: trials.collect(), ..Tests::default() };
    let rows: Vec<_> = rows.into_iter().flatten().collect();
    evidence::write_with_tests("cargo xtask chaos jobs", &rows, &tests)
}
