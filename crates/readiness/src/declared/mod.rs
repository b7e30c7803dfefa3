//! Declarations that operators write in files of their own. They contain checks of any service, attestations,
//! and waivers. Attestations and waivers are valid until a date.

mod kind;
#[cfg(test)]
mod tests;

use std::time::Duration;

use kith_kernel::{Timestamp, days};
use serde::Deserialize;
use thiserror::Error;

use crate::catalogue::ProofMethod;
use crate::{Area, Catalogue, CatalogueRow, Gate, RowOutcome, RowResult, Run, Shortfall};
use kind::CheckKind;

/// Declarations from all files that were added.
#[derive(Clone, Debug, Default)]
pub struct Declared {
    checks: Vec<DeclaredCheck>,
    waivers: Vec<Waiver>,
}

/// Check that a declaration file contains.
#[derive(Clone, Debug)]
pub(crate) struct DeclaredCheck {
    id: String,
    remediation: String,
    kind: CheckKind,
}

/// Content of one declaration file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeclarationFile {
    #[serde(default)]
    check: Vec<toml::Table>,
    #[serde(default)]
    waiver: Vec<Waiver>,
}

/// Decision of a named owner to accept that a row does not hold. Valid until a date.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Waiver {
    row: String,
    reason: String,
    owner: String,
    until: Timestamp,
}

/// Fields that a declared check has regardless of its kind.
#[derive(Debug, Default, Deserialize)]
struct CheckFields {
    id: Option<String>,
    requirement: Option<String>,
    gate: Option<Gate>,
    remediation: Option<String>,
}

/// Error in a declaration file.
#[derive(Debug, Error)]
pub enum DeclaredError {
    /// The text is not valid TOML or does not match the format.
    #[error("{0}")]
    Unreadable(#[from] toml::de::Error),
    /// A check has missing or invalid fields.
    #[error("check {id}: {reason}")]
    Check {
        /// Row id, or the position of the check in the file if it has no id.
        id: String,
        /// Description of the fault.
        reason: String,
    },
    /// A waiver is incomplete or names an unknown row.
    #[error("the waiver of {row}: {reason}")]
    Waiver {
        /// Id of the waived row.
        row: String,
        /// Description of the fault.
        reason: &'static str,
    },
}

impl Declared {
    /// Parses the text of a file and adds its declarations. Adds rows that the file defines itself, such as
    /// `SHOP-01`, to `catalogue`.
    ///
    /// # Errors
    /// Returns [`DeclaredError`] for the first fault found.
    pub fn add(&mut self, text: &str, catalogue: &mut Catalogue) -> Result<(), DeclaredError> {
        let file: DeclarationFile = toml::from_str(text)?;
        for (n, table) in file.check.into_iter().enumerate() {
            self.add_check(n, table, catalogue)?;
        }
        for waiver in file.waiver {
            let wrong = |reason| DeclaredError::Waiver { row: waiver.row.clone(), reason };
            if catalogue.find(&waiver.row).is_none() {
                return Err(wrong("the catalogue has no such row"));
            }
            if waiver.reason.trim().is_empty() || waiver.owner.trim().is_empty() {
                return Err(wrong("it needs a reason and an owner"));
            }
            self.waivers.push(waiver);
        }
        Ok(())
    }

    fn add_check(
        &mut self,
        n: usize,
        mut table: toml::Table,
        catalogue: &mut Catalogue,
    ) -> Result<(), DeclaredError> {
        let mut head = toml::Table::new();
        for key in ["id", "requirement", "gate", "remediation"] {
            head.extend(table.remove(key).map(|value| (key.to_owned(), value)));
        }
        let head: CheckFields = head.try_into()?;
        let id = head.id.unwrap_or_default();
        let name = if id.is_empty() { format!("number {}", n + 1) } else { id.clone() };
        let wrong = |reason: &str| DeclaredError::Check { id: name.clone(), reason: reason.to_owned() };
        let kind: CheckKind = table.try_into().map_err(|error: toml::de::Error| wrong(error.message()))?;
        if !id.split_once('-').is_some_and(|(area, number)| !area.is_empty() && !number.is_empty()) {
            return Err(wrong("it needs an `id` such as \"SHOP-01\""));
        }
        kind.check().map_err(wrong)?;
        if self.checks.iter().any(|known| known.id == id) {
            return Err(wrong("there are two checks for this row"));
        }
        match (&kind, catalogue.rows.iter_mut().find(|row| row.id == id)) {
            (CheckKind::Attestation { .. }, Some(row)) if row.how.iter().all(|how| how != "attestation") => {
                return Err(wrong("this row does not accept an attestation: it must be measured"));
            }
            (CheckKind::Attestation { .. }, Some(_)) => {}
            // A check may replace an attestation, or be the first method of a row that is not implemented
            // yet. It cannot replace another method.
            (_, Some(row)) if row.proved_by == [ProofMethod::Attestation] || row.awaits.is_some() => {
                (row.proved_by, row.awaits) = (vec![ProofMethod::Live], None);
            }
            (_, Some(_)) => {
                return Err(wrong(
                    "this row is proven by other methods, which a declared check cannot replace",
                ));
            }
            (kind, None) => {
                let (Some(requirement), Some(gate)) = (head.requirement, head.gate) else {
                    return Err(wrong("a new row needs `requirement` and `gate` (beta, production or none)"));
                };
                add_row(catalogue, &id, requirement, gate, kind);
            }
        }
        self.checks.push(DeclaredCheck { id, remediation: head.remediation.unwrap_or_default(), kind });
        Ok(())
    }

