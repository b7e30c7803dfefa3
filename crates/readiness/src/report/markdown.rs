//! Renders a report as a Markdown page for a repository, with one table per area.

use std::fmt::Write as _;

use super::ReadinessReport;

pub(super) fn write(report: &ReadinessReport) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "# Readiness\n");
    let build = if report.identity.build.is_empty() { "unknown" } else { &report.identity.build };
    let _ = writeln!(out, "* Target: {}", escaped(&report.target));
    let _ = writeln!(out, "* Build: {}", escaped(build));
    let _ =
        writeln!(out, "* Configuration: {}", report.identity.configuration.as_deref().unwrap_or("unknown"));
    let _ = writeln!(out, "* Checks: {}", escaped(&report.checks));
    let _ = writeln!(out, "* Measured: {} to {}\n", report.started_at, report.ended_at);
    let _ = writeln!(out, "{}\n\n{}\n\n{}\n", report.verdict(), report.score(), report.twin_summary());
    for remark in report.remarks() {
        let _ = writeln!(out, "{}\n", escaped(&remark));
    }
    let _ = writeln!(out, "| result | rows |\n|---|---|");
    for (outcome, n) in &report.scores.outcomes {
        let _ = writeln!(out, "| {} | {n} |", outcome.name());
    }
    for area in &report.scores.areas {
        let _ = writeln!(
            out,
            "\n## {} {} ({} of {})\n",
            area.id,
            escaped(&area.name),
            area.score.pass,
            area.score.applicable
        );
        let _ = writeln!(out, "| row | gate | result | requirement | finding |\n|---|---|---|---|---|");
        let prefix = format!("{}-", area.id);
        for row in report.rows.iter().filter(|row| row.id.starts_with(&prefix)) {
            let gate = format!("{:?}", row.gate).to_lowercase();
            let remediation = row
                .remediation
                .as_ref()
                .map_or(String::new(), |remediation| format!(" To fix: {remediation}."));
            let found = escaped(&format!("{}.{remediation}", row.reason));
            let _ = writeln!(
                out,
                "| {} | {gate} | {} | {} | {found} |",
                row.id,
                row.result.name(),
                escaped(&row.requirement)
            );
        }
    }
    out.truncate(out.trim_end().len());
    out
}

/// Escapes text for a cell of a Markdown table.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('|', "\\|").replace('<', "&lt;").replace(['\n', '\r'], " ")
}
