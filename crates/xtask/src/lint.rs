//! `cargo xtask lint` and `check`: what is judged without running Kith, and all that CI judges.

use std::process::ExitCode;

use anyhow::Result;

use crate::workspace::{cargo, root, run};
use crate::{test, tidy};

/// Layout, walls, clippy, licences and sources of dependencies; stops at the first that fails.
pub fn lint() -> Result<()> {
    run(cargo()?.args(["fmt", "--all", "--check"]))?;
    tidy::tidy(&root()?)?;
    run(cargo()?.args(["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]))?;
    run(cargo()?.args(["deny", "--locked", "check", "licenses", "bans", "sources"]))
}

/// [`lint`], then the whole suite.
pub fn check() -> Result<ExitCode> {
    lint()?;
    test::test(&test::Args::default())
}
