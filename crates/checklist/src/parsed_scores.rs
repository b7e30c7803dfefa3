//! Parses the scores that a document states: "Security: 95 %", "## Testing (12/14)", and columns of tables.
//! The module `scores` recomputes them.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::Regex;

use super::marks;
use super::outline::{BlockKind, Outline};
use super::pattern;

/// Place in the document that contains scores. Scores with the same group are parts of one whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Group {
    /// Headings of the subsections of a section.
    Headings(usize),
    List(usize),
    Column {
        table: usize,
        column: usize,
    },
    Code(usize),
    /// Lines of a section that are not in a list.
    Lines(usize),
}

/// Score that the document states.
#[derive(Clone, Debug)]
pub(super) struct ParsedScore {
    pub label: String,
    /// Stated score in percent.
    pub percent: f64,
    pub fraction: Option<(f64, f64)>,
    /// Percentage that is stated beside a fraction.
    pub beside: Option<f64>,
    /// Text of the line after the score.
    pub tail: String,
    pub weight: Option<f64>,
    pub offset: usize,
    pub section: usize,
    pub group: Group,
}

/// Maximum number of scores that are parsed.
const MAX_SCORES: usize = 1000;
/// Maximum length of a line in bytes. Longer lines count as prose and are skipped.
const MAX_LINE_BYTES: usize = 400;

const VALUE: &str = r"(?:(?P<part>\d{1,5}(?:\.\d)?)\s*(?:/|of|out\s+of)\s*(?P<whole>\d{1,5})\b(?:(?:\s+[A-Za-z]+){0,2}\W{0,4}(?P<beside>\d{1,3}(?:[.,]\d{1,3})?)\s?%)?|(?P<percent>\d{1,3}(?:[.,]\d{1,3})?)\s?%(?:\W{0,3}(?P<part2>\d{1,5})\s*(?:/|of|out\s+of)\s*(?P<whole2>\d{1,5})\b)?)";

static LINE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(&format!(
        r"^(?P<label>[^%<>≥≤]*?[\w)])[✅❌☑✔✓☐⬜⚠🚧\x{{fe0f}}]?(?:\s[✅❌☑✔✓☐⬜⚠🚧]\x{{fe0f}}?)?(?P<sep>\s*[:=|(\[–—-]|\s)[\s:=|(\[–—\-~█▓▒░■□▰▱●○#.*]*{VALUE}(?P<tail>.*)$"
    ))
});
static CELL: LazyLock<Regex> = LazyLock::new(|| pattern(&format!(r"^\W*{VALUE}(?P<tail>.*)$")));
/// Labels of percentages that do not measure the progress of the checklist.
static OTHER_LABEL: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)\b(cpu|memory( usage)?$|ram|disk|uptime|availability|sla|slo|error rate|errors$|traffic|rollout|canary|thresholds?|targets?|alerts?|limits?|utili[sz]ation|usage|hits?|rate$|discount|latency|p\d\d|minimum|maximum|goals?|required|weight|budget|sampl\w+|packet|loss|date|phase|step|part|day|week|page|sprint|round|version|support$|at least|up to|more than|less than|under|over|above|below)\b",
    )
});
static OTHER_COLUMN: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)(target|goal|weight|threshold|limit|min|max|last|previous|before|alert|usage|sl[ao]\b|objective|required|budget|date|expected|change|trend|note|remark|comment)",
    )
});
static SCORE_WORD: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)\b(scores?|total|overall|complet\w+|progress|done|ticked|checked|items?|boxes|tasks?|checks?|points?|passed|status|readiness|rating|implemented|finished)\b",
    )
});
static ITEMS: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)\b(items?|boxes|tasks?|checks?|complet\w+|progress|done|ticked|checked|status|implemented|finished)\b",
    )
});
static TAIL: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)^[\s)\]*]*$|^[\s)\]*]*(?:[–—,;.(|:-]|(?:complete|completed|done|ready|implemented|finished|passed|ticked|checked|score|points?|items?|boxes|tasks?|checks)\b)",
    )
});
static MEASURED: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?i)\bcoverage\b"));
static OVERALL: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)\b(overall|total|average|mean|readiness|final score|grand total)\b|^(the )?score$|^production ready$",
    )
});
static OF_ITS_SECTION: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"(?i)^(section |category )?(completion|completed?|progress|status|done|score)$")
});

