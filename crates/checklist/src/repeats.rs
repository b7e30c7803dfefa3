//! Finds items that are ticked in one place and open in another. Lists that are repeated on purpose, such as
//! one for each service or phase, are recognized by their common items.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::LazyLock;

use regex::Regex;

use super::items::Items;
use super::marks::{self, BoxState};
use super::outline::{BlockKind, Outline};
use super::report::Code;
use super::{UnlocatedFinding, pattern, quote};

/// Maximum number of occurrences of one item that are compared with each other.
const MAX_OCCURRENCES: usize = 16;
const MAX_LABEL_BYTES: usize = 300;

/// Words that are ignored when items are compared.
const STOP_WORDS: &[&str] = &[
    "a",
    "an",
    "the",
    "all",
    "of",
    "for",
    "to",
    "in",
    "on",
    "and",
    "with",
    "is",
    "are",
    "be",
    "been",
    "has",
    "have",
    "via",
    "implement",
    "implemented",
    "add",
    "added",
    "configure",
    "configured",
    "set",
    "up",
    "setup",
    "enable",
    "enabled",
    "create",
    "created",
    "ensure",
    "use",
    "complete",
    "completed",
    "done",
    "now",
    "your",
];

static REMAINING_WORK: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)\b(to[- ]?do|next|remaining|outstanding|open|pending|actions?|future|priorit\w*|recommend\w*|missing|gaps?|immediate\w*|first|not (?:yet )?done|not (?:yet )?implemented|before (?:launch|going live|production)|incomplete|roadmap|planned)\b",
    )
});

/// Occurrence of an item under one of its keys.
#[derive(Clone, Debug)]
struct Occurrence {
    mark: BoxState,
    /// Parent of the item: its list item if it is nested, and its section.
    context: (Option<usize>, usize),
    offset: usize,
    label: String,
    /// True if the key is the part of the text before an explanation.
    is_head: bool,
    /// Bold text at the beginning of the item, if there is one.
    bold: Option<String>,
    /// True if the key is the bold text at the beginning of the item.
    is_bold: bool,
}

/// Reports items that are ticked in one place and open in another.
pub(super) fn check(
    outline: &Outline,
    items: &Items,
    position: &dyn Fn(usize) -> usize,
    findings: &mut Vec<UnlocatedFinding>,
) {
    let mut occurrences: BTreeMap<String, Vec<Occurrence>> = BTreeMap::new();
    let mut contexts: HashMap<(Option<usize>, usize), HashSet<String>> = HashMap::new();
    for occurrence in boxes(outline, items).chain(remaining_items(outline, items)) {
        let (full, head) = keys(&occurrence.label);
        if full.is_empty() {
            continue;
        }
        contexts.entry(occurrence.context).or_default().insert(full.clone());
        let bold = occurrence.bold.as_deref().map(key).filter(|bold| !bold.is_empty() && *bold != full);
        if let Some(head) =
            head.filter(|head| *head != full && !head.is_empty() && Some(head) != bold.as_ref())
        {
            add_occurrence(&mut occurrences, head, Occurrence { is_head: true, ..occurrence.clone() });
        }
        if let Some(bold) = bold {
            add_occurrence(&mut occurrences, bold, Occurrence { is_bold: true, ..occurrence.clone() });
        }
        add_occurrence(&mut occurrences, full, occurrence);
    }
    find_contradictions(items, findings);
    let mut similar = HashMap::new();
    let mut reported = HashSet::new();
    for (key, occurrences) in &occurrences {
        let ticked = occurrences.iter().filter(|occurrence| occurrence.mark == BoxState::Ticked);
        for (ticked, open) in ticked.flat_map(|ticked| occurrences.iter().map(move |other| (ticked, other))) {
            // In the same section, items with the same bold title and different explanations are different
            // items. In different sections, they are the same item.
            let explains = ticked.is_bold && open.is_bold && ticked.context.1 == open.context.1;
            let differ = open.mark == BoxState::Open && !(ticked.is_head && open.is_head) && !explains;
            if differ
                && contradict(outline, key, ticked, open, &contexts, &mut similar)
                && reported.insert(open.offset)
            {
                findings.push(finding(ticked, open, position));
                break;
            }
        }
    }
}

static CLAIMS_DONE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)[(\[–—-]\s*\W{0,3}already\s+(?:configured|done|implemented|in\s+place|set\s+up|enabled|completed?|deployed|tested|available)\b",
    )
});

