//! Outcomes of rows, and the result of a row.

use serde::{Deserialize, Serialize};

use crate::{Evidence, Gate};

/// Outcome of a row. Outcomes are ordered from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RowOutcome {
    /// The row was measured, and its requirement is met.
    #[serde(rename = "pass")]
    Pass,
    /// A named owner states that the row holds. The attestation is valid until a date.
    #[serde(rename = "attested")]
    Attested,
    /// A named owner accepts that the row does not hold. The waiver states a reason and is valid until a
    /// date.
    #[serde(rename = "waived")]
    Waived,
    /// The row does not apply to this deployment.
    #[serde(rename = "n/a")]
    NotApplicable,
    /// The evidence is too old, or belongs to another build.
    #[serde(rename = "stale")]
    Stale,
    /// The row could not be measured.
    #[serde(rename = "unknown")]
    Unknown,
    /// The row is not implemented yet.
    #[serde(rename = "not yet")]
    NotYet,
    /// The row was measured, and its requirement is not met.
    #[serde(rename = "fail")]
    Fail,
}

impl RowOutcome {
    /// All outcomes, from best to worst.
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

    /// Returns the name used in reports.
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

    /// Returns true if a row with this outcome does not block its gate.
    pub fn opens_gate(self) -> bool {
        matches!(self, Self::Pass | Self::Attested | Self::Waived | Self::NotApplicable)
    }
}

/// Result of one row, with its reason and evidence.
#[derive(Clone, Debug, Serialize)]
pub struct RowResult {
    /// Row id.
    pub id: String,
    /// Requirement as one sentence.
    pub requirement: String,
    /// Gate that the row blocks until it holds.
    pub gate: Gate,
    /// Combined outcome of all methods.
    pub result: RowOutcome,
    /// Outcome of the row's check on the running deployment, if it has one. The combined outcome may also
    /// depend on tests or drills.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<RowOutcome>,
    /// Reason for the combined outcome, as one sentence.
    pub reason: String,
    /// Remediation to report while the row blocks its gate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remediation: Option<String>,
    /// Fault that the twin test of this row injects into a server. The test proves that the row's check fails
    /// on this server. `None` if the row has no twin test.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub twin: Option<String>,
    /// Evidence from each method.
    pub evidence: Vec<Evidence>,
}
