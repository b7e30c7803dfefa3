//! `kith api-keys`: the keys by which other programs ask, for whoever has the machine itself.

use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use kith_kernel::{ApiKeyId, days};
use kith_platform::auth::api_keys::{ApiKey, ApiKeyStatus};

use super::{Failure, Settings, print, runtime};
use crate::control::{self, Command as Order, Reply};

#[derive(Debug, Args)]
pub(super) struct ApiKeys {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make an API key and print it, this once
    Create {
        #[command(flatten)]
        settings: Settings,
        /// E-mail address of the administrator whose key it is: it counts only while they may make keys
        #[arg(long, value_name = "ADDRESS")]
        admin: String,
        /// What it is for
        #[arg(long)]
        name: String,
        /// What it may do, such as `jobs.read`; once for each
        #[arg(long = "scope", value_name = "SCOPE", required = true)]
        scopes: Vec<String>,
        /// After so many days it is refused; without, it has no end
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..))]
        expires_in_days: Option<u32>,
    },
    /// List API keys, newest first, and those that no longer count
    List(Settings),
    /// Revoke an API key, for good and at once
    Revoke {
        #[command(flatten)]
        settings: Settings,
        /// Its id, as `kith api-keys list` shows it
        id: ApiKeyId,
    },
}

impl ApiKeys {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Create { settings, admin, name, scopes, expires_in_days } => {
                let lifetime = expires_in_days.map(|count| days(count.into()));
                create(
                    settings,
                    Order::CreateApiKey {
                        admin,
                        name,
                        scopes,
                        lifetime_s: lifetime.map(|it: Duration| it.as_secs()),
                    },
                )
            }
            Command::List(settings) => list(settings),
            Command::Revoke { settings, id } => match ask(settings, Order::RevokeApiKey { id })? {
                Reply::ApiKeyRevoked => print(&format!("{id} is revoked")),
                other => Err(anyhow::Error::from(control::misunderstood(&other)).into()),
            },
        }
    }
}

fn create(settings: Settings, order: Order) -> Result<(), Failure> {
    match ask(settings, order)? {
        Reply::ApiKeyCreated(key) => print(key.reveal()),
        other => Err(anyhow::Error::from(control::misunderstood(&other)).into()),
    }
}

fn list(settings: Settings) -> Result<(), Failure> {
    match ask(settings, Order::ListApiKeys)? {
        Reply::ApiKeys(keys) => keys.iter().try_for_each(|key| print(&line(key))),
        other => Err(anyhow::Error::from(control::misunderstood(&other)).into()),
    }
}

fn line(key: &ApiKey) -> String {
    let status = match key.status {
        ApiKeyStatus::Active => "active",
        ApiKeyStatus::Expired => "expired",
        ApiKeyStatus::Revoked => "revoked",
    };
    let expires = key.expires_at.map_or("never".to_owned(), |at| at.to_string());
    let used = key.last_used_at.map_or("never".to_owned(), |at| at.to_string());
    let scopes = key.scopes.join(",");
    format!("{} {} {status} expires {expires} used {used} {scopes} {}", key.id, key.prefix, key.name)
}

fn ask(settings: Settings, order: Order) -> Result<Reply, Failure> {
    let done = control::run(settings.load(Vec::new())?, order);
    Ok(runtime()?.block_on(done).context("nothing was done to API keys")?)
}
