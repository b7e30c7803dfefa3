//! `kith migrate`: shows and changes the database schema. While a server uses the SQLite data folder, that
//! server answers `status`, and changes are rejected.

use std::io::{IsTerminal as _, stdin};

use anyhow::Context;
use clap::{Args, Subcommand};
use kith_kernel::{Clock, SystemClock};
use kith_platform::config::Config;
use kith_store::{MigrationState, MigrationStatus, OpenError, Store};

use super::{Failure, Settings, print, runtime};
use crate::control;
use crate::modules::migrations;

#[derive(Debug, Args)]
pub(super) struct Migrate {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List applied and pending migrations
    Status(Settings),
    /// Apply pending migrations
    Up(Settings),
    /// Revert the latest migrations and delete the data in their tables
    Down(Down),
}

#[derive(Debug, Args)]
struct Down {
    #[command(flatten)]
    settings: Settings,
    /// Number of migrations to revert
    #[arg(long, default_value_t = 1, value_name = "N")]
    steps: usize,
    /// Print the migrations that would be reverted, without changing anything
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
}

impl Migrate {
    pub(super) fn run(self) -> Result<(), Failure> {
        runtime()?.block_on(async {
            match self.command {
                Command::Status(settings) => status(&settings.load(Vec::new())?).await,
                Command::Up(settings) => up(&settings.load(Vec::new())?).await,
                Command::Down(Down { settings, steps, dry_run, yes }) => {
                    down(&settings.load(Vec::new())?, steps, dry_run, yes).await
                }
            }
        })
    }
}

async fn status(config: &Config) -> Result<(), Failure> {
    for migration in find_status(config).await? {
        print(&line(&migration))?;
    }
    Ok(())
}

async fn find_status(config: &Config) -> Result<Vec<MigrationStatus>, Failure> {
    match Store::migration_status(&config.store_options(), migrations()).await {
        Err(error @ OpenError::FolderInUse { .. }) => {
            let reply = control::get_migrations(&config.data.folder).await;
            let response = reply.context("the server that runs on the data folder does not respond")?;
            response.ok_or_else(|| anyhow::Error::from(error).into())
        }
        other => Ok(other.map_err(anyhow::Error::from)?),
    }
}

async fn up(config: &Config) -> Result<(), Failure> {
    let now = SystemClock.now();
    let applied = Store::migrate_up(&config.store_options(), migrations(), now).await.map_err(as_failure)?;
    report("applied", &applied)
}

async fn down(config: &Config, steps: usize, dry_run: bool, yes: bool) -> Result<(), Failure> {
    let is_applied = |one: &MigrationStatus| matches!(one.state, MigrationState::Applied { .. });
    let applied: Vec<_> = find_status(config).await?.into_iter().filter(is_applied).collect();
    let last: Vec<_> = applied.iter().rev().take(steps).map(|one| one.name.clone()).collect();
    if dry_run {
        return report("would revert", &last);
    }
    if !yes && !last.is_empty() && !confirm(&last)? {
        return Err(anyhow::anyhow!("no migration was reverted").into());
    }
    let undone =
        Store::migrate_down(&config.store_options(), migrations(), steps).await.map_err(as_failure)?;
    report("reverted", &undone)
}

/// Requests a confirmation on the terminal. Without a terminal, fails and refers to `--yes`.
fn confirm(names: &[String]) -> Result<bool, Failure> {
    if !stdin().is_terminal() {
        let advice = "this deletes the tables of these migrations and their data: repeat the command with \
                   --yes, or check it with --dry-run";
        return Err(anyhow::anyhow!("{advice} ({})", names.join(", ")).into());
    }
    names.iter().try_for_each(|name| print(&format!("will revert {name}")))?;
    print("This deletes their tables and the data in them. Type yes to continue:")?;
    let mut response = String::new();
    stdin().read_line(&mut response).map_err(anyhow::Error::from)?;
    Ok(response.trim() == "yes")
}

fn as_failure(error: OpenError) -> anyhow::Error {
    let is_in_use = matches!(error, OpenError::FolderInUse { .. });
    let error = anyhow::Error::from(error);
    if is_in_use { error.context("stop the server before changing its schema") } else { error }
}

fn report(done: &str, names: &[String]) -> Result<(), Failure> {
    if names.is_empty() {
        return print("Nothing to do.");
    }
    names.iter().try_for_each(|name| print(&format!("{done} {name}")))
}

fn line(migration: &MigrationStatus) -> String {
    let name = &migration.name;
    match migration.state {
        MigrationState::Applied { at } => format!("applied  {name}  {at}"),
        MigrationState::Pending => format!("pending  {name}"),
        MigrationState::Changed => {
            format!("changed  {name}  (differs from the migration of this build)")
        }
        MigrationState::Unknown => format!("unknown  {name}  (applied by a newer build)"),
    }
}
