//! `cargo xtask fuzz parsers`: builds the fuzz targets with coverage guidance, runs each of them for a given
//! time, and reports the results.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;
use serde_json::{Value, json};

use crate::evidence::{self, EvidenceOutcome, EvidenceRow};
use crate::mode::Mode;
use crate::workspace::{cargo, root, run, succeeds};

/// Folder of the targets and seeds.
const FOLDER: &str = "fuzz";
/// Folder for builds, corpora, crashes and logs.
const BUILD_FOLDER: &str = "target/fuzz";
/// Minimum duration in seconds for which a target must run to count as evidence.
const EVIDENCE_SECONDS: u64 = 600;
/// Time in seconds after which an input counts as a hang. It is long enough for a busy machine.
const HANG_S: u64 = 60;
/// Name of the test that runs the targets of a crate on their seeds.
const SEED_TEST_NAME: &str = "seed_inputs_satisfy_properties";
/// Prefix of the host triple in the output of `rustc -vV`.
const HOST_PREFIX: &str = "host: ";

/// Options of `cargo xtask fuzz parsers`.
#[derive(clap::Args)]
pub struct Args {
    /// Seconds for which each target runs; evidence requires 600 for every target
    #[arg(long, default_value_t = EVIDENCE_SECONDS)]
    seconds: u64,
    /// Run only this target; repeat for several
    #[arg(long)]
    target: Vec<String>,
    /// Number of targets that run concurrently
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Run the fuzz targets of an earlier build
    #[arg(long)]
    no_build: bool,
    #[command(flatten)]
    mode: Mode,
}

/// Results of one target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct TargetResult {
    target: String,
    /// Duration in seconds until the end or until the first crash.
    seconds: u64,
    /// Number of executed inputs.
    executions: u64,
    /// Number of covered edges of the control flow.
    edges: u64,
    /// Number of inputs that increased the coverage, including seeds.
    corpus: u64,
    /// Number of crashes, hangs and out-of-memory inputs.
    crashes: u64,
}

/// Runs all or the chosen targets and writes evidence.
///
/// # Errors
/// Returns an error if an input violates an invariant.
#[expect(clippy::disallowed_methods, reason = "reports the duration")]
pub fn fuzz(args: &Args) -> Result<()> {
    let root = root()?;
    let all = targets(&root)?;
    let chosen = choose(&all, &args.target)?;
    if args.mode.is_smoke() {
        return check(&root, &chosen);
    }
    if !args.no_build {
        build(&root)?;
    }
    let started = Instant::now();
    let waiting = Mutex::new(chosen.iter().cloned().collect::<VecDeque<_>>());
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let work = || -> Result<()> {
            loop {
                let Some(target) = waiting.lock().expect("unpoisoned").pop_front() else { return Ok(()) };
                let ran = run_one(&root, &target, args.seconds)?;
                println!("{}", line(&ran));
                done.lock().expect("unpoisoned").push(ran);
            }
        };
        let workers: Vec<_> = (0..args.jobs.max(1)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker does not panic"))
    })?;
    let mut ran = done.into_inner().expect("unpoisoned");
    ran.sort_by(|one, other| one.target.cmp(&other.target));
    let whole = chosen.len() == all.len() && args.seconds >= EVIDENCE_SECONDS;
    report(&ran, whole, started.elapsed().as_secs())
}

