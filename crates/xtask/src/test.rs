//! `cargo xtask test`: the whole suite, with a PostgreSQL server of its own that goes when the suite ends.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use kith_store::testing::server::{PostgresServer, PostgresServerOptions};

use crate::fuzz;
use crate::workspace::cargo;

/// What to test.
#[derive(clap::Args, Default)]
pub struct Args {
    /// Leaves PostgreSQL out, for machines without a server
    #[arg(long)]
    sqlite_only: bool,
    /// Handed to `cargo test`; with `-p CRATE` only that crate is tested
    #[arg(last = true)]
    cargo_args: Vec<String>,
}

/// Runs the suite; the exit code is `cargo test`'s. The whole suite ends with [`fuzz::fuzz`].
pub fn test(args: &Args) -> Result<ExitCode> {
    let mut suite = cargo()?;
    suite.args(["test", "--locked"]);
    if !args.cargo_args.iter().any(|arg| arg.starts_with("-p") || arg.starts_with("--package")) {
        suite.arg("--workspace");
    }
    suite.args(&args.cargo_args);
    let server = if args.sqlite_only {
        suite.env("KITH_TEST_SQLITE_ONLY", "1");
        None
    } else {
        let server = PostgresServer::start(PostgresServerOptions { tls: true, ..Default::default() })
            .context("the tests need a PostgreSQL server (or `--sqlite-only`)")?;
        suite.env_remove("KITH_TEST_SQLITE_ONLY");
        suite.env("KITH_TEST_POSTGRES", server.url("postgres"));
        suite.env("KITH_TEST_POSTGRES_CA", server.ca_file());
        Some(server)
    };
    let status = suite.status().context("cannot run cargo")?;
    drop(server);
    // A part of the suite is a part; without PostgreSQL it is for the loop.
    if status.success() && !args.sqlite_only && args.cargo_args.is_empty() {
        fuzz::fuzz()?;
    }
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}
