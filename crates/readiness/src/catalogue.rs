//! The catalogue of readiness rows. Each row states a requirement of a deployment, its sources, and how this
//! build measures it.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

const BUILT_IN: &str = include_str!("../../../readiness/catalogue.toml");

/// Complete catalogue, in the order in which reports print it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// Areas that group the rows.
    #[serde(rename = "area", default)]
    pub areas: Vec<Area>,
    /// All rows, grouped by area.
    #[serde(rename = "row", default)]
    pub rows: Vec<CatalogueRow>,
}

/// Group of rows, such as security.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Area {
    /// Prefix of the ids of its rows, such as `SEC`.
    pub id: String,
    /// Title of the area.
    pub name: String,
}

/// Requirement that a run judges.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogueRow {
    /// Row id, such as `SEC-24`. Ids are never reused.
    pub id: String,
    /// Requirement as one sentence.
    pub requirement: String,
    /// Checklists that contain the requirement, each with the state that it records there.
    #[serde(default)]
    pub source: Vec<String>,
    /// Id of the row from which this requirement follows, if no checklist contains it.
    pub derived_from: Option<String>,
    /// Gate that remains closed until this row holds.
    pub gate: Gate,
    /// Kinds of evidence that can prove the row.
    #[serde(default)]
    pub how: Vec<String>,
    /// Maximum age of evidence: `run`, `24 h`, `30 d`, `build`, or two of these separated by ` / `.
    #[serde(default)]
    pub max_age: String,
    /// Description of the check and of the evidence that it produces.
    pub check: String,
    /// Prerequisite that is still missing, if the row is not implemented yet.
    pub awaits: Option<String>,
    /// Methods by which this build proves the row. The row holds only if all of them pass.
    #[serde(default)]
    pub proved_by: Vec<ProofMethod>,
    /// Substrings of test names. Each must match at least one test, and all matching tests must pass.
    #[serde(default)]
    pub tests: Vec<String>,
    /// Command that writes the artefact for this row.
    pub artefact_command: Option<String>,
    /// Fault that the twin test of this row injects into a server, such as "without limits". The test proves
    /// that the check of the row fails on this server. `None` if the row has no twin test.
    pub twin: Option<String>,
    /// Rows that this row summarizes: `beta`, `production`, `live`, areas or row ids, separated by spaces.
    pub summarizes: Option<String>,
}

/// Milestone that requires rows to hold. A row blocks its gate until its requirement is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gate {
    /// Blocks the beta gate and the production gate.
    Beta,
    /// Blocks the production gate only.
    Production,
    /// Blocks no gate. The row only appears in reports.
    None,
}

/// Method by which a row is proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProofMethod {
    /// Check that runs against the live deployment.
    Live,
    /// Test results. They must belong to the running commit, or must not be older than the row allows.
    Tests,
    /// Artefact written by a repository command.
    Artefact,
    /// Statement of a named owner that the row holds, valid until a date.
    Attestation,
    /// Results of the rows that this row summarizes.
    Rows,
}

/// Error in the text of a catalogue.
#[derive(Debug, Error)]
pub enum CatalogueError {
    /// The text is not valid TOML or does not match the format.
    #[error("{0}")]
    Unreadable(#[from] toml::de::Error),
    /// Two rows have the same id.
    #[error("two rows have the id {0}")]
    DuplicateId(String),
    /// A row has neither or both of `proved_by` and `awaits`.
    #[error("row {0} needs either `proved_by` or `awaits`")]
    AmbiguousMethod(String),
    /// No area matches the prefix of a row's id.
    #[error("row {0} belongs to no area: no area has the prefix of its id")]
    UnknownArea(String),
}

impl Catalogue {
    /// Returns Kith's built-in catalogue.
    ///
    /// # Panics
    /// Panics if the embedded catalogue is invalid. A test parses it, so this does not happen in a tested
    /// build.
    pub fn built_in() -> Self {
        Self::read(BUILT_IN).expect("a test parses the catalogue")
    }

    /// Parses the TOML text of a catalogue.
    ///
    /// # Errors
    /// Returns [`CatalogueError`] for the first fault found.
    pub fn read(text: &str) -> Result<Self, CatalogueError> {
        let catalogue: Self = toml::from_str(text)?;
        let mut ids = HashSet::new();
        for row in &catalogue.rows {
            if !ids.insert(&*row.id) {
                return Err(CatalogueError::DuplicateId(row.id.clone()));
            }
            if row.proved_by.is_empty() == row.awaits.is_none() {
                return Err(CatalogueError::AmbiguousMethod(row.id.clone()));
            }
            if !catalogue.areas.iter().any(|area| area.id == row.area()) {
                return Err(CatalogueError::UnknownArea(row.id.clone()));
            }
        }
        Ok(catalogue)
    }

    /// Renders all rows as a Markdown page with one table for each area.
    pub fn to_markdown(&self) -> String {
        let mut page = String::from(
            "<!-- Generated by `kith verify --list`. Change readiness/catalogue.toml. -->\n\
             # Readiness catalogue\n",
        );
        for area in &self.areas {
            let _ = write!(page, "\n## {} {}\n\n", area.id, area.name);
            page.push_str("| row | requirement | source | gate | check (method: maximum age) | in Kith |\n");
            page.push_str("|---|---|---|---|---|---|\n");
            for row in self.rows.iter().filter(|row| row.area() == area.id) {
                page.push_str(&row.to_markdown_row());
            }
        }
        page.truncate(page.trim_end().len());
        page
    }

