//! `kith audit`: whether the chain over the audit log holds and contains the heads that were remembered. A running server
//! on SQLite is asked.

use std::path::PathBuf;

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
use crate::control::{self, ArchiveReport, AuditReport, Command as Order, Reply};
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
        /// So many of the first links may be sealed without a key, by a version that had none
        #[arg(long, value_name = "LINKS", default_value_t = 0)]
        allow_unkeyed: u32,
        /// Recompute this archive instead, and print where it begins and ends
        #[arg(long, value_name = "FILE", conflicts_with = "expect_head")]
        archive: Option<PathBuf>,
    },
    /// Move old entries with their links into a file of JSON lines, at most 100,000 at a time, and leave an audit entry that
    /// names the last; personal details are removed and not archived. On PostgreSQL it uses `database.migrate_url`
    Archive {
        #[command(flatten)]
        settings: Settings,
        /// Archive entries that are older than this
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..))]
        older_than_days: u16,
        /// The file to make
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Accept the chain as it is, after a backup was restored on purpose; leaves an audit entry
    AcceptHead(Settings),
}

impl Audit {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Verify { settings, archive: Some(file), .. } => {
                let file = std::path::absolute(file).context("the path of the archive")?;
                let report = archive(settings, Order::AuditVerifyArchive { file })?;
                let ArchiveReport { links, from, to, .. } = report;
                print(&format!("The archive holds: {links} links, behind head {from}, up to head {to}"))
            }
            Command::Archive { settings, older_than_days, file } => {
                let file = std::path::absolute(file).context("the path of the archive")?;
                let path = file.display().to_string();
                let report = archive(settings, Order::AuditArchive { older_than_days, file })?;
                let ArchiveReport { links, from, to, more } = report;
                print(&format!("Moved {links} links to {path}: behind head {from}, up to head {to}"))?;
                if more {
                    print("Entries as old are left: run it again with another file")?;
                }
                Ok(())
            }
            Command::Verify { settings, expect_head, allow_unkeyed, archive: None } => {
                let config = settings.load(Vec::new())?;
                let report = runtime()?.block_on(verify(config, expect_head, allow_unkeyed.into()))?;
                let AuditReport { links, head, unkeyed, archived } = report;
                print(&format!("The audit chain holds: {links} links, head {head}"))?;
                if archived > 0 {
                    print(&format!(
                        "The first {archived} links are in archives (kith audit verify --archive)"
                    ))?;
                }
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

fn archive(settings: Settings, order: Order) -> Result<ArchiveReport, Failure> {
    match runtime()?.block_on(control::run(settings.load(Vec::new())?, order))? {
        Reply::AuditArchive(report) => Ok(report),
        other => Err(anyhow::Error::from(control::misunderstood(&other)).into()),
    }
}

async fn verify(
    mut config: Config,
    expected: Option<AuditHead>,
    most_unkeyed: i64,
) -> Result<AuditReport, anyhow::Error> {
    config.fill_development_secrets(&SystemRandom)?;
    let mut options = config.store_options();
    match Store::migration_status(&options, migrations()).await {
        Err(error @ OpenError::FolderInUse { .. }) => {
            let asked = control::ask_audit(&config.data.folder, expected, most_unkeyed).await;
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
    let chain = head::verify(&store, &file, expected, most_unkeyed).await;
    store.close().await;
    Ok(chain?.into())
}
