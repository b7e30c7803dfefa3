//! Check declaration: plain data that a module lists, and the function that runs against a deployment.

use std::pin::Pin;

use crate::Run;

/// Check that measures one row on a running deployment. It uses synthetic accounts, which are deleted after
/// the run.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// Id of the catalogue row.
    pub row: &'static str,
    /// Description of the check for the evidence.
    pub description: &'static str,
    /// Remediation to report if the row does not hold.
    pub remediation: &'static str,
    /// True if the check must run after all others, because it uses up what they need.
    pub runs_last: bool,
    /// Runs the check and returns its finding as one sentence.
    pub run: for<'a> fn(&'a Run) -> CheckFuture<'a>,
}

/// Future of a running check.
pub type CheckFuture<'a> = Pin<Box<dyn Future<Output = Result<String, Shortfall>> + Send + 'a>>;

/// Reason for which a check did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shortfall {
    /// The row was measured and does not hold. Contains the finding.
    Fails(String),
    /// The row could not be measured.
    Unmeasured {
        /// Reason for which it could not be measured.
        reason: String,
        /// Remediation that makes the row measurable.
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
