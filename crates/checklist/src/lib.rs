//! Linter for readiness checklists in Markdown: reports contradictions within a text. It does no I/O, and
//! does not verify whether claims are true.

mod backups;
mod claims;
mod decode;
mod items;
mod marks;
mod outline;
mod parsed_scores;
mod placeholders;
mod present;
mod repeats;
mod report;
mod scores;

use std::collections::HashMap;

use regex::Regex;

use decode::Source;
use items::Items;
pub use marks::BoxState;
use outline::Outline;
pub use report::{ChecklistReport, Code, Counts, Finding, SectionCounts, StatedScore};

/// Lints a checklist. Accepts any bytes in UTF-8, or in UTF-16 with a byte order mark. Invalid characters are
/// reported as findings.
#[must_use]
pub fn lint(bytes: &[u8]) -> ChecklistReport {
    let source = Source::read(bytes);
    let outline = Outline::of(&source.text);
    let items = Items::of(&outline);
    let stated = parsed_scores::all(&outline);
    let line = |offset: usize| source.position(offset).0;
    let mut findings = Vec::new();
    let recomputed = scores::check(&outline, &items, &stated, &mut findings);
    repeats::check(&outline, &items, &line, &mut findings);
    claims::check(&outline, &items, &line, &mut findings);
    placeholders::check(&outline, &mut findings);
    backups::check(&outline, &line, &mut findings);
    report_form_faults(&source, &outline, &items, &mut findings);
    let (findings, findings_left_out) = sort_and_limit(&source, findings);
    let scores = stated.into_iter().zip(recomputed).map(|(score, recomputed)| StatedScore {
        label: sanitized(&score.label),
        line: line(score.offset),
        stated: rounded(score.percent),
        recomputed: recomputed.as_ref().map(|one| rounded(one.percent)),
        from: recomputed.map(|one| one.from),
    });
    ChecklistReport {
        counts: items.total(),
        share: items.total().share().map(rounded),
        boxes_in_code: boxes_in_code(&outline),
        sections: section_counts(&outline, &items, &line),
        scores: scores.collect(),
        findings,
        findings_left_out,
    }
}

/// Finding with an offset in the text, from which line and column are computed later.
#[derive(Debug)]
struct UnlocatedFinding {
    offset: usize,
    code: Code,
    message: String,
    remedy: String,
}

impl UnlocatedFinding {
    fn new(offset: usize, code: Code, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { offset, code, message: message.into(), remedy: remedy.into() }
    }
}

/// Compiles a constant regular expression. Tests compile all of them, so this does not panic in practice.
fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a valid pattern")
}

/// Quotes a text of the checklist for use in a message. The result is on one line, has a limited length, and
/// contains no control characters.
fn quote(text: &str) -> String {
    format!("“{}”", sanitized(text))
}

fn sanitized(text: &str) -> String {
    const MAX_QUOTE_CHARS: usize = 72;
    let words = text
        .chars()
        .take(8 * MAX_QUOTE_CHARS)
        .map(|c| if is_control_or_bidi(c) { ' ' } else { c })
        .collect::<String>();
    let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(MAX_QUOTE_CHARS) {
        Some((at, _)) => format!("{}…", words[..at].trim_end()),
        None => words,
    }
}

/// Returns true for control characters, and for characters that change the direction of text.
fn is_control_or_bidi(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Rounds to one decimal place, as in reports.
fn rounded(percent: f64) -> f64 {
    (10.0 * percent).round() / 10.0
}

/// Sorts findings by position, removes duplicates, and limits the number of findings per code. Returns the
/// findings, and the number of those that were removed by the limit.
fn sort_and_limit(source: &Source, mut findings: Vec<UnlocatedFinding>) -> (Vec<Finding>, usize) {
    findings.sort_by(|a, b| (a.offset, a.code, &a.message).cmp(&(b.offset, b.code, &b.message)));
    findings.dedup_by(|a, b| (a.offset, a.code) == (b.offset, b.code));
    let mut counts: HashMap<Code, usize> = HashMap::new();
    let before = findings.len();
    findings.retain(|finding| {
        let count = counts.entry(finding.code).or_default();
        *count += 1;
        *count <= ChecklistReport::MAX_FINDINGS_PER_CODE
    });
    let left_out = before - findings.len();
    let findings = findings.into_iter().map(|UnlocatedFinding { offset, code, message, remedy }| {
        let (line, column) = source.position(offset);
        Finding { line, column, code, message, remedy }
    });
    (findings.collect(), left_out)
}

fn section_counts(outline: &Outline, items: &Items, line: &dyn Fn(usize) -> usize) -> Vec<SectionCounts> {
    let counted = outline.sections.iter().zip(&items.own).filter(|(_, counts)| **counts != Counts::default());
    let counts = counted.map(|(section, counts)| SectionCounts {
        title: sanitized(marks::without_glyphs(&section.title)),
        line: section.heading.map_or(1, |block| line(outline.blocks[block].offset(0))),
        level: section.level,
        counts: *counts,
        share: counts.share().map(rounded),
    });
    counts.collect()
}

/// Returns the number of lines in code blocks that would be items with a box outside of code.
fn boxes_in_code(outline: &Outline) -> usize {
    outline.codes.iter().flat_map(|code| code.lines()).filter(|(_, line)| is_boxed(line)).count()
}

fn is_boxed(line: &str) -> bool {
    let line = line.trim_start();
    let item = line.strip_prefix(['-', '*', '+']).filter(|rest| rest.starts_with(' '));
    item.is_some_and(|rest| marks::leading(rest).is_some())
}

/// Reports boxes that are malformed, code fences that are not closed, and encoding errors.
fn report_form_faults(
    source: &Source,
    outline: &Outline,
    items: &Items,
    findings: &mut Vec<UnlocatedFinding>,
) {
    for item in items.all.iter().filter(|item| item.malformed) {
        let message = format!("The box of {} is rendered as text.", quote(&item.label));
        findings.push(UnlocatedFinding::new(
            item.offset,
            Code::MalformedBox,
            message,
            "Write `- [ ] …` or `- [x] …`.",
        ));
    }
    for code in outline.codes.iter().filter(|code| code.unclosed) {
        let boxes = code.lines().filter(|(_, line)| is_boxed(line)).count();
        if boxes > 0 {
            let boxes = if boxes == 1 { "1 box".to_owned() } else { format!("{boxes} boxes") };
            let message = format!(
                "This code fence is not closed; {boxes} after it are rendered as code and not counted."
            );
            findings.push(UnlocatedFinding::new(
                code.offset,
                Code::UnclosedFence,
                message,
                "Close the fence at the end of the code.",
            ));
        }
    }
    if let Some(first) = source.repairs().first() {
        let more = source.repairs().len() - 1;
        let also =
            if more == 0 { String::new() } else { format!("; {more} more places have the same fault") };
        let meant = quote(&source.text[first.start..first.end]);
        let message = format!(
            "{} is {meant} in the wrong encoding and is counted as such{also}.",
            quote(&first.undecoded)
        );
        findings.push(UnlocatedFinding::new(first.start, Code::Encoding, message, "Save the file as UTF-8."));
    }
    if let Some(first) = source.undecodable.first() {
        let more = source.undecodable.len() - 1;
        let also = if more == 0 { String::new() } else { format!(", and {more} more") };
        let message = format!(
            "A character here cannot be decoded{also}: the file is not UTF-8, or the character was lost in a \
             conversion."
        );
        findings.push(UnlocatedFinding::new(
            *first,
            Code::Encoding,
            message,
            "Save the file as UTF-8 and write the character again.",
        ));
    }
}
