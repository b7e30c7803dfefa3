//! `kith keys`: rotates the signing keys of access tokens, and re-encrypts stored secrets.

use clap::{Args, Subcommand};

use kith_platform::auth::ResealedColumn;

use super::{Failure, Settings, print, runtime};
use crate::control::{self, Command as Order, Reply};

#[derive(Debug, Args)]
pub(super) struct Keys {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create a new signing key
    ///
    /// It is published first and signs once all verifiers can know it. Old keys retire when the last token
    /// that they signed has expired, so no request fails.
    Rotate {
        #[command(flatten)]
        settings: Settings,
        /// Sign with the new key immediately and invalidate all access tokens; sessions continue with their
        /// refresh tokens
        #[arg(long)]
        at_once: bool,
    },
    /// Re-encrypt stored secrets under the present JWT_SECRET after it was changed
    ///
    /// Covers signing keys, and secrets and headers of callbacks. Values sealed under JWT_SECRET_PREVIOUS or
    /// in development mode are read with that secret. It can run while servers run, and can be repeated.
    Reseal {
        #[command(flatten)]
        settings: Settings,
    },
}

impl Keys {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Rotate { settings, at_once } => rotate(settings, at_once),
            Command::Reseal { settings } => reseal(settings),
        }
    }
}

fn rotate(settings: Settings, at_once: bool) -> Result<(), Failure> {
    let rotated = control::run(settings.load(Vec::new())?, Order::RotateKeys { at_once });
    let done = match runtime()?.block_on(rotated)? {
        Reply::KeysRotated(done) => done,
        other => return Err(anyhow::Error::from(control::unexpected_reply(&other)).into()),
    };
    if done.already_in_progress {
        print("A rotation is under way; nothing was changed.")?;
    }
    print(&format!("key {} signs from {}", done.key_id, done.signs_from))?;
    print(&format!("the keys before it are refused from {}", done.others_retire_at))
}

fn reseal(settings: Settings) -> Result<(), Failure> {
    let mut config = settings.load(Vec::new())?;
    config.read_development_secrets_as_previous().map_err(anyhow::Error::from)?;
    let columns = match runtime()?.block_on(control::run(config, Order::ResealKeys))? {
        Reply::KeysResealed(columns) => columns,
        other => return Err(anyhow::Error::from(control::unexpected_reply(&other)).into()),
    };
    for ResealedColumn { column, resealed, unreadable } in &columns {
        let unreadable_note =
            if *unreadable > 0 { format!(", {unreadable} cannot be opened") } else { String::new() };
        print(&format!("{column}: {resealed} sealed again{unreadable_note}"))?;
    }
    let unreadable: u64 = columns.iter().map(|column| column.unreadable).sum();
    if unreadable > 0 {
        let advice =
            "set JWT_SECRET_PREVIOUS to the secret that they were sealed with, restart, and run this again";
        return Err(anyhow::anyhow!("{unreadable} values cannot be opened: {advice}").into());
    }
    print(
        "Everything is sealed under the present JWT_SECRET, and the audit chain goes on with another key.",
    )?;
    print(
        "If the old secret has leaked, whoever has it and an old copy of the database knows more. Then also run \
         `kith keys rotate --at-once`, which ends every access token, and give callback endpoints new secrets \
         (POST /api/v1/callback-endpoints/{id}/rotate-secret).",
    )
}
