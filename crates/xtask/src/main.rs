//! `cargo xtask`: everything one does to this repository besides writing it. There is no other task runner.

mod attack;
mod bench;
mod chaos;
mod coverage;
mod evidence;
mod fuzz;
mod kith;
mod lint;
mod load;
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

/// What can be done to this repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    /// Installs what tests and lints need (Debian, Ubuntu), or says what that is
    Setup,
    /// Runs the whole suite, on SQLite and on a PostgreSQL server that it starts, then `plans` and `fuzz`
    Test(test::Args),
    /// Runs the suite with the tests that `test` leaves out, and races and random stories many more times
    Soak,
    /// Sends whatever can be sent: to a running server, or to the parsers alone
    Fuzz(fuzz::Args),
    /// Which lines the tests run, by module; fails below 80 % of all or 70 % of a module
    Coverage(coverage::Args),
    /// Whether tests notice when the code is changed: a sample in bonds, accounts and the store
    Mutants(mutants::Args),
    /// Checks the walls between crates and modules, and how files are kept
    Tidy,
    /// Format, walls, clippy, licences and sources of dependencies
    Lint,
    /// What CI runs: lint, openapi --check, test, then smoke
    Check,
    /// Writes docs/openapi.json, or compares it
    Openapi(openapi::Args),
    /// Runs recorded statements on large tables and fails if one reads much more than it returns
    Plans(plans::Args),
    /// Kills and power cuts during acknowledged writes; nothing acknowledged may be lost
    #[command(subcommand)]
    Chaos(chaos::Chaos),
    /// What Kith carries on this machine, as ratios to ceilings measured in the same run
    Bench(bench::Args),
    /// Sends a server hostile requests, each of which must be rejected without disturbing other callers
    Attack(attack::Args),
    /// Whether log-ins tell by their time that an address is known
    Timing(timing::Args),
    /// Writes docs/reliability.md: what tests and chaos tried, how often, and what that says
    Reliability(reliability::Args),
    /// Starts each command that CI does not run in full, with tiny amounts on the debug binary
    ///
    /// The same as `--smoke` with each of them. Left out: `mutants` and `fuzz parsers` check all that they need but the
    /// programs cargo-mutants and cargo-fuzz, which take minutes to build; `coverage` measures the crate `kith-kernel` alone,
    /// without cargo-llvm-cov. `fuzz api` runs in full at the end of `test`.
    Smoke(smoke::Args),
    /// The bare server that `bench` compares with
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
