//! Records repeated trials of tests, as evidence of reliability.

use std::fs::OpenOptions;
use std::io::Write as _;

use serde_json::json;

/// Environment variable with the file for records, set by `cargo xtask test`.
const FILE: &str = "KITH_TEST_TRIALS";

/// Records that the trial `what` of a readiness row was repeated `trials` times and never failed. Call it at
/// the end of a test, so that a failed test records nothing.
pub fn note_trials(row: &str, what: &str, trials: usize) {
    let Some(file) = std::env::var_os(FILE) else { return };
    let line = format!("{}\n", json!({ "row": row, "what": what, "trials": trials }));
    // A single write of less than a page in append mode is not mixed with the writes of other processes.
    let mut file = OpenOptions::new().append(true).open(file).expect("the file of trials");
    file.write_all(line.as_bytes()).expect("room for a line");
}
