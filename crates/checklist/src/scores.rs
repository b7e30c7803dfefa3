//! Compares stated scores with their parts or with the boxes. Scores are weighted only if the document states
//! weights.

use std::collections::{BTreeMap, HashMap};

use super::items::Items;
use super::outline::Outline;
use super::parsed_scores::{Group, ParsedScore};
use super::report::{Code, Counts};
use super::{UnlocatedFinding, quote};

/// Maximum difference in percentage points that is not reported, because authors round up or down.
const TOLERANCE: f64 = 1.0;
/// Maximum number of overall scores for which parts are searched.
const MAX_OVERALL_SCORES: usize = 32;

/// Recomputed score, and a description of the data used.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Recomputed {
    pub percent: f64,
    pub from: String,
}

/// Recomputes the scores for which the document contains enough data, and reports those that differ.
pub(super) fn check(
    outline: &Outline,
    items: &Items,
    stated: &[ParsedScore],
    findings: &mut Vec<UnlocatedFinding>,
) -> Vec<Option<Recomputed>> {
    let mut groups: BTreeMap<Group, Vec<usize>> = BTreeMap::new();
    for (index, score) in stated.iter().enumerate() {
        groups.entry(score.group).or_default().push(index);
    }
    groups.values_mut().for_each(|group| group.retain(|one| is_part(&stated[*one])));
    let titles = sections_by_title(outline, items);
    let mut recomputed = Vec::new();
    let mut overalls = 0;
    for score in stated {
        arithmetic(score, findings);
        overalls += usize::from(score.is_overall());
        let is_asked = score.is_overall() && overalls <= MAX_OVERALL_SCORES;
        let parts = if is_asked { parts(outline, stated, &groups, score) } else { Vec::new() };
        recomputed.push(match &*parts {
            [] => boxes_of(outline, items, &titles, score)
                .and_then(|counts| recompute_from_boxes(score, counts, findings)),
            parts => recompute_from_parts(score, parts, findings),
        });
    }
    recomputed
}

fn is_part(score: &ParsedScore) -> bool {
    !score.is_overall() && !score.is_of_its_section()
}

fn arithmetic(score: &ParsedScore, findings: &mut Vec<UnlocatedFinding>) {
    let Some((part, whole)) = score.fraction else { return };
    let label = quote(&score.label);
    if part > whole {
        let message = format!("{label} has {part} of {whole}: the part is larger than the whole.");
        findings.push(UnlocatedFinding::new(score.offset, Code::ScoreArithmetic, message, "Count again."));
    } else if let Some(beside) = score.beside.filter(|beside| differs(*beside, 100.0 * part / whole)) {
        let is = 100.0 * part / whole;
        let message =
            format!("{label} has {part} of {whole}, which is {}, not {}.", percent(is), percent(beside));
        findings.push(UnlocatedFinding::new(
            score.offset,
            Code::ScoreArithmetic,
            message,
            "State only one of them, or correct the percentage.",
        ));
    }
}

fn differs(stated: f64, computed: f64) -> bool {
    (stated - computed).abs() >= TOLERANCE
}

/// Formats a percentage with at most one decimal place.
pub(super) fn percent(value: f64) -> String {
    let text = format!("{value:.1}");
    format!("{} %", text.strip_suffix(".0").unwrap_or(&text))
}

/// Returns the parts of an overall score. Takes the first that exists of: the scores in its own group, the
/// largest group in its subsections, the headings of an enclosing section, and the largest other group.
fn parts<'f>(
    outline: &Outline,
    stated: &'f [ParsedScore],
    groups: &BTreeMap<Group, Vec<usize>>,
    overall: &ParsedScore,
) -> Vec<&'f ParsedScore> {
    let overall_groups: Vec<_> = stated.iter().filter(|one| one.is_overall()).map(|one| one.group).collect();
    let largest = |fewest: usize, suits: &dyn Fn(&Group, &ParsedScore) -> bool| {
        let suited = groups.iter().filter(|(group, all)| {
            all.len() >= fewest && all.first().is_some_and(|first| suits(group, &stated[*first]))
        });
        suited.max_by_key(|(_, all)| all.len()).map(|(_, all)| all)
    };
    let found = largest(2, &|group, _| *group == overall.group)
        .or_else(|| {
            let under = |score: &ParsedScore| outline.is_within(score.section, overall.section);
            largest(2, &|group, score| {
                overall.section != 0 && under(score) && !overall_groups.contains(group)
            })
        })
        .or_else(|| {
            let above: Vec<_> = outline.ancestors(overall.section).collect();
            largest(2, &|group, _| matches!(group, Group::Headings(parent) if above.contains(parent)))
        })
        .or_else(|| largest(3, &|group, _| !overall_groups.contains(group)));
    found.into_iter().flatten().map(|index| &stated[*index]).collect()
}

