//! `cargo xtask test`: runs the whole suite. Starts a PostgreSQL server for it and removes the server
//! afterwards.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use anyhow::{Context as _, Result};
use kith_store::testing::server::{PostgresServer, PostgresServerOptions};

use crate::evidence::{self, Tests};
use crate::fuzz::api;
use crate::plans;
use crate::scratch::Scratch;
use crate::workspace::cargo;

/// Options of `cargo xtask test`.
#[derive(clap::Args, Default)]
pub struct Args {
    /// Run without PostgreSQL, for machines without a server
    #[arg(long)]
    sqlite_only: bool,
    /// Arguments for `cargo test`; `-p CRATE` tests only that crate
    #[arg(last = true)]
    cargo_args: Vec<String>,
}

/// Environment variables of `cargo xtask soak`. They set the repetitions of races, the number of random
/// operation sequences, and strict latency limits.
const SOAK_ENVIRONMENT: &[(&str, &str)] = &[
    ("KITH_TEST_ROUNDS", "120"),
    ("KITH_TEST_PATTERNS", "5"),
    ("KITH_MODEL_SEQUENCES", "500"),
    ("KITH_JOB_SEQUENCES", "200"),
    ("KITH_JOB_CRASH_SEQUENCES", "20"),
    ("KITH_TEST_LATENCY", "1"),
];

/// Runs the suite and returns the exit code of `cargo test`. After a run of the whole suite, also runs
/// [`plans::judge_recorded`] and [`api::fuzz`].
pub fn test(args: &Args) -> Result<ExitCode> {
    let mut suite = suite(args)?;
    let databases = Databases::start(args.sqlite_only)?;
    databases.set_environment(&mut suite);
    // No evidence is written for part of the suite, or for a run without PostgreSQL.
    if args.sqlite_only || !args.cargo_args.is_empty() {
        return Ok(exit_code(run(&mut suite)?.0));
    }
    plans::record_into_default_folder(&mut suite)?;
    let status = run_whole("cargo xtask test", &mut suite)?;
    drop(databases);
    if status.success() {
        plans::judge_recorded()?;
        api::fuzz()?;
    }
    Ok(exit_code(status))
}

/// Runs the suite including ignored tests. Races and random operation sequences are repeated many more times.
pub fn soak() -> Result<ExitCode> {
    let mut suite = suite(&Args::default())?;
    suite.args(["--", "--include-ignored"]).envs(SOAK_ENVIRONMENT.iter().copied());
    let databases = Databases::start(false)?;
    databases.set_environment(&mut suite);
    run_whole("cargo xtask soak", &mut suite).map(exit_code)
}

fn suite(args: &Args) -> Result<Command> {
    let mut suite = cargo()?;
    // All test binaries run even if one fails, so that every failure is reported.
    suite.args(["test", "--locked", "--no-fail-fast"]);
    if !args.cargo_args.iter().any(|arg| arg.starts_with("-p") || arg.starts_with("--package")) {
        suite.arg("--workspace");
    }
    suite.args(&args.cargo_args);
    Ok(suite)
}

/// Runs the whole suite and writes its results as the evidence of the command `tool`.
fn run_whole(tool: &str, suite: &mut Command) -> Result<ExitStatus> {
    let trials = tempfile::NamedTempFile::new().context("no temporary file")?;
    suite.env("KITH_TEST_TRIALS", trials.path());
    let before = evidence::sources()?;
    let (status, tests) = run(suite)?;
    let lines = std::fs::read_to_string(trials.path()).context("the trials that tests noted")?;
    let trials = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>().context(lines.clone())?;
    if before == evidence::sources()? {
        let tests = Tests { complete: Some(status.success()), tests, trials };
        evidence::write_with_tests(tool, &[], &tests)?;
    } else {
        eprintln!("the sources have changed meanwhile: this run shows nothing of either state");
    }
    Ok(status)
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    ExitCode::from(code.unwrap_or(1))
}

/// Runs the suite, prints its output, and returns the result of each test.
fn run(suite: &mut Command) -> Result<(ExitStatus, BTreeMap<String, &'static str>)> {
    let mut child = suite.stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
    let mut tests = BTreeMap::new();
    for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
        let line = line.context("the output of the tests")?;
        println!("{line}");
        if let Some((name, outcome)) = outcome_of(&line) {
            // Several binaries may contain a test of this name. It counts as failed if it failed in one of
            // them.
            let known = tests.entry(name.to_owned()).or_insert(outcome);
            if outcome == "failed" {
                *known = outcome;
            }
        }
    }
    Ok((child.wait().context("cannot wait for cargo")?, tests))
}

/// Parses a result line of libtest, such as `test a::b ... ok`. Returns `None` for ignored tests.
fn outcome_of(line: &str) -> Option<(&str, &'static str)> {
    let (name, outcome) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    let outcome = match outcome.split([',', ' ']).next()? {
        "ok" => "ok",
        "FAILED" => "failed",
        _ => return None,
    };
    Some((name.trim_end_matches(" - should panic"), outcome))
}

/// Databases of a test run: a PostgreSQL server, and a folder for the SQLite databases and all other
/// temporary files. Both are removed when dropped.
pub struct Databases {
    // This field is the first one, because fields are dropped in order and the server must stop before its
    // folder is removed.
    server: Option<PostgresServer>,
    scratch: Scratch,
}

impl Databases {
    /// Creates the folder, and starts the PostgreSQL server unless `sqlite_only` is set.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be created or the server cannot be started.
    pub fn start(sqlite_only: bool) -> Result<Self> {
        let scratch = Scratch::new()?;
        let parent = Some(scratch.path().to_owned());
        let start =
            || PostgresServer::start(PostgresServerOptions { tls: true, parent, ..Default::default() });
        let server = (!sqlite_only).then(start).transpose();
        let server = server.context("the tests need a PostgreSQL server (or `--sqlite-only`)")?;
        Ok(Self { server, scratch })
    }

    /// Sets the environment variables that name the databases for a test suite.
    pub fn set_environment(&self, suite: &mut Command) {
        suite.env("TMPDIR", self.scratch.path());
        match &self.server {
            None => {
                suite.env("KITH_TEST_SQLITE_ONLY", "1");
            }
            Some(server) => {
                suite.env_remove("KITH_TEST_SQLITE_ONLY");
                suite.env("KITH_TEST_POSTGRES", server.url("postgres"));
                suite.env("KITH_TEST_POSTGRES_CA", server.ca_file());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_result_line_is_parsed() {
        assert_eq!(outcome_of("test a::b ... ok"), Some(("a::b", "ok")));
        assert_eq!(outcome_of("test a::b - should panic ... FAILED"), Some(("a::b", "failed")));
        for line in [
            "test a::b ... ignored, for a reason",
            "test result: ok. 1 passed; 0 failed",
            "running 2 tests",
            "test a ... bench: 1 ns",
        ] {
            assert_eq!(outcome_of(line), None, "{line}");
        }
    }
}
