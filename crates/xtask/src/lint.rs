//! `cargo xtask lint` and `check`: what is judged without running Kith, and all that CI judges.

use std::process::ExitCode;

use anyhow::Result;

use crate::workspace::{cargo, root, run};
use crate::{openapi, test, tidy};

/// Layout, walls, clippy, licences and sources of dependencies; stops at the first that fails.
pub fn lint() -> Result<()> {
    run(cargo()?.args(["fmt", "--all", "--check"]))?;
    tidy::tidy(&root()?)?;
    run(cargo()?.args(["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]))?;
    run(cargo()?.args(["deny", "--locked", "check", "licenses", "bans", "sources"]))
}

/// [`lint`], the OpenAPI document, then the whole suite.
pub fn check() -> Result<ExitCode> {
    lint()?;
    openapi::openapi(&openapi::Args { check: true })?;
    test::test(&test::Args::default())
}
