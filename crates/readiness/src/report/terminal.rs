//! Renders a report for a terminal. Failed rows come first, with their remediation.

use std::fmt::Write as _;

use super::ReadinessReport;
use crate::{RowOutcome, RowResult};

pub(super) fn write(report: &ReadinessReport, colour: bool) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{} ({})", report.target, build(report));
    for area in &report.scores.areas {
        let score = area.score;
        let percent = score.percent().unwrap_or_default();
        let _ = writeln!(
            out,
            "\n{}  {}: {} of {} ({percent} %)",
            area.id, area.name, score.pass, score.applicable
        );
        let prefix = format!("{}-", area.id);
        for row in report.rows.iter().filter(|row| row.id.starts_with(&prefix)) {
            write_row(&mut out, row, colour);
        }
    }
    let _ = writeln!(out);
    let counts: Vec<_> =
        report.scores.outcomes.iter().map(|(outcome, n)| format!("{n} {}", outcome.name())).collect();
    let _ = writeln!(out, "{}", counts.join(", "));
    for remark in report.remarks() {
        let _ = writeln!(out, "{remark}");
    }
    let _ = writeln!(out, "{}\n{}", report.twin_summary(), report.score());
    let _ = write!(out, "{}", report.verdict());
    if !report.gate.closed_by.is_empty() {
        let _ = write!(out, "\n  {}", report.gate.closed_by.join(" "));
    }
    out
}

fn build(report: &ReadinessReport) -> &str {
    if report.identity.build.is_empty() { "build unknown" } else { &report.identity.build }
}

fn write_row(out: &mut String, row: &RowResult, colour: bool) {
    let name = row.result.name();
    let (before, after) = if colour { (colorize(row.result), "\x1b[0m") } else { ("", "") };
    let _ = writeln!(out, "  {before}{name:<8}{after} {:<7} {}", row.id, row.requirement);
    match row.result {
        RowOutcome::Pass | RowOutcome::NotYet => {}
        _ => {
            let _ = writeln!(out, "                   {}", row.reason);
        }
    }
    if let Some(remediation) = row
        .remediation
        .as_ref()
        .filter(|_| matches!(row.result, RowOutcome::Fail | RowOutcome::Unknown | RowOutcome::Stale))
    {
        let _ = writeln!(out, "                   → {remediation}");
    }
}

fn colorize(outcome: RowOutcome) -> &'static str {
    match outcome {
        RowOutcome::Pass => "\x1b[32m",
        RowOutcome::Fail => "\x1b[1;31m",
        RowOutcome::Unknown | RowOutcome::Stale => "\x1b[33m",
        RowOutcome::Attested | RowOutcome::Waived => "\x1b[36m",
        RowOutcome::NotApplicable | RowOutcome::NotYet => "\x1b[2m",
    }
}
