//! The report of a run, and the forms in which it is written.

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

/// Everything that a run found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The deployment that was asked.
    pub target: String,
    /// The rows and checks it was made with: [`Plan::fingerprint`](crate::Plan::fingerprint).
    pub checks: String,
    /// What it says of itself.
    #[serde(flatten)]
    pub identity: Identity,
    /// When the run began.
    pub began: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// Whether one may.
    pub gate: GateVerdict,
    /// How far one is.
    pub scores: Scores,
    /// Each row that was judged, in the catalogue's order.
    pub rows: Vec<RowResult>,
    /// How many rows of the catalogue were not judged.
    pub left_out: usize,
    /// Accounts that were made up and could not be deleted, and why.
    pub left_behind: Vec<String>,
}

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For a person at a terminal; in colour or not.
    Terminal {
        /// Whether with colours.
        colour: bool,
    },
    /// For a program.
    Json,
    /// For a repository.
    Markdown,
    /// For a browser: one file that loads nothing.
    Html,
}

impl Report {
    /// The report in this form.
    pub fn to_text(&self, format: Format) -> String {
        match format {
            Format::Terminal { colour } => terminal::write(self, colour),
            Format::Json => json::write(self),
            Format::Markdown => markdown::write(self),
            Format::Html => html::write(self),
        }
    }

    /// What the gate says, in a sentence.
    fn verdict(&self) -> String {
        let GateVerdict { gate, exit_code, rows, closed_by, .. } = &self.gate;
        let gate = format!("{gate:?}").to_lowercase();
        if self.left_out > 0 {
            let (holds, rows) = (rows - closed_by.len(), rows);
            return format!(
                "Of the {rows} rows of the {gate} gate that were judged {holds} hold; {} rows were not judged, so this says \
                 nothing of the whole gate.",
                self.left_out
            );
        }
        match exit_code {
            0 => format!("The {gate} gate is open: all of its {rows} rows hold."),
            1 => format!("The {gate} gate is closed: {} of its {rows} rows keep it closed.", closed_by.len()),
            _ => format!(
                "The {gate} gate stays closed: {} of its {rows} rows could not be measured.",
                closed_by.len()
            ),
        }
    }

    /// What else is to be known, a sentence each: what was not judged, and what is left.
    fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        if self.left_out > 0 {
            remarks.push(format!("{} rows of the catalogue were not judged.", self.left_out));
        }
        let left = self.left_behind.iter();
        remarks.extend(left.map(|account| format!("An account that was made up is still there: {account}")));
        remarks
    }

    /// How many of the checks have been seen to fail.
    fn twins(&self) -> String {
        let live = |row: &&RowResult| row.evidence.iter().any(|evidence| evidence.kind == "live");
        let measured = self.rows.iter().filter(live).count();
        let seen = self.rows.iter().filter(live).filter(|row| row.twin.is_some()).count();
        format!(
            "Of the {measured} rows that were measured on the running deployment, the checks of {seen} have been seen to \
             fail on one broken in just that way."
        )
    }

    /// The total, never without the weakest area and the formula.
    fn score(&self) -> String {
        let Scores { total, areas, weakest, formula, .. } = &self.scores;
        let percent =
            |percent: Option<usize>| percent.map_or("nothing applies".to_owned(), |n| format!("{n} %"));
        let weakest = weakest.as_ref().and_then(|id| areas.iter().find(|area| area.id == *id)).map_or(
            String::new(),
            |area| {
                let (pass, of) = (area.score.pass, area.score.of);
                format!("; weakest: {} {} ({pass} of {of})", area.id, percent(area.score.percent()))
            },
        );
        format!("Score {} ({} of {}){weakest}; {formula}.", percent(total.percent()), total.pass, total.of)
    }
}
