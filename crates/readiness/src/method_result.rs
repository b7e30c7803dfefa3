//! Result of judging a row by one method, and the rules by which the results of several methods are combined.

use crate::artefact::Artefact;
use crate::evidence::Evidence;
use crate::{CatalogueRow, Gate, RowOutcome, RowResult};

/// Result of judging a row by one method.
pub(crate) struct MethodResult {
    pub(crate) outcome: RowOutcome,
    pub(crate) reason: String,
    pub(crate) remediation: Option<String>,
    pub(crate) evidence: Option<Evidence>,
}

impl MethodResult {
    pub(crate) fn new(outcome: RowOutcome, reason: impl Into<String>) -> Self {
        Self { outcome, reason: reason.into(), remediation: None, evidence: None }
    }

    pub(crate) fn with_remediation(self, remediation: impl Into<String>) -> Self {
        Self { remediation: Some(remediation.into()), ..self }
    }
}

/// Returns the result of the tests that a row lists.
pub(crate) fn judge_named_tests(row: &CatalogueRow, artefact: &Artefact) -> MethodResult {
    const RERUN_TESTS: &str = "fix the failed tests, and run `cargo xtask test` again";
    if !artefact.complete {
        return MethodResult::new(RowOutcome::Fail, "the test run did not complete")
            .with_remediation(RERUN_TESTS);
    }
    let mut passed = 0;
    for part_of_name in &row.tests {
        let named: Vec<_> = artefact.tests.iter().filter(|(name, _)| name.contains(part_of_name)).collect();
        if let Some((name, outcome)) = named.iter().find(|(_, outcome)| *outcome != "ok") {
            return MethodResult::new(RowOutcome::Fail, format!("the test {name}: {outcome}"))
                .with_remediation(RERUN_TESTS);
        }
        if named.is_empty() {
            return MethodResult::new(RowOutcome::Unknown, format!("no test named {part_of_name} was run"))
                .with_remediation(RERUN_TESTS);
        }
        passed += named.len();
    }
    MethodResult::new(RowOutcome::Pass, format!("{passed} tests passed"))
}

/// Returns the result of a row that summarizes other rows.
pub(crate) fn summarize(row: &CatalogueRow, others: &[RowResult]) -> MethodResult {
    let words: Vec<_> = row.summarizes.as_deref().unwrap_or_default().split(' ').collect();
    // Index of the first word in `summarizes` that selects the row `other`. `None` if no word selects it.
    let position = |other: &RowResult| {
        words.iter().position(|word| match *word {
            "beta" => other.gate == Gate::Beta,
            "production" => other.gate <= Gate::Production,
            // Selects rows that were measured on the running deployment and block the gate of this row or an
            // earlier one.
            "live" => other.gate <= row.gate && other.evidence.iter().any(|evidence| evidence.kind == "live"),
            id => other.id == id || other.id.split('-').next() == Some(id),
        })
    };
    let mut among: Vec<_> = others.iter().filter(|other| position(other).is_some()).collect();
    among.sort_by_key(|other| position(other));
    let missing: Vec<_> = among.iter().filter(|other| !other.result.opens_gate()).collect();
    let failed =
        missing.iter().filter(|other| matches!(other.result, RowOutcome::Fail | RowOutcome::NotYet)).count();
    match (among.len(), missing.len()) {
        (0, _) => MethodResult::new(RowOutcome::Unknown, "none of the rows that it summarizes was judged")
            .with_remediation("judge all rows: omit --only and --area"),
        (all, 0) => MethodResult::new(RowOutcome::Pass, format!("all {all} rows that it summarizes hold")),
        (all, some) => {
            let outcome = if failed > 0 { RowOutcome::Fail } else { RowOutcome::Unknown };
            let ids: Vec<_> = missing.iter().take(8).map(|other| &*other.id).collect();
            let dots = if some > ids.len() { ", …" } else { "" };
            MethodResult::new(outcome, format!("{some} of {all} rows do not hold: {}{dots}", ids.join(", ")))
                .with_remediation("fix these rows")
        }
    }
}

/// Combines the results of all methods of a row. The worst outcome counts. Results "not applicable" are
/// ignored if there are others.
pub(crate) fn combine(row: &CatalogueRow, mut parts: Vec<MethodResult>) -> RowResult {
    let mut evidence = Vec::new();
    if parts.iter().any(|result| result.outcome != RowOutcome::NotApplicable) {
        parts.retain(|result| result.outcome != RowOutcome::NotApplicable);
    }
    let mut worst: Option<MethodResult> = None;
    for mut result in parts {
        evidence.extend(result.evidence.take());
        worst = Some(match worst {
            Some(worst) if worst.outcome >= result.outcome => {
                MethodResult { reason: join_reasons(&worst, &result), ..worst }
            }
            Some(worst) => MethodResult { reason: join_reasons(&result, &worst), ..result },
            None => result,
        });
    }
    let MethodResult { outcome, reason, remediation, .. } = worst.unwrap_or_else(|| {
        MethodResult::new(RowOutcome::Unknown, "the catalogue names no method for this row")
    });
    RowResult {
        id: row.id.clone(),
        requirement: row.requirement.clone(),
        gate: row.gate,
        result: outcome,
        live: None,
        reason,
        remediation,
        twin: row.twin.clone(),
        evidence,
    }
}

/// Returns both reasons if both methods passed, and otherwise the reason of the worse one.
fn join_reasons(worse: &MethodResult, better: &MethodResult) -> String {
    if worse.outcome == RowOutcome::Pass {
        format!("{}; {}", worse.reason, better.reason)
    } else {
        worse.reason.clone()
    }
}