/// Returns the names of all targets, which are the names of their files.
fn targets(root: &Path) -> Result<Vec<String>> {
    let folder = root.join(FOLDER).join("fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

/// Checks that everything a run needs is present, except for cargo-fuzz. Then runs each target on its seeds
/// with the normal compiler.
fn check(root: &Path, targets: &[String]) -> Result<()> {
    let manifest = root.join(FOLDER).join("Cargo.toml");
    let mut metadata = cargo()?;
    metadata.args(["metadata", "--locked", "--format-version", "1", "--manifest-path"]).arg(&manifest);
    let output = metadata.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    ensure!(output.status.success(), "the lock file of {FOLDER} does not match its manifest");
    let output: Value =
        serde_json::from_slice(&output.stdout).context("cannot parse cargo's list of targets")?;
    let packages = output["packages"].as_array().into_iter().flatten();
    let package = packages.into_iter().find(|package| package["name"] == "kith-fuzz");
    let programs =
        package.and_then(|package| package["targets"].as_array()).context("no package kith-fuzz")?;
    for target in targets {
        ensure!(
            programs.iter().any(|program| program["name"] == target.as_str()),
            "cargo has no target {target}"
        );
        let path = root.join(FOLDER).join("fuzz_targets").join(format!("{target}.rs"));
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(text.contains("fuzz_target!("), "{} is not a target", path.display());
        let seeds = count(&root.join(FOLDER).join("seeds").join(target))?;
        ensure!(seeds > 0, "{target} has no seeds");
        println!("{target:<14} {seeds:>4} seeds");
    }
    let mut seeds = cargo()?;
    seeds.args(["test", "--locked", "--workspace", "--lib", SEED_TEST_NAME]);
    let output = seeds.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let passed = text.lines().filter(|line| line.contains(SEED_TEST_NAME) && line.ends_with(" ok")).count();
    let crates = fs::read_dir(root.join("crates"))?.flatten();
    let crates = crates.filter(|one| one.path().join("src/fuzzing.rs").exists()).count();
    ensure!(output.status.success() && passed == crates, "a target fails on its seeds:\n{text}");
    println!("the targets of {passed} crates hold for their seeds; cargo-fuzz was not run");
    Ok(())
}

fn choose(all: &[String], wanted: &[String]) -> Result<Vec<String>> {
    if let Some(unknown) = wanted.iter().find(|name| !all.contains(name)) {
        bail!("unknown target {unknown}; expected one of: {}", all.join(", "));
    }
    Ok(all.iter().filter(|name| wanted.is_empty() || wanted.contains(name)).cloned().collect())
}

/// Builds the targets with cargo-fuzz. Sanitizers are off, because they need a nightly compiler and the
/// workspace has no unsafe code.
fn build(root: &Path) -> Result<()> {
    if !succeeds(cargo()?.args(["fuzz", "--version"])) {
        eprintln!("\nbuilding cargo-fuzz, once");
        run(cargo()?.args(["install", "cargo-fuzz", "--locked"]))?;
    }
    let mut build = cargo()?;
    build.current_dir(root.join(FOLDER)).args(["fuzz", "build", "--sanitizer", "none", "--target-dir"]);
    run(build.arg(root.join(BUILD_FOLDER)))
}

fn binary(root: &Path, target: &str) -> Result<PathBuf> {
    let version = Command::new("rustc").arg("-vV").output().context("cannot run rustc")?;
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let host =
        version.lines().find_map(|line| line.strip_prefix(HOST_PREFIX)).context("rustc names no host")?;
    Ok(root.join(BUILD_FOLDER).join(host).join("release").join(target))
}

/// Runs one target. Writes its output to `target/fuzz/log/TARGET` and crashing inputs to
/// `target/fuzz/artifacts/TARGET`.
#[expect(clippy::disallowed_methods, reason = "reports the duration")]
fn run_one(root: &Path, target: &str, seconds: u64) -> Result<TargetResult> {
    let built = root.join(BUILD_FOLDER);
    let (corpus, artifacts) = (built.join("corpus").join(target), built.join("artifacts").join(target));
    let log = built.join("log").join(target);
    for folder in [&corpus, &artifacts, &built.join("log")] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let before = count(&artifacts)?;
    let output = File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
    let mut fuzzer = Command::new(binary(root, target)?);
    fuzzer.arg(&corpus).arg(root.join(FOLDER).join("seeds").join(target));
    fuzzer.arg(format!("-artifact_prefix={}/", artifacts.display()));
    fuzzer.args([format!("-max_total_time={seconds}"), format!("-timeout={HANG_S}")]);
    fuzzer.args(["-print_final_stats=1", "-rss_limit_mb=2048", "-max_len=4096"]);
    fuzzer.stdout(Stdio::null()).stderr(output);
    let started = Instant::now();
    let status = fuzzer.status().with_context(|| format!("cannot run {target}"))?;
    let output = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    let crashes = count(&artifacts)?.saturating_sub(before).max(u64::from(!status.success()));
    read(target, started.elapsed().as_secs(), &output, crashes)
        .with_context(|| format!("{} is not output of libFuzzer", log.display()))
}

/// Returns the number of crashing inputs in a folder. Slow inputs (`slow-unit-…`) do not count as crashes.
fn count(folder: &Path) -> Result<u64> {
    let mut found = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        found += u64::from(!entry?.file_name().to_string_lossy().starts_with("slow-unit-"));
    }
    Ok(found)
}

/// Parses the output of libFuzzer. It contains status lines such as `#2048 pulse cov: 213 ft: 401 corp:
/// 22/1Kb …`, and ends with `stat::number_of_executed_units: 123456`.
fn read(target: &str, seconds: u64, output: &str, crashes: u64) -> Option<TargetResult> {
    let status = output.lines().rev().find(|line| line.starts_with('#') && line.contains(" cov: "))?;
    let figure =
        |name: &str| status.split(name).nth(1)?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
    let counted = output.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    // The final statistics are missing after a crash.
    let executions = match counted {
        Some(counted) => counted.trim().parse().ok()?,
        None => status[1..].split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?,
    };
    let (edges, corpus) = (figure(" cov: ")?, figure(" corp: ")?);
    Some(TargetResult { target: target.to_owned(), seconds, executions, edges, corpus, crashes })
}

fn line(ran: &TargetResult) -> String {
    let TargetResult { target, seconds, executions, edges, corpus, crashes } = ran;
    format!(
        "{target:<14} {seconds:>6} s {executions:>12} executions {edges:>7} edges {corpus:>6} inputs {crashes:>3} crashes"
    )
}

fn report(ran: &[TargetResult], whole: bool, took: u64) -> Result<()> {
    println!("\nfuzz parsers, in {took} s:");
    ran.iter().for_each(|ran| println!("{}", line(ran)));
    let executions: u64 = ran.iter().map(|ran| ran.executions).sum();
    let crashed: Vec<_> = ran.iter().filter(|ran| ran.crashes > 0).map(|ran| ran.target.as_str()).collect();
    let least = ran.iter().map(|ran| ran.seconds).min().unwrap_or(0);
    let summary = format!(
        "{} targets, each for {least} s or more, {executions} executions, {} with crashes.",
        ran.len(),
        crashed.len()
    );
    if whole || !crashed.is_empty() {
        let figures = json!({ "targets": ran, "executions": executions, "crashes": crashed });
        evidence::write(
            "cargo xtask fuzz parsers",
            &[EvidenceRow {
                id: "DRV-37",
                result: EvidenceOutcome::of(crashed.is_empty()),
                figures,
                summary,
            }],
        )?;
    } else {
        println!("no evidence: it requires every target, for {EVIDENCE_SECONDS} s each");
    }
    if !crashed.is_empty() {
        bail!(
            "inputs that crash {} are in {BUILD_FOLDER}/artifacts; pass one to \
             {BUILD_FOLDER}/…/release/TARGET",
            crashed.join(", ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libfuzzer_output_is_parsed() {
        let output = "INFO: Seed: 1\n#2\tINITED cov: 20 ft: 21 corp: 1/1b exec/s: 0 rss: 30Mb\n\
                    #2048\tpulse  cov: 213 ft: 401 corp: 22/1Kb lim: 21 exec/s: 1024 rss: 31Mb\n\
                    stat::number_of_executed_units: 4096\nstat::average_exec_per_sec:     400\n";
        let ran = |executions, crashes| {
            Some(TargetResult {
                target: "text".into(),
                seconds: 10,
                executions,
                edges: 213,
                corpus: 22,
                crashes,
            })
        };
        assert_eq!(read("text", 10, output, 0), ran(4096, 0));
        assert_eq!(read("text", 10, output.split("stat::").next().unwrap(), 1), ran(2048, 1));
        assert_eq!(read("text", 10, "", 0), None);
    }

    #[test]
    fn slow_input_is_not_a_crash() {
        let folder = tempfile::tempdir().unwrap();
        for (name, crashes) in [("slow-unit-1", 0), ("crash-1", 1), ("timeout-1", 2), ("oom-1", 3)] {
            fs::write(folder.path().join(name), "").unwrap();
            assert_eq!(count(folder.path()).unwrap(), crashes, "{name}");
        }
    }

    #[test]
    fn every_target_has_seeds() {
        let root = root().unwrap();
        let targets = targets(&root).unwrap();
        assert!(targets.len() > 10, "{targets:?}");
        for target in targets {
            assert!(count(&root.join(FOLDER).join("seeds").join(&target)).unwrap() > 0, "{target}");
        }
    }
}
