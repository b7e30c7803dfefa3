//! Recording of the statements that tests run, with their parameters and SQLite databases, for `cargo xtask
//! plans`. It is active if `KITH_TEST_PLANS` is set to the path of a folder.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use serde::{Deserialize, Serialize};

use crate::value::{Param, Values};

/// Environment variable with the path of the output folder.
pub const PLANS_FOLDER: &str = "KITH_TEST_PLANS";

/// Maximum number of parameter sets recorded per statement and engine.
const MAX_SAMPLES: usize = 6;

/// Recorded statement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecordedStatement {
    /// True if the statement ran on PostgreSQL.
    pub is_postgres: bool,
    /// SQL text with the placeholders `$1`, `$2`, ….
    pub sql: String,
    /// Values of `$1`, `$2`, …, in order.
    pub params: Vec<RecordedParam>,
}

/// Recorded value of a parameter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum RecordedParam {
    /// NULL.
    Null,
    /// TEXT.
    Text(String),
    /// BIGINT.
    Int(i64),
    /// BOOLEAN.
    Bool(bool),
    /// DOUBLE PRECISION.
    Float(f64),
    /// BYTEA.
    Bytes(Vec<u8>),
    /// Array of BIGINT.
    Ints(Vec<Option<i64>>),
    /// Array of TEXT.
    Texts(Vec<Option<String>>),
}

impl From<&Param<'_>> for RecordedParam {
    fn from(param: &Param<'_>) -> Self {
        match *param {
            Param::Null => Self::Null,
            Param::Text(text) => Self::Text(text.to_owned()),
            Param::Id(id) => Self::Text(id.to_string()),
            Param::Int(n) => Self::Int(n),
            Param::Bool(b) => Self::Bool(b),
            Param::Float(x) => Self::Float(x),
            Param::Bytes(bytes) => Self::Bytes(bytes.to_vec()),
            Param::Array(Values::Ints(all)) => Self::Ints(all.iter().copied().map(Some).collect()),
            Param::Array(Values::OptionalInts(all)) => Self::Ints(all.to_vec()),
            Param::Array(Values::Texts(all)) => {
                Self::Texts(all.iter().map(|text| Some((*text).to_owned())).collect())
            }
            Param::Array(Values::OptionalTexts(all)) => {
                Self::Texts(all.iter().map(|text| text.map(str::to_owned)).collect())
            }
        }
    }
}

struct Recorder {
    folder: PathBuf,
    file: Mutex<File>,
    samples: Mutex<HashMap<(bool, &'static str), usize>>,
    databases: AtomicU32,
}

static RECORDER: OnceLock<Option<Recorder>> = OnceLock::new();

fn recorder() -> Option<&'static Recorder> {
    RECORDER.get_or_init(|| std::env::var_os(PLANS_FOLDER).and_then(|at| Recorder::new(at.into()))).as_ref()
}

impl Recorder {
    /// Creates the output file of this process.
    fn new(folder: PathBuf) -> Option<Self> {
        let file = File::create(folder.join(format!("{}.jsonl", std::process::id()))).ok()?;
        Some(Self { folder, file: Mutex::new(file), samples: Mutex::default(), databases: AtomicU32::new(0) })
    }

    fn record(&self, is_postgres: bool, sql: &'static str, params: &[Param<'_>]) {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let count = samples.entry((is_postgres, sql)).or_default();
        if *count == MAX_SAMPLES {
            return;
        }
        *count += 1;
        drop(samples);
        let params = params.iter().map(RecordedParam::from).collect();
        let statement = RecordedStatement { is_postgres, sql: sql.to_owned(), params };
        let mut line = serde_json::to_vec(&statement).expect("plain data");
        line.push(b'\n');
        self.file.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line).expect("a disk with room");
    }
}

/// Records a statement if recording is active.
pub(crate) fn record(is_postgres: bool, sql: &'static str, params: &[Param<'_>]) {
    if let Some(recorder) = recorder() {
        recorder.record(is_postgres, sql, params);
    }
}

/// Moves the SQLite database in `folder` to the output folder if recording is active. It is called when the
/// test of the database has ended.
pub(crate) fn save_database(folder: &Path) {
    let Some(recorder) = recorder() else { return };
    let n = recorder.databases.fetch_add(1, Ordering::Relaxed);
    let kept = recorder.folder.join(format!("{}.{n}", std::process::id()));
    // This fails if a test has removed its folder or replaced its content.
    if fs::create_dir(&kept).is_ok() {
        for file in ["kith.db", "kith.db-wal"] {
            let (from, to) = (folder.join(file), kept.join(file));
            // The temporary folder may be on another file system, where a rename fails.
            let _ = fs::rename(&from, &to).or_else(|_| fs::copy(&from, &to).map(drop));
        }
    }
}