impl ParsedScore {
    /// Returns true if the score is an overall score, by its label.
    pub(super) fn is_overall(&self) -> bool {
        OVERALL.is_match(&self.label)
    }

    /// Returns true if the fraction of the score counts items, and not points.
    pub(super) fn counts_items(&self) -> bool {
        ITEMS.is_match(&self.label) || ITEMS.is_match(&self.tail)
    }

    /// Returns true if the fraction of the score counts items or states no unit.
    fn counts_items_or_nothing(&self) -> bool {
        self.tail.is_empty() || self.counts_items()
    }

    /// Returns true if the score is not measured by boxes, such as test coverage.
    pub(super) fn is_measured(&self) -> bool {
        MEASURED.is_match(&self.label)
    }

    /// Returns true if the label, such as "Progress" or "Status", marks this as the score of the enclosing section.
    pub(super) fn is_of_its_section(&self) -> bool {
        OF_ITS_SECTION.is_match(&self.label)
    }
}

/// Returns all scores that the document states, in document order.
pub(super) fn all(outline: &Outline) -> Vec<ParsedScore> {
    let mut stated = Vec::new();
    for block in &outline.blocks {
        if stated.len() >= MAX_SCORES {
            break;
        }
        let group = match (block.kind, block.list) {
            (BlockKind::Heading, _) => Group::Headings(outline.sections[block.section].parent.unwrap_or(0)),
            (BlockKind::Item, Some(list)) => Group::List(list),
            (BlockKind::Cell { .. }, _) => continue,
            _ => Group::Lines(block.section),
        };
        for (at, line) in block.lines() {
            let (start, mut at) = (at, at);
            for part in line.split('|') {
                if let Some((score, value)) = parse_line(part, group, block.section) {
                    stated.push(ParsedScore { offset: block.offset(at + value), ..score });
                } else if let Some(fraction) = bare_fraction(part).filter(|_| at > start)
                    && let Some(before) = stated.last_mut().filter(|one| one.offset >= block.offset(start))
                {
                    record_fraction(before, fraction);
                }
                at += part.len() + 1;
            }
        }
    }
    for (index, code) in outline.codes.iter().enumerate() {
        if matches!(code.language.to_lowercase().as_str(), "" | "text" | "txt" | "plain" | "plaintext") {
            for (at, line) in code.lines().take(MAX_SCORES) {
                if let Some((score, value)) = parse_line(line, Group::Code(index), code.section) {
                    stated.push(ParsedScore { offset: code.offset(at + value), ..score });
                }
            }
        }
    }
    for table in 0..outline.tables.len() {
        stated.extend(parse_table(outline, table));
    }
    stated.sort_by_key(|score| score.offset);
    stated.truncate(MAX_SCORES);
    stated
}

static FRACTION: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^\W*(\d{1,5})\s*(?:/|of|out\s+of)\s*(\d{1,5})\W*$"));

/// Parses a fraction without a label, such as "1/14" after "15 % |".
fn bare_fraction(text: &str) -> Option<(f64, f64)> {
    let found = FRACTION.captures(text)?;
    let number = |at: usize| found.get(at)?.as_str().parse().ok();
    number(1).zip(number(2)).filter(|(_, whole): &(f64, f64)| *whole > 0.0)
}

/// Adds a fraction that is stated beside the percentage of the same score.
fn record_fraction(score: &mut ParsedScore, fraction: (f64, f64)) {
    if score.fraction.is_none() && !score.is_measured() {
        score.beside = Some(score.percent);
        score.fraction = Some(fraction);
    }
}

