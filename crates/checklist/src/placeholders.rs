//! Finds placeholders that were not filled in: `$(date)` in prose, `your-domain`, `[… contact]`, and blanks
//! after a colon.

use std::sync::LazyLock;

use regex::Regex;

use super::outline::{BlockKind, Outline};
use super::report::Code;
use super::{UnlocatedFinding, pattern, quote};

/// Number of bytes at the beginning of a line that are searched.
const MAX_LINE_BYTES: usize = 4096;

/// Shell or template expressions that were not expanded. They are allowed in code.
static UNEXPANDED: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"\$\([a-z][^()\n]{0,60}\)|\$\{\w[^{}\n]{0,40}\}|\{\{[^{}\n]{1,60}\}\}|<%[^%\n]{1,60}%>")
});
static BRACKETS: LazyLock<Regex> = LazyLock::new(|| pattern(r"\[([^\[\]\n]{2,48})\]"));
static FILL_IN_TEXT: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)^(?:(?:your|insert|enter|add|fill|put|tbd|tba|todo|to be)\b.*|.*\b(?:contacts?|name|e-?mail|phone|phone number|number|date|url|address|signature|team|link|title|company|role|here|rotation|engineer|lead|manager|owner|channel)(?: \d)?)$",
    )
});
static YOUR_PLACEHOLDER: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)\b(?:your[-_](?:super[-_])?[a-z0-9]+(?:[-_][a-z0-9]+)*|yourdomain|yourcompany|yourapp|mydomain)(?:\.(?:com|org|net|io|dev|app))?\b|<your[^<>\n]{1,40}>|\bchange[-_]?me(?:[-_][a-z0-9]+)*\b|\blorem ipsum\b",
    )
});
static BLANK: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i):\W*(?P<blank>TBD|TBA|TODO|FIXME|XXX+|YYYY-MM-DD|DD[./-]MM[./-]YYYY|MM/DD/YYYY|_{3,}|\?{2,})\W*$",
    )
});
static BLANK_CELL: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(?i)^\W*(?P<blank>TBD|TBA|FIXME|XXX+|YYYY-MM-DD|_{3,}|\?{2,})\W*$"));

/// Reports placeholders in prose and in code.
pub(super) fn check(outline: &Outline, findings: &mut Vec<UnlocatedFinding>) {
    for block in &outline.blocks {
        let is_cell = matches!(block.kind, BlockKind::Cell { row: 1.., .. });
        for (at, line) in block.lines() {
            let line = start_of(line);
            let mut found: Vec<_> = UNEXPANDED
                .find_iter(line)
                .filter(|found| !is_in_code(line, found.start()))
                .map(|f| f.range())
                .collect();
            found.extend(YOUR_PLACEHOLDER.find_iter(line).map(|found| found.range()));
            let fills = BRACKETS.captures_iter(line).filter_map(|groups| {
                let whole = groups.get(0)?;
                let to_fill = FILL_IN_TEXT.is_match(groups[1].trim());
                (to_fill && !line[whole.end()..].starts_with(['(', '['])).then(|| whole.range())
            });
            found.extend(fills.filter(|range| !is_in_code(line, range.start)));
            let blank = if is_cell { &BLANK_CELL } else { &BLANK };
            found.extend(blank.captures(line).and_then(|groups| Some(groups.name("blank")?.range())));
            findings
                .extend(found.into_iter().map(|range| finding(block.offset(at + range.start), &line[range])));
        }
    }
    for code in &outline.codes {
        for (at, line) in code.lines() {
            let line = start_of(line);
            let found =
                YOUR_PLACEHOLDER.find_iter(line).filter(|found| !is_part_of_name(line, found.start()));
            findings.extend(found.map(|found| finding(code.offset(at + found.start()), found.as_str())));
        }
    }
}

/// Returns true if the match at byte `at` is part of a name such as `--your_option` or `$your_variable`.
fn is_part_of_name(line: &str, at: usize) -> bool {
    line[..at].ends_with(['$', '{', '-', '.', '/']) && !line[..at].ends_with("//")
}

fn finding(offset: usize, text: &str) -> UnlocatedFinding {
    let message = format!("{} is a placeholder.", quote(text));
    UnlocatedFinding::new(offset, Code::Placeholder, message, "Fill it in, or remove the line.")
}

fn is_in_code(line: &str, at: usize) -> bool {
    line[..at].bytes().filter(|b| *b == b'`').count() % 2 == 1
}

fn start_of(line: &str) -> &str {
    let mut end = line.len().min(MAX_LINE_BYTES);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    &line[..end]
}
