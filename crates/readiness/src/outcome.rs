//! What can become of a row, and a row with what became of it.

use serde::{Deserialize, Serialize};

use crate::{Evidence, Gate};

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Outcome {
    /// It was measured and holds.
    #[serde(rename = "pass")]
    Pass,
    /// Somebody answers for it, until a day.
    #[serde(rename = "attested")]
    Attested,
    /// Somebody accepts that it does not hold, for a reason and until a day.
    #[serde(rename = "waived")]
    Waived,
    /// It is nothing that this deployment could have.
    #[serde(rename = "n/a")]
    NotApplicable,
    /// What shows it is too old, or of another build.
    #[serde(rename = "stale")]
    Stale,
    /// It could not be measured.
    #[serde(rename = "unknown")]
    Unknown,
    /// It is not built yet.
    #[serde(rename = "not yet")]
    NotYet,
    /// It was measured and does not hold.
    #[serde(rename = "fail")]
    Fail,
}

impl Outcome {
    /// All of them, from the best to the worst.
    pub const ALL: [Self; 8] = [
        Self::Pass,
        Self::Attested,
        Self::Waived,
        Self::NotApplicable,
        Self::Stale,
        Self::Unknown,
        Self::NotYet,
        Self::Fail,
    ];

    /// As reports say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Attested => "attested",
            Self::Waived => "waived",
            Self::NotApplicable => "n/a",
            Self::Stale => "stale",
            Self::Unknown => "unknown",
            Self::NotYet => "not yet",
            Self::Fail => "fail",
        }
    }

    /// Whether a gate opens with it.
    pub fn opens(self) -> bool {
        matches!(self, Self::Pass | Self::Attested | Self::Waived | Self::NotApplicable)
    }
}

/// A row, what became of it, and why.
#[derive(Clone, Debug, Serialize)]
pub struct RowResult {
    /// The row.
    pub id: String,
    /// What is to be true.
    pub what: String,
    /// What it blocks.
    pub gate: Gate,
    /// What became of it.
    pub result: Outcome,
    /// What its check on the running deployment found, if it has one: the row may also ask for tests or drills.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<Outcome>,
    /// In a sentence.
    pub why: String,
    /// What to do about it, unless it opens the gate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
    /// In what way a deployment was broken on which its check was seen to fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub twin: Option<String>,
    /// What was seen, in each way.
    pub evidence: Vec<Evidence>,
}
