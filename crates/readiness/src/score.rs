//! Scores and gates. A score measures progress. A gate decides, and is a list of rows that must hold.

use serde::Serialize;

use crate::{Catalogue, Gate, RowOutcome, RowResult};

/// Formula of the scores, which reports print beside them.
pub const FORMULA: &str =
    "rows that pass ÷ rows that apply; attested, waived, stale, unknown, not yet and fail are not pass";

/// Number of rows that pass, out of those that apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Score {
    /// Number of rows that pass.
    pub pass: usize,
    /// Number of rows that apply.
    pub applicable: usize,
}

impl Score {
    fn of<'a>(results: impl Iterator<Item = &'a RowResult>) -> Self {
        let mut score = Self { pass: 0, applicable: 0 };
        for result in results.filter(|result| result.result != RowOutcome::NotApplicable) {
            score.applicable += 1;
            score.pass += usize::from(result.result == RowOutcome::Pass);
        }
        score
    }

    /// Returns the score in percent, rounded down so that only a full score is 100. Returns `None` if no row
    /// applies.
    pub fn percent(self) -> Option<usize> {
        (self.pass * 100).checked_div(self.applicable)
    }
}

/// All scores of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Scores {
    /// Formula of the scores.
    pub formula: &'static str,
    /// Score of all judged rows.
    pub total: Score,
    /// Scores by area.
    pub areas: Vec<AreaScore>,
    /// Id of the area with the lowest score. Reports show it beside every total.
    pub weakest: Option<String>,
    /// Number of rows for each outcome.
    pub outcomes: Vec<(RowOutcome, usize)>,
}

/// Score of an area.
#[derive(Clone, Debug, Serialize)]
pub struct AreaScore {
    /// Area id, such as `SEC`.
    pub id: String,
    /// Title of the area.
    pub name: String,
    /// Score of the rows of the area.
    #[serde(flatten)]
    pub score: Score,
}

impl Scores {
    pub(crate) fn of(catalogue: &Catalogue, results: &[RowResult]) -> Self {
        let of_area = |id: &str| Score::of(results.iter().filter(|result| area(&result.id) == id));
        let areas: Vec<_> = catalogue
            .areas
            .iter()
            .map(|area| AreaScore { id: area.id.clone(), name: area.name.clone(), score: of_area(&area.id) })
            .filter(|area| area.score.applicable > 0)
            .collect();
        // Scores are compared as fractions, so that rounding cannot change the order.
        let weakest = areas
            .iter()
            .min_by(|a, b| (a.score.pass * b.score.applicable).cmp(&(b.score.pass * a.score.applicable)));
        let count = |outcome| results.iter().filter(|result| result.result == outcome).count();
        let outcomes = RowOutcome::ALL.map(|outcome| (outcome, count(outcome)));
        Self {
            formula: FORMULA,
            total: Score::of(results.iter()),
            weakest: weakest.map(|area| area.id.clone()),
            outcomes: outcomes.into_iter().filter(|(_, n)| *n > 0).collect(),
            areas,
        }
    }
}

fn area(id: &str) -> &str {
    id.split_once('-').map_or(id, |(area, _)| area)
}

/// Decision on a gate.
#[derive(Clone, Debug, Serialize)]
pub struct GateVerdict {
    /// Gate that was judged.
    pub gate: Gate,
    /// True if the gate is open.
    pub open: bool,
    /// Exit code. 0: the gate is open. 1: some rows do not hold. 2: the gate is closed only by rows that
    /// could not be measured.
    pub exit_code: u8,
    /// Number of judged rows that block the gate.
    pub rows: usize,
    /// Ids of the rows that keep the gate closed. The worst outcome comes first.
    pub closed_by: Vec<String>,
}

