//! The command line: what can be typed, and what is done then. Exit code 1 is a failure, 2 a wrong command or setting.

mod admin;
mod api_keys;
mod audit;
mod checklist;
mod config;
mod events;
mod evidence;
mod jobs;
mod keys;
mod log_level;
mod migrate;
mod schedules;
mod secrets;
mod serve;
mod verify;
mod worker;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use kith_platform::config::{Config, ConfigError, Flag, Inputs};
use kith_platform::http::openapi;
use tokio::runtime::{Builder, Runtime};

use crate::modules::MODULES;

const FAILURE: u8 = 1;
const WRONG_INPUT: u8 = 2;

/// The self-hosted backend for apps that connect people.
#[derive(Debug, Parser)]
#[command(name = "kith", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the server
    Serve(serve::Serve),
    /// Run jobs beside the servers, on PostgreSQL
    Worker(worker::Worker),
    /// Look at or change the database schema
    Migrate(migrate::Migrate),
    /// Look at the configuration
    Config(config::Config),
    /// Administrators
    Admin(admin::Admin),
    /// The keys that access tokens are signed with
    Keys(keys::Keys),
    /// Jobs and their queues
    Jobs(jobs::Jobs),
    /// The keys by which other programs ask
    ApiKeys(api_keys::ApiKeys),
    /// What recurs
    Schedules(schedules::Schedules),
    /// Consumers of events: their lag, and replays
    Events(events::Events),
    /// Say whether a deployment is ready, with evidence
    Verify(verify::Verify),
    /// Sign the evidence of a build, for operators who have only the binary
    Evidence(evidence::Evidence),
    /// Make secrets
    Secrets(secrets::Secrets),
    /// Look at the audit log
    Audit(audit::Audit),
    /// Look at readiness checklists, anybody's
    Checklist(checklist::Checklist),
    /// Show or change what the server that runs in the data folder logs
    LogLevel(log_level::LogLevel),
    /// Print the OpenAPI document
    Openapi,
}

/// Where settings come from, and the two that every command needs.
#[derive(Debug, Args)]
struct Settings {
    /// Configuration file (TOML); ./kith.toml if it exists
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data folder
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// `sqlite`, or `postgres://…` (its password in DATABASE_PASSWORD or a file named by DATABASE_PASSWORD_FILE)
    #[arg(long, value_name = "DATABASE")]
    database: Option<String>,
}

impl Settings {
    /// Whether anything was said about a server on this machine.
    fn is_given(&self) -> bool {
        self.config.is_some() || self.data.is_some() || self.database.is_some()
    }

    fn load(self, more: Vec<Flag>) -> Result<Config, ConfigError> {
        let mut flags = more;
        if let Some(folder) = self.data {
            let value = folder.to_string_lossy().into_owned().into();
            flags.push(Flag { name: "--data", key: "data.folder", value });
        }
        if let Some(url) = self.database {
            flags.push(Flag { name: "--database", key: "database.url", value: url.into() });
        }
        Config::load(&Inputs { file: self.config, flags, ..Inputs::from_env() })
    }
}

/// Why a command did not do what was asked.
#[derive(Debug)]
enum Failure {
    /// The input is wrong.
    Input(ConfigError),
    /// Something is in the way.
    Other(anyhow::Error),
    /// What there is to say has been said; the exit code.
    Told(u8),
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Input(error)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

/// Does what the command line says.
pub fn run() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(serve) => serve.run(),
        Command::Worker(worker) => worker.run(),
        Command::Migrate(migrate) => migrate.run(),
        Command::Config(config) => config.run(),
        Command::Admin(admin) => admin.run(),
        Command::Keys(keys) => keys.run(),
        Command::ApiKeys(api_keys) => api_keys.run(),
        Command::Jobs(jobs) => jobs.run(),
        Command::Schedules(schedules) => schedules.run(),
        Command::Events(events) => events.run(),
        Command::Secrets(secrets) => secrets.run(),
        Command::Audit(audit) => audit.run(),
        Command::Checklist(checklist) => checklist.run(),
        Command::LogLevel(log_level) => log_level.run(),
        Command::Verify(verify) => verify.run(),
        Command::Evidence(evidence) => evidence.run(),
        Command::Openapi => print_openapi(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Input(error)) => fail(&error, WRONG_INPUT),
        Err(Failure::Other(error)) => fail(&in_one_line(&error), FAILURE),
        Err(Failure::Told(code)) => ExitCode::from(code),
    }
}

/// For a command that waits for one thing after the other.
fn runtime() -> Result<Runtime, anyhow::Error> {
    Builder::new_current_thread().enable_all().build().context("cannot start the runtime")
}

/// The error and its causes. Some errors tell their cause themselves; it is not told again.
fn in_one_line(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |line, cause| match &*line {
        "" => cause,
        told if told.ends_with(&cause) => line,
        told => format!("{told}: {cause}"),
    })
}

fn fail(error: &dyn std::fmt::Display, code: u8) -> ExitCode {
    eprintln!("kith: {error}");
    ExitCode::from(code)
}

fn print_openapi() -> Result<(), Failure> {
    let json = openapi::to_json(&openapi::document(MODULES));
    print(&String::from_utf8_lossy(&json))
}

/// A line on standard output. That its reader has gone away is no failure.
fn print(line: &str) -> Result<(), Failure> {
    match writeln!(std::io::stdout(), "{line}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(anyhow::Error::from(error).into())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_hangs_together() {
        Cli::command().debug_assert();
    }

    /// What stands on a command line can be read by every user of the machine. SEC-14.
    #[test]
    fn no_flag_takes_a_secret() {
        fn check(command: &clap::Command) {
            for flag in command.get_arguments() {
                let name = flag.get_id().as_str();
                // A path of a file, a public key, and a number of links.
                if matches!(
                    (command.get_name(), name),
                    ("sign", "key") | ("verify", "evidence_key" | "allow_unkeyed")
                ) {
                    continue;
                }
                let secret = ["secret", "password", "token", "key"].iter().find(|word| name.contains(*word));
                assert_eq!(secret, None, "{} --{name}", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn an_error_tells_each_cause_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot listen: {source}")]
        struct Told {
            source: std::io::Error,
        }
        let told = Told { source: std::io::Error::other("taken") };
        let error = Err::<(), _>(told).context("kith did not start").unwrap_err();
        assert_eq!(in_one_line(&error), "kith did not start: cannot listen: taken");
    }
}
