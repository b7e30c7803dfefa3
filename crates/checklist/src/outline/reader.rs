//! Builds the outline of a document from the events of the Markdown parser.

use std::ops::Range;

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

use super::{Block, BlockKind, Code, Outline, Section, Table};

/// Parses the Markdown document `text`.
pub(super) fn read(text: &str) -> Outline {
    let mut reader = Reader { text, written: text.trim_end().len(), ..Reader::default() };
    reader.outline.sections.push(Section::default());
    let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH;
    for (event, range) in Parser::new_ext(text, options).into_offset_iter() {
        reader.take(event, range);
    }
    reader.flush();
    reader.outline
}

#[derive(Default)]
struct Reader<'t> {
    text: &'t str,
    /// Length of the text in bytes, without white space at its end.
    written: usize,
    outline: Outline,
    current: Option<Block>,
    code: Option<Code>,
    section: usize,
    lists: Vec<usize>,
    list_count: usize,
    /// List items that have begun and not yet ended, each with its first block.
    items: Vec<Option<usize>>,
    struck: usize,
    /// Nesting depth of images. The alternative text of an image is not part of the prose.
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

    /// Returns the kind of the text block that begins at the current event.
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
