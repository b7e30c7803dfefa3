//! Finds statements that all work is done, and compares them with the boxes and figures that contradict them.
//! Intentions, conditions and questions do not count as such claims.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::Regex;

use super::items::Items;
use super::marks::{self, BoxState};
use super::outline::{Block, BlockKind, Outline};
use super::report::Code;
use super::{UnlocatedFinding, pattern, quote};

/// Maximum length of a sentence in bytes. Longer ones are not examined.
const MAX_SENTENCE_BYTES: usize = 500;

static READY: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)(?:^\W*|\b(?:is|are|now|fully|100\s?%)\s+)(?:production[\s-]ready|ready\s+(?:for\s+(?:production|launch|release|deployment|go[\s-]live)|to\s+(?:ship|launch|deploy|go\s+live)))\b",
    )
});
static LABELLED: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)\b(?:status|ready|readiness|verdict|conclusion|result|decision|sign[\s-]?off)\b[^:.]{0,30}:\W*(?:production[\s-]ready|confirmed|approved|completed?|done|ready|yes|passed|go|100\s?%)(?:\s+for\s+production)?(?:\W*$|\s*[.!,(–—-])",
    )
});
static CONFIRMED: LazyLock<Regex> = LazyLock::new(|| pattern(r"\bCONFIRMED\b"));
static PRODUCT: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(?i)\b(?:production|readiness|launch|release)\b"));
static ALL: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)\b(?:all|every|each)\b[^.:]{0,60}?\b(?:implemented|completed?|done|tested|passed|passing|pass|verified|resolved|in\s+place|covered|documented|monitored|encrypted|reviewed|fixed|ticked|checked|finished)\b|\b(?:fully|completely|100\s?%)\s+(?:completed?|implemented|tested|done|finished|documented)\b|\beverything\s+(?:is|has\s+been|was)\s+\w+|\bno\s+(?:open|remaining|outstanding)\s+(?:items|issues|tasks|boxes|points)\b",
    )
});
static NOT_A_CLAIM: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)\b(?:not|never|none|nothing|until|till|before|once|when|if|unless|must|should|shall|needs?|needed|to\s+be|will|would|could|can|cannot|make\s+sure|ensure|verify|check\s+that|check\s+whether|confirm|almost|nearly|partly|whether|how|goals?|targets?|want|requires?|required|after|except|remaining|pending|mostly|aim|plan\s+to|(?:is|are)\s+planned|get|getting|become|becoming|path|road|steps|making|criteria|only|while|expected|template|tick|example)\b|n['’]t\b|\?\s*$",
    )
});
static PARTIAL_COUNT: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"\b(\d{1,4})\s*(?:(?:out\s+)?of\s+(?:the\s+|our\s+)?(\d{1,4})\b|/\s*(\d{1,4})\s+\p{Alphabetic})")
});
static CONCLUDES: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)\b(conclusion|summary|status|verdict|results?|final|sign[\s-]?off|achievements?|overview)\b",
    )
});

/// Participles that claim completed work, each with the common prefix of related words.
const CLAIM_PARTICIPLES: &[(&str, &str)] = &[
    ("tested", "test"),
    ("implemented", "implement"),
    ("documented", "document"),
    ("covered", "cover"),
    ("monitored", "monitor"),
    ("encrypted", "encrypt"),
    ("reviewed", "review"),
    ("passed", "pass"),
    ("passing", "pass"),
    ("verified", "verif"),
    ("completed", "complete"),
    ("complete", "complete"),
    ("fixed", "fix"),
];

/// Reports claims that open boxes contradict. Also reports headings and items that are ticked although boxes
/// under them are open.
pub(super) fn check(
    outline: &Outline,
    items: &Items,
    position: &dyn Fn(usize) -> usize,
    findings: &mut Vec<UnlocatedFinding>,
) {
    ticked_over_open(outline, items, position, findings);
    let sentences = sentences(outline);
    let some = statements_of_some(outline, &sentences);
    let first_open = first_open_items(outline, items);
    for sentence in &sentences {
        let text = &sentence.text;
        let of_the_whole = (READY.is_match(text) && is_predicate(text)) || CONFIRMED.is_match(text);
        let (labelled, of_all) = (LABELLED.is_match(text), ALL.is_match(text));
        let is_said = (of_the_whole || labelled || of_all) && !NOT_A_CLAIM.is_match(text);
        if !is_said || !sentence.may_claim(outline, items, of_the_whole || labelled) {
            continue;
        }
        let of_the_whole = of_the_whole || (labelled && PRODUCT.is_match(text));
        let is_about_others = sentence.mark != Some(BoxState::Open) && (of_the_whole || !sentence.is_box);
        let scope = if of_the_whole { Some(0) } else { scope(outline, items, sentence.section) };
        if let Some(scope) = scope.filter(|_| is_about_others)
            && let (open @ 1.., Some(first)) = (items.whole[scope].open, first_open[scope])
        {
            let first = &items.all[first];
            findings.push(finding_beside_open_boxes(sentence, open, position(first.offset), &first.label));
        }
        if of_all {
            findings.extend(finding_beside_statements(sentence, &some, position));
        }
    }
}

