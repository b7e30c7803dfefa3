//! Scores, which say how far one is, and gates, which say whether one may: a gate is a list of rows.

use serde::Serialize;

use crate::{Catalogue, Gate, Outcome, RowResult};

/// How scores come about; printed with them.
pub const FORMULA: &str =
    "rows that pass ÷ rows that apply; attested, waived, stale, unknown, not yet and fail are not pass";

/// How many rows pass of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Score {
    /// Rows that pass.
    pub pass: usize,
    /// Rows that apply.
    pub of: usize,
}

impl Score {
    fn of<'a>(results: impl Iterator<Item = &'a RowResult>) -> Self {
        let mut score = Self { pass: 0, of: 0 };
        for result in results.filter(|result| result.result != Outcome::NotApplicable) {
            score.of += 1;
            score.pass += usize::from(result.result == Outcome::Pass);
        }
        score
    }

    /// In percent, rounded down so that 100 is all; None if nothing applies.
    pub fn percent(self) -> Option<usize> {
        (self.pass * 100).checked_div(self.of)
    }
}

/// All scores.
#[derive(Clone, Debug, Serialize)]
pub struct Scores {
    /// How they come about.
    pub formula: &'static str,
    /// Of all rows that were judged.
    pub total: Score,
    /// By area.
    pub areas: Vec<AreaScore>,
    /// The area with the lowest score; told beside every total.
    pub weakest: Option<String>,
    /// How many rows came to what.
    pub outcomes: Vec<(Outcome, usize)>,
}

/// The score of an area.
#[derive(Clone, Debug, Serialize)]
pub struct AreaScore {
    /// `SEC`.
    pub id: String,
    /// What it is about.
    pub name: String,
    /// How many of its rows pass.
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
            .filter(|area| area.score.of > 0)
            .collect();
        // Compared as fractions, so that no rounding hides which one is lower.
        let weakest =
            areas.iter().min_by(|a, b| (a.score.pass * b.score.of).cmp(&(b.score.pass * a.score.of)));
        let count = |outcome| results.iter().filter(|result| result.result == outcome).count();
        let outcomes = Outcome::ALL.map(|outcome| (outcome, count(outcome)));
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

/// Whether one may.
#[derive(Clone, Debug, Serialize)]
pub struct GateVerdict {
    /// Which gate.
    pub gate: Gate,
    /// Whether it is open.
    pub open: bool,
    /// 0 open; 1 closed by rows that do not hold; 2 closed only by rows that could not be measured.
    pub exit_code: u8,
    /// How many rows it consists of.
    pub rows: usize,
    /// The rows that keep it closed, the worst first.
    pub closed_by: Vec<String>,
}

impl GateVerdict {
    pub(crate) fn of(gate: Gate, results: &[RowResult]) -> Self {
        let rows: Vec<_> = results.iter().filter(|row| row.gate != Gate::None && row.gate <= gate).collect();
        let mut closing: Vec<_> = rows.iter().filter(|row| !row.result.opens()).collect();
        closing.sort_by_key(|row| std::cmp::Reverse(row.result));
        let exit_code = match closing.first().map(|row| row.result) {
            // A gate without rows was not measured.
            None if rows.is_empty() => 2,
            None => 0,
            Some(Outcome::Fail | Outcome::NotYet) => 1,
            Some(_) => 2,
        };
        let closed_by = closing.iter().map(|row| row.id.clone()).collect();
        Self { gate, open: exit_code == 0, exit_code, rows: rows.len(), closed_by }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, gate: Gate, result: Outcome) -> RowResult {
        RowResult {
            id: id.into(),
            what: String::new(),
            gate,
            result,
            live: None,
            why: String::new(),
            mend: None,
            twin: None,
            evidence: vec![],
        }
    }

    /// GAT-03: recomputed from the rows, the scores are the same; the weakest stands beside the total.
    #[test]
    fn a_score_is_what_passes_of_what_applies() {
        use Outcome::{Attested, Fail, NotApplicable, Pass, Unknown};
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
        assert_eq!((scores.total, scores.total.percent()), (Score { pass: 3, of: 6 }, Some(50)));
        assert_eq!(scores.weakest.as_deref(), Some("SEC"));
        let sum =
            scores.areas.iter().fold((0, 0), |sum, area| (sum.0 + area.score.pass, sum.1 + area.score.of));
        assert_eq!(sum, (scores.total.pass, scores.total.of));
        assert_eq!(Score { pass: 299, of: 300 }.percent(), Some(99));
        assert_eq!(Score { pass: 0, of: 0 }.percent(), None);
    }

    /// GAT-01: 0 open, 1 closed, 2 could not measure; no percentage opens a gate.
    #[test]
    fn a_gate_is_a_list_of_rows() {
        use Outcome::{Attested, Fail, NotApplicable, NotYet, Pass, Stale, Unknown, Waived};
        let exit = |gate, rows: &[(Gate, Outcome)]| {
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
