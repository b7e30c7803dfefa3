//! Declaration of a check: data that modules list, with the function that runs the check against a
//! deployment.

use std::pin::Pin;

use crate::Run;

/// Check that measures one row on a running deployment. It may create synthetic accounts, which are deleted
/// after the run.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// Id of the catalogue row that the check measures.
    pub row: &'static str,
    /// Description of what the check does, for the evidence.
    pub description: &'static str,
    /// Remediation that the report shows if the row does not hold.
    pub remediation: &'static str,
    /// True if the check must run after all others, because it exhausts resources that they need, such as
    /// rate limits.
    pub runs_last: bool,
    /// Function that runs the check. It returns a sentence that describes the result.
    pub run: for<'a> fn(&'a Run) -> CheckFuture<'a>,
}

/// Future of a running check.
pub type CheckFuture<'a> = Pin<Box<dyn Future<Output = Result<String, Shortfall>> + Send + 'a>>;

/// Reason why a check did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shortfall {
    /// The row was measured and does not hold. Contains a description of the fault.
    Fails(String),
    /// The row could not be measured.
    Unmeasured {
        /// Reason why the row could not be measured.
        reason: String,
        /// Remediation after which the row can be measured.
        remediation: String,
    },
    /// The row does not apply to this deployment. Contains the reason.
    NotApplicable(String),
}

impl Shortfall {
    /// Creates a `Fails` shortfall.
    pub fn fails(found: impl Into<String>) -> Self {
        Self::Fails(found.into())
    }

    /// Creates an `Unmeasured` shortfall.
    pub fn unmeasured(reason: impl Into<String>, remediation: impl Into<String>) -> Self {
        Self::Unmeasured { reason: reason.into(), remediation: remediation.into() }
    }
}