/// Sentence of the document's prose.
#[derive(Debug)]
struct Sentence {
    text: String,
    offset: usize,
    section: usize,
    kind: BlockKind,
    mark: Option<BoxState>,
    /// True if the sentence is a list item with a box.
    is_box: bool,
}

impl Sentence {
    /// Returns true if the sentence can be a claim. A heading without a mark is just a title. An item without
    /// a box is often a criterion.
    fn may_claim(&self, outline: &Outline, items: &Items, of_the_whole: bool) -> bool {
        match self.kind {
            BlockKind::Heading => {
                items.headings[self.section] == Some(BoxState::Ticked) || self.text.contains([':', '!'])
            }
            BlockKind::Item if self.mark.is_none() => {
                let labelled = of_the_whole && self.text.contains(':');
                labelled || CONCLUDES.is_match(outline.title(self.section))
            }
            _ => self.mark != Some(BoxState::Open),
        }
    }
}

/// Returns true if the text claims that something is ready, as in "it is production-ready". Returns false for
/// a noun phrase such as "production-ready checklist".
fn is_predicate(text: &str) -> bool {
    READY.find(text).is_some_and(|found| {
        let after = marks::without_glyphs(&text[found.end()..]);
        let verb = found.as_str().split_whitespace().next().unwrap_or_default().to_lowercase();
        matches!(verb.as_str(), "is" | "are") || !after.starts_with(|c: char| c.is_alphanumeric())
    })
}

fn finding_beside_open_boxes(sentence: &Sentence, open: usize, line: usize, label: &str) -> UnlocatedFinding {
    let boxes = match open {
        1 => "an open box, at".to_owned(),
        _ => format!("{open} open boxes, the first at"),
    };
    let message = format!("{} contradicts {boxes} line {line}: {}.", quote(&sentence.text), quote(label));
    UnlocatedFinding::new(
        sentence.offset,
        Code::DoneBesideOpen,
        message,
        "Remove the claim until the boxes are ticked.",
    )
}

fn finding_beside_statements(
    claim: &Sentence,
    some: &[(usize, String)],
    position: &dyn Fn(usize) -> usize,
) -> Option<UnlocatedFinding> {
    let words = claim.text.to_lowercase();
    let participles = CLAIM_PARTICIPLES
        .iter()
        .filter(|(deed, _)| words.split(|c: char| !c.is_alphabetic()).any(|word| word == *deed));
    let stems: Vec<_> = participles.map(|(_, stem)| *stem).collect();
    let about = |text: &str| {
        let text = text.to_lowercase();
        text.split(|c: char| !c.is_alphabetic()).any(|word| stems.iter().any(|stem| word.starts_with(stem)))
    };
    let (offset, text) = some.iter().find(|(_, text)| about(text))?;
    let message =
        format!("{} contradicts {} at line {}.", quote(&claim.text), quote(text), position(*offset));
    Some(UnlocatedFinding::new(
        claim.offset,
        Code::AllBesideSome,
        message,
        "State how many of them it is true for.",
    ))
}

/// Returns the sentences that state a partial count, such as "1 of 14", with their offsets.
fn statements_of_some(outline: &Outline, sentences: &[Sentence]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for sentence in sentences {
        let less = PARTIAL_COUNT.captures_iter(&sentence.text).any(|numbers| {
            let number = |at: usize| numbers.get(at).and_then(|n| n.as_str().parse::<u32>().ok());
            number(1).zip(number(2).or(number(3))).is_some_and(|(part, whole)| part < whole)
        });
        if less {
            let title = outline.title(sentence.section);
            let named = sentence.text.to_lowercase().contains(&title.to_lowercase()) || title.is_empty();
            let text = if named { sentence.text.clone() } else { format!("{title}: {}", sentence.text) };
            found.push((sentence.offset, text));
            if found.len() == 64 {
                break;
            }
        }
    }
    found
}

/// Returns the index of the first item with an open box for each section, including its subsections.
fn first_open_items(outline: &Outline, items: &Items) -> Vec<Option<usize>> {
    let mut first = vec![None; outline.sections.len()];
    for (index, item) in items.all.iter().enumerate().filter(|(_, item)| item.mark == BoxState::Open) {
        for section in outline.ancestors(item.section) {
            if first[section].is_some() {
                break;
            }
            first[section] = Some(index);
        }
    }
    first
}

/// Returns the section to which a sentence refers: its own, or the nearest ancestor that contains boxes. A
/// sentence in the introduction or in a summary refers to the whole document. Returns `None` if no section
/// contains boxes.
fn scope(outline: &Outline, items: &Items, section: usize) -> Option<usize> {
    if CONCLUDES.is_match(outline.title(section)) || outline.sections[section].level <= 1 {
        return Some(0);
    }
    let mut above = outline.ancestors(section).filter(|one| outline.sections[*one].level > 1);
    above.find(|one| items.whole[*one].total() > 0)
}

