//! `cargo xtask chaos`: injects faults at random moments and verifies that no acknowledged write is lost.

mod clients;
mod jobs;
mod journal;
mod kill;
mod power;
mod rounds;
mod server_view;
mod stop;
mod undo_log;
mod verdict;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::evidence::{Tests, Trials};
use crate::workspace::root;

/// Kind of fault to inject.
#[derive(clap::Subcommand)]
pub enum Chaos {
    /// Kill Kith or PostgreSQL with SIGKILL during acknowledged writes
    Kill(kill::Args),
    /// Cut the power under SQLite: a preloaded shim drops unsynced writes
    Power(power::Args),
    /// Kill and freeze workers, enqueuers and PostgreSQL while jobs run; no job may be lost or run by two
    /// workers
    Jobs(jobs::Args),
    /// Stop the nodes behind HAProxy in turns with SIGTERM; no client may get an error
    Stop(stop::Args),
}

/// Runs the command on a new release build, or on a debug build in a smoke run.
pub fn chaos(which: &Chaos) -> Result<()> {
    match which {
        Chaos::Kill(args) => kill::kill(args),
        Chaos::Jobs(args) => jobs::jobs(args),
        Chaos::Power(args) => power::power(args),
        Chaos::Stop(args) => stop::stop(args),
    }
}

/// Creates an empty folder below `target/chaos`.
fn fresh_folder(name: &str) -> Result<PathBuf> {
    let folder = root()?.join("target/chaos").join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot clear {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// Returns one record of trials for each report without violations.
fn trials(row: &str, reports: &[rounds::RoundsReport]) -> Tests {
    let clean = reports.iter().filter(|report| report.is_clean());
    let trials = clean.map(|report| Trials {
        row: row.to_owned(),
        what: format!("{}: nothing of {} acknowledgements lost", report.name, report.acknowledged),
        trials: report.rounds.into(),
    });
    Tests { trials: trials.collect(), ..Tests::default() }
}
