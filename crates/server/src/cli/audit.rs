//! `kith audit`: whether the chain over the audit log holds and contains the heads that were remembered. A running server
//! on SQLite is asked.

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use kith_kernel::SystemRandom;
use kith_platform::audit::head;
use kith_platform::config::Config;
use kith_store::{
    AuditHead, AuditHeadFile, EngineOptions, MigrationState, MigrationStatus, OpenError, STORE_MIGRATIONS,
    Store,
};

use super::{Failure, Settings, print, runtime};
use crate::control::{self, AuditReport, Command as Order, Reply};
use crate::modules::migrations;

#[derive(Debug, Args)]
pub(super) struct Audit {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Recompute the chain over all entries and compare it with the head remembered in the data folder; exit code 1 names
    /// the first link at which it breaks
    Verify {
        #[command(flatten)]
        settings: Settings,
        /// Head that the chain must contain, as an earlier run or the server's log printed it
        #[arg(long, value_name = "LINKS:HASH")]
        expect_head: Option<AuditHead>,
    },
    /// Accept the chain as it is, after a backup was restored on purpose; leaves an audit entry
    AcceptHead(Settings),
}

impl Audit {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Verify { settings, expect_head } => {
                let config = settings.load(Vec::new())?;
                let report = runtime()?.block_on(verify(config, expect_head))?;
                let AuditReport { links, head, unkeyed } = report;
                print(&format!("The audit chain holds: {links} links, head {head}"))?;
                if unkeyed > 0 {
                    print(&format!(
                        "The first {unkeyed} links were sealed without a key; the links after them protect them"
                    ))?;
                }
                print(&format!("Note the head down elsewhere; later: kith audit verify --expect-head {head}"))
            }
            Command::AcceptHead(settings) => {
                let accepted = control::run(settings.load(Vec::new())?, Order::AuditAcceptHead);
                match runtime()?.block_on(accepted)? {
                    Reply::AuditHeadAccepted(head) => print(&format!("Accepted: head {head}")),
                    other => Err(anyhow::Error::from(control::misunderstood(&other)).into()),
                }
            }
        }
    }
}

async fn verify(mut config: Config, expected: Option<AuditHead>) -> Result<AuditReport, anyhow::Error> {
    config.fill_development_secrets(&SystemRandom)?;
    let mut options = config.store_options();
    match Store::migration_status(&options, migrations()).await {
        Err(error @ OpenError::FolderInUse { .. }) => {
            let asked = control::ask_audit(&config.data.folder, expected).await;
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
    let file = AuditHeadFile::of(&options, &config.data.folder)?;
    let store = Store::open(options).await?;
    let chain = head::verify(&store, &file, expected).await;
    store.close().await;
    Ok(chain?.into())
}
