//! `cargo xtask lint` runs static checks. `cargo xtask check` runs everything that CI runs.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use crate::evidence::{self, EvidenceOutcome, EvidenceRow};
use crate::workspace::{cargo, root, run};
use crate::{openapi, smoke, test, tidy};

/// Runs formatting, tidy, clippy and cargo-deny. Stops at the first failure.
pub fn lint() -> Result<()> {
    run(cargo()?.args(["fmt", "--all", "--check"]))?;
    tidy::tidy(&root()?)?;
    run(cargo()?.args(["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]))?;
    run(cargo()?.args(["deny", "--locked", "check", "licenses", "bans", "sources"]))?;
    // All checks have passed at this point.
    let holds = |(id, summary): (&'static str, &str)| EvidenceRow {
        id,
        result: EvidenceOutcome::Pass,
        figures: json!({}),
        summary: summary.to_owned(),
    };
    let rows = [
        ("DEP-01", "everything builds with --locked, warnings denied"),
        ("SEC-11", "the store accepts literals only: no statement can be composed at run time"),
        ("TST-08", "clippy and the compiler with warnings denied, unsafe code forbidden"),
        ("TST-09", "formatted, and no lint speaks up"),
        ("TST-12", "every build is with --locked"),
    ];
    evidence::write("cargo xtask lint", &rows.map(holds))
}

/// Runs [`lint`], the comparison of the OpenAPI document, and the whole test suite. Then runs every other
/// command in its smoke mode.
pub fn check() -> Result<ExitCode> {
    lint()?;
    openapi::openapi(&openapi::Args { check: true })?;
    let tested = test::test(&test::Args::default())?;
    if tested == ExitCode::SUCCESS {
        smoke::smoke(&smoke::Args::default())?;
    }
    Ok(tested)
}
