//! Renders a report as one self-contained HTML file without scripts.

use std::fmt::Write as _;

use super::ReadinessReport;
use crate::{Evidence, RowResult};

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}\
table{border-collapse:collapse;width:100%}td,th{padding:.3rem .5rem;border-bottom:1px solid #ddd;text-align:left;\
vertical-align:top}code{font-size:.9em}details{margin:.2rem 0}.pass{color:#176f2c}.fail{color:#b00020;font-weight:bold}\
.unknown,.stale{color:#8a5a00}.waived,.attested{color:#0b5f80}.none{color:#666}";

pub(super) fn write(report: &ReadinessReport) -> String {
    let mut out = String::new();
    let title = format!("Readiness of {}", report.target);
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{0}</title><style>{STYLE}</style></head>\
         <body><h1>{0}</h1>",
        escaped(&title)
    );
    let build = if report.identity.build.is_empty() { "unknown" } else { &report.identity.build };
    let configuration = report.identity.configuration.as_deref().unwrap_or("unknown");
    let _ = write!(
        out,
        "<p><strong>{}</strong></p><p>{}</p><p>{}</p>",
        escaped(&report.verdict()),
        escaped(&report.score()),
        report.twin_summary()
    );
    let _ = write!(
        out,
        "<p>Build {}, configuration <code>{}</code>, measured {} to {}.</p>",
        escaped(build),
        escaped(configuration),
        report.started_at,
        report.ended_at
    );
    for remark in report.remarks() {
        let _ = write!(out, "<p>{}</p>", escaped(&remark));
    }
    for area in &report.scores.areas {
        let _ = write!(
            out,
            "<h2>{} {}: {} of {}</h2><table><thead><tr><th>Row</th><th>Result</th><th>Requirement and \
             finding</th></tr></thead><tbody>",
            area.id,
            escaped(&area.name),
            area.score.pass,
            area.score.applicable
        );
        let prefix = format!("{}-", area.id);
        report.rows.iter().filter(|row| row.id.starts_with(&prefix)).for_each(|row| write_row(&mut out, row));
        out.push_str("</tbody></table>");
    }
    out.push_str("</body></html>");
    out
}

fn write_row(out: &mut String, row: &RowResult) {
    let name = row.result.name();
    let class = if matches!(name, "n/a" | "not yet") { "none" } else { name };
    let _ = write!(
        out,
        "<tr id=\"{0}\"><td>{0}</td><td class=\"{class}\">{name}</td><td>{1}",
        row.id,
        escaped(&row.requirement)
    );
    let _ = write!(out, "<br>{}", escaped(&row.reason));
    if let Some(remediation) = &row.remediation {
        let _ = write!(out, "<br>To fix: {}", escaped(remediation));
    }
    row.evidence.iter().for_each(|evidence| write_evidence(out, evidence));
    out.push_str("</td></tr>");
}

fn write_evidence(out: &mut String, evidence: &Evidence) {
    let action = escaped(&evidence.action);
    let _ = write!(out, "<details><summary>{}: {action}</summary>", evidence.kind);
    let _ = write!(
        out,
        "<p>At {}, {} ms, {} requests.</p>",
        evidence.at, evidence.duration_ms, evidence.requests
    );
    for (name, value) in &evidence.figures {
        let _ = write!(out, "<div>{}: <code>{}</code></div>", escaped(name), escaped(&value.to_string()));
    }
    for step in &evidence.steps {
        let id = step.request_id.as_deref().unwrap_or_default();
        let (request, response) = (escaped(&step.request), escaped(&step.response));
        let _ = write!(
            out,
            "<div><code>{request}</code> → {response} in {} ms <code>{}</code></div>",
            step.duration_ms,
            escaped(id)
        );
    }
    out.push_str("</details>");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
