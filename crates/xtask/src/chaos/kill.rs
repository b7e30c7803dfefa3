//! `cargo xtask chaos kill`: sends SIGKILL to Kith or to its PostgreSQL server while writes are acknowledged.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, thread};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use fastrand::Rng;
use kith_store::testing::server::{PostgresServer, PostgresServerOptions, StopMode};
use serde_json::json;

use super::rounds::{self, AccountCounts, RoundsReport, Size, Target};
use super::{fresh_folder, trials};
use crate::evidence::{self, EvidenceOutcome, EvidenceRow};
use crate::kith::{Kith, Start, build};
use crate::load::now;
use crate::mode::Mode;

/// Maximum time until the last statements of a killed Kith end. It is equal to Kith's request timeout.
const ORPHANS_END_WITHIN: Duration = Duration::from_secs(30);

/// Options of `cargo xtask chaos kill`.
#[derive(clap::Args)]
pub struct Args {
    /// Number of kills for each target [default: 100, smoke: 1]
    #[arg(long)]
    rounds: Option<u32>,
    /// Kill only one target
    #[arg(long)]
    database: Option<KillTarget>,
    /// Seed of the random moments [default: random]
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    mode: Mode,
}

/// Process to kill, and the database in use.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KillTarget {
    /// Kith, on SQLite
    Sqlite,
    /// Kith, on PostgreSQL
    Postgres,
    /// PostgreSQL, while Kith keeps running
    PostgresServer,
}

/// Runs rounds of acknowledged writes and kills. Fails if an acknowledged write is lost.
pub fn kill(args: &Args) -> Result<()> {
    let binary = build(args.mode)?;
    let rounds = args.rounds.unwrap_or(args.mode.pick(100, 1));
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let all = [KillTarget::Sqlite, KillTarget::Postgres, KillTarget::PostgresServer];
    let mut reports = Vec::new();
    for target in all.into_iter().filter(|target| args.database.is_none_or(|only| only == *target)) {
        let (name, folder) = match target {
            KillTarget::Sqlite => ("kill -9 of Kith on SQLite", "kill-sqlite"),
            KillTarget::Postgres => ("kill -9 of Kith on PostgreSQL", "kill-postgres"),
            KillTarget::PostgresServer => ("kill -9 of PostgreSQL under Kith", "kill-postgres-server"),
        };
        let folder = fresh_folder(folder)?;
        eprintln!("\n{name}: {rounds} rounds, seed {seed}, in {}", folder.display());
        let journal = folder.join("journal");
        let mut target = KilledSystem::new(target, &binary, folder)?;
        let size = Size { rounds, accounts: AccountCounts::of(args.mode) };
        reports.push(rounds::run(name, &mut target, size, seed, &journal)?);
    }
    println!();
    reports.iter().for_each(|report| println!("{report}"));
    if !args.mode.is_smoke() {
        write_evidence(&reports)?;
    }
    if reports.iter().any(|report| !report.is_clean()) {
        bail!("Kith lost acknowledged writes; its folder is left unchanged");
    }
    Ok(())
}

/// Writes evidence. The rows pass only with at least 100 kills and 100,000 acknowledgements.
fn write_evidence(reports: &[RoundsReport]) -> Result<()> {
    let kills: u32 = reports.iter().map(|report| report.rounds).sum();
    let acknowledged: u64 = reports.iter().map(|report| report.acknowledged).sum();
    let is_clean = reports.iter().all(RoundsReport::is_clean);
    let is_enough = kills >= 100 && acknowledged >= 100_000;
    let summary = format!(
        "{kills} kills, {acknowledged} acknowledged, {}",
        if is_clean { "0 lost, doubled or half applied" } else { "some lost, doubled or half applied" }
    );
    let row = |id| EvidenceRow {
        id,
        result: EvidenceOutcome::of(is_clean),
        figures: json!({ "kills": kills, "acknowledged": acknowledged }),
        summary: summary.clone(),
    };
    let rows: Vec<_> = ["DRV-27", "DAT-08"].map(row).into_iter().filter(|_| is_enough || !is_clean).collect();
    evidence::write_with_tests("cargo xtask chaos kill", &rows, &trials("DRV-27", reports))
}

struct KilledSystem {
    target: KillTarget,
    start: Start,
    kith: Option<Kith>,
    server: Option<PostgresServer>,
}

impl KilledSystem {
    fn new(target: KillTarget, binary: &Path, folder: PathBuf) -> Result<Self> {
        let server = match target {
            KillTarget::Sqlite => None,
            KillTarget::Postgres | KillTarget::PostgresServer => {
                // fsync is on, because PostgreSQL would otherwise acknowledge writes that are only in its own
                // memory.
                Some(PostgresServer::start(PostgresServerOptions { fsync: true, ..Default::default() })?)
            }
        };
        let data = folder.join("data");
        fs::create_dir(&data).context("the data folder")?;
        let start = Start {
            binary: binary.to_owned(),
            data,
            database: server.as_ref().map(|server| server.url("postgres")),
            log: folder.join("kith.log"),
            ..Start::default()
        };
        Ok(Self { target, start, kith: None, server })
    }
}

/// Waits until the database connections of a killed Kith are closed. PostgreSQL first completes the
/// statements that it has received. A commit between two reads of the comparison would look like a
/// half-applied change.
fn wait_for_orphans(postmaster: u32) -> Result<()> {
    let began = now();
    while clients_of(postmaster)? > 0 {
        if began.elapsed() > ORPHANS_END_WITHIN {
            bail!("PostgreSQL still works for a Kith that was killed {ORPHANS_END_WITHIN:?} ago");
        }
        #[expect(clippy::disallowed_methods, reason = "the end of another's child cannot be waited for")]
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Returns the number of PostgreSQL backends that serve Kith, identified by the user name in their process
/// titles.
fn clients_of(postmaster: u32) -> Result<usize> {
    let is_child = |process: &Path| {
        let status = fs::read_to_string(process.join("status")).unwrap_or_default();
        status
            .lines()
            .any(|line| line.strip_prefix("PPid:").is_some_and(|p| p.trim() == postmaster.to_string()))
    };
    let is_client = |process: &Path| {
        fs::read(process.join("cmdline")).is_ok_and(|title| title.starts_with(b"postgres: kith "))
    };
    let processes = fs::read_dir("/proc")?.flatten().map(|entry| entry.path());
    Ok(processes.filter(|process| is_client(process) && is_child(process)).count())
}

impl Target for KilledSystem {
    fn start(&mut self) -> Result<SocketAddr> {
        if let Some(server) = &mut self.server {
            server.restart()?;
            if let (None, Some(postmaster)) = (&self.kith, server.pid()) {
                wait_for_orphans(postmaster)?;
            }
        }
        let kith = match self.kith.take() {
            Some(kith) => kith,
            None => Kith::start(&self.start)?,
        };
        Ok(self.kith.insert(kith).address)
    }

    fn inject_fault(&mut self, _: &mut Rng) -> Result<()> {
        match (self.target, &mut self.server) {
            (KillTarget::PostgresServer, Some(server)) => Ok(server.kill()?),
            _ => self.kith.take().map_or(Ok(()), Kith::kill),
        }
    }

    fn end(&mut self) -> Result<()> {
        if let Some(kith) = self.kith.take() {
            let status = kith.stop()?;
            if !status.success() {
                bail!("kith ended with {status} on a stop request");
            }
        }
        Ok(self.server.take().map_or(Ok(()), |mut server| server.stop(StopMode::Fast))?)
    }
}
