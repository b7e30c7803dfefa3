//! `cargo xtask fuzz`: whatever can be sent, sent. `api` has schemathesis ask a running server, `parsers` has libFuzzer ask
//! the parsers of outside input.

pub mod api;
mod parsers;

use anyhow::Result;
use clap::Subcommand;

/// What to fuzz: the API of a running server unless it is said.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Subcommand)]
enum What {
    /// Asks a running server whatever its OpenAPI document admits, and what it does not
    Api,
    /// Asks every parser of outside input what libFuzzer makes up, guided by coverage
    Parsers(parsers::Args),
}

/// Fuzzes what was asked for.
///
/// # Errors
/// What [`api::fuzz`] or [`parsers::fuzz`] found.
pub fn fuzz(args: &Args) -> Result<()> {
    match &args.what {
        None | Some(What::Api) => api::fuzz(),
        Some(What::Parsers(args)) => parsers::fuzz(args),
    }
}
