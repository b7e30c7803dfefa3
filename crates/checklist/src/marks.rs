//! Boxes as people write them: `[x]`, ☐, ✅, ❌ and their kin, before an item or behind it. It reads a line of text and
//! never asks where the line stands.

use serde::Serialize;

/// What a box says of its item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// Done: `[x]`, ✅, ☑, ✔.
    Ticked,
    /// Not done, or not wholly: `[ ]`, ☐, ⬜, ❌, ✗, ⏳, 🚧, ⚠.
    Open,
    /// Not counted: `[-]`, ➖, struck out.
    SetAside,
}

const GLYPHS: &[(char, Mark)] = &[
    ('✅', Mark::Ticked),
    ('☑', Mark::Ticked),
    ('✔', Mark::Ticked),
    ('✓', Mark::Ticked),
    ('🗹', Mark::Ticked),
    ('☒', Mark::Ticked),
    ('⬜', Mark::Open),
    ('🔲', Mark::Open),
    ('🔳', Mark::Open),
    ('☐', Mark::Open),
    ('□', Mark::Open),
    ('❌', Mark::Open),
    ('❎', Mark::Open),
    ('✗', Mark::Open),
    ('✘', Mark::Open),
    ('✖', Mark::Open),
    ('⏳', Mark::Open),
    ('⌛', Mark::Open),
    ('🚧', Mark::Open),
    ('🔄', Mark::Open),
    ('⚠', Mark::Open),
    ('➖', Mark::SetAside),
];

/// A box at the start of a line.
#[derive(Debug, PartialEq)]
pub(super) struct Leading<'t> {
    pub mark: Mark,
    /// What stands behind it.
    pub rest: &'t str,
    /// `[ x ]` and other brackets that renderers show as plain text.
    pub malformed: bool,
}

/// Emoji are often followed by a selector of their look, which is part of them.
fn skip_selector(text: &str) -> &str {
    text.trim_start_matches(['\u{fe0f}', '\u{fe0e}', '\u{200d}'])
}

fn glyph(c: char) -> Option<Mark> {
    GLYPHS.iter().find(|(one, _)| *one == c).map(|(_, mark)| *mark)
}

/// Whether a line begins with a picture that is no box: `🔐 Security`. Where one does, its neighbours' pictures are icons too.
pub(super) fn begins_with_icon(line: &str) -> bool {
    line.trim_start().chars().next().is_some_and(|c| glyph(c).is_none() && is_picture(c))
}

/// Whether a line begins with a glyph that is as often an icon as a box, such as 🔄.
pub(super) fn begins_with_ambiguous(line: &str) -> bool {
    line.trim_start().starts_with('🔄')
}

/// Whether a line begins with a glyph, not with brackets.
pub(super) fn begins_with_glyph(line: &str) -> bool {
    line.trim_start().chars().next().is_some_and(|c| glyph(c).is_some())
}

/// The first glyph within a text.
pub(super) fn within(text: &str) -> Option<Mark> {
    text.chars().find_map(glyph)
}

fn is_picture(c: char) -> bool {
    glyph(c).is_some()
        || matches!(u32::from(c), 0x2190..=0x2bff | 0xfe00..=0xfe0f | 0x200d | 0x1f000..=0x1faff)
}

/// The box that a line begins with.
pub(super) fn leading(line: &str) -> Option<Leading<'_>> {
    let line = line.trim_start();
    let first = line.chars().next()?;
    if first == '[' {
        return bracket(line);
    }
    let mark = glyph(first)?;
    let rest = skip_selector(&line[first.len_utf8()..]).trim_start();
    let is_legend = rest.starts_with(['=', '→']) || rest.starts_with("->") || holds_another(rest, mark);
    let is_warning = mark == Mark::Open && WARNINGS.iter().any(|words| begins_with(rest, words));
    (!is_legend && !is_warning).then_some(Leading { mark, rest, malformed: false })
}

/// "❌ Never log passwords" is a rule, and nothing that is missing.
const WARNINGS: &[&str] = &["never", "don't", "don’t", "do not", "avoid"];

fn begins_with(text: &str, words: &str) -> bool {
    text.get(..words.len()).is_some_and(|start| start.eq_ignore_ascii_case(words))
}

/// A line with boxes of different kinds explains them, or compares.
fn holds_another(text: &str, mark: Mark) -> bool {
    text.chars().filter_map(glyph).any(|other| other != mark)
}

fn bracket(line: &str) -> Option<Leading<'_>> {
    let close = line.bytes().take(16).position(|b| b == b']')?;
    let inside = &line[1..close];
    let behind = &line[close + 1..];
    let mark = match inside.trim() {
        "" => Mark::Open,
        "x" | "X" => Mark::Ticked,
        "~" | "/" | "." => Mark::Open,
        "-" => Mark::SetAside,
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
    (!is_text).then_some(Leading { mark, rest, malformed: !known && matches!(inside.trim(), "" | "x" | "X") })
}

/// The box that a line ends with, and what stands before it.
pub(super) fn trailing(line: &str) -> Option<(Mark, &str)> {
    let line = line.trim_end().trim_end_matches(['\u{fe0f}', '\u{fe0e}']);
    let last = line.chars().next_back()?;
    let mark = glyph(last)?;
    let before = line[..line.len() - last.len_utf8()].trim_end();
    (!before.is_empty() && !holds_another(before, mark)).then_some((mark, before))
}

/// A line without the boxes and pictures at its start.
pub(super) fn without_glyphs(text: &str) -> &str {
    text.trim_matches(|c: char| is_picture(c) || c.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(line: &str) -> Option<(Mark, &str)> {
        leading(line).map(|found| (found.mark, found.rest))
    }

    #[test]
    fn boxes_are_read_as_people_write_them() {
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
            assert_eq!(mark(line), Some((Mark::Ticked, rest)), "{line}");
        }
        for line in ["[ ] a", "[] a", "[  ] a", "[~] a", "❌ a", "⬜ a", "☐ a", "✗ a", "⚠\u{fe0f} a", "🚧 a"]
        {
            assert_eq!(mark(line), Some((Mark::Open, "a")), "{line}");
        }
        assert_eq!(mark("[-] a"), Some((Mark::SetAside, "a")));
    }

    #[test]
    fn what_only_looks_like_a_box_is_none() {
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
    fn brackets_that_renderers_show_as_text_are_malformed() {
        let malformed = |line| leading(line).is_some_and(|found| found.malformed);
        assert!(["[] a", "[ x ] a", "[x]a", "[  ] a"].into_iter().all(malformed));
        assert!(!["[x] a", "[ ] a", "[X]", "[~] a", "[✓] a", "✅ a"].into_iter().any(malformed));
    }

    #[test]
    fn a_mark_behind_an_item_counts_alone() {
        assert_eq!(trailing("Backups ✅"), Some((Mark::Ticked, "Backups")));
        assert_eq!(trailing("Backups ❌\u{fe0f} "), Some((Mark::Open, "Backups")));
        assert_eq!(trailing("✅"), None);
        assert_eq!(trailing("staging ✅ production ❌"), None);
        assert_eq!(without_glyphs("🔒 ✅ Security ✔\u{fe0f}"), "Security");
    }
}
