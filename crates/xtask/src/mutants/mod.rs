//! `cargo xtask mutants`: mutation tests with cargo-mutants.
//!
//! A run tests a sample: every n-th mutant of the crates bonds, accounts and store. `docs/mutants.md` lists
//! the mutants that the tests do not detect (survivors). For survivors without an observable effect it states
//! the reason.

mod check;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::evidence::{self, EvidenceOutcome, EvidenceRow};
use crate::mode::Mode;
use crate::workspace::{cargo, root, run, succeeds};

/// Folder for builds and results, with one subfolder per part.
const BUILD_FOLDER: &str = "target/mutants";
/// Path of the file that explains survivors. Each `[[survivor]]` has a `mutant` (without line and column) and
/// an `explanation`.
const REASONS: &str = "tests/mutants.toml";
const LIST: &str = "docs/mutants.md";
/// Minimum share of the mutants with an observable effect that tests must detect.
const MIN_DETECTED_SHARE: f64 = 0.80;
/// Minimum timeout of a test run in seconds. A mutant that exceeds it counts as detected.
const HANG_S: &str = "240";

/// Part of the source code, and the tests that must detect its mutants.
struct Part {
    name: &'static str,
    files: &'static [&'static str],
    exclude: &'static [&'static str],
    /// Sampling interval: one of this many mutants is tested.
    every: u32,
    packages: &'static [&'static str],
    /// Arguments of `cargo test` that select the tests.
    tests: &'static [&'static str],
}

const PARTS: &[Part] = &[
    Part {
        name: "bonds",
        files: &["crates/bonds/src/bonds/**/*.rs"],
        exclude: &["**/fuzzing.rs"],
        every: 16,
        packages: &["kith-bonds", "kith"],
        tests: &[
            "--lib",
            "--test",
            "api",
            "--",
            "bonds::",
            "breakups",
            "requests",
            "invites",
            "restorations",
            "rejections",
            "partner_tiers",
            "old_paths",
            "traces",
            "block_matrix",
            "rules",
            "model",
            "rows",
        ],
    },
    Part {
        name: "accounts",
        files: &["crates/accounts/src/accounts/**/*.rs"],
        exclude: &["**/fuzzing.rs"],
        every: 16,
        packages: &["kith-accounts", "kith"],
        tests: &[
            "--lib",
            "--test",
            "api",
            "--",
            "accounts",
            "administration",
            "lockout",
            "profile",
            "account_deletion",
            "account_purges",
            "revocation",
            "operators",
            "traces",
            "tokens",
            "rules",
            "model",
            "secrets",
        ],
    },
    Part {
        name: "store",
        files: &["crates/store/src/**/*.rs"],
        exclude: &["**/fuzzing.rs", "crates/store/src/testing/**", "crates/store/src/postgres/**"],
        every: 14,
        packages: &["kith-store"],
        tests: &["--lib", "--test", "conformance", "--features", "kith-store/testing"],
    },
];

/// Options of `cargo xtask mutants`.
#[derive(clap::Args)]
pub struct Args {
    /// Test only this part: bonds, accounts or store; repeat for several
    #[arg(long)]
    part: Vec<String>,
    /// Number of the sample; each number selects different mutants
    #[arg(long, default_value_t = 0)]
    sample: u32,
    /// Test one of this many mutants instead of the default of the part; a higher number tests fewer mutants
    #[arg(long)]
    every: Option<u32>,
    /// Only report the results of earlier runs
    #[arg(long)]
    report_only: bool,
    #[command(flatten)]
    mode: Mode,
}

/// Results of a part: the names of its mutants by outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct MutantResults {
    caught: Vec<String>,
    missed: Vec<String>,
    timeout: Vec<String>,
    /// Names of mutants that do not compile.
    unviable: Vec<String>,
}

impl MutantResults {
    fn detected(&self) -> usize {
        self.caught.len() + self.timeout.len()
    }

    fn viable(&self) -> usize {
        self.detected() + self.missed.len()
    }
}

#[derive(Deserialize, Default)]
struct Reasons {
    #[serde(default)]
    survivor: Vec<Reason>,
}

#[derive(Deserialize)]
struct Reason {
    mutant: String,
    explanation: String,
}