fn ticked_over_open(
    outline: &Outline,
    items: &Items,
    position: &dyn Fn(usize) -> usize,
    findings: &mut Vec<UnlocatedFinding>,
) {
    let first_open = first_open_items(outline, items);
    let mut found: Vec<(usize, String, usize, usize)> = Vec::new();
    for (index, section) in outline.sections.iter().enumerate() {
        if let (Some(BoxState::Ticked), Some(block), Some(first)) =
            (items.headings[index], section.heading, first_open[index])
        {
            let offset = outline.blocks[block].offset(0);
            let title = marks::without_glyphs(&section.title).to_owned();
            found.push((offset, title, items.whole[index].open, items.all[first].offset));
        }
    }
    let mut by_block = HashMap::new();
    for item in items.all.iter().filter(|item| outline.blocks[item.block].kind == BlockKind::Item) {
        by_block.entry(item.block).or_insert(item);
    }
    let mut under: HashMap<usize, (usize, usize)> = HashMap::new();
    for item in items.all.iter().filter(|item| item.mark == BoxState::Open) {
        let parents =
            std::iter::successors(outline.blocks[item.block].parent, |one| outline.blocks[*one].parent);
        for parent in
            parents.filter(|parent| by_block.get(parent).is_some_and(|item| item.mark == BoxState::Ticked))
        {
            under.entry(parent).or_insert((0, item.offset)).0 += 1;
        }
    }
    found.extend(under.into_iter().map(|(block, (open, first))| {
        let item = by_block[&block];
        (item.offset, item.label.clone(), open, first)
    }));
    findings.extend(found.into_iter().map(|(offset, label, open, first)| {
        let boxes = match open {
            1 => "a box under it is open, at".to_owned(),
            _ => format!("{open} boxes under it are open, the first at"),
        };
        let message = format!("{} is ticked, but {boxes} line {}.", quote(&label), position(first));
        UnlocatedFinding::new(
            offset,
            Code::TickedOverOpen,
            message,
            "Open it again, or tick the boxes under it.",
        )
    }));
}

fn sentences(outline: &Outline) -> Vec<Sentence> {
    let mut found = Vec::new();
    for block in outline.blocks.iter().filter(|block| !matches!(block.kind, BlockKind::Cell { .. })) {
        sentences_of_block(block, &mut found);
    }
    for table in &outline.tables {
        for row in table.rows.iter().skip(1) {
            let cells = || row.iter().take(8).map(|cell| &outline.blocks[*cell]);
            let text: Vec<_> = cells().map(|cell| cell.text.trim()).filter(|text| !text.is_empty()).collect();
            let text = text.join(if text.len() == 2 { ": " } else { " | " });
            if let Some(first) = cells().next().filter(|_| text.len() <= MAX_SENTENCE_BYTES) {
                let (offset, section) = (first.offset(0), first.section);
                found.push(Sentence { text, offset, section, kind: first.kind, mark: None, is_box: false });
            }
        }
    }
    found
}

fn sentences_of_block(block: &Block, found: &mut Vec<Sentence>) {
    let text = &block.text;
    let bytes = text.as_bytes();
    let mut start = 0;
    let mut first_of_line = true;
    for at in 0..=bytes.len() {
        let next = bytes.get(at + 1).copied().unwrap_or(b'\n');
        let ends = match bytes.get(at) {
            None => true,
            Some(b'\n') => !continues(text, at),
            Some(b'.' | b'!' | b'?' | b';') => matches!(next, b' ' | b'\n'),
            _ => false,
        };
        if !ends {
            continue;
        }
        let sentence = &text[start..(at + 1).min(bytes.len())];
        let begins = start + sentence.len() - sentence.trim_start().len();
        let leading = if first_of_line { marks::leading(sentence).map(|leading| leading.mark) } else { None };
        let trailing =
            marks::trailing(sentence).map(|(mark, _)| mark).filter(|_| block.kind == BlockKind::Item);
        if !sentence.trim().is_empty() && sentence.len() <= MAX_SENTENCE_BYTES {
            let mark = leading.or(trailing);
            found.push(Sentence {
                text: sentence.trim().replace('\n', " "),
                offset: block.offset(begins),
                section: block.section,
                kind: block.kind,
                mark,
                is_box: mark.is_some() && block.kind == BlockKind::Item,
            });
        }
        first_of_line = bytes.get(at).is_none_or(|b| *b == b'\n');
        start = (at + 1).min(bytes.len());
    }
}

/// Returns true if the sentence continues after the line break at byte `at`.
fn continues(text: &str, at: usize) -> bool {
    let before = text[..at].chars().next_back();
    let after = text[at + 1..].chars().next();
    before.is_some_and(|c| c.is_alphanumeric() || c == ',') && after.is_some_and(char::is_lowercase)
}
