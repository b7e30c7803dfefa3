//! `kith api-keys`: manages API keys. The caller needs access to the data folder or to the database.

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
    /// Create an API key and print it once
    Create {
        #[command(flatten)]
        settings: Settings,
        /// E-mail address of the administrator who owns the key; the key works only while its owner may
        /// create keys
        #[arg(long, value_name = "ADDRESS")]
        admin: String,
        /// Name of the key
        #[arg(long)]
        name: String,
        /// Permission of the key, such as `jobs.read`; repeat for several
        #[arg(long = "scope", value_name = "SCOPE", required = true)]
        scopes: Vec<String>,
        /// Days until the key expires; without this flag, the key does not expire
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..))]
        expires_in_days: Option<u32>,
    },
    /// List API keys, newest first, including expired and revoked ones
    List(Settings),
    /// Revoke an API key immediately and permanently
    Revoke {
        #[command(flatten)]
        settings: Settings,
        /// Id of the key, from `kith api-keys list`
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
            Command::Revoke { settings, id } => match call(settings, Order::RevokeApiKey { id })? {
                Reply::ApiKeyRevoked => print(&format!("{id} is revoked")),
                other => Err(anyhow::Error::from(control::unexpected_reply(&other)).into()),
            },
        }
    }
}

fn create(settings: Settings, order: Order) -> Result<(), Failure> {
    match call(settings, order)? {
        Reply::ApiKeyCreated(key) => print(key.reveal()),
        other => Err(anyhow::Error::from(control::unexpected_reply(&other)).into()),
    }
}

fn list(settings: Settings) -> Result<(), Failure> {
    match call(settings, Order::ListApiKeys)? {
        Reply::ApiKeys(keys) => keys.iter().try_for_each(|key| print(&line(key))),
        other => Err(anyhow::Error::from(control::unexpected_reply(&other)).into()),
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

fn call(settings: Settings, order: Order) -> Result<Reply, Failure> {
    let done = control::run(settings.load(Vec::new())?, order);
    Ok(runtime()?.block_on(done).context("no API key was changed")?)
}