fn parse_line(line: &str, group: Group, section: usize) -> Option<(ParsedScore, usize)> {
    if line.len() > MAX_LINE_BYTES || !line.bytes().any(|b| b.is_ascii_digit()) {
        return None;
    }
    let found = LINE.captures(line)?;
    let words = found["label"].split_whitespace().count();
    let label = marks::leading(&found["label"])
        .map_or_else(|| found["label"].to_owned(), |mark| mark.rest.to_owned());
    let label = without_number(marks::without_glyphs(&label)).to_owned();
    let bare = found["sep"].trim().is_empty();
    let is_fraction = found.name("part").is_some();
    let tail = marks::without_glyphs(&found["tail"]).to_owned();
    let of_points = words <= 3
        && matches!(group, Group::List(_) | Group::Code(_))
        && found.name("whole").is_some_and(|whole| matches!(whole.as_str(), "5" | "10" | "100"));
    // A fraction with a percentage beside it, such as "12/14 (95 %)", is always a score.
    let has_percentage = found.name("beside").is_some();
    let names_a_score = of_points || has_percentage || SCORE_WORD.is_match(line);
    let refused = label.is_empty()
        || label.contains('?')
        || label.matches('(').count() != label.matches(')').count()
        || words > 7
        || OTHER_LABEL.is_match(&label)
        || !TAIL.is_match(&tail)
        || (bare && (words > 2 || tail.starts_with([',', '.', ';'])) && !OVERALL.is_match(&label))
        || (is_fraction && !names_a_score && (bare || !matches!(group, Group::Headings(_))));
    let at = found.name("part").or_else(|| found.name("percent")).map_or(0, |value| value.start());
    let score = score(&found, label, tail, group, section).filter(|_| !refused);
    score.map(|score| (score, at))
}

/// Removes the section number from the beginning of a label: `1.2 Security` becomes `Security`.
fn without_number(label: &str) -> &str {
    let rest =
        label.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').trim_start_matches([')', ' ']);
    if rest.is_empty() { label } else { rest.trim_end_matches([':', ' ', '*']) }
}

fn score(
    found: &regex::Captures<'_>,
    label: String,
    tail: String,
    group: Group,
    section: usize,
) -> Option<ParsedScore> {
    let number = |name: &str| found.name(name).and_then(|n| n.as_str().replace(',', ".").parse::<f64>().ok());
    let pair = |part, whole| number(part).zip(number(whole));
    let fraction = pair("part", "whole").or_else(|| pair("part2", "whole2"));
    if fraction.is_some_and(|(_, whole)| whole == 0.0) {
        return None;
    }
    let stated = number("percent");
    let of_fraction = fraction.map(|(part, whole)| 100.0 * part / whole);
    let beside = number("beside").or(stated.filter(|_| fraction.is_some()));
    let percent = stated.or(of_fraction)?;
    Some(ParsedScore { label, percent, fraction, beside, tail, weight: None, offset: 0, section, group })
}

fn parse_table(outline: &Outline, table: usize) -> Vec<ParsedScore> {
    let rows = &outline.tables[table].rows;
    let Some(head) = rows.first() else { return Vec::new() };
    let text = |block: &usize| outline.blocks[*block].text.trim();
    let weights = head.iter().position(|block| text(block).to_lowercase().contains("weight"));
    let mut stated = Vec::new();
    for (column, title) in
        head.iter().enumerate().take(32).filter(|(_, title)| !OTHER_COLUMN.is_match(text(title)))
    {
        for row in rows[1..].iter().take(MAX_SCORES) {
            let Some(cell) = row.get(column).filter(|cell| text(cell).len() <= MAX_LINE_BYTES) else {
                continue;
            };
            let named = row.iter().enumerate().take(32).filter(|(other, _)| *other != column);
            let mut names = named.map(|(_, block)| marks::without_glyphs(text(block)));
            let name = names.find(|name| name.chars().any(char::is_alphabetic)).unwrap_or_default();
            let Some(found) = CELL.captures(text(cell)) else { continue };
            let tail = marks::without_glyphs(&found["tail"]).to_owned();
            let named =
                SCORE_WORD.is_match(text(title)) || SCORE_WORD.is_match(&tail) || SCORE_WORD.is_match(name);
            let refused = name.is_empty()
                || (OTHER_LABEL.is_match(name) && !SCORE_WORD.is_match(text(title)))
                || !TAIL.is_match(&tail)
                || (found.name("part").is_some() && !named);
            let block = &outline.blocks[*cell];
            let group = Group::Column { table, column };
            let made = score(&found, without_number(name).to_owned(), tail, group, block.section);
            let weight = weights.and_then(|at| row.get(at)).and_then(|block| number_in(text(block)));
            stated.extend(made.filter(|_| !refused).map(|score| ParsedScore {
                weight,
                offset: block.offset(0),
                ..score
            }));
        }
    }
    record_fractions_in_rows(outline, table, &mut stated);
    stated
}