    /// Returns the declared check of this row, if it can be run. An attestation cannot be run.
    pub(crate) fn check_of(&self, row: &str) -> Option<&DeclaredCheck> {
        let is_run = |check: &&DeclaredCheck| !matches!(check.kind, CheckKind::Attestation { .. });
        self.checks.iter().filter(is_run).find(|check| check.id == row)
    }

    /// Applies a declared attestation or waiver to the result of a row. An attestation counts only if the row
    /// could not be measured. A waiver applies to any result that keeps a gate closed.
    pub(crate) fn apply(&self, row: &CatalogueRow, result: &mut RowResult, now: Timestamp) {
        let unmeasured =
            matches!(result.result, RowOutcome::Unknown | RowOutcome::Stale | RowOutcome::NotYet);
        let declared = self.checks.iter().find(|check| check.id == row.id).map(|check| &check.kind);
        if let Some(CheckKind::Attestation { statement, owner, until }) = declared
            && unmeasured
        {
            if is_valid(*until, now) {
                result.result = RowOutcome::Attested;
                result.reason = format!("{owner} attests until {until}: {statement}");
                result.remediation = None;
            } else {
                result.result = RowOutcome::Stale;
                result.reason = format!("the attestation of {owner} {}", invalid_reason(*until, now));
            }
        }
        if result.result.opens_gate() {
            return;
        }
        let Some(waiver) = self.waivers.iter().filter(|one| one.row == row.id).max_by_key(|one| one.until)
        else {
            return;
        };
        let Waiver { owner, until, reason, .. } = waiver;
        if is_valid(*until, now) {
            let (was, previous) = (result.result.name(), &result.reason);
            result.reason =
                format!("{owner} waives the row until {until}: {reason} (it was {was}: {previous})");
            result.result = RowOutcome::Waived;
        } else {
            result.reason =
                format!("{}; the waiver of {owner} {}", result.reason, invalid_reason(*until, now));
        }
    }
}

/// Maximum time from now until the end of an attestation or a waiver.
const MAX_VALIDITY: Duration = days(366);

fn is_valid(until: Timestamp, now: Timestamp) -> bool {
    now <= until && until.since(now) <= MAX_VALIDITY
}

/// Returns the reason why an attestation or a waiver is not valid.
fn invalid_reason(until: Timestamp, now: Timestamp) -> String {
    if now > until {
        format!("ended {until}")
    } else {
        format!("until {until} is not valid: the maximum is one year")
    }
}

/// Adds a row that a declaration file defines to the catalogue.
fn add_row(catalogue: &mut Catalogue, id: &str, requirement: String, gate: Gate, kind: &CheckKind) {
    let is_attested = matches!(kind, CheckKind::Attestation { .. });
    let row = CatalogueRow {
        id: id.to_owned(),
        requirement,
        source: Vec::new(),
        derived_from: None,
        gate,
        how: vec![if is_attested { "attestation" } else { "live" }.to_owned()],
        max_age: "run".to_owned(),
        check: kind.description(),
        awaits: None,
        proved_by: vec![if is_attested { ProofMethod::Attestation } else { ProofMethod::Live }],
        tests: Vec::new(),
        artefact_command: None,
        twin: None,
        summarizes: None,
    };
    if !catalogue.areas.iter().any(|area| area.id == row.area()) {
        catalogue.areas.push(Area { id: row.area().to_owned(), name: "declared".to_owned() });
    }
    catalogue.rows.push(row);
}

impl DeclaredCheck {
    pub(crate) fn description(&self) -> String {
        self.kind.description()
    }

    pub(crate) fn remediation(&self) -> String {
        if self.remediation.is_empty() {
            "fix what the finding names".to_owned()
        } else {
            self.remediation.clone()
        }
    }

    pub(crate) async fn run(&self, run: &Run) -> Result<String, Shortfall> {
        self.kind.run(run).await
    }
}
