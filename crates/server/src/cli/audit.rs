//! `kith audit`: whether the chain over the audit log holds. A running server on SQLite is asked.

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use kith_platform::config::Config;
use kith_store::{EngineOptions, MigrationState, MigrationStatus, OpenError, STORE_MIGRATIONS, Store};

use super::{Failure, Settings, print, runtime};
use crate::control::{self, AuditReport};
use crate::modules::migrations;

#[derive(Debug, Args)]
pub(super) struct Audit {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Recompute the chain over all entries; exit code 1 names the first link at which it breaks
    Verify(Settings),
}

impl Audit {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Command::Verify(settings) = self.command;
        let config = settings.load(Vec::new())?;
        let report = runtime()?.block_on(verify(&config))?;
        print(&format!("The audit chain holds: {} links, head {}", report.links, report.head))
    }
}

async fn verify(config: &Config) -> Result<AuditReport, anyhow::Error> {
    let mut options = config.store_options();
    match Store::migration_status(&options, migrations()).await {
        Err(error @ OpenError::FolderInUse { .. }) => {
            let asked = control::ask_audit(&config.data.folder).await;
            return asked.context("the server that holds the data folder says")?.ok_or_else(|| error.into());
        }
        status => {
            let is_missing = |one: &MigrationStatus| {
                one.state == MigrationState::Pending && one.name.starts_with(STORE_MIGRATIONS.module)
            };
            let missing = status?.into_iter().find(is_missing);
            if let Some(missing) = missing {
                return Err(anyhow!("the database lacks migration {}; run `kith migrate up`", missing.name));
            }
        }
    }
    if let EngineOptions::Postgres(own) = &mut options.engine {
        (own.write_threads, own.read_threads) = (1, 1);
    }
    let store = Store::open(options).await?;
    let chain = store.verify_audit().await;
    store.close().await;
    Ok(chain?.into())
}
