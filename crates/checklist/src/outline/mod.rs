//! Structure of a Markdown document: its sections, text blocks, tables and code blocks. Each has its position
//! in the source.

mod reader;

use super::marks;

/// Kind of a text block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockKind {
    Heading,
    Paragraph,
    /// First text block of a list item.
    Item,
    /// Table cell. Row 0 contains the headings.
    Cell {
        table: usize,
        row: usize,
        column: usize,
    },
}

/// Text block without markup. Emphasis is removed, code spans keep their backticks, and line breaks are those
/// of the source.
#[derive(Debug)]
pub(super) struct Block {
    pub kind: BlockKind,
    pub text: String,
    /// Pieces of the text: the start of each in the text, and its offset in the source.
    pieces: Vec<(usize, usize)>,
    /// Index of the section that contains the block. The heading of a section belongs to this section.
    pub section: usize,
    /// Index of the first block of the list item that contains the block.
    pub parent: Option<usize>,
    /// Number of the list, if the block is an item of one.
    pub list: Option<usize>,
    /// Number of struck-out bytes in the text.
    pub struck: usize,
    /// Range of the first bold part of the text.
    bold: Option<(usize, usize)>,
}

impl Block {
    /// Returns the offset in the source of byte `at` of the text.
    pub(super) fn offset(&self, at: usize) -> usize {
        let piece = self.pieces.partition_point(|(start, _)| *start <= at);
        let (start, offset) = self.pieces[piece.saturating_sub(1)];
        offset + at.saturating_sub(start)
    }

    /// Returns the lines of the block, each with its start in the text.
    pub(super) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        lines(&self.text)
    }

    /// Returns the bold text after the box at the beginning of an item, which is the title of the item.
    pub(super) fn bold_title(&self) -> Option<&str> {
        let (start, end) = self.bold?;
        let before = marks::leading(&self.text[..start]).map_or(&self.text[..start], |found| found.rest);
        marks::without_glyphs(before).is_empty().then(|| self.text[start..end].trim())
    }
}

/// Code block.
#[derive(Debug)]
pub(super) struct Code {
    /// Info string of the code fence, which usually names the language.
    pub language: String,
    pub text: String,
    pieces: Vec<(usize, usize)>,
    pub section: usize,
    /// Offset of the block's first byte in the source.
    pub offset: usize,
    /// True if the code fence is not closed. The rest of the document is then code.
    pub unclosed: bool,
}

impl Code {
    /// Returns the offset in the source of byte `at` of the text.
    pub(super) fn offset(&self, at: usize) -> usize {
        let piece = self.pieces.partition_point(|(start, _)| *start <= at);
        self.pieces
            .get(piece.saturating_sub(1))
            .map_or(self.offset, |(start, offset)| offset + at.saturating_sub(*start))
    }

    pub(super) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        lines(&self.text)
    }
}

fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    text.split('\n').map(move |line| {
        let start = at;
        at += line.len() + 1;
        (start, line)
    })
}

/// Section that begins with a heading. The first section has no heading and contains the text before the
/// first heading.
#[derive(Debug, Default)]
pub(super) struct Section {
    pub title: String,
    /// Heading level from 1 to 6, or 0 for the document itself.
    pub level: usize,
    pub parent: Option<usize>,
    /// Index of the block that contains the heading.
    pub heading: Option<usize>,
}

/// Table: the block indexes of the cells in each row.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub rows: Vec<Vec<usize>>,
}

/// Parsed document. All parts are in source order.
#[derive(Debug, Default)]
pub(super) struct Outline {
    pub sections: Vec<Section>,
    pub blocks: Vec<Block>,
    pub codes: Vec<Code>,
    pub tables: Vec<Table>,
}

impl Outline {
    /// Parses the Markdown document `text`.
    pub(super) fn of(text: &str) -> Self {
        reader::read(text)
    }

    /// Returns true if `section` is `ancestor` or one of its subsections.
    pub(super) fn is_within(&self, section: usize, ancestor: usize) -> bool {
        self.ancestors(section).any(|one| one == ancestor)
    }

    /// Returns the section and all its ancestors, from the section up to the document.
    pub(super) fn ancestors(&self, section: usize) -> impl Iterator<Item = usize> {
        std::iter::successors(Some(section), |one| self.sections[*one].parent)
    }

    pub(super) fn title(&self, section: usize) -> &str {
        &self.sections[section].title
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(text: &str) -> Vec<(BlockKind, String)> {
        Outline::of(text).blocks.into_iter().map(|block| (block.kind, block.text)).collect()
    }

    #[test]
    fn markup_is_removed_from_text() {
        let found = blocks("# A *b* `c`\n\nd **e**\nf\n\n- [x] ~~g~~ [h](i)\n  - j\n\n  k\n\n![l](m)");
        let expected = [
            (BlockKind::Heading, "A b `c`"),
            (BlockKind::Paragraph, "d e\nf"),
            (BlockKind::Item, "[x] g h"),
            (BlockKind::Item, "j"),
            (BlockKind::Paragraph, "k"),
            (BlockKind::Paragraph, ""),
        ];
        let expected = expected.map(|(kind, text)| (kind, text.to_owned()));
        assert_eq!(found, expected);
    }

    #[test]
    fn nested_blocks_refer_to_parent_item() {
        let outline = Outline::of("- a\n  - b\n\n    c\n- d\n");
        let parents: Vec<_> = outline.blocks.iter().map(|block| block.parent).collect();
        assert_eq!(parents, [None, Some(0), Some(1), None]);
    }

    #[test]
    fn sections_nest_by_heading_level() {
        let outline = Outline::of("# A\n## B\n#### C\n### D\n# E\n");
        let parents: Vec<_> = outline.sections.iter().map(|section| section.parent).collect();
        assert_eq!(parents, [None, Some(0), Some(1), Some(2), Some(2), Some(0)]);
        assert!(outline.is_within(4, 1) && !outline.is_within(4, 3));
    }

    #[test]
    fn text_offsets_map_to_source() {
        let text = "- **Status:** `a` is _late_";
        let outline = Outline::of(text);
        let block = &outline.blocks[0];
        for word in ["Status", "a`", "late"] {
            let at = block.text.find(word).expect("the text contains the word");
            assert!(text[block.offset(at)..].starts_with(word), "{word}");
        }
    }

    #[test]
    fn unclosed_fence_is_detected() {
        let unclosed = |text| Outline::of(text).codes.iter().map(|code| code.unclosed).collect::<Vec<_>>();
        assert_eq!(unclosed("```\na\n```\n\n```sh\nb\n\n- [ ] c\n"), [false, true]);
        assert_eq!(unclosed("```\na\n```\n\n~~~\nb\n~~~\n\n"), [false, false]);
        assert_eq!(unclosed("    a"), [false]);
    }
}
