//! Parses boxes: `[x]`, ☐, ✅, ❌ and similar glyphs, before or after an item. Works on single lines without
//! their context.

use serde::Serialize;

/// State of a box.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BoxState {
    /// The item is done: `[x]`, ✅, ☑, ✔.
    Ticked,
    /// The item is not done, or only partly: `[ ]`, ☐, ⬜, ❌, ✗, ⏳, 🚧, ⚠.
    Open,
    /// The item is not counted: `[-]`, ➖, or struck out.
    SetAside,
}

const GLYPHS: &[(char, BoxState)] = &[
    ('✅', BoxState::Ticked),
    ('☑', BoxState::Ticked),
    ('✔', BoxState::Ticked),
    ('✓', BoxState::Ticked),
    ('🗹', BoxState::Ticked),
    ('☒', BoxState::Ticked),
    ('⬜', BoxState::Open),
    ('🔲', BoxState::Open),
    ('🔳', BoxState::Open),
    ('☐', BoxState::Open),
    ('□', BoxState::Open),
    ('❌', BoxState::Open),
    ('❎', BoxState::Open),
    ('✗', BoxState::Open),
    ('✘', BoxState::Open),
    ('✖', BoxState::Open),
    ('⏳', BoxState::Open),
    ('⌛', BoxState::Open),
    ('🚧', BoxState::Open),
    ('🔄', BoxState::Open),
    ('⚠', BoxState::Open),
    ('➖', BoxState::SetAside),
];

/// Box at the beginning of a line.
#[derive(Debug, PartialEq)]
pub(super) struct LeadingBox<'t> {
    pub mark: BoxState,
    /// Text of the line after the box.
    pub rest: &'t str,
    /// True for brackets such as `[ x ]` that renderers show as plain text.
    pub malformed: bool,
}

/// Removes variation selectors and joiners, which may follow an emoji, from the beginning of a text.
fn skip_selector(text: &str) -> &str {
    text.trim_start_matches(['\u{fe0f}', '\u{fe0e}', '\u{200d}'])
}

fn glyph(c: char) -> Option<BoxState> {
    GLYPHS.iter().find(|(one, _)| *one == c).map(|(_, mark)| *mark)
}

/// Returns true if the line begins with a picture that is not a box, such as `🔐 Security`. In neighbouring
/// lines, glyphs that could be boxes are then icons too.
pub(super) fn begins_with_icon(line: &str) -> bool {
    line.trim_start().chars().next().is_some_and(|c| glyph(c).is_none() && is_picture(c))
}

/// Returns true if the line begins with a glyph that can be an icon or a box, such as 🔄.
pub(super) fn begins_with_ambiguous(line: &str) -> bool {
    line.trim_start().starts_with('🔄')
}

/// Returns true if the line begins with a glyph for a box, not with brackets.
pub(super) fn begins_with_glyph(line: &str) -> bool {
    line.trim_start().chars().next().is_some_and(|c| glyph(c).is_some())
}

/// Returns the state of the first glyph for a box in a text.
pub(super) fn first_mark(text: &str) -> Option<BoxState> {
    text.chars().find_map(glyph)
}

fn is_picture(c: char) -> bool {
    glyph(c).is_some()
        || matches!(u32::from(c), 0x2190..=0x2bff | 0xfe00..=0xfe0f | 0x200d | 0x1f000..=0x1faff)
}

/// Returns the box at the beginning of a line. Returns `None` if there is none.
pub(super) fn leading(line: &str) -> Option<LeadingBox<'_>> {
    let line = line.trim_start();
    let first = line.chars().next()?;
    if first == '[' {
        return bracket(line);
    }
    let mark = glyph(first)?;
    let rest = skip_selector(&line[first.len_utf8()..]).trim_start();
    let is_legend = rest.starts_with(['=', '→']) || rest.starts_with("->") || contains_other_mark(rest, mark);
    let is_warning = mark == BoxState::Open && WARNINGS.iter().any(|words| begins_with(rest, words));
    (!is_legend && !is_warning).then_some(LeadingBox { mark, rest, malformed: false })
}

/// Words that state a rule after ❌, as in "❌ Never log passwords". The item is then not open.
const WARNINGS: &[&str] = &["never", "don't", "don’t", "do not", "avoid"];

fn begins_with(text: &str, words: &str) -> bool {
    text.get(..words.len()).is_some_and(|start| start.eq_ignore_ascii_case(words))
}

