//! Evidence: what a command has shown of rows of the requirements, as a file for `kith verify --evidence`. It judges
//! nothing itself.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use kith_kernel::{Clock as _, SystemClock};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::workspace::root;

/// Where evidence is kept.
pub const FOLDER: &str = "target/evidence";

/// What was shown of one row.
#[derive(Debug, Serialize)]
pub struct Row {
    /// As the requirements name it: `TST-02`.
    pub id: &'static str,
    /// Whether it is met.
    pub result: Outcome,
    /// The numbers behind it.
    pub figures: Value,
    /// One sentence.
    pub summary: String,
}

/// Whether a row is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Pass,
    Fail,
}

impl Outcome {
    /// `Pass` if it holds.
    pub fn of(holds: bool) -> Self {
        if holds { Self::Pass } else { Self::Fail }
    }
}

/// What a run of the tests came to.
#[derive(Debug, Default, Serialize)]
pub struct Tests {
    /// False where the run did not come to a good end; else not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub complete: Option<bool>,
    /// By name: `ok`, `failed`.
    pub tests: BTreeMap<String, &'static str>,
    /// How often tests tried what has to hold each time.
    pub trials: Vec<Trials>,
}

/// How often something was tried that has to hold each time, and always did.
#[derive(Debug, Serialize, Deserialize)]
pub struct Trials {
    /// The row of the requirements.
    pub row: String,
    /// What was tried.
    pub what: String,
    /// How often.
    pub trials: u64,
}

#[derive(Serialize)]
struct Evidence<'a> {
    tool: &'a str,
    rows: &'a [Row],
    #[serde(flatten)]
    tests: &'a Tests,
    commit: String,
    /// Whether files differed from the commit.
    dirty: bool,
    /// When, in UTC (RFC 3339).
    at: String,
}

/// Writes `target/evidence/TOOL.json`, in place of what an earlier run left.
///
/// # Errors
/// Git does not say which commit this is, or the file cannot be written.
pub fn write(tool: &str, rows: &[Row]) -> Result<()> {
    write_with_tests(tool, rows, &Tests::default())
}

/// The same, with what became of each test.
///
/// # Errors
/// As for [`write`].
pub fn write_with_tests(tool: &str, rows: &[Row], tests: &Tests) -> Result<()> {
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

/// The commit that is checked out, and whether files that it has differ from it.
///
/// # Errors
/// Git does not say.
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
    fn a_row_is_written_as_its_reader_expects() {
        let row = Row {
            id: "TST-02",
            result: Outcome::of(true),
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
