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
    /// The new key is published immediately. It is used for signing as soon as all verifiers can know it. Old
    /// keys are retired when the last token signed with them has expired, so no request fails.
    Rotate {
        #[command(flatten)]
        settings: Settings,
        /// Sign with the new key immediately and invalidate all access tokens; sessions continue, because
        /// their refresh tokens remain valid
        #[arg(long)]
        at_once: bool,
    },
    /// Re-encrypt stored secrets with the current JWT_SECRET after it was changed
    ///
    /// Re-encrypts signing keys, and the secrets and headers of callbacks. Values that were encrypted with
    /// JWT_SECRET_PREVIOUS or in development mode are decrypted with that secret. The command can run while
    /// servers run, and can be repeated.
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
        print("A rotation is in progress; nothing was changed.")?;
    }
    print(&format!("key {} signs from {}", done.key_id, done.signs_from))?;
    print(&format!("older keys are rejected from {}", done.others_retire_at))
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
            if *unreadable > 0 { format!(", {unreadable} cannot be decrypted") } else { String::new() };
        print(&format!("{column}: {resealed} re-encrypted{unreadable_note}"))?;
    }
    let unreadable: u64 = columns.iter().map(|column| column.unreadable).sum();
    if unreadable > 0 {
        let advice = "set JWT_SECRET_PREVIOUS to the secret under which they were encrypted, restart, and run \
                   this again";
        return Err(anyhow::anyhow!("{unreadable} values cannot be decrypted: {advice}").into());
    }
    print(
        "All secrets are encrypted under the present JWT_SECRET, and the audit chain continues with a new \
         key.",
    )?;
    print(
        "If the old secret has leaked, it still decrypts old copies of the database. In that case also run \
         `kith keys rotate --at-once`, which invalidates all access tokens, and rotate the secrets of \
         callback endpoints (POST /api/v1/callback-endpoints/{id}/rotate-secret).",
    )
}
