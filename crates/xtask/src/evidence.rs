//! Evidence files: the results of a command for readiness rows. `kith verify --evidence` reads them.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use kith_kernel::{Clock as _, SystemClock};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::workspace::root;

/// Folder of the evidence files.
pub const FOLDER: &str = "target/evidence";

/// Result for one readiness row.
#[derive(Debug, Serialize)]
pub struct EvidenceRow {
    /// Row id, such as `TST-02`.
    pub id: &'static str,
    /// Outcome of the measurement.
    pub result: EvidenceOutcome,
    /// Measured values.
    pub figures: Value,
    /// Summary of the result as one sentence.
    pub summary: String,
}

/// Outcome of the measurement of a readiness row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EvidenceOutcome {
    Pass,
    Fail,
}

impl EvidenceOutcome {
    /// Returns `Pass` if `holds`, otherwise `Fail`.
    pub fn of(holds: bool) -> Self {
        if holds { Self::Pass } else { Self::Fail }
    }
}

/// Results of the tests of a run, to be written into the evidence.
#[derive(Debug, Default, Serialize)]
pub struct Tests {
    /// `Some(false)` if the run failed, `None` if the command ran no test suite.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub complete: Option<bool>,
    /// Results by test name: `ok` or `failed`.
    pub tests: BTreeMap<String, &'static str>,
    /// Repeated trials that the tests recorded.
    pub trials: Vec<Trials>,
}

/// Trial that must succeed every time, with the number of its successful repetitions.
#[derive(Debug, Serialize, Deserialize)]
pub struct Trials {
    /// Id of the readiness row.
    pub row: String,
    /// Description of the trial.
    pub what: String,
    /// Number of successful repetitions.
    pub trials: u64,
}

#[derive(Serialize)]
struct Evidence<'a> {
    tool: &'a str,
    rows: &'a [EvidenceRow],
    #[serde(flatten)]
    tests: &'a Tests,
    commit: String,
    /// True if the working tree had uncommitted changes.
    dirty: bool,
    /// Time at which the file was written, in UTC (RFC 3339).
    at: String,
}

/// Writes `target/evidence/TOOL.json`, where `TOOL` stands for the name of the command. An earlier file is
/// replaced.
///
/// # Errors
/// Returns an error if Git does not report the commit, or if the file cannot be written.
pub fn write(tool: &str, rows: &[EvidenceRow]) -> Result<()> {
    write_with_tests(tool, rows, &Tests::default())
}

/// Writes evidence with the result of each test.
///
/// # Errors
/// Returns the errors of [`write`].
pub fn write_with_tests(tool: &str, rows: &[EvidenceRow], tests: &Tests) -> Result<()> {
    let folder = root()?.join(FOLDER);
    let (commit, dirty) = sources()?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let evidence = Evidence { tool, rows, tests, commit, dirty, at: SystemClock.now().to_string() };
    let file = folder.join(format!("{tool}.json"));
    let json = serde_json::to_string_pretty(&evidence)? + "\n";
    fs::write(&file, json).with_context(|| format!("cannot write {}", file.display()))?;
    println!("evidence: {FOLDER}/{tool}.json");
    Ok(())
}

/// Returns the checked-out commit, and true if tracked files differ from it.
///
/// # Errors
/// Returns an error if Git fails.
pub fn sources() -> Result<(String, bool)> {
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Ok((git(&["rev-parse", "HEAD"])?, !changed.is_empty()))
}

fn git(args: &[&str]) -> Result<String> {
    let done = Command::new("git").args(args).current_dir(root()?).output().context("cannot run git")?;
    if !done.status.success() {
        bail!("`git {}` failed: {}", args.join(" "), String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_matches_artefact_format() {
        let row = EvidenceRow {
            id: "TST-02",
            result: EvidenceOutcome::of(true),
            figures: serde_json::json!({ "lines": 1 }),
            summary: "Covered.".to_owned(),
        };
        let evidence = Evidence {
            tool: "coverage",
            rows: &[row],
            tests: &Tests::default(),
            commit: "c".to_owned(),
            dirty: false,
            at: "t".to_owned(),
        };
        let expected = serde_json::json!({
            "tool": "coverage",
            "rows": [{ "id": "TST-02", "result": "pass", "figures": { "lines": 1 }, "summary": "Covered." }],
            "tests": {}, "trials": [], "commit": "c", "dirty": false, "at": "t",
        });
        assert_eq!(serde_json::to_value(evidence).unwrap(), expected);
    }
}