/// Reports items whose text contradicts their own box: `[ ] Backups (✅ already configured)`.
fn find_contradictions(items: &Items, findings: &mut Vec<UnlocatedFinding>) {
    for item in items.all.iter().filter(|item| item.label.len() <= MAX_LABEL_BYTES) {
        let (own, stated) = match (item.mark, marks::first_mark(&item.label)) {
            (BoxState::Open, Some(BoxState::Ticked)) => ("open", "done"),
            (BoxState::Open, None) if CLAIMS_DONE.is_match(&item.label) => ("open", "done"),
            (BoxState::Ticked, Some(BoxState::Open)) => ("ticked", "not done"),
            _ => continue,
        };
        let message = format!("{} is {own}, but its text says that it is {stated}.", quote(&item.label));
        findings.push(UnlocatedFinding::new(
            item.offset,
            Code::TickedAndOpen,
            message,
            "Correct the box or the text.",
        ));
    }
}

fn finding(ticked: &Occurrence, open: &Occurrence, position: &dyn Fn(usize) -> usize) -> UnlocatedFinding {
    let message =
        format!("{} is open here and ticked at line {}.", quote(&open.label), position(ticked.offset));
    UnlocatedFinding::new(
        open.offset,
        Code::TickedAndOpen,
        message,
        "Keep the correct one, or state how they differ.",
    )
}

fn add_occurrence(occurrences: &mut BTreeMap<String, Vec<Occurrence>>, key: String, occurrence: Occurrence) {
    let known = occurrences.entry(key).or_default();
    if known.iter().filter(|one| one.mark == occurrence.mark).count() < MAX_OCCURRENCES {
        known.push(occurrence);
    }
}

fn boxes<'a>(outline: &'a Outline, items: &'a Items) -> impl Iterator<Item = Occurrence> + 'a {
    let counted = items
        .all
        .iter()
        .filter(|item| item.mark != BoxState::SetAside && item.label.len() <= MAX_LABEL_BYTES);
    counted.map(|item| Occurrence {
        mark: item.mark,
        context: (outline.blocks[item.block].parent, item.section),
        offset: item.offset,
        label: item.label.clone(),
        is_head: false,
        bold: outline.blocks[item.block].bold_title().map(str::to_owned),
        is_bold: false,
    })
}

/// Returns the items without a box in sections about remaining work. They count as open.
fn remaining_items<'a>(outline: &'a Outline, items: &'a Items) -> impl Iterator<Item = Occurrence> + 'a {
    let boxed: HashSet<usize> = items.all.iter().map(|item| item.block).collect();
    let plain = outline.blocks.iter().enumerate().filter(move |(index, block)| {
        let short = block.text.len() <= MAX_LABEL_BYTES;
        block.kind == BlockKind::Item
            && short
            && !boxed.contains(index)
            && is_remaining_work(outline, block.section)
    });
    plain.map(|(_, block)| Occurrence {
        mark: BoxState::Open,
        context: (block.parent, block.section),
        offset: block.offset(0),
        label: block.text.clone(),
        is_head: false,
        bold: block.bold_title().map(str::to_owned),
        is_bold: false,
    })
}

fn is_remaining_work(outline: &Outline, section: usize) -> bool {
    let title = outline.title(section);
    REMAINING_WORK.is_match(title)
}

fn contradict(
    outline: &Outline,
    key: &str,
    ticked: &Occurrence,
    open: &Occurrence,
    contexts: &HashMap<(Option<usize>, usize), HashSet<String>>,
    similar: &mut HashMap<[(Option<usize>, usize); 2], bool>,
) -> bool {
    if ticked.context == open.context || is_remaining_work(outline, open.context.1) {
        return true;
    }
    // In different sections, a single word such as "Tests" may be about different subjects.
    let parallel = similar.entry([ticked.context, open.context]).or_insert_with(|| {
        let (Some(one), Some(other)) = (contexts.get(&ticked.context), contexts.get(&open.context)) else {
            return false;
        };
        let shared = if one.len() < other.len() {
            one.intersection(other).count()
        } else {
            other.intersection(one).count()
        };
        2 * shared >= one.len().max(other.len())
    });
    !*parallel && key.contains(' ')
}

/// Returns the normalized text of an item, and the normalized part before its explanation.
fn keys(label: &str) -> (String, Option<String>) {
    let label = marks::without_glyphs(label);
    let label = marks::leading(label).map_or(label, |found| found.rest);
    let ends = [" - ", " – ", " — ", ": ", " ("].iter().filter_map(|mark| label.find(mark));
    (key(label), ends.min().map(|at| key(&label[..at])))
}

fn key(text: &str) -> String {
    let text = text.to_lowercase();
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let words = words.filter(|word| !STOP_WORDS.contains(word)).map(|word| match word.strip_suffix('s') {
        Some(one) if one.len() > 3 && !one.ends_with('s') => one,
        _ => word,
    });
    words.collect::<Vec<_>>().join(" ")
}