    /// Returns the row with this id.
    pub fn find(&self, id: &str) -> Option<&CatalogueRow> {
        self.rows.iter().find(|row| row.id == id)
    }
}

impl CatalogueRow {
    /// Returns the id of the area to which the row belongs: the part of the row id before the first dash.
    pub fn area(&self) -> &str {
        self.id.split_once('-').map_or(&self.id, |(area, _)| area)
    }

    fn to_markdown_row(&self) -> String {
        let named = match &self.derived_from {
            Some(row) => format!("for {row}"),
            None if self.source.is_empty() => "none".to_owned(),
            None => self.source.join("; "),
        };
        let here = match (&self.awaits, &self.artefact_command) {
            (Some(awaits), _) => format!("not yet: requires {awaits}"),
            (None, artefact_command) => {
                let methods: Vec<_> =
                    self.proved_by.iter().map(|method| format!("{method:?}").to_lowercase()).collect();
                let of_command =
                    artefact_command.as_ref().map_or(String::new(), |command| format!(" of `{command}`"));
                format!("{}{of_command}", methods.join(", "))
            }
        };
        let gate = format!("{:?}", self.gate).to_lowercase();
        let cells = [
            &*self.id,
            &self.requirement,
            &named,
            &gate,
            &format!("{} ({}: {})", self.check, self.how.join(", "), self.max_age),
            &here,
        ];
        format!("| {} |\n", cells.map(|cell| cell.replace('|', "\\|")).join(" | "))
    }

    /// Returns true if `gate` remains closed until this row holds.
    pub fn blocks_gate(&self, gate: Gate) -> bool {
        self.gate != Gate::None && self.gate <= gate
    }

    /// Returns the maximum age of test results and artefacts. Returns `None` if the row limits no age, and
    /// only the build must match.
    pub fn artefact_age(&self) -> Option<Duration> {
        self.max_age.split(" / ").filter_map(parse_age).max()
    }

    /// Returns true if test results and artefacts count only for the build on which they were produced.
    pub fn is_bound_to_build(&self) -> bool {
        self.artefact_age().is_none() || self.max_age.split(" / ").any(|age| age == "build")
    }
}

fn parse_age(text: &str) -> Option<Duration> {
    let (n, unit) = text.trim().split_once(' ')?;
    let hours = match unit {
        "h" => 1,
        "d" => 24,
        _ => return None,
    };
    n.parse::<u64>().ok().map(|n| Duration::from_secs(n * hours * 3_600))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_catalogue_is_valid() {
        let catalogue = Catalogue::built_in();
        assert_eq!(catalogue.rows.len(), 274);
        let known = ["run", "build", "none", "24 h", "7 d", "30 d", "90 d", "180 d", "365 d"];
        for row in &catalogue.rows {
            assert!(row.max_age.split(" / ").all(|age| known.contains(&age)), "{}: {}", row.id, row.max_age);
            assert_eq!(row.proved_by.contains(&ProofMethod::Tests), !row.tests.is_empty(), "{}", row.id);
            assert_eq!(
                row.proved_by.contains(&ProofMethod::Artefact),
                row.artefact_command.is_some(),
                "{}",
                row.id
            );
            assert_eq!(row.proved_by.contains(&ProofMethod::Rows), row.summarizes.is_some(), "{}", row.id);
            assert!(row.derived_from.is_none() || row.source.is_empty(), "{}", row.id);
        }
    }

    #[test]
    fn invalid_rows_are_rejected() {
        let read = |rows: &str| Catalogue::read(&format!("[[area]]\nid = \"SEC\"\nname = \"\"\n{rows}"));
        let row = |id: &str, how: &str| {
            format!("[[row]]\nid = \"{id}\"\nrequirement = \"\"\ngate = \"beta\"\ncheck = \"\"\n{how}\n")
        };
        assert!(read(&row("SEC-01", "proved_by = [\"live\"]")).is_ok());
        let twice = row("SEC-01", "proved_by = [\"live\"]") + &row("SEC-01", "awaits = \"x\"");
        assert!(matches!(read(&twice), Err(CatalogueError::DuplicateId(id)) if id == "SEC-01"));
        assert!(matches!(read(&row("SEC-01", "")), Err(CatalogueError::AmbiguousMethod(_))));
        assert!(matches!(
            read(&row("SEC-01", "proved_by = [\"live\"]\nawaits = \"x\"")),
            Err(CatalogueError::AmbiguousMethod(_))
        ));
        assert!(matches!(
            read(&row("ACC-01", "proved_by = [\"live\"]")),
            Err(CatalogueError::UnknownArea(_))
        ));
        assert!(matches!(read(&row("SEC-01", "buy = 1")), Err(CatalogueError::Unreadable(_))));
    }

    #[test]
    fn beta_rows_block_production_gate() {
        let catalogue = Catalogue::built_in();
        let blocks = |id, gate| catalogue.find(id).unwrap().blocks_gate(gate);
        assert!(blocks("PRT-01", Gate::Beta) && blocks("PRT-01", Gate::Production));
        assert!(!blocks("PRT-08", Gate::Beta) && blocks("PRT-08", Gate::Production));
        assert!(!blocks("PRT-09", Gate::Beta) && !blocks("PRT-09", Gate::Production));
    }

    #[test]
    fn artefact_age_is_longest_maximum_age_of_row() {
        let catalogue = Catalogue::built_in();
        let age = |id| catalogue.find(id).unwrap().artefact_age();
        assert_eq!(age("ACC-04"), Some(Duration::from_secs(30 * 86_400)));
        assert_eq!(age("TST-01"), None);
    }
}
