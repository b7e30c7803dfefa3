//! `kith migrate`: the schema, looked at and changed. A running server is asked, never worked around.

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
    /// Which migrations are applied and which are missing
    Status(Settings),
    /// Apply what is missing
    Up(Settings),
    /// Undo the last migrations, and with them the data in their tables
    Down(Down),
}

#[derive(Debug, Args)]
struct Down {
    #[command(flatten)]
    settings: Settings,
    /// How many
    #[arg(long, default_value_t = 1, value_name = "N")]
    steps: usize,
}

impl Migrate {
    pub(super) fn run(self) -> Result<(), Failure> {
        runtime()?.block_on(async {
            match self.command {
                Command::Status(settings) => status(&settings.load(Vec::new())?).await,
                Command::Up(settings) => up(&settings.load(Vec::new())?).await,
                Command::Down(Down { settings, steps }) => down(&settings.load(Vec::new())?, steps).await,
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
            let asked = control::ask_migrations(&config.data.folder).await;
            let answer = asked.context("the server that holds the data folder does not answer")?;
            answer.ok_or_else(|| anyhow::Error::from(error).into())
        }
        other => Ok(other.map_err(anyhow::Error::from)?),
    }
}

async fn up(config: &Config) -> Result<(), Failure> {
    let now = SystemClock.now();
    let applied = Store::migrate_up(&config.store_options(), migrations(), now).await.map_err(in_the_way)?;
    report("applied", &applied)
}

async fn down(config: &Config, steps: usize) -> Result<(), Failure> {
    let undone =
        Store::migrate_down(&config.store_options(), migrations(), steps).await.map_err(in_the_way)?;
    report("undone", &undone)
}

fn in_the_way(error: OpenError) -> anyhow::Error {
    let held = matches!(error, OpenError::FolderInUse { .. });
    let error = anyhow::Error::from(error);
    if held { error.context("stop the server before changing its schema") } else { error }
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
        MigrationState::Pending => format!("missing  {name}"),
        MigrationState::Changed => {
            format!("changed  {name}  (applied with another text than this build has)")
        }
        MigrationState::Unknown => format!("unknown  {name}  (applied by a newer build)"),
    }
}
