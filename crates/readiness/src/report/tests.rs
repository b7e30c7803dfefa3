//! Tests of the report formats. Each format must contain all results, and must escape text that comes from
//! the deployment.

use kith_kernel::Timestamp;
use serde_json::{Map, Value};

use super::*;
use crate::evidence::Evidence;
use crate::{Catalogue, Gate, RowOutcome, Step};

const AT: Timestamp = Timestamp::from_millis(1_767_225_600_000);

fn row(id: &str, gate: Gate, result: RowOutcome, reason: &str) -> RowResult {
    let mut evidence =
        Evidence::new("live", "calls <twice>", AT, Map::from_iter([("cells".to_owned(), 7.into())]));
    evidence.steps.push(Step {
        request: "GET /a".to_owned(),
        response: "200".to_owned(),
        request_id: Some("id-1".to_owned()),
        duration_ms: 3,
    });
    RowResult {
        id: id.to_owned(),
        requirement: format!("what | of {id}"),
        gate,
        result,
        live: None,
        reason: reason.to_owned(),
        remediation: (!result.opens_gate()).then(|| "fix it".to_owned()),
        twin: (id == "SEC-05").then(|| "without headers".to_owned()),
        evidence: vec![evidence],
    }
}

fn report() -> ReadinessReport {
    let rows = vec![
        row("ACC-02", Gate::Beta, RowOutcome::Pass, "it holds"),
        row("SEC-05", Gate::Beta, RowOutcome::Fail, "<script>alert(1)</script> | \"quoted\""),
        row("SEC-07", Gate::Production, RowOutcome::Unknown, "not measured"),
    ];
    ReadinessReport {
        checks: "sha256:00".to_owned(),
        target: "http://127.0.0.1:8080".to_owned(),
        identity: Identity { build: "1.0.0+abc".to_owned(), ..Identity::default() },
        started_at: AT,
        ended_at: AT,
        gate: GateVerdict::of(Gate::Beta, &rows),
        scores: Scores::of(&Catalogue::built_in(), &rows),
        rows,
        not_judged: 271,
        undeleted_accounts: vec!["ada@kith-verify.invalid (no answer)".to_owned()],
    }
}

#[test]
fn json_report_contains_rows_with_evidence() {
    let json: Value = serde_json::from_str(&report().to_text(Format::Json)).unwrap();
    assert_eq!((&json["report"], &json["gate"]["exit_code"]), (&1.into(), &1.into()));
    let row = &json["rows"][1];
    assert_eq!(
        (&row["id"], &row["result"], &row["remediation"]),
        (&"SEC-05".into(), &"fail".into(), &"fix it".into())
    );
    assert_eq!(row["evidence"][0]["steps"][0]["request_id"], "id-1");
    assert_eq!(row["evidence"][0]["figures"]["cells"], 7);
    for field in ["action", "at", "duration_ms", "target", "build", "configuration"] {
        assert!(row["evidence"][0].get(field).is_some(), "{field}");
    }
}

#[test]
fn terminal_report_shows_failures_with_remediation() {
    let text = report().to_text(Format::Terminal { colour: false });
    for expected in [
        "SEC  Application security: 0 of 2 (0 %)",
        "fail     SEC-05",
        "→ fix it",
        "1 pass, 1 unknown, 1 fail",
        "Score 33 % (1 of 3); weakest: SEC 0 % (0 of 2)",
        "the checks of 1 of them are tested against",
        "A synthetic account could not be deleted: ada@kith-verify.invalid (no answer)",
        "271 rows of the catalogue were not judged.",
        "1 of the 2 judged rows of the beta gate hold; 271 rows were not judged",
    ] {
        assert!(text.contains(expected), "{expected} is missing in\n{text}");
    }
    assert!(
        !text.contains('\x1b')
            && report().to_text(Format::Terminal { colour: true }).contains("\x1b[1;31mfail")
    );
}

#[test]
fn deployment_text_is_escaped_in_every_format() {
    let html = report().to_text(Format::Html);
    assert!(html.contains("&lt;script&gt;alert(1)") && !html.contains("<script"), "{html}");
    assert!(html.contains("<tr id=\"SEC-05\">") && html.contains("GET /a"), "{html}");
    let markdown = report().to_text(Format::Markdown);
    assert!(
        [&html, &markdown].iter().all(|text| text.contains("synthetic account could not be deleted")),
        "{markdown}"
    );
    let line = markdown.lines().find(|line| line.starts_with("| SEC-05 ")).unwrap();
    assert_eq!(line.replace("\\|", "").matches('|').count(), 6, "{line}");
    assert!(!markdown.contains("<script"), "{markdown}");
}

#[test]
fn full_run_reports_gate_verdict() {
    let whole = |rows: Vec<RowResult>| {
        let report =
            ReadinessReport { gate: GateVerdict::of(Gate::Beta, &rows), rows, not_judged: 0, ..report() };
        report.to_text(Format::Terminal { colour: false })
    };
    let open = whole(vec![row("ACC-02", Gate::Beta, RowOutcome::Pass, "it holds")]);
    assert!(open.ends_with("The beta gate is open: none of its 1 rows blocks it."), "{open}");
    let closed = whole(vec![row("ACC-02", Gate::Beta, RowOutcome::Fail, "no")]);
    assert!(closed.ends_with("The beta gate is closed: 1 of its 1 rows block it.\n  ACC-02"), "{closed}");
    let unmeasured = whole(vec![row("ACC-02", Gate::Beta, RowOutcome::Unknown, "no")]);
    assert!(unmeasured.contains("stays closed: 1 of its 1 rows could not be measured"), "{unmeasured}");
}