/// Joins a percentage and a fraction in two cells of the same table row into one score.
fn record_fractions_in_rows(outline: &Outline, table: usize, stated: &mut [ParsedScore]) {
    let row_of = |score: &ParsedScore| {
        let rows = outline.tables[table].rows.iter();
        let begins = |row: &&Vec<usize>| {
            row.first().is_some_and(|cell| outline.blocks[*cell].offset(0) <= score.offset)
        };
        rows.take_while(begins).count()
    };
    let mut by_row: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (index, score) in stated.iter().enumerate() {
        by_row.entry(row_of(score)).or_default().push(index);
    }
    for row in by_row.values() {
        let [one, other] = row[..] else { continue };
        for (percentage, fraction) in [(one, other), (other, one)] {
            let is_pair = stated[percentage].fraction.is_none() && stated[fraction].beside.is_none();
            if let Some(pair) = stated[fraction].fraction.filter(|_| is_pair)
                && stated[fraction].counts_items_or_nothing()
            {
                record_fraction(&mut stated[percentage], pair);
            }
        }
    }
}

fn number_in(text: &str) -> Option<f64> {
    let digits = text.trim().trim_end_matches('%').trim().replace(',', ".");
    digits.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stated(text: &str) -> Vec<(String, f64)> {
        all(&Outline::of(text)).into_iter().map(|score| (score.label, score.percent)).collect()
    }

    #[test]
    fn stated_scores_are_parsed() {
        for (text, label, percent) in [
            ("**OVERALL: 90%**", "OVERALL", 90.0),
            ("OVERALL 90 %", "OVERALL", 90.0),
            ("Overall score — 90,5 % ✅", "Overall score", 90.5),
            ("## 🔒 Security: 95 %", "Security", 95.0),
            ("## 3. Security (45/50)", "Security", 90.0),
            ("## Security ✅ (100%)", "Security", 100.0),
            ("## Security ✔\u{fe0f}: 100%", "Security", 100.0),
            ("### Testing [15% complete]", "Testing", 15.0),
            ("- **Testing**: 15% - one of many", "Testing", 15.0),
            ("- ✅ Database: 100%", "Database", 100.0),
            ("Score: 45/50", "Score", 90.0),
            ("- Security 8/10", "Security", 80.0),
            ("**Owner:** Jo | **Overall progress: 85%**", "Overall progress", 85.0),
            ("Completed: 12 of 14 items (86%)", "Completed", 1200.0 / 14.0),
            ("```\nSecurity   ████████░░ 80%\n```", "Security", 80.0),
            ("| Area | Score |\n|--|--|\n| Security | **95%** ✅ |", "Security", 95.0),
        ] {
            assert_eq!(stated(text), [(label.to_owned(), percent)], "{text}");
        }
    }

    #[test]
    fn other_percentages_are_not_scores() {
        for text in [
            "CPU usage: 80%",
            "## Coverage ≥ 80%",
            "Alert at 80% of available memory",
            "Canary: 5% of traffic",
            "We serve 95% of requests from the cache",
            "is 71%, and so on",
            "- All tests pass (unit: 100%, browser: 50%)",
            "| Part | Note |\n|--|--|\n| CDN | 60% |",
            "- Unit tests: 1 of 14 services",
            "Support: 24/7",
            "Date: 11/21",
            "## Phase 1/3",
            "Backups: 80%+",
            "| Area | Target |\n|--|--|\n| Security | 95% |",
            "| Service | Ready |\n|--|--|\n| CPU usage | 95% |",
            "```sh\nSCORE=45/50\n```",
        ] {
            assert_eq!(stated(text), [], "{text}");
        }
    }
}
