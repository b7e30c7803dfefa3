//! `kith keys`: the keys that access tokens are signed with.

use clap::{Args, Subcommand};

use super::{Failure, Settings, print, runtime};
use crate::control::{self, Command as Order, Reply};

#[derive(Debug, Args)]
pub(super) struct Keys {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a new signing key. It is published, signs when everybody can know it, and the old ones retire when the
    /// last token that they signed has expired: no request fails
    Rotate {
        #[command(flatten)]
        settings: Settings,
        /// Sign with it at once and end every access token that is out; sessions go on, by their refresh tokens
        #[arg(long)]
        at_once: bool,
    },
}

impl Keys {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Command::Rotate { settings, at_once } = self.command;
        let rotated = control::run(settings.load(Vec::new())?, Order::RotateKeys { at_once });
        let done = match runtime()?.block_on(rotated)? {
            Reply::KeysRotated(done) => done,
            other => return Err(anyhow::Error::from(control::misunderstood(&other)).into()),
        };
        if done.under_way {
            print("A rotation is under way; nothing was changed.")?;
        }
        print(&format!("key {} signs from {}", done.key_id, done.signs_from))?;
        print(&format!("the keys before it are refused from {}", done.others_retire_at))
    }
}