#[derive(Debug, PartialEq, Serialize)]
struct Survivor {
    mutant: String,
    /// Reason why the mutant has no observable effect. `None` if it has one or is not explained.
    explanation: Option<String>,
}

/// Tests the mutants, and writes the list of survivors and the evidence.
///
/// # Errors
/// Returns an error if the tests fail on unchanged code, or detect too few mutants.
pub fn mutants(args: &Args) -> Result<()> {
    let root = root()?;
    let known = |name: &String| PARTS.iter().any(|part| part.name == name);
    if let Some(unknown) = args.part.iter().find(|name| !known(name)) {
        bail!("unknown part {unknown}; expected one of: bonds, accounts, store");
    }
    if args.mode.is_smoke() {
        return check::check(&root);
    }
    if !args.report_only {
        install()?;
        for part in
            PARTS.iter().filter(|part| args.part.is_empty() || args.part.iter().any(|name| name == part.name))
        {
            run_part(&root, part, args.every.unwrap_or(part.every).max(1), args.sample)?;
        }
    }
    let mut results = BTreeMap::new();
    for part in PARTS {
        // A part that has not been run is left out of the report.
        let folder = root.join(BUILD_FOLDER).join(part.name).join("mutants.out");
        if folder.exists() {
            results.insert(part.name, read(&folder)?);
        }
    }
    report(&root, &results, &reasons(&root)?)
}

fn reasons(root: &Path) -> Result<Reasons> {
    let reasons = fs::read_to_string(root.join(REASONS)).unwrap_or_default();
    toml::from_str(&reasons).with_context(|| format!("cannot read {REASONS}"))
}

fn install() -> Result<()> {
    if succeeds(cargo()?.args(["mutants", "--version"])) {
        return Ok(());
    }
    eprintln!("\nbuilding cargo-mutants, once");
    run(cargo()?.args(["install", "cargo-mutants", "--locked", "--debug"]))
}

/// Runs cargo-mutants in a copy of the tree, with the tests of `part` and without PostgreSQL.
fn run_part(root: &Path, part: &Part, every: u32, sample: u32) -> Result<()> {
    let output = root.join(BUILD_FOLDER).join(part.name);
    fs::create_dir_all(&output).with_context(|| format!("cannot make {}", output.display()))?;
    let shard = format!("{}/{every}", sample % every);
    let mut mutants = cargo()?;
    mutants.args(["mutants", "--no-shuffle", "--sharding", "round-robin", "--shard", &shard]);
    mutants.args(["--cap-lints=true", "--minimum-test-timeout", HANG_S, "--output"]).arg(&output);
    for file in part.files {
        mutants.args(["--file", file]);
    }
    for file in part.exclude {
        mutants.args(["--exclude", file]);
    }
    mutants.args(["--test-package", &part.packages.join(",")]);
    mutants.arg("--").args(part.tests);
    mutants.env("CARGO_TARGET_DIR", root.join(BUILD_FOLDER).join("build"));
    mutants.env("KITH_TEST_SQLITE_ONLY", "1").env_remove("KITH_TEST_POSTGRES");
    let status = mutants.status().context("cannot run cargo-mutants")?;
    // Exit code 2: some mutants were missed. Exit code 3: some timed out.
    match status.code() {
        Some(0 | 2 | 3) => Ok(()),
        _ => bail!("cargo-mutants ended with {status}: see {}", output.display()),
    }
}

fn read(folder: &Path) -> Result<MutantResults> {
    let lines = |name: &str| -> Result<Vec<String>> {
        let path = folder.join(name);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(text.lines().map(str::to_owned).collect())
    };
    let [caught, missed, timeout, unviable] =
        ["caught.txt", "missed.txt", "timeout.txt", "unviable.txt"].map(lines);
    Ok(MutantResults { caught: caught?, missed: missed?, timeout: timeout?, unviable: unviable? })
}

/// Removes the line and column of a mutant, which change with the file: `FILE:LINE:COLUMN: WHAT` becomes
/// `FILE: WHAT`.
fn without_position(mutant: &str) -> String {
    let mut parts = mutant.splitn(4, ':');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(file), Some(_), Some(_), Some(what)) => format!("{file}:{what}"),
        _ => mutant.to_owned(),
    }
}

