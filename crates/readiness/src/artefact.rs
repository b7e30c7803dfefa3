//! Artefacts: JSON files with the results of repository commands (tests, coverage, drills). Each artefact
//! states the commit that was tested and the time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kith_kernel::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

/// Content of one artefact file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Artefact {
    /// Command that wrote the file.
    pub tool: String,
    /// Commit on which the command ran.
    pub commit: String,
    /// True if the working tree had uncommitted changes.
    pub dirty: bool,
    /// Time at which the command finished.
    pub at: Timestamp,
    /// True if the command completed and every step succeeded.
    #[serde(default = "default_true")]
    pub complete: bool,
    /// Results for the catalogue rows that the command measured.
    #[serde(default)]
    pub rows: Vec<RowMeasurement>,
    /// Test results by test name: `ok`, `failed` or `ignored`.
    #[serde(default)]
    pub tests: BTreeMap<String, String>,
}

fn default_true() -> bool {
    true
}

/// Result of a command for one catalogue row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RowMeasurement {
    /// Row id, such as `SEC-24`.
    pub id: String,
    /// Result of the measurement.
    pub result: MeasurementResult,
    /// Description of the result as one sentence.
    pub summary: String,
    /// Measured values by name.
    #[serde(default)]
    pub figures: Map<String, Value>,
}

/// Result of a measured row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MeasurementResult {
    /// The requirement of the row is met.
    Pass,
    /// The requirement of the row is not met.
    Fail,
}

/// Error of reading an artefact folder or file.
#[derive(Debug, Error)]
#[error("{}: {reason}", path.display())]
pub struct ArtefactError {
    /// Path of the folder or file.
    pub path: PathBuf,
    /// Cause of the error.
    pub reason: String,
}

/// Artefacts from all sources, newest first.
#[derive(Clone, Debug, Default)]
pub struct Artefacts(Vec<Artefact>);

impl Artefacts {
    /// Reads every `.json` file in `folder`. Returns no artefacts if the folder does not exist.
    ///
    /// # Errors
    /// Returns [`ArtefactError`] for the first file that cannot be read or is not an artefact.
    pub fn read(folder: &Path) -> Result<Self, ArtefactError> {
        let fails = |path: &Path, reason: &dyn std::fmt::Display| ArtefactError {
            path: path.to_owned(),
            reason: reason.to_string(),
        };
        let files = match std::fs::read_dir(folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            files => files.map_err(|error| fails(folder, &error))?,
        };
        let mut all: Vec<Artefact> = Vec::new();
        for file in files {
            let path = file.map_err(|error| fails(folder, &error))?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                let text = std::fs::read(&path).map_err(|error| fails(&path, &error))?;
                all.push(serde_json::from_slice(&text).map_err(|error| fails(&path, &error))?);
            }
        }
        Ok(all.into())
    }

    /// Adds artefacts from another source. If several artefacts contain results for a row or for tests, the
    /// newest one counts.
    #[must_use]
    pub fn merge(mut self, more: Vec<Artefact>) -> Self {
        self.0.extend(more);
        self.0.into()
    }

    /// Returns all artefacts, newest first.
    pub fn all(&self) -> &[Artefact] {
        &self.0
    }

    /// Returns the newest artefact that measures `row`, with its result.
    pub(crate) fn find_row(&self, row: &str) -> Option<(&Artefact, &RowMeasurement)> {
        self.0.iter().find_map(|artefact| Some((artefact, artefact.rows.iter().find(|one| one.id == row)?)))
    }

    /// Returns the newest artefact that contains test results.
    pub(crate) fn find_tests(&self) -> Option<&Artefact> {
        self.0.iter().find(|artefact| !artefact.tests.is_empty())
    }
}

impl From<Vec<Artefact>> for Artefacts {
    fn from(mut all: Vec<Artefact>) -> Self {
        all.sort_by_key(|artefact| std::cmp::Reverse(artefact.at));
        Self(all)
    }
}
