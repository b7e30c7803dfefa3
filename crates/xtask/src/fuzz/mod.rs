//! `cargo xtask fuzz api` runs schemathesis against a server. `cargo xtask fuzz parsers` runs libFuzzer on
//! the parsers of external input.

pub mod api;
mod parsers;

use anyhow::Result;
use clap::Subcommand;

/// Options of `cargo xtask fuzz`. Without a subcommand, `api` is run.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: Option<FuzzCommand>,
}

#[derive(Subcommand)]
enum FuzzCommand {
    /// Send a server valid and invalid requests generated from its OpenAPI document
    Api,
    /// Run coverage-guided fuzzing (libFuzzer) on every parser of external input
    Parsers(parsers::Args),
}

/// Runs the chosen fuzzer.
///
/// # Errors
/// Returns the errors of [`api::fuzz`] or [`parsers::fuzz`].
pub fn fuzz(args: &Args) -> Result<()> {
    match &args.what {
        None | Some(FuzzCommand::Api) => api::fuzz(),
        Some(FuzzCommand::Parsers(args)) => parsers::fuzz(args),
    }
}
