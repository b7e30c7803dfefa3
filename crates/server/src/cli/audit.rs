//! `kith audit`: verifies and archives the audit log. If a server uses the SQLite data folder, that server
//! runs the commands.

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
    /// Verify the chain of the audit log against the head stored in the data folder
    ///
    /// Exit code 1: the chain is broken, and the first broken link is printed.
    Verify {
        #[command(flatten)]
        settings: Settings,
        /// Head that the chain must contain, as printed by an earlier run or by the server's log
        #[arg(long, value_name = "LINKS:HASH")]
        expect_head: Option<AuditHead>,
        /// Number of links at the beginning of the chain that may be sealed without a key, because they were
        /// written by a version without keys
        #[arg(long, value_name = "LINKS", default_value_t = 0)]
        allow_unkeyed: u32,
        /// Verify this archive instead, and print the heads at its beginning and at its end
        #[arg(long, value_name = "FILE", conflicts_with = "expect_head")]
        archive: Option<PathBuf>,
    },
    /// Move old entries and their links to a file of JSON lines, at most 100,000 at a time
    ///
    /// Writes an audit entry that names the last archived entry. Personal details are removed and not
    /// archived. On PostgreSQL, the command connects with `database.migrate_url`.
    Archive {
        #[command(flatten)]
        settings: Settings,
        /// Minimum age of the archived entries in days
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..))]
        older_than_days: u16,
        /// File to create
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Accept the current chain after you restored a backup on purpose; writes an audit entry
    AcceptHead(Settings),
}

impl Audit {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Verify { settings, archive: Some(file), .. } => {
                let file = std::path::absolute(file).context("the path of the archive")?;
                let report = archive(settings, Order::AuditVerifyArchive { file })?;
                let ArchiveReport { links, from, to, .. } = report;
                print(&format!("The archive is valid: {links} links, after head {from}, up to head {to}"))
            }
            Command::Archive { settings, older_than_days, file } => {
                let file = std::path::absolute(file).context("the path of the archive")?;
                let path = file.display().to_string();
                let report = archive(settings, Order::AuditArchive { older_than_days, file })?;
                let ArchiveReport { links, from, to, more } = report;
                print(&format!("Moved {links} links to {path}: after head {from}, up to head {to}"))?;
                if more {
                    print("More entries of this age remain: run the command again with another file")?;
                }
                Ok(())
            }
            Command::Verify { settings, expect_head, allow_unkeyed, archive: None } => {
                let config = settings.load(Vec::new())?;
                let report = runtime()?.block_on(verify(config, expect_head, allow_unkeyed.into()))?;
                let AuditReport { links, head, unkeyed, archived } = report;
                print(&format!("The audit chain is valid: {links} links, head {head}"))?;
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
                print(&format!(
                    "Store the head outside this machine and verify it later: kith audit verify --expect-head {head}"
                ))
            }
            Command::AcceptHead(settings) => {
                let accepted = control::run(settings.load(Vec::new())?, Order::AuditAcceptHead);
                match runtime()?.block_on(accepted)? {
                    Reply::AuditHeadAccepted(head) => print(&format!("Accepted head {head}")),
                    other => Err(anyhow::Error::from(control::unexpected_reply(&other)).into()),
                }
            }
        }
    }
}

fn archive(settings: Settings, order: Order) -> Result<ArchiveReport, Failure> {
    match runtime()?.block_on(control::run(settings.load(Vec::new())?, order))? {
        Reply::AuditArchive(report) => Ok(report),
        other => Err(anyhow::Error::from(control::unexpected_reply(&other)).into()),
    }
}

async fn verify(
    mut config: Config,
    expected: Option<AuditHead>,
    max_unkeyed: i64,
) -> Result<AuditReport, anyhow::Error> {
    config.fill_development_secrets(&SystemRandom)?;
    let mut options = config.store_options();
    match Store::migration_status(&options, migrations()).await {
        Err(error @ OpenError::FolderInUse { .. }) => {
            let report = control::verify_audit_on_server(&config.data.folder, expected, max_unkeyed).await;
            return report
                .context("the server that runs on the data folder returned an error")?
                .ok_or_else(|| error.into());
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
    let chain = head::verify(&store, &file, expected, max_unkeyed).await;
    store.close().await;
    Ok(chain?.into())
}
