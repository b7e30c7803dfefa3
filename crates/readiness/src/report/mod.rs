//! Report of a run, and the formats in which it can be printed.

mod html;
mod json;
mod markdown;
mod terminal;
#[cfg(test)]
mod tests;

use kith_kernel::Timestamp;
use serde::Serialize;

use crate::verify::Identity;
use crate::{GateVerdict, RowResult, Scores};

/// All results of a run.
#[derive(Clone, Debug, Serialize)]
pub struct ReadinessReport {
    /// URL of the deployment.
    pub target: String,
    /// Fingerprint of the rows and checks that were used: [`Plan::fingerprint`](crate::Plan::fingerprint).
    pub checks: String,
    /// Build and configuration that the deployment reports.
    #[serde(flatten)]
    pub identity: Identity,
    /// Time at which the run began.
    pub started_at: Timestamp,
    /// Time at which the run ended.
    pub ended_at: Timestamp,
    /// Verdict on the gate.
    pub gate: GateVerdict,
    /// Scores by area and in total.
    pub scores: Scores,
    /// Results of the judged rows, in the catalogue's order.
    pub rows: Vec<RowResult>,
    /// Number of rows of the catalogue that were not judged.
    pub not_judged: usize,
    /// Synthetic accounts that could not be deleted, each with the reason.
    pub undeleted_accounts: Vec<String>,
}

/// Output format of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text for a terminal.
    Terminal {
        /// True to use ANSI colours.
        colour: bool,
    },
    /// JSON for programs.
    Json,
    /// Markdown for a repository.
    Markdown,
    /// Self-contained HTML for a browser.
    Html,
}

impl ReadinessReport {
    /// Renders the report in this format.
    pub fn to_text(&self, format: Format) -> String {
        match format {
            Format::Terminal { colour } => terminal::write(self, colour),
            Format::Json => json::write(self),
            Format::Markdown => markdown::write(self),
            Format::Html => html::write(self),
        }
    }

    /// Returns a sentence that states whether the gate is open.
    fn verdict(&self) -> String {
        let GateVerdict { gate, exit_code, rows, closed_by, .. } = &self.gate;
        let gate = format!("{gate:?}").to_lowercase();
        if self.not_judged > 0 {
            let (holds, rows) = (rows - closed_by.len(), rows);
            return format!(
                "{holds} of the {rows} judged rows of the {gate} gate hold; {} rows were not judged, so the \
                 gate has no verdict.",
                self.not_judged
            );
        }
        match exit_code {
            0 => format!("The {gate} gate is open: none of its {rows} rows blocks it."),
            1 => format!("The {gate} gate is closed: {} of its {rows} rows block it.", closed_by.len()),
            _ => format!(
                "The {gate} gate stays closed: {} of its {rows} rows could not be measured.",
                closed_by.len()
            ),
        }
    }

    /// Returns sentences about rows that were not judged and accounts that could not be deleted.
    fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        if self.not_judged > 0 {
            remarks.push(format!("{} rows of the catalogue were not judged.", self.not_judged));
        }
        let undeleted = self.undeleted_accounts.iter();
        remarks
            .extend(undeleted.map(|account| format!("A synthetic account could not be deleted: {account}")));
        remarks
    }

    /// Returns a sentence with the number of measured rows whose check has a twin test.
    fn twin_summary(&self) -> String {
        let live = |row: &&RowResult| row.evidence.iter().any(|evidence| evidence.kind == "live");
        let measured = self.rows.iter().filter(live).count();
        let seen = self.rows.iter().filter(live).filter(|row| row.twin.is_some()).count();
        format!(
            "{measured} rows were measured on the running deployment; the checks of {seen} of them are \
             tested against a deployment with the corresponding fault."
        )
    }

    /// Returns a text with the total score, the weakest area and the formula.
    fn score(&self) -> String {
        let Scores { total, areas, weakest, formula, .. } = &self.scores;
        let percent =
            |percent: Option<usize>| percent.map_or("nothing applies".to_owned(), |n| format!("{n} %"));
        let weakest = weakest.as_ref().and_then(|id| areas.iter().find(|area| area.id == *id)).map_or(
            String::new(),
            |area| {
                let (pass, applicable) = (area.score.pass, area.score.applicable);
                format!("; weakest: {} {} ({pass} of {applicable})", area.id, percent(area.score.percent()))
            },
        );
        format!(
            "Score {} ({} of {}){weakest}; {formula}.",
            percent(total.percent()),
            total.pass,
            total.applicable
        )
    }
}
