//! Structure of a Markdown document: sections, text blocks, tables and code, each with its position in the
//! source.

use std::ops::Range;

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

use super::marks;

/// Kind of a text block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockKind {
    Heading,
    Paragraph,
    /// First text of a list item.
    Item,
    /// Table cell. Row 0 is the heading.
    Cell {
        table: usize,
        row: usize,
        column: usize,
    },
}

/// Text block without markup: emphasis is removed, code spans keep their backticks, and line breaks are those
/// of the source.
#[derive(Debug)]
pub(super) struct Block {
    pub kind: BlockKind,
    pub text: String,
    /// Start of each piece in the text, with its offset in the source.
    pieces: Vec<(usize, usize)>,
    /// Section that contains the block. A heading is in the section it opens.
    pub section: usize,
    /// List item that contains the block.
    pub parent: Option<usize>,
    /// List of which the block is an item.
    pub list: Option<usize>,
    /// Number of struck-out bytes in the text.
    pub struck: usize,
    /// Range of the first bold text.
    bold: Option<(usize, usize)>,
}

impl Block {
    /// Returns the source offset of a byte of the text.
    pub(super) fn offset(&self, at: usize) -> usize {
        let piece = self.pieces.partition_point(|(start, _)| *start <= at);
        let (start, offset) = self.pieces[piece.saturating_sub(1)];
        offset + at.saturating_sub(start)
    }

    /// Returns its lines, each with its start in the text.
    pub(super) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        lines(&self.text)
    }

    /// Returns the bold text that follows the box at the beginning: the title of an item.
    pub(super) fn bold_title(&self) -> Option<&str> {
        let (start, end) = self.bold?;
        let before = marks::leading(&self.text[..start]).map_or(&self.text[..start], |found| found.rest);
        marks::without_glyphs(before).is_empty().then(|| self.text[start..end].trim())
    }
}

/// Code block.
#[derive(Debug)]
pub(super) struct Code {
    /// Info string of the fence.
    pub language: String,
    pub text: String,
    pieces: Vec<(usize, usize)>,
    pub section: usize,
    /// Offset of the block's first byte in the source.
    pub offset: usize,
    /// True if the fence is not closed, which turns the rest of the document into code.
    pub unclosed: bool,
}

impl Code {
    /// Returns the source offset of a byte of the text.
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

/// Section opened by a heading. The first section has no heading and contains the text before the first
/// heading.
#[derive(Debug, Default)]
pub(super) struct Section {
    pub title: String,
    /// Heading level from 1 to 6, or 0 for the document itself.
    pub level: usize,
    pub parent: Option<usize>,
    /// Block of the heading.
    pub heading: Option<usize>,
}

/// Table: block indexes of its cells by row.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub rows: Vec<Vec<usize>>,
}

/// Parsed document, in source order.
#[derive(Debug, Default)]
pub(super) struct Outline {
    pub sections: Vec<Section>,
    pub blocks: Vec<Block>,
    pub codes: Vec<Code>,
    pub tables: Vec<Table>,
}

impl Outline {
    /// Parses `text`.
    pub(super) fn of(text: &str) -> Self {
        let mut reader = Reader { text, written: text.trim_end().len(), ..Reader::default() };
        reader.outline.sections.push(Section::default());
        let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH;
        for (event, range) in Parser::new_ext(text, options).into_offset_iter() {
            reader.take(event, range);
        }
        reader.flush();
        reader.outline
    }

    /// Returns true if `section` is `within` or one of its subsections.
    pub(super) fn is_within(&self, section: usize, within: usize) -> bool {
        self.ancestors(section).any(|one| one == within)
    }

    /// Returns the section and its ancestors, up to the document.
    pub(super) fn ancestors(&self, section: usize) -> impl Iterator<Item = usize> {
        std::iter::successors(Some(section), |one| self.sections[*one].parent)
    }

    pub(super) fn title(&self, section: usize) -> &str {
        &self.sections[section].title
    }
}

#[derive(Default)]
struct Reader<'t> {
    text: &'t str,
    /// Length of the text without trailing white space.
    written: usize,
    outline: Outline,
    current: Option<Block>,
    code: Option<Code>,
    section: usize,
    lists: Vec<usize>,
    list_count: usize,
    /// Open list items, each with its first block.
    items: Vec<Option<usize>>,
    struck: usize,
    /// Depth of open images, whose alternative text is not part of the prose.
    hidden: usize,
    column: usize,
}