impl GateVerdict {
    pub(crate) fn of(gate: Gate, results: &[RowResult]) -> Self {
        let rows: Vec<_> = results.iter().filter(|row| row.gate != Gate::None && row.gate <= gate).collect();
        let mut closing: Vec<_> = rows.iter().filter(|row| !row.result.opens_gate()).collect();
        closing.sort_by_key(|row| std::cmp::Reverse(row.result));
        let exit_code = match closing.first().map(|row| row.result) {
            // A gate for which no row was judged counts as not measured.
            None if rows.is_empty() => 2,
            None => 0,
            Some(RowOutcome::Fail | RowOutcome::NotYet) => 1,
            Some(_) => 2,
        };
        let closed_by = closing.iter().map(|row| row.id.clone()).collect();
        Self { gate, open: exit_code == 0, exit_code, rows: rows.len(), closed_by }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, gate: Gate, result: RowOutcome) -> RowResult {
        RowResult {
            id: id.into(),
            requirement: String::new(),
            gate,
            result,
            live: None,
            reason: String::new(),
            remediation: None,
            twin: None,
            evidence: vec![],
        }
    }

    /// GAT-03: scores can be recomputed from the rows, and the weakest area is shown beside the total.
    #[test]
    fn score_counts_passing_of_applicable_rows() {
        use RowOutcome::{Attested, Fail, NotApplicable, Pass, Unknown};
        let results = [
            row("ACC-01", Gate::Beta, Pass),
            row("ACC-02", Gate::Beta, NotApplicable),
            row("SEC-01", Gate::Beta, Pass),
            row("SEC-02", Gate::Beta, Fail),
            row("SEC-03", Gate::Beta, Attested),
            row("PRT-01", Gate::None, Pass),
            row("PRT-02", Gate::None, Unknown),
        ];
        let scores = Scores::of(&Catalogue::built_in(), &results);
        assert_eq!((scores.total, scores.total.percent()), (Score { pass: 3, applicable: 6 }, Some(50)));
        assert_eq!(scores.weakest.as_deref(), Some("SEC"));
        let sum = scores
            .areas
            .iter()
            .fold((0, 0), |sum, area| (sum.0 + area.score.pass, sum.1 + area.score.applicable));
        assert_eq!(sum, (scores.total.pass, scores.total.applicable));
        assert_eq!(Score { pass: 299, applicable: 300 }.percent(), Some(99));
        assert_eq!(Score { pass: 0, applicable: 0 }.percent(), None);
    }

    /// GAT-01: the exit code is 0 if the gate is open, 1 if it is closed, and 2 if it could not be measured.
    /// No percentage opens a gate.
    #[test]
    fn gate_verdict_depends_on_its_rows() {
        use RowOutcome::{Attested, Fail, NotApplicable, NotYet, Pass, Stale, Unknown, Waived};
        let exit = |gate, rows: &[(Gate, RowOutcome)]| {
            let rows: Vec<_> = rows.iter().map(|(gate, result)| row("ACC-01", *gate, *result)).collect();
            GateVerdict::of(gate, &rows).exit_code
        };
        let beta = |result| (Gate::Beta, result);
        assert_eq!(exit(Gate::Beta, &[beta(Pass), beta(Attested), beta(Waived), beta(NotApplicable)]), 0);
        assert_eq!(exit(Gate::Beta, &[beta(Pass), (Gate::Production, Fail), (Gate::None, Fail)]), 0);
        assert_eq!(exit(Gate::Production, &[beta(Pass), (Gate::Production, Fail), (Gate::None, Pass)]), 1);
        assert_eq!(exit(Gate::Production, &[(Gate::None, Fail), beta(Pass)]), 0);
        for closed in [Fail, NotYet] {
            assert_eq!(exit(Gate::Beta, &[beta(Pass), beta(Unknown), beta(closed)]), 1);
        }
        for unmeasured in [Unknown, Stale] {
            assert_eq!(exit(Gate::Beta, &[beta(Pass), beta(unmeasured)]), 2);
        }
        assert_eq!(exit(Gate::Beta, &[]), 2);
    }
}
