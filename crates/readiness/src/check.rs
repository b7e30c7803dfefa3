//! A check: plain data that a module declares, and the function that acts on a deployment.

use std::pin::Pin;

use crate::Run;

/// Measures a row on a running deployment, with made-up people who go afterwards.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// The row of the catalogue.
    pub row: &'static str,
    /// What it does, as evidence says it.
    pub does: &'static str,
    /// What mends it where it does not hold.
    pub mend: &'static str,
    /// Whether others have to have had their turn before, because it uses up what they need.
    pub last: bool,
    /// Does it, and says in a sentence what was found.
    pub run: for<'a> fn(&'a Run) -> Checked<'a>,
}

/// What a check is doing.
pub type Checked<'a> = Pin<Box<dyn Future<Output = Result<String, Shortfall>> + Send + 'a>>;

/// Why a row is not shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shortfall {
    /// It was measured and does not hold: what was found.
    Fails(String),
    /// It could not be measured: why, and what makes it measurable.
    Unmeasured {
        /// Why.
        why: String,
        /// What to do about it.
        mend: String,
    },
    /// It is nothing that this deployment could have: why.
    NotApplicable(String),
}

impl Shortfall {
    /// It does not hold.
    pub fn fails(found: impl Into<String>) -> Self {
        Self::Fails(found.into())
    }

    /// It could not be measured.
    pub fn unmeasured(why: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::Unmeasured { why: why.into(), mend: mend.into() }
    }
}