impl Reader<'_> {
    fn take(&mut self, event: Event<'_>, range: Range<usize>) {
        match event {
            Event::Start(tag) => self.start(tag, range),
            Event::End(tag) => self.end(tag),
            Event::Text(text) => match &mut self.code {
                Some(code) => {
                    code.pieces.push((code.text.len(), range.start));
                    code.text.push_str(&text);
                }
                None => self.push(&text, range.start),
            },
            Event::Code(code) => {
                self.push("`", range.start);
                self.push(&code, range.start + 1);
                self.push("`", range.end.saturating_sub(1));
            }
            Event::SoftBreak | Event::HardBreak => self.push("\n", range.start),
            Event::InlineHtml(html) if html.starts_with("<br") => self.push("\n", range.start),
            _ => {}
        }
    }

    fn start(&mut self, tag: Tag<'_>, range: Range<usize>) {
        match tag {
            Tag::Strikethrough => self.struck += 1,
            Tag::Strong => {
                if let Some(block) = self.current.as_mut().filter(|block| block.bold.is_none()) {
                    block.bold = Some((block.text.len(), block.text.len()));
                }
            }
            Tag::Image { .. } => self.hidden += 1,
            Tag::Paragraph => {
                self.flush();
                self.open(self.text_kind(), range.start);
            }
            Tag::Heading { level, .. } => {
                self.flush();
                self.open_section(level as usize);
                self.open(BlockKind::Heading, range.start);
            }
            Tag::List(_) => {
                self.flush();
                self.lists.push(self.list_count);
                self.list_count += 1;
            }
            Tag::Item => {
                self.flush();
                self.items.push(None);
            }
            Tag::CodeBlock(kind) => {
                self.flush();
                self.code = Some(self.open_code(&kind, range));
            }
            Tag::Table(_) => {
                self.flush();
                self.outline.tables.push(Table::default());
            }
            Tag::TableHead | Tag::TableRow => {
                self.column = 0;
                if let Some(table) = self.outline.tables.last_mut() {
                    table.rows.push(Vec::new());
                }
            }
            Tag::TableCell => {
                let row = self.outline.tables.last().map_or(0, |table| table.rows.len().saturating_sub(1));
                let table = self.outline.tables.len().saturating_sub(1);
                self.open(BlockKind::Cell { table, row, column: self.column }, range.start);
                self.column += 1;
            }
            Tag::BlockQuote(_) | Tag::HtmlBlock => self.flush(),
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Strikethrough => self.struck = self.struck.saturating_sub(1),
            TagEnd::Strong => {
                if let Some(block) = &mut self.current
                    && let Some((start, end)) = block.bold
                    && start == end
                {
                    block.bold = Some((start, block.text.len()));
                }
            }
            TagEnd::Image => self.hidden = self.hidden.saturating_sub(1),
            TagEnd::Paragraph | TagEnd::Heading(_) | TagEnd::TableCell => self.flush(),
            TagEnd::List(_) => {
                self.flush();
                self.lists.pop();
            }
            TagEnd::Item => {
                self.flush();
                self.items.pop();
            }
            TagEnd::CodeBlock => self.outline.codes.extend(self.code.take()),
            _ => {}
        }
    }

    /// Returns the kind of a text block that begins now.
    fn text_kind(&self) -> BlockKind {
        match self.items.last() {
            Some(None) => BlockKind::Item,
            _ => BlockKind::Paragraph,
        }
    }

    fn open(&mut self, kind: BlockKind, offset: usize) {
        let block = Block {
            kind,
            text: String::new(),
            pieces: vec![(0, offset)],
            section: self.section,
            parent: self.items.iter().rev().find_map(|item| *item),
            list: if kind == BlockKind::Item { self.lists.last().copied() } else { None },
            struck: 0,
            bold: None,
        };
        self.current = Some(block);
    }

    fn push(&mut self, text: &str, offset: usize) {
        if self.hidden > 0 {
            return;
        }
        if self.current.is_none() {
            self.open(self.text_kind(), offset);
        }
        if let Some(block) = &mut self.current {
            block.pieces.push((block.text.len(), offset));
            block.text.push_str(text);
            if self.struck > 0 {
                block.struck += text.len();
            }
        }
    }

    fn flush(&mut self) {
        let Some(block) = self.current.take() else { return };
        let index = self.outline.blocks.len();
        match block.kind {
            BlockKind::Item => {
                if let Some(item) = self.items.last_mut() {
                    *item = Some(index);
                }
            }
            BlockKind::Heading => {
                self.outline.sections[block.section].title.clone_from(&block.text);
                self.outline.sections[block.section].heading = Some(index);
            }
            BlockKind::Cell { table, .. } => {
                if let Some(row) = self.outline.tables.get_mut(table).and_then(|table| table.rows.last_mut())
                {
                    row.push(index);
                }
            }
            BlockKind::Paragraph => {}
        }
        self.outline.blocks.push(block);
    }

    fn open_section(&mut self, level: usize) {
        let mut ancestors = self.outline.ancestors(self.section);
        let parent = ancestors.find(|one| self.outline.sections[*one].level < level);
        drop(ancestors);
        self.section = self.outline.sections.len();
        self.outline.sections.push(Section { level, parent, ..Section::default() });
    }

    fn open_code(&self, kind: &CodeBlockKind<'_>, range: Range<usize>) -> Code {
        let (language, fenced) = match kind {
            CodeBlockKind::Fenced(info) => {
                (info.split_whitespace().next().unwrap_or_default().to_owned(), true)
            }
            CodeBlockKind::Indented => (String::new(), false),
        };
        let source = self.text[range.clone()].trim_end();
        let last = source.rsplit_once('\n').map_or("", |(_, last)| last.trim_start_matches([' ', '\t', '>']));
        let is_fence =
            last.len() >= 3 && (last.bytes().all(|b| b == b'`') || last.bytes().all(|b| b == b'~'));
        let at_end = range.end >= self.written;
        let unclosed = fenced && at_end && self.items.is_empty() && !is_fence;
        let (text, pieces) = (String::new(), Vec::new());
        Code { language, text, pieces, section: self.section, offset: range.start, unclosed }
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
    fn nested_blocks_have_parent_item() {
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
            let at = block.text.find(word).expect("it is there");
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
