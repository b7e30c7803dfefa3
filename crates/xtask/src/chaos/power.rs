//! `cargo xtask chaos power`: simulates power cuts under SQLite. After a kill, writes that were not synced
//! are reverted on disk.
//!
//! A kill alone cannot reveal a missing fsync, because the page cache survives it. A twin of the server runs
//! without sync and must lose data, which proves that the harness detects losses.

use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use fastrand::Rng;
use serde_json::json;

use super::rounds::{self, AccountCounts, RoundsReport, Size, Target};
use super::undo_log::{Loss, UndoLog};
use super::{fresh_folder, trials};
use crate::evidence::{self, EvidenceOutcome, EvidenceRow};
use crate::kith::{Kith, Start, build};
use crate::mode::Mode;
use crate::workspace::{root, run};

/// Options of `cargo xtask chaos power`.
#[derive(clap::Args)]
pub struct Args {
    /// Number of power cuts [default: 100, smoke: 1]
    #[arg(long)]
    rounds: Option<u32>,
    /// Test only the twin, which does not sync and must lose data
    #[arg(long)]
    twin: bool,
    /// Seed of the random moments and losses [default: random]
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    mode: Mode,
}

/// Cuts the power repeatedly. Fails if an acknowledged write is lost, or if the twin loses nothing.
pub fn power(args: &Args) -> Result<()> {
    let binary = build(args.mode)?;
    let shim = build_shim()?;
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let mut reports = Vec::new();
    let size = Size {
        rounds: args.rounds.unwrap_or(args.mode.pick(100, 1)),
        accounts: AccountCounts::of(args.mode),
    };
    let target =
        |synchronous, folder: &Path| PowerCutTarget::new(synchronous, args.mode, &binary, &shim, folder);
    if !args.twin {
        let folder = fresh_folder("power")?;
        let target = target(Synchronous::Full, &folder)?;
        reports.push(run_power_cuts("power cut on SQLite", target, &folder, size, seed)?);
    }
    let folder = fresh_folder("power-twin")?;
    let target = target(Synchronous::Off, &folder)?;
    reports.push(run_power_cuts("its twin without syncs", target, &folder, size, seed)?);
    println!();
    reports.iter().for_each(|report| println!("{report}"));
    let twin = reports.pop().expect("the twin always runs");
    if twin.verdict.lost.is_empty() && twin.verdict.half_applied.is_empty() && twin.start_failure.is_none() {
        bail!("the harness does not detect loss: the twin without syncs lost nothing");
    }
    println!("the twin lost writes as expected: the harness detects loss");
    let is_clean = reports.iter().all(|report| report.is_clean());
    let summary = "a power cut lost acknowledged writes".to_owned();
    let row = EvidenceRow { id: "DRV-27", result: EvidenceOutcome::Fail, figures: json!({}), summary };
    let rows: Vec<_> = (!is_clean).then_some(row).into_iter().collect();
    if !args.mode.is_smoke() {
        evidence::write_with_tests("cargo xtask chaos power", &rows, &trials("DRV-27", &reports))?;
    }
    if !is_clean {
        bail!("Kith lost acknowledged writes; its folder is left unchanged");
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Synchronous {
    Full,
    Off,
}

fn build_shim() -> Result<PathBuf> {
    let (source, shim) = (root()?.join("crates/xtask/shim/power.c"), root()?.join("target/power-shim.so"));
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"])
        .arg(&shim)
        .arg(source)
        .arg("-ldl");
    run(&mut cc)?;
    Ok(shim)
}

fn run_power_cuts(
    name: &str,
    mut target: PowerCutTarget,
    folder: &Path,
    size: Size,
    seed: u64,
) -> Result<RoundsReport> {
    eprintln!("\n{name}: {} rounds, seed {seed}, in {}", size.rounds, folder.display());
    let report = rounds::run(name, &mut target, size, seed, &folder.join("journal"))?;
    let PowerCutTarget { steps, lost, syncs, synchronous, .. } = target;
    eprintln!("  {steps} writes recorded, {syncs} syncs, {lost} unsynced writes reverted");
    if steps == 0 || (synchronous == Synchronous::Full && syncs == 0) {
        bail!("the shim recorded {steps} writes and {syncs} syncs: it is not active in the database");
    }
    Ok(report)
}

struct PowerCutTarget {
    synchronous: Synchronous,
    mode: Mode,
    start: Start,
    kith: Option<Kith>,
    /// File in which the shim records writes.
    shim_journal: PathBuf,
    steps: u64,
    syncs: u64,
    lost: usize,
}

impl PowerCutTarget {
    fn new(synchronous: Synchronous, mode: Mode, binary: &Path, shim: &Path, folder: &Path) -> Result<Self> {
        let (data, shim_journal) = (folder.join("data"), folder.join("shim"));
        let mut start =
            Start { binary: binary.to_owned(), data, log: folder.join("kith.log"), ..Start::default() };
        // The first start creates the schema and the keys without the shim, so that they are on disk.
        Kith::start(&start)?.stop()?;
        let set = |key: &str, value: &Path| (key.to_owned(), value.display().to_string());
        start.environment = vec![
            set("LD_PRELOAD", shim),
            set("KITH_SHIM_DIR", &start.data),
            set("KITH_SHIM_JOURNAL", &shim_journal),
        ];
        if synchronous == Synchronous::Off {
            start.environment.push(("KITH__DATABASE__SYNCHRONOUS".to_owned(), "off".to_owned()));
        }
        Ok(Self { synchronous, mode, start, kith: None, shim_journal, steps: 0, syncs: 0, lost: 0 })
    }
}

impl Target for PowerCutTarget {
    fn start(&mut self) -> Result<SocketAddr> {
        if self.shim_journal.exists() {
            fs::remove_file(&self.shim_journal)?;
        }
        Ok(self.kith.insert(Kith::start(&self.start)?).address)
    }

    fn inject_fault(&mut self, rng: &mut Rng) -> Result<()> {
        self.kith.take().map_or(Ok(()), Kith::kill)?;
        let log = UndoLog::read(&fs::read(&self.shim_journal).context("the shim's journal")?)?;
        // A smoke run has a single cut. All unsynced writes are lost in it, so that the twin certainly loses
        // data.
        let loss = if self.mode.is_smoke() { Loss::All } else { Loss::draw(rng) };
        self.lost += log.cut(loss, rng)?;
        self.steps += log.steps;
        self.syncs += log.syncs;
        for entry in fs::read_dir(&self.start.data)? {
            let path = entry?.path();
            if path.extension().and_then(OsStr::to_str).is_some_and(|extension| extension.ends_with("-shm")) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        self.kith.take().map_or(Ok(()), |kith| kith.stop().map(drop))
    }
}