fn survivors(results: &MutantResults, reasons: &Reasons) -> Vec<Survivor> {
    let explained = |mutant: &String| {
        let name = without_position(mutant);
        let reason = reasons.survivor.iter().find(|reason| reason.mutant == name);
        Survivor { mutant: mutant.clone(), explanation: reason.map(|reason| reason.explanation.clone()) }
    };
    results.missed.iter().map(explained).collect()
}

fn report(root: &Path, results: &BTreeMap<&'static str, MutantResults>, reasons: &Reasons) -> Result<()> {
    let sum = |of: fn(&MutantResults) -> usize| results.values().map(of).sum::<usize>();
    let (detected, viable) = (sum(MutantResults::detected), sum(MutantResults::viable));
    if viable == 0 {
        bail!("no change was tried");
    }
    let share = detected as f64 / viable as f64;
    let list = listed(results, reasons);
    fs::write(root.join(LIST), &list).with_context(|| format!("cannot write {LIST}"))?;
    print!("{list}");
    let parts: BTreeMap<_, _> = results
        .iter()
        .map(|(name, results)| {
            let figures = json!({
                "noticed": results.detected(), "viable": results.viable(), "unviable": results.unviable.len(),
                "survivors": survivors(results, reasons),
            });
            (*name, figures)
        })
        .collect();
    let percent = share * 100.0;
    let row = EvidenceRow {
        id: "DRV-36",
        result: EvidenceOutcome::of(share >= MIN_DETECTED_SHARE),
        figures: json!({ "noticed": detected, "viable": viable, "percent": percent, "parts": parts }),
        summary: format!(
            "Tests notice {detected} of {viable} sampled changes of bonds, accounts and store ({percent:.0} %)."
        ),
    };
    if results.len() == PARTS.len() {
        evidence::write("cargo xtask mutants", &[row])?;
    } else {
        println!(
            "no evidence: it requires {}",
            PARTS.iter().map(|part| part.name).collect::<Vec<_>>().join(", ")
        );
    }
    if share < MIN_DETECTED_SHARE {
        bail!(
            "tests notice {percent:.0} % of the changes, which is less than {:.0} %",
            MIN_DETECTED_SHARE * 100.0
        );
    }
    Ok(())
}

fn listed(results: &BTreeMap<&'static str, MutantResults>, reasons: &Reasons) -> String {
    let mut text = format!(
        "<!-- Written by `cargo xtask mutants`; reasons are in {REASONS}. -->\n\n# Mutants\n\n\
         A sample of single changes of the code, and whether the nearest tests detected them, on SQLite.\n\n\
         | part | viable mutants | detected | survived |\n|---|---|---|---|\n"
    );
    for (name, results) in results {
        let percent = 100.0 * results.detected() as f64 / results.viable().max(1) as f64;
        text += &format!(
            "| {name} | {} | {} ({percent:.0} %) | {} |\n",
            results.viable(),
            results.detected(),
            results.missed.len()
        );
    }
    text += "\n## Survivors\n\n";
    for Survivor { mutant, explanation } in results.values().flat_map(|results| survivors(results, reasons)) {
        let explanation = explanation.unwrap_or_else(|| "no test detects it yet".to_owned());
        text += &format!("* `{}`: {explanation}\n", without_position(&mutant));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const MISSED: &str = "crates/a/src/b.rs:5:9: replace > with >= in c::d";

    #[test]
    fn survivor_explanation_applies_after_line_changes() {
        assert_eq!(without_position(MISSED), "crates/a/src/b.rs: replace > with >= in c::d");
        let results =
            MutantResults { missed: vec![MISSED.to_owned(), "other".to_owned()], ..MutantResults::default() };
        let reason = Reason {
            mutant: without_position(MISSED),
            explanation: "Nothing is exactly that long.".to_owned(),
        };
        let found = survivors(&results, &Reasons { survivor: vec![reason] });
        let explanation: Vec<_> = found.iter().map(|survivor| survivor.explanation.as_deref()).collect();
        assert_eq!(explanation, [Some("Nothing is exactly that long."), None]);
    }

    #[test]
    fn timeout_counts_as_detected_and_unviable_mutant_is_ignored() {
        let names = |n| vec![String::new(); n];
        let results =
            MutantResults { caught: names(3), missed: names(1), timeout: names(2), unviable: names(4) };
        assert_eq!((results.detected(), results.viable()), (5, 6));
    }
}
