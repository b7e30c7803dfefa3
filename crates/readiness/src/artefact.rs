//! What commands of the repository left behind: the results of tests, coverage, drills; bound to a commit and a time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kith_kernel::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

/// One file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Artefact {
    /// The command that wrote it.
    pub tool: String,
    /// Of what.
    pub commit: String,
    /// Whether there were changes that were not committed.
    pub dirty: bool,
    /// When it had done what it tells of.
    pub at: Timestamp,
    /// Whether it did all that it set out to do, and all of it succeeded.
    #[serde(default = "yes")]
    pub complete: bool,
    /// The rows that it measured.
    #[serde(default)]
    pub rows: Vec<Measured>,
    /// Tests by name, and what became of them: `ok`, `failed`, `ignored`.
    #[serde(default)]
    pub tests: BTreeMap<String, String>,
}

fn yes() -> bool {
    true
}

/// What it says of one row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// The row.
    pub id: String,
    /// Whether it holds.
    pub result: Holds,
    /// In a sentence.
    pub summary: String,
    /// What was measured.
    #[serde(default)]
    pub figures: Map<String, Value>,
}

/// Whether a row holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Holds {
    /// It does.
    Pass,
    /// It does not.
    Fail,
}

/// Why a folder of artefacts cannot be used.
#[derive(Debug, Error)]
#[error("{}: {why}", path.display())]
pub struct ArtefactError {
    /// The folder or file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Artefacts(Vec<Artefact>);

impl Artefacts {
    /// Reads every `.json` of a folder; none if there is no such folder.
    ///
    /// # Errors
    /// The first file that is no artefact.
    pub fn read(folder: &Path) -> Result<Self, ArtefactError> {
        let fails = |path: &Path, why: &dyn std::fmt::Display| ArtefactError {
            path: path.to_owned(),
            why: why.to_string(),
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

    /// Those of this and of another source; of two that tell of the same the newest counts.
    #[must_use]
    pub fn and(mut self, more: Vec<Artefact>) -> Self {
        self.0.extend(more);
        self.0.into()
    }

    /// Each.
    pub fn all(&self) -> &[Artefact] {
        &self.0
    }

    /// The newest that tells of `row`.
    pub(crate) fn of_row(&self, row: &str) -> Option<(&Artefact, &Measured)> {
        self.0.iter().find_map(|artefact| Some((artefact, artefact.rows.iter().find(|one| one.id == row)?)))
    }

    /// The newest that tells of tests.
    pub(crate) fn of_tests(&self) -> Option<&Artefact> {
        self.0.iter().find(|artefact| !artefact.tests.is_empty())
    }
}

impl From<Vec<Artefact>> for Artefacts {
    fn from(mut all: Vec<Artefact>) -> Self {
        all.sort_by_key(|artefact| std::cmp::Reverse(artefact.at));
        Self(all)
    }
}
