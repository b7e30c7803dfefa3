//! What people declare in a file of their own: checks of any service, attestations and waivers, each with an end.

use kith_kernel::Timestamp;
use serde::Deserialize;
use thiserror::Error;

use crate::catalogue::By;
use crate::{Area, Catalogue, CatalogueError, Gate, Outcome, Row, RowResult, Run, Shortfall};

/// Everything that files declare.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declared {
    #[serde(rename = "check", default)]
    checks: Vec<DeclaredCheck>,
    #[serde(rename = "attestation", default)]
    attestations: Vec<Attestation>,
    #[serde(rename = "waiver", default)]
    waivers: Vec<Waiver>,
}

/// A check of somebody's own.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeclaredCheck {
    /// The row: one of the catalogue's, which it then measures, or one of its own, such as `SHOP-01`.
    pub id: String,
    /// What is to be true.
    pub what: String,
    /// What it blocks.
    pub gate: Gate,
    /// What to do about it where it is not.
    #[serde(default)]
    pub mend: String,
    #[serde(flatten)]
    kind: Kind,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Kind {
    /// A GET of a path of the target.
    Http { path: String, status: u16 },
}

/// Somebody answers for a row.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Attestation {
    row: String,
    statement: String,
    owner: String,
    until: Timestamp,
}

/// Somebody accepts that a row does not hold.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Waiver {
    row: String,
    reason: String,
    owner: String,
    until: Timestamp,
}

/// Why a file cannot be used.
#[derive(Debug, Error)]
pub enum DeclaredError {
    /// It is no such TOML.
    #[error("{0}")]
    Unreadable(#[from] toml::de::Error),
    /// It names a row that is in no catalogue.
    #[error("{0} is no row of the catalogue, and no check declares it")]
    NoSuchRow(String),
    /// What it declares does not go together with the catalogue.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
}

impl Declared {
    /// Reads a file's text and adds what it declares; rows of its own go into `catalogue`.
    ///
    /// # Errors
    /// [`DeclaredError`] names the first fault.
    pub fn add(&mut self, text: &str, catalogue: &mut Catalogue) -> Result<(), DeclaredError> {
        let more: Self = toml::from_str(text)?;
        for check in &more.checks {
            let row = check.row();
            if !catalogue.areas.iter().any(|area| area.id == row.area()) {
                catalogue.areas.push(Area { id: row.area().to_owned(), name: "Declared".to_owned() });
            }
            match catalogue.rows.iter_mut().find(|known| known.id == row.id) {
                Some(known) => *known = row,
                None => catalogue.rows.push(row),
            }
        }
        let named =
            more.attestations.iter().map(|one| &one.row).chain(more.waivers.iter().map(|one| &one.row));
        for row in named {
            if catalogue.find(row).is_none() {
                return Err(DeclaredError::NoSuchRow(row.clone()));
            }
        }
        self.checks.extend(more.checks);
        self.attestations.extend(more.attestations);
        self.waivers.extend(more.waivers);
        Ok(())
    }

    pub(crate) fn check_of(&self, row: &str) -> Option<&DeclaredCheck> {
        self.checks.iter().find(|check| check.id == row)
    }

    /// What somebody's word makes of a result: an attestation of what could not be measured, where the row allows one,
    /// and a waiver of whatever keeps a gate closed.
    pub(crate) fn apply(&self, row: &Row, result: &mut RowResult, now: Timestamp) {
        let unmeasured = matches!(result.result, Outcome::Unknown | Outcome::Stale);
        let attestation =
            self.attestations.iter().filter(|one| one.row == row.id).max_by_key(|one| one.until);
        if unmeasured && row.how.iter().any(|how| how == "attestation") {
            match attestation {
                Some(one) if now <= one.until => {
                    result.result = Outcome::Attested;
                    result.why = format!("{} attests until {}: {}", one.owner, one.until, one.statement);
                    result.mend = None;
                }
                Some(one) => {
                    result.why =
                        format!("{}; the attestation of {} ended {}", result.why, one.owner, one.until)
                }
                None => {}
            }
        }
        let waiver = self.waivers.iter().filter(|one| one.row == row.id).max_by_key(|one| one.until);
        match waiver {
            Some(one) if !result.result.opens() && now <= one.until => {
                let (was, why) = (result.result.name(), &result.why);
                result.why = format!(
                    "{} waives it until {}: {} (it was {was}: {why})",
                    one.owner, one.until, one.reason
                );
                result.result = Outcome::Waived;
            }
            Some(one) if !result.result.opens() => {
                result.why = format!("{}; the waiver of {} ended {}", result.why, one.owner, one.until);
            }
            _ => {}
        }
    }
}

impl DeclaredCheck {
    fn row(&self) -> Row {
        Row {
            id: self.id.clone(),
            what: self.what.clone(),
            source: Vec::new(),
            derived_from: None,
            gate: self.gate,
            how: vec!["live".to_owned()],
            age: "run".to_owned(),
            check: self.does(),
            waits: None,
            by: vec![By::Live],
            tests: Vec::new(),
            obtain: None,
            twin: None,
            of: None,
        }
    }

    pub(crate) fn does(&self) -> String {
        match &self.kind {
            Kind::Http { path, status } => format!("GET {path} answers {status}"),
        }
    }

    pub(crate) fn mend(&self) -> String {
        self.mend.clone()
    }

    pub(crate) async fn run(&self, run: &Run) -> Result<String, Shortfall> {
        match &self.kind {
            Kind::Http { path, status } => {
                let answer = run.anonymous().get(path).await?.expect(*status)?;
                Ok(format!("{} answered {status}", answer.asked))
            }
        }
    }
}
