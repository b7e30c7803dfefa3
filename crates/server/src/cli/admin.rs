//! `kith admin`: manages administrators. The caller needs access to the data folder or to the database.

use std::io::{IsTerminal as _, stdin};

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};

use super::{Failure, Settings, print, runtime};
use crate::control::{self, Command as Order, Reply};

#[derive(Debug, Args)]
pub(super) struct Admin {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Grant the administrator role to the account with this address, or create a new account
    ///
    /// The password of a new account is read from a prompt or from a line of standard input.
    Create {
        #[command(flatten)]
        settings: Settings,
        /// E-mail address of the account
        #[arg(long, value_name = "ADDRESS")]
        email: String,
        /// Display name of a new account
        #[arg(long, value_name = "NAME", default_value = "Administrator")]
        name: String,
    },
    /// Mark an e-mail address as verified, so that other users can find its owner by this address
    VerifyEmail {
        #[command(flatten)]
        settings: Settings,
        /// E-mail address of the account
        #[arg(value_name = "ADDRESS")]
        email: String,
    },
    /// Remove an unverified e-mail address from its account, so that the owner of the address can register it
    ///
    /// The account from which the address is removed is suspended.
    ReleaseEmail {
        #[command(flatten)]
        settings: Settings,
        /// E-mail address of the account
        #[arg(value_name = "ADDRESS")]
        email: String,
    },
}

impl Admin {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (settings, email, name) = match self.command {
            Command::Create { settings, email, name } => (settings, email, name),
            Command::VerifyEmail { settings, email } => return verify_email(settings, email),
            Command::ReleaseEmail { settings, email } => return release_email(settings, email),
        };
        let config = settings.load(Vec::new())?;
        let order = Order::PromoteAdmin { email: email.clone() };
        match runtime()?
            .block_on(control::run(config.clone(), order))
            .context("no administrator was created")?
        {
            Reply::AdminPromoted { user_id: Some(user_id) } => {
                return print(&format!(
                    "the existing account of {email} is an administrator now; name and password are \
                     unchanged: {user_id}"
                ));
            }
            Reply::AdminPromoted { user_id: None } => {}
            other => return Err(anyhow::Error::from(control::unexpected_reply(&other)).into()),
        }
        let password = read_password()?;
        let order = Order::CreateAdmin { email: email.clone(), display_name: name, password };
        match runtime()?.block_on(control::run(config, order)).context("no administrator was created")? {
            Reply::AdminCreated { user_id } => print(&format!("{email} is an administrator: {user_id}")),
            other => Err(anyhow::Error::from(control::unexpected_reply(&other)).into()),
        }
    }
}

fn verify_email(settings: Settings, email: String) -> Result<(), Failure> {
    let order = Order::VerifyEmail { email: email.clone() };
    let done = runtime()?.block_on(control::run(settings.load(Vec::new())?, order));
    match done.context("no address was verified")? {
        Reply::EmailVerified { user_id, at: Some(at) } => {
            print(&format!("{email} is verified since {at}: {user_id}"))
        }
        other => Err(anyhow::Error::from(control::unexpected_reply(&other)).into()),
    }
}

fn release_email(settings: Settings, email: String) -> Result<(), Failure> {
    let order = Order::ReleaseEmail { email: email.clone() };
    let done = runtime()?.block_on(control::run(settings.load(Vec::new())?, order));
    match done.context("no address was released")? {
        Reply::EmailReleased { user_id } => {
            print(&format!("{email} can be registered again; account {user_id} is suspended"))
        }
        other => Err(anyhow::Error::from(control::unexpected_reply(&other)).into()),
    }
}

fn read_password() -> Result<String, anyhow::Error> {
    if !stdin().is_terminal() {
        let mut line = String::new();
        stdin().read_line(&mut line).context("cannot read a password from standard input")?;
        return Ok(line.trim_end_matches(['\r', '\n']).to_owned());
    }
    let ask = |what| rpassword::prompt_password(what).context("cannot read a password from the terminal");
    let password = ask("Password: ")?;
    if ask("Again: ")? != password {
        return Err(anyhow!("the two passwords differ"));
    }
    Ok(password)
}