/// Returns true if the text contains a glyph for another state than `mark`. Such a line is a legend or a
/// comparison.
fn contains_other_mark(text: &str, mark: BoxState) -> bool {
    text.chars().filter_map(glyph).any(|other| other != mark)
}

fn bracket(line: &str) -> Option<LeadingBox<'_>> {
    let close = line.bytes().take(16).position(|b| b == b']')?;
    let inside = &line[1..close];
    let behind = &line[close + 1..];
    let mark = match inside.trim() {
        "" => BoxState::Open,
        "x" | "X" => BoxState::Ticked,
        "~" | "/" | "." => BoxState::Open,
        "-" => BoxState::SetAside,
        other => {
            let mut chars = skip_selector(other).chars();
            let mark = chars.next().and_then(glyph)?;
            skip_selector(chars.as_str()).is_empty().then_some(mark)?
        }
    };
    let spaced = behind.is_empty() || behind.starts_with([' ', '\t', '\u{a0}']);
    let is_text = behind.starts_with(['(', '[', ':']) || (inside.is_empty() && !spaced);
    let known = matches!(inside, " " | "x" | "X") && spaced;
    let rest = behind.trim_start();
    (!is_text).then_some(LeadingBox {
        mark,
        rest,
        malformed: !known && matches!(inside.trim(), "" | "x" | "X"),
    })
}

/// Returns the state of the glyph at the end of a line, and the text before it.
pub(super) fn trailing(line: &str) -> Option<(BoxState, &str)> {
    let line = line.trim_end().trim_end_matches(['\u{fe0f}', '\u{fe0e}']);
    let last = line.chars().next_back()?;
    let mark = glyph(last)?;
    let before = line[..line.len() - last.len_utf8()].trim_end();
    (!before.is_empty() && !contains_other_mark(before, mark)).then_some((mark, before))
}

/// Removes glyphs, pictures and white space from both ends of a text.
pub(super) fn without_glyphs(text: &str) -> &str {
    text.trim_matches(|c: char| is_picture(c) || c.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(line: &str) -> Option<(BoxState, &str)> {
        leading(line).map(|found| (found.mark, found.rest))
    }

    #[test]
    fn box_notations_are_parsed() {
        for (line, rest) in [
            ("[x] a", "a"),
            ("[X] a", "a"),
            ("[ x ] a", "a"),
            ("[x]a", "a"),
            ("[✓] a", "a"),
            ("[✔\u{fe0f}] a", "a"),
            ("✅ a", "a"),
            ("✅a", "a"),
            ("☑\u{fe0f} a", "a"),
            ("✔ a", "a"),
            ("✅", ""),
        ] {
            assert_eq!(mark(line), Some((BoxState::Ticked, rest)), "{line}");
        }
        for line in ["[ ] a", "[] a", "[  ] a", "[~] a", "❌ a", "⬜ a", "☐ a", "✗ a", "⚠\u{fe0f} a", "🚧 a"]
        {
            assert_eq!(mark(line), Some((BoxState::Open, "a")), "{line}");
        }
        assert_eq!(mark("[-] a"), Some((BoxState::SetAside, "a")));
    }

    #[test]
    fn box_lookalikes_are_ignored() {
        for line in [
            "[x](https://a.example) a",
            "[x][1] a",
            "[x]: https://a.example",
            "[1] a",
            "[a] b",
            "[]string",
            "✅ = done",
            "✅ done, ❌ missing",
            "❌ Never log passwords",
            "❌ DON’T",
            "a ✅",
            "🔒 a",
            "",
            "[",
            "[ééééééééééé]",
        ] {
            assert_eq!(mark(line), None, "{line}");
        }
    }

    #[test]
    fn malformed_brackets_are_reported() {
        let malformed = |line| leading(line).is_some_and(|found| found.malformed);
        assert!(["[] a", "[ x ] a", "[x]a", "[  ] a"].into_iter().all(malformed));
        assert!(!["[x] a", "[ ] a", "[X]", "[~] a", "[✓] a", "✅ a"].into_iter().any(malformed));
    }

    #[test]
    fn mark_at_end_of_line_is_parsed() {
        assert_eq!(trailing("Backups ✅"), Some((BoxState::Ticked, "Backups")));
        assert_eq!(trailing("Backups ❌\u{fe0f} "), Some((BoxState::Open, "Backups")));
        assert_eq!(trailing("✅"), None);
        assert_eq!(trailing("staging ✅ production ❌"), None);
        assert_eq!(without_glyphs("🔒 ✅ Security ✔\u{fe0f}"), "Security");
    }
}
