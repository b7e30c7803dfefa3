//! `kith config`: checks the configuration, and prints a reference of all keys.

use clap::{Args, Subcommand, ValueEnum};
use kith_platform::config::reference;

use super::{Failure, Settings, print};
use crate::modules;

#[derive(Debug, Args)]
pub(super) struct Config {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check whether a server could start with the configuration, and show the source and length of each
    /// secret
    Check(Settings),
    /// Print every key with its default and meaning
    Reference {
        /// Output format
        #[arg(long, value_enum, default_value = "toml")]
        format: Format,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// Configuration file that contains the defaults
    Toml,
    /// Markdown page that also contains types and environment variables
    Markdown,
}

impl Config {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Check(settings) => check(settings),
            Command::Reference { format: Format::Toml } => {
                print(reference::toml(&modules::sections()).trim_end())
            }
            Command::Reference { format: Format::Markdown } => {
                print(reference::markdown(&modules::sections()).trim_end())
            }
        }
    }
}

fn check(settings: Settings) -> Result<(), Failure> {
    let config = settings.load(Vec::new())?;
    modules::served(&config).map_err(anyhow::Error::from)?;
    print("The configuration is valid.")?;
    config.secret_reports().iter().try_for_each(|report| print(&report.to_string()))
}
