//! `cargo xtask`: all development tasks of the repository.

mod attack;
mod bench;
mod chaos;
mod coverage;
mod evidence;
mod fuzz;
mod kith;
mod lint;
mod load;
mod mode;
mod mutants;
mod openapi;
mod plans;
mod reliability;
mod scratch;
mod setup;
mod smoke;
mod test;
mod tidy;
mod timing;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

/// Development tasks of the repository
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    /// Install what tests and lints need (Debian, Ubuntu), or print what is missing
    Setup,
    /// Run the whole suite on SQLite and on a temporary PostgreSQL server, then `plans` and `fuzz`
    Test(test::Args),
    /// Run the suite including ignored tests, with many more repetitions of races and random operation
    /// sequences
    Soak,
    /// Fuzz a running server, or the parsers alone
    Fuzz(fuzz::Args),
    /// Measure line coverage by module; fails below 80 % in total or 70 % of a module
    Coverage(coverage::Args),
    /// Run mutation tests on a sample of bonds, accounts and the store
    Mutants(mutants::Args),
    /// Check architecture and style rules
    Tidy,
    /// Check format, architecture rules, clippy, licences and sources of dependencies
    Lint,
    /// Run what CI runs: lint, openapi --check, test, then smoke
    Check,
    /// Write docs/openapi.json, or compare it with the code
    Openapi(openapi::Args),
    /// Run recorded statements on large tables; fails if one reads many more rows than it returns
    Plans(plans::Args),
    /// Kill processes and simulate power cuts during writes; no acknowledged write may be lost
    #[command(subcommand)]
    Chaos(chaos::Chaos),
    /// Benchmark Kith; results are ratios to ceilings measured in the same run
    Bench(bench::Args),
    /// Send hostile requests to a server; each must be rejected without disturbing other callers
    Attack(attack::Args),
    /// Test whether the duration of a log-in reveals that an address has an account
    Timing(timing::Args),
    /// Write docs/reliability.md with repeated trials of tests and chaos runs, and bounds of their failure
    /// rates
    Reliability(reliability::Args),
    /// Run each command that CI does not run in full, with tiny amounts on the debug binary
    ///
    /// Runs each of these commands with its flag `--smoke`. Some parts are left out. `mutants` and `fuzz
    /// parsers` check everything that they need except for the programs cargo-mutants and cargo-fuzz, which
    /// take minutes to build. `coverage` measures only the crate `kith-kernel`, without cargo-llvm-cov. `fuzz
    /// api` is not run, because `test` ends with it.
    Smoke(smoke::Args),
    /// Run the bare server that `bench` compares with
    #[command(hide = true)]
    Ceiling,
}

fn main() -> ExitCode {
    let outcome = match Task::parse() {
        Task::Setup => done(setup::setup()),
        Task::Test(args) => test::test(&args),
        Task::Soak => test::soak(),
        Task::Fuzz(args) => done(fuzz::fuzz(&args)),
        Task::Coverage(args) => done(coverage::coverage(&args)),
        Task::Mutants(args) => done(mutants::mutants(&args)),
        Task::Tidy => done(workspace::root().and_then(|root| tidy::tidy(&root))),
        Task::Lint => done(lint::lint()),
        Task::Check => lint::check(),
        Task::Openapi(args) => done(openapi::openapi(&args)),
        Task::Plans(args) => done(plans::plans(&args)),
        Task::Chaos(which) => done(chaos::chaos(&which)),
        Task::Bench(args) => done(bench::bench(&args)),
        Task::Attack(args) => done(attack::attack(&args)),
        Task::Timing(args) => timing::timing(&args),
        Task::Reliability(args) => done(reliability::reliability(args.mode)),
        Task::Smoke(args) => done(smoke::smoke(&args)),
        Task::Ceiling => done(bench::serve_ceiling()),
    };
    outcome.unwrap_or_else(|e| {
        eprintln!("error: {e:#}");
        ExitCode::FAILURE
    })
}

fn done(outcome: Result<()>) -> Result<ExitCode> {
    outcome.map(|()| ExitCode::SUCCESS)
}