#[expect(clippy::cast_precision_loss, reason = "counts are below 2^52")]
fn recompute_from_parts(
    overall: &ParsedScore,
    parts: &[&ParsedScore],
    findings: &mut Vec<UnlocatedFinding>,
) -> Option<Recomputed> {
    let weights: Option<Vec<f64>> = parts.iter().map(|part| part.weight).collect();
    let weights = weights.filter(|weights| weights.iter().sum::<f64>() > 0.0);
    let text = overall.label.to_lowercase() + &overall.tail.to_lowercase();
    if weights.is_none() && text.contains("weight") {
        return None;
    }
    let count = parts.len();
    let mean = parts.iter().map(|part| part.percent).sum::<f64>() / count as f64;
    let (computed, how) = match &weights {
        Some(weights) => {
            let sum: f64 = parts.iter().zip(weights).map(|(part, weight)| part.percent * weight).sum();
            (sum / weights.iter().sum::<f64>(), "by the stated weights, its")
        }
        None => (mean, "its"),
    };
    let fractions: Option<Vec<_>> = parts.iter().map(|part| part.fraction).collect();
    let pooled = fractions.map(|all| {
        100.0 * all.iter().map(|(part, _)| part).sum::<f64>()
            / all.iter().map(|(_, whole)| whole).sum::<f64>()
    });
    let lowest = parts.iter().min_by(|a, b| a.percent.total_cmp(&b.percent))?;
    let right = [Some(computed), pooled, Some(lowest.percent)];
    if right.iter().flatten().all(|value| differs(overall.percent, *value)) {
        let message = format!(
            "{} is stated as {}, but {how} {count} parts average {}; the lowest is {}, {}.",
            quote(&overall.label),
            percent(overall.percent),
            percent(computed),
            quote(&lowest.label),
            percent(lowest.percent),
        );
        let remedy =
            "State the computed figure with the lowest beside it, or the weights that give the stated one.";
        findings.push(UnlocatedFinding::new(overall.offset, Code::ScoreOfParts, message, remedy));
    }
    Some(Recomputed { percent: computed, from: format!("{count} parts") })
}

/// Returns the sections with boxes by normalized title. If several sections have a title, it maps to `None`.
fn sections_by_title(outline: &Outline, items: &Items) -> HashMap<String, Option<usize>> {
    let mut titles = HashMap::new();
    for (index, section) in
        outline.sections.iter().enumerate().filter(|(index, _)| items.whole[*index].total() > 0)
    {
        let entry = titles.entry(title_key(&section.title)).or_insert(Some(index));
        if *entry != Some(index) {
            *entry = None;
        }
    }
    titles
}

/// Normalizes a title: returns its words in lower case, without numbers, glyphs and everything after a colon
/// or bracket.
fn title_key(title: &str) -> String {
    let name = title.split([':', '(', '[', '—', '–']).next().unwrap_or_default().replace(" - ", ":");
    let name = name.split(':').next().unwrap_or_default().to_lowercase();
    let words = name.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

/// Returns the counts of the boxes to which the score refers, if there are any.
fn boxes_of(
    outline: &Outline,
    items: &Items,
    titles: &HashMap<String, Option<usize>>,
    score: &ParsedScore,
) -> Option<Counts> {
    let own = || {
        let above = outline.ancestors(score.section).find(|one| items.whole[*one].total() > 0);
        items.whole[if outline.sections[score.section].level > 1 { above? } else { 0 }].into()
    };
    let counts = match score.group {
        _ if score.is_measured() => None,
        _ if score.is_overall() => Some(items.total()),
        _ if score.is_of_its_section() => own(),
        // A heading with a mark and without boxes is itself an item, so its percentage cannot be recomputed.
        Group::Headings(_) if items.is_its_own_item(outline, score.section) => None,
        Group::Headings(_) => Some(items.whole[score.section]),
        _ => titles.get(&title_key(&score.label)).copied().flatten().map(|section| items.whole[section]),
    };
    counts.filter(|counts| counts.total() > 0)
}

#[expect(clippy::cast_precision_loss, reason = "counts are below 2^52")]
fn recompute_from_boxes(
    score: &ParsedScore,
    counts: Counts,
    findings: &mut Vec<UnlocatedFinding>,
) -> Option<Recomputed> {
    let share = counts.share()?;
    let (ticked, total) = (counts.ticked, counts.total());
    let counts_boxes = |(_, whole): (f64, f64)| whole == total as f64 || score.counts_items();
    if !score.fraction.is_none_or(counts_boxes) {
        return None;
    }
    let (stated, wrong) = match score.fraction {
        Some((part, whole)) if whole == total as f64 => (format!("{part} of {whole}"), part != ticked as f64),
        Some((part, whole)) => (format!("{part} of {whole}"), differs(score.percent, share)),
        None => (percent(score.percent), differs(score.percent, share)),
    };
    // The score of a category may include more than its boxes, but should not be higher than their share.
    let is_of_boxes =
        matches!(score.group, Group::Headings(_)) || score.is_overall() || score.is_of_its_section();
    if wrong && (is_of_boxes || score.percent > share) {
        let message = format!(
            "{} is stated as {stated}, but the boxes give {ticked} of {total}: {}.",
            quote(&score.label),
            percent(share),
        );
        let remedy = "State what the boxes give, or state what else the figure measures.";
        findings.push(UnlocatedFinding::new(score.offset, Code::ScoreOfBoxes, message, remedy));
    }
    Some(Recomputed { percent: share, from: format!("{ticked} of {total} boxes") })
}
