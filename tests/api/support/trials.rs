//! How often a test tried what has to hold each time: noted for whoever asks how much that says.

use std::fs::OpenOptions;
use std::io::Write as _;

use serde_json::json;

/// Set to a file by `cargo xtask test`.
const FILE: &str = "KITH_TEST_TRIALS";

/// Notes that `what` was tried so many times for a row of the requirements, and held each time. Called last: a test that
/// fails before has noted nothing.
pub fn note_trials(row: &str, what: &str, trials: usize) {
    let Some(file) = std::env::var_os(FILE) else { return };
    let line = format!("{}\n", json!({ "row": row, "what": what, "trials": trials }));
    // One write of less than a page at the end of the file is not mixed with another's.
    let mut file = OpenOptions::new().append(true).open(file).expect("the file of trials");
    file.write_all(line.as_bytes()).expect("room for a line");
}
