//! Tests each finding code with a faulty text and with a similar correct one. Also tests that arbitrary input
//! does not cause a panic.

use std::path::Path;
use std::time::{Duration, Instant};

use kith_checklist::{ChecklistReport, Code, lint};
use proptest::prelude::*;

fn text(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/checklists").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns each finding as `line code`, where `line` is its line number.
fn found(report: &ChecklistReport) -> Vec<String> {
    report.findings.iter().map(|finding| format!("{} {}", finding.line, finding.code)).collect()
}

#[test]
fn each_fault_is_reported_at_its_position() {
    let expected: &[(Code, &[usize])] = &[
        (Code::ScoreOfParts, &[9, 16]),
        (Code::ScoreOfBoxes, &[3, 12]),
        (Code::ScoreArithmetic, &[3, 5]),
        (Code::TickedAndOpen, &[13, 15, 19]),
        (Code::TickedOverOpen, &[3, 10]),
        (Code::DoneBesideOpen, &[3, 11, 14]),
        (Code::AllBesideSome, &[3]),
        (Code::Placeholder, &[3, 5, 6, 7, 8, 12, 15, 18, 18]),
        (Code::RestoreFormat, &[10, 13]),
        (Code::RestoreFile, &[8]),
        (Code::MalformedBox, &[3, 4, 5]),
        (Code::UnclosedFence, &[3]),
        (Code::Encoding, &[3]),
    ];
    assert_eq!(expected.iter().map(|(code, _)| *code).collect::<Vec<_>>(), Code::ALL);
    let mut wrong = Vec::new();
    for (code, lines) in expected {
        let report = lint(&text(&format!("{code}.md")));
        let lines: Vec<_> = lines.iter().map(|line| format!("{line} {code}")).collect();
        if found(&report) != lines {
            wrong.push(format!("{code}: {}", report.to_terminal(code.as_str())));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn similar_correct_text_is_not_reported() {
    let reports = Code::ALL.iter().map(|code| (code, lint(&text(&format!("{code}-near.md")))));
    let wrong: Vec<_> = reports.filter(|(_, report)| !report.findings.is_empty()).collect();
    let unexpected: Vec<_> =
        wrong.iter().map(|(code, report)| report.to_terminal(&format!("{code}-near.md"))).collect();
    assert!(unexpected.is_empty(), "{}", unexpected.join("\n"));
}

#[test]
fn report_format_is_stable() {
    let report = lint(&text("report.md"));
    assert_eq!(report.to_terminal("report.md"), String::from_utf8_lossy(&text("report.txt")));
    assert_eq!(report.to_markdown("report.md"), String::from_utf8_lossy(&text("report.markdown")));
}

#[test]
fn line_endings_do_not_change_findings() {
    for code in Code::ALL {
        let unix = text(&format!("{code}.md"));
        let windows = String::from_utf8_lossy(&unix).replace('\n', "\r\n");
        let marked = ["\u{feff}", &windows].concat();
        assert_eq!(lint(marked.as_bytes()).findings, lint(&unix).findings, "{code}");
    }
}

#[test]
fn quoted_text_of_checklist_is_sanitized() {
    let report = lint("# a\u{1b}[31m\u{202e}b|c&lt;d&gt;\n- [] x\u{7}`y`|\n".as_bytes());
    let terminal = report.to_terminal("a.md");
    assert!(!terminal.chars().any(|c| c != '\n' && (c.is_control() || c == '\u{202e}')), "{terminal:?}");
    let page = report.to_markdown("a.md");
    assert!(page.contains("b\\|c\\<d\\>") && page.contains("\\`y\\`\\|"), "{page}");
}

/// The number of findings per code is limited, and the report states how many are left out.
#[test]
fn findings_per_code_are_limited() {
    let report = lint("- [] a\n".repeat(1000).as_bytes());
    assert_eq!(
        (report.findings.len(), report.findings_left_out),
        (ChecklistReport::MAX_FINDINGS_PER_CODE, 900)
    );
    assert!(report.to_terminal("a.md").ends_with("100 findings, and 900 more of the same codes\n"));
}

#[test]
fn documentation_lists_all_codes() {
    let page = include_str!("../../../docs/checklist-lint.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let named: Vec<_> = rows.map(|(code, _)| code).collect();
    let codes: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(named, codes);
}

#[test]
fn hostile_text_is_linted_in_linear_time() {
    const LENGTH: usize = 200_000;
    /// Maximum duration of linting one text. An algorithm with quadratic time would take hours.
    const MAX_DURATION: Duration = Duration::from_secs(30);
    for piece in HOSTILE {
        let mut bytes = piece.repeat(LENGTH / piece.len()).into_bytes();
        bytes.extend("\n".repeat(LENGTH).into_bytes());
        #[expect(clippy::disallowed_methods, reason = "measures how long it takes")]
        let before = Instant::now();
        let report = lint(&bytes);
        let taken = before.elapsed();
        assert!(taken < MAX_DURATION, "{piece:?} takes {taken:?}: {:?}", report.counts);
    }
}

const HOSTILE: &[&str] = &[
    ">",
    "> ",
    "> > > a\n",
    "* ",
    "- ",
    "1. ",
    "\t- ",
    "[",
    "]",
    "[](",
    "![",
    "[a]: b\n",
    "*a_",
    "`",
    "~~a",
    "<",
    "<!--",
    "&",
    "$(",
    "{{",
    "|a",
    "|a\n|-\n",
    "- [ ] a b\n",
    "- [x] a b\n- [ ] a b\n",
    "# A b: 50%\n",
    "Overall: 50%\n\n",
    "Total 3/4 ",
    "All is tested, 1 of 14 tests. ",
    "`pg_dump a > b.sql` `pg_restore c.sql` ",
    "âœ…",
    "a<br>",
    "```\n",
    "✅",
    "All ",
    "a:",
    ": ",
    "###### a\n# b\n",
    "[Your name",
    "\u{fffd}",
    "    a\n\n",
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        holds(&bytes)?;
    }

    #[test]
    fn arbitrary_fragments_do_not_panic(
        pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..60),
        end in proptest::collection::vec(any::<u8>(), 0..8),
    ) {
        let mut bytes = pieces.concat().into_bytes();
        bytes.extend(end);
        holds(&bytes)?;
    }
}

/// Fragments of checklists, both well-formed and broken.
const PIECES: &[&str] = &[
    "\n",
    "\n\n",
    "\r\n",
    "  ",
    "    ",
    "\t",
    "# ",
    "## ",
    "- ",
    "* ",
    "1. ",
    "> ",
    "[x] ",
    "[ ] ",
    "[",
    "]",
    "(",
    ")",
    "[]",
    "✅ ",
    "❌",
    "âœ…",
    "ðŸ”’",
    "Ã©",
    "é",
    "☐\u{fe0f}",
    "\u{fffd}",
    "\u{feff}",
    "| ",
    "|\n|---|---|\n",
    "```sh\n",
    "```\n",
    "~~",
    "**",
    "`",
    "&amp;",
    "<br>",
    "<!--",
    "![",
    "OVERALL: 90%",
    "Security (3/4)",
    "Score: 45/50 (90%)",
    "Total",
    "Weight",
    "all tested",
    "1 of 14 tests",
    "CONFIRMED",
    "Status: ready. ",
    "$(date)",
    "[Your name]",
    "TBD",
    "pg_dump a > b.sql",
    "pg_restore b.sql",
    "psql < c.dump",
    "| gzip > d.gz",
    " \\\n",
    "'",
    "\"",
    "Next steps",
];

fn holds(bytes: &[u8]) -> Result<(), TestCaseError> {
    let report = lint(bytes);
    let lines = 1 + bytes.iter().filter(|byte| **byte == b'\n').count();
    for finding in &report.findings {
        prop_assert!((1..=lines).contains(&finding.line) && finding.column > 0, "{finding:?}");
        prop_assert!(!finding.message.chars().any(char::is_control), "{finding:?}");
    }
    for line in report.scores.iter().map(|score| score.line).chain(report.sections.iter().map(|one| one.line))
    {
        prop_assert!((1..=lines).contains(&line));
    }
    let in_sections: usize = report.sections.iter().map(|section| section.counts.total()).sum();
    prop_assert_eq!(in_sections, report.counts.total());
    prop_assert!(report.to_terminal("a.md").starts_with("a.md: "));
    prop_assert!(report.to_markdown("a.md").starts_with("## a.md"));
    Ok(())
}

/// Regression test: contradictions in real files that were not reported. Each has a similar correct text
/// beside it.
#[test]
fn contradictions_in_real_files_are_reported() {
    for (text, expected) in [
        ("- Security: 12/14 (95%)\n", &["1 score-arithmetic"][..]),
        ("- Security: 12/14 (86%)\n", &[]),
        ("Testing: 15 % | 1/14\n", &["1 score-arithmetic"]),
        ("Testing: 7 % | 1/14\n", &[]),
        ("| Area | Score | Done |\n|--|--|--|\n| Testing | 15 % | 1/14 |\n", &["3 score-arithmetic"]),
        ("| Area | Score | Done |\n|--|--|--|\n| Testing | 7 % | 1/14 |\n| Logs | 50 % | 7/14 |\n", &[]),
        (
            "## A\n- [x] **Rate limiting** protects the login\n## B\n- [ ] **Rate limiting** on uploads\n",
            &["4 ticked-and-open"],
        ),
        ("## A\n- [x] **Rate limiting** protects the login\n- [ ] **Rate limiting** on uploads\n", &[]),
        ("- [ ] Backups (✅ already configured)\n", &["1 ticked-and-open"]),
        ("- [ ] Backups — already configured\n", &["1 ticked-and-open"]),
        ("- [x] Backups (❌ not tested)\n", &["1 ticked-and-open"]),
        ("- [x] Backups (already configured)\n- [ ] Alerts when already configured limits are passed\n", &[]),
        ("Call [On-call rotation] at night\n", &["1 placeholder"]),
        ("Call the [on-call rotation](https://a.example) at night\n", &[]),
        ("## ✅ Checklist (95%)\ntext\n## ❌ Other\n", &[]),
        ("## 🔐 Security\ntext\n## 🔄 Cache (90%)\ntext\n", &[]),
    ] {
        let report = lint(text.as_bytes());
        assert_eq!(found(&report), expected, "{text}{}", report.to_terminal("text"));
    }
}
