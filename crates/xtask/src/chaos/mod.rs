//! `cargo xtask chaos`: blows at random moments, and the proof that nothing acknowledged was lost by them.

mod clients;
mod jobs;
mod journal;
mod kill;
mod look;
mod power;
mod rounds;
mod stop;
mod undo;
mod verdict;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::evidence::{Tests, Trials};
use crate::workspace::root;

/// Which kind of blow.
#[derive(clap::Subcommand)]
pub enum Chaos {
    /// SIGKILL during acknowledged writes: to Kith on each database, and to PostgreSQL under it
    Kill(kill::Args),
    /// Power cuts under SQLite: unsynced writes are dropped, by a shim under the binary
    Power(power::Args),
    /// SIGKILL and SIGSTOP to whoever enqueues and works while jobs run, and to PostgreSQL; none may be lost or run by two
    Jobs(jobs::Args),
    /// SIGTERM to one of two nodes behind HAProxy, in turns; nobody may notice
    Stop(stop::Args),
}

/// Runs it on the release binary, or in a smoke run on the debug binary, which it builds first.
pub fn chaos(which: &Chaos) -> Result<()> {
    match which {
        Chaos::Kill(args) => kill::kill(args),
        Chaos::Jobs(args) => jobs::jobs(args),
        Chaos::Power(args) => power::power(args),
        Chaos::Stop(args) => stop::stop(args),
    }
}

/// An empty folder for one run, below `target/chaos`.
fn fresh_folder(name: &str) -> Result<PathBuf> {
    let folder = root()?.join("target/chaos").join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot clear {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// How often each clean report tried it.
fn trials(row: &str, reports: &[rounds::Report]) -> Tests {
    let clean = reports.iter().filter(|report| report.is_clean());
    let trials = clean.map(|report| Trials {
        row: row.to_owned(),
        what: format!("{}: nothing of {} acknowledgements lost", report.name, report.acknowledged),
        trials: report.rounds.into(),
    });
    Tests { trials: trials.collect(), ..Tests::default() }
}
