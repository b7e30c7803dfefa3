//! The command line: parses the arguments and runs the command. Exit code 1 means a failure, 2 an invalid
//! command or setting.

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

use crate::modules::{self, MODULES};

const EXIT_FAILURE: u8 = 1;
const EXIT_INVALID_INPUT: u8 = 2;

/// Self-hosted backend for apps that connect people.
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
    /// Run jobs in a separate process (PostgreSQL only)
    Worker(worker::Worker),
    /// Show or change the database schema
    Migrate(migrate::Migrate),
    /// Check or document the configuration
    Config(config::Config),
    /// Manage administrators
    Admin(admin::Admin),
    /// Manage the signing keys of access tokens
    Keys(keys::Keys),
    /// Manage jobs and their queues
    Jobs(jobs::Jobs),
    /// Manage API keys
    ApiKeys(api_keys::ApiKeys),
    /// Manage schedules
    Schedules(schedules::Schedules),
    /// Show the lag of event consumers, or replay events
    Events(events::Events),
    /// Judge with evidence whether a deployment is ready
    Verify(verify::Verify),
    /// Sign the evidence of a build, for operators who have only the binary
    Evidence(evidence::Evidence),
    /// Generate secrets
    Secrets(secrets::Secrets),
    /// Verify or archive the audit log
    Audit(audit::Audit),
    /// Lint readiness checklists
    Checklist(checklist::Checklist),
    /// Show or change the log level of the server that uses the data folder
    LogLevel(log_level::LogLevel),
    /// Print the OpenAPI document
    Openapi,
}

/// Settings that all commands accept.
#[derive(Debug, Args)]
struct Settings {
    /// Configuration file (TOML); default ./kith.toml if it exists
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data folder
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// `sqlite` or `postgres://…`; its password is read from DATABASE_PASSWORD, or from the file named by
    /// DATABASE_PASSWORD_FILE
    #[arg(long, value_name = "DATABASE")]
    database: Option<String>,
}

impl Settings {
    /// Returns true if at least one of these flags was given.
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
        Config::load(&Inputs { file: self.config, flags, ..Inputs::from_env() }, &modules::sections())
    }
}

/// Failure of a command, with its exit code.
#[derive(Debug)]
enum Failure {
    /// Invalid input. The exit code is 2.
    Input(ConfigError),
    /// Any other error. The exit code is 1.
    Other(anyhow::Error),
    /// Failure of a command that has already printed its result. Contains the exit code.
    AlreadyReported(u8),
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

/// Parses the command line and runs the command.
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
        Err(Failure::Input(error)) => fail(&error, EXIT_INVALID_INPUT),
        Err(Failure::Other(error)) => fail(&format_error_chain(&error), EXIT_FAILURE),
        Err(Failure::AlreadyReported(code)) => ExitCode::from(code),
    }
}

/// Returns a single-threaded runtime.
fn runtime() -> Result<Runtime, anyhow::Error> {
    Builder::new_current_thread().enable_all().build().context("cannot start the runtime")
}

/// Formats an error and its causes on one line. A cause is left out if the message before it already contains
/// it.
fn format_error_chain(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |line, cause| match &*line {
        "" => cause,
        line_so_far if line_so_far.ends_with(&cause) => line,
        line_so_far => format!("{line_so_far}: {cause}"),
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

/// Prints a line to standard output. It is not an error if the output is closed.
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
    fn command_line_definition_is_valid() {
        Cli::command().debug_assert();
    }

    /// SEC-14: no flag takes a secret, because all users of the machine can see command lines.
    #[test]
    fn flags_do_not_take_secrets() {
        fn check(command: &clap::Command) {
            for flag in command.get_arguments() {
                let name = flag.get_id().as_str();
                // These flags take a path, a public key or a number of links, which are no secrets.
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
    fn error_causes_are_not_repeated() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot listen: {source}")]
        struct TestError {
            source: std::io::Error,
        }
        let error = TestError { source: std::io::Error::other("in use") };
        let error = Err::<(), _>(error).context("kith did not start").unwrap_err();
        assert_eq!(format_error_chain(&error), "kith did not start: cannot listen: in use");
    }
}
