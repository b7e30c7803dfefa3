//! Items of a document that have a box, and the number of boxes in each section.

use std::collections::HashMap;

use super::marks::{self, BoxState};
use super::outline::{Block, BlockKind, Outline, Section};
use super::report::Counts;

/// List item, table cell or heading with a box.
#[derive(Debug)]
pub(super) struct Item {
    pub mark: BoxState,
    /// Text of the item. In a table, the first text of the row and the heading of the column.
    pub label: String,
    /// Byte offset of the box in the document.
    pub offset: usize,
    /// Index of the block that contains the box.
    pub block: usize,
    pub section: usize,
    /// True if the box consists of brackets that renderers show as plain text.
    pub malformed: bool,
}

/// All items with boxes in document order, and the counts of each section.
#[derive(Debug)]
pub(super) struct Items {
    pub all: Vec<Item>,
    /// Counts of each section without its subsections.
    pub own: Vec<Counts>,
    /// Counts of each section including its subsections.
    pub whole: Vec<Counts>,
    /// State of the box in the heading of each section, if there is one.
    pub headings: Vec<Option<BoxState>>,
}

impl Items {
    pub(super) fn of(outline: &Outline) -> Self {
        let mut all = Vec::new();
        let icons = GlyphClassifier::of(outline);
        for (index, block) in outline.blocks.iter().enumerate() {
            if block.kind != BlockKind::Heading && !is_legend(outline.title(block.section)) {
                let is_icon = block.kind == BlockKind::Item && icons.is_list_icon(block);
                collect(outline, index, block, is_icon, &mut all);
            }
        }
        let mark = |section: &Section| heading_mark(&section.title, icons.is_heading_icon(section));
        let headings: Vec<_> = outline.sections.iter().map(mark).collect();
        let mut items = Self { all, own: vec![], whole: vec![], headings };
        items.count(outline);
        items.count_marked_headings(outline);
        items.count(outline);
        items
    }

    /// Returns true if the heading itself is the only item of the section.
    pub(super) fn is_its_own_item(&self, outline: &Outline, section: usize) -> bool {
        let heading = outline.sections[section].heading;
        self.whole[section].total() == 1 && self.all.iter().any(|item| Some(item.block) == heading)
    }

    /// Returns the counts of all boxes in the document.
    pub(super) fn total(&self) -> Counts {
        self.whole.first().copied().unwrap_or_default()
    }

    fn count(&mut self, outline: &Outline) {
        self.own = vec![Counts::default(); outline.sections.len()];
        for item in &self.all {
            add(&mut self.own[item.section], item.mark);
        }
        self.whole.clone_from(&self.own);
        for (index, section) in outline.sections.iter().enumerate().rev() {
            let counts = self.whole[index];
            if let Some(parent) = section.parent {
                let whole = &mut self.whole[parent];
                whole.ticked += counts.ticked;
                whole.open += counts.open;
                whole.set_aside += counts.set_aside;
            }
        }
    }

    /// Adds headings with a mark as items, if there are no boxes under them.
    fn count_marked_headings(&mut self, outline: &Outline) {
        let has_marked_under = marked_under(outline, &self.headings);
        for (index, section) in outline.sections.iter().enumerate() {
            let none_under = self.whole[index] == Counts::default() && !has_marked_under[index];
            if let (Some(mark), Some(block), true) = (self.headings[index], section.heading, none_under) {
                let label = marks::without_glyphs(&section.title).to_owned();
                let malformed = marks::leading(&section.title).is_some_and(|found| found.malformed);
                let offset = outline.blocks[block].offset(0);
                self.all.push(Item { mark, label, offset, block, section: index, malformed });
            }
        }
        self.all.sort_by_key(|item| item.offset);
    }
}

fn marked_under(outline: &Outline, headings: &[Option<BoxState>]) -> Vec<bool> {
    let mut under = vec![false; outline.sections.len()];
    for (index, section) in outline.sections.iter().enumerate().rev() {
        if let Some(parent) = section.parent {
            under[parent] |= headings[index].is_some() || under[index];
        }
    }
    under
}

fn add(counts: &mut Counts, mark: BoxState) {
    match mark {
        BoxState::Ticked => counts.ticked += 1,
        BoxState::Open => counts.open += 1,
        BoxState::SetAside => counts.set_aside += 1,
    }
}

fn is_legend(title: &str) -> bool {
    let title = marks::without_glyphs(title).trim_end_matches(':').to_lowercase();
    matches!(title.as_str(), "legend" | "key" | "status key" | "symbols" | "status legend" | "status icons")
}

/// Decides whether glyphs at the beginning of headings and list items are boxes or icons. Headings are
/// grouped by level, and items by list.
#[derive(Debug, Default)]
struct GlyphClassifier {
    headings: HashMap<usize, GlyphUse>,
    lists: HashMap<usize, GlyphUse>,
}

#[derive(Clone, Copy, Debug, Default)]
struct GlyphUse {
    ticked: bool,
    open: bool,
    icons: bool,
}

impl GlyphUse {
    fn note(&mut self, text: &str) {
        self.icons |= marks::begins_with_icon(text);
        if !marks::begins_with_ambiguous(text) {
            match marks::leading(text).map(|found| found.mark) {
                Some(BoxState::Ticked) => self.ticked = true,
                Some(BoxState::Open) => self.open = true,
                _ => {}
            }
        }
    }

    /// Returns true if the glyph at the beginning of `text` is an icon. Glyphs are always boxes if their
    /// group contains both done and not done.
    fn is_icon(self, text: &str) -> bool {
        let is_status = self.ticked && self.open;
        marks::begins_with_glyph(text)
            && !is_status
            && (self.icons || (marks::begins_with_ambiguous(text) && !self.ticked && !self.open))
    }
}

impl GlyphClassifier {
    fn of(outline: &Outline) -> Self {
        let mut icons = Self::default();
        for section in &outline.sections {
            icons.headings.entry(section.level).or_default().note(&section.title);
        }
        for block in outline.blocks.iter().filter(|block| block.kind == BlockKind::Item) {
            if let Some(list) = block.list {
                icons.lists.entry(list).or_default().note(&block.text);
            }
        }
        icons
    }

    fn is_heading_icon(&self, section: &Section) -> bool {
        self.headings.get(&section.level).is_some_and(|pictures| pictures.is_icon(&section.title))
    }

    fn is_list_icon(&self, block: &Block) -> bool {
        let pictures = block.list.and_then(|list| self.lists.get(&list));
        pictures.is_some_and(|pictures| pictures.is_icon(&block.text))
    }
}

fn heading_mark(title: &str, is_icon: bool) -> Option<BoxState> {
    let leading = marks::leading(title).filter(|_| !is_icon).map(|found| found.mark);
    // The mark may be followed by text in brackets: "Security ✅ (100%)".
    let before_bracket =
        title.trim_end().strip_suffix([')', ']']).and_then(|title| title.rsplit_once(['(', '[']));
    let title = before_bracket.map_or(title, |(before, _)| before);
    leading.or_else(|| marks::trailing(title).map(|(mark, _)| mark))
}

fn collect(outline: &Outline, index: usize, block: &Block, is_icon: bool, all: &mut Vec<Item>) {
    let mut push = |mark, label: String, at: usize, malformed| {
        let mark = if is_struck(block) { BoxState::SetAside } else { mark };
        all.push(Item {
            mark,
            label,
            offset: block.offset(at),
            block: index,
            section: block.section,
            malformed,
        });
    };
    if let BlockKind::Cell { table, row, column } = block.kind {
        if let Some(found) = marks::leading(&block.text).filter(|_| row > 0) {
            let label = cell_label(outline, table, row, column, found.rest);
            push(found.mark, label, 0, found.malformed);
        }
        return;
    }
    let mut found_any = false;
    let mut before = 0;
    for (at, line) in block.lines() {
        // The glyph ⚠ is a warning at the beginning of a paragraph. At the beginning of an item it marks the
        // item as open.
        let warns = block.kind == BlockKind::Paragraph && line.trim_start().starts_with('⚠');
        let is_icon = is_icon && at == 0;
        if let Some(found) = marks::leading(line).filter(|_| !warns && !is_icon) {
            let at = at + line.len() - line.trim_start().len();
            push(found.mark, found.rest.to_owned(), at, found.malformed);
            found_any = true;
        }
        before = at;
    }
    let last = &block.text[before..];
    if let Some((mark, label)) = marks::trailing(last).filter(|_| block.kind == BlockKind::Item && !found_any)
    {
        let first = block.text.lines().next().unwrap_or_default();
        let label = if before == 0 { label } else { first };
        push(mark, label.to_owned(), 0, false);
    }
}

/// Returns true if the whole text of the item is struck out.
fn is_struck(block: &Block) -> bool {
    let words = marks::leading(&block.text).map_or(&*block.text, |found| found.rest);
    block.struck > 0 && block.struck >= words.trim_end().len()
}

/// Returns the label of a box in a table. It consists of the name of the row, the heading of the column if
/// there are several columns, and the text of the cell.
fn cell_label(outline: &Outline, table: usize, row: usize, column: usize, rest: &str) -> String {
    let rows = &outline.tables[table].rows;
    let text = |row: usize, column: usize| {
        rows.get(row)
            .and_then(|cells| cells.get(column))
            .map_or("", |block| outline.blocks[*block].text.trim())
    };
    let named = (0..column.min(8)).map(|other| text(row, other));
    let name = named
        .into_iter()
        .find(|text| text.chars().any(char::is_alphabetic) && marks::leading(text).is_none());
    let name = name.unwrap_or(rest);
    let head = text(0, column);
    if head.is_empty() || name.is_empty() { name.to_owned() } else { format!("{name} / {head}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(text: &str) -> (usize, usize, usize) {
        let Counts { ticked, open, set_aside } = Items::of(&Outline::of(text)).total();
        (ticked, open, set_aside)
    }

    #[test]
    fn all_box_notations_are_counted() {
        assert_eq!(counted("- [x] a\n* [ ] b\n+ [X] c\n1. [ ] d\n2) ✅ e\n"), (3, 2, 0));
        assert_eq!(counted("✅ a\n✅ b\n❌ c\n\n[ ] d\n[x] e"), (3, 2, 0));
        assert_eq!(counted("- a ✅\n- b ❌\n- c\n"), (1, 1, 0));
        assert_eq!(counted("- [ ] a\n  - [x] b\n    - [x] c\n\n      [ ] d\n> - [ ] e\n"), (2, 3, 0));
        assert_eq!(counted("- [ ] ~~a b~~\n- [-] c\n- ~~[ ] d~~\n- [ ] e ~~f~~"), (0, 1, 3));
        assert_eq!(counted("- **✅ a**\n- *[x]* b\n- &#9745; c\n"), (3, 0, 0));
        assert_eq!(
            counted("| a | done | docs |\n|---|---|---|\n| b | ✅ | ❌ late |\n| c | [x] | - |\n"),
            (2, 1, 0)
        );
    }

    #[test]
    fn boxes_in_code_legends_and_prose_are_not_counted() {
        assert_eq!(
            counted("```\n- [ ] a\n```\n\n    - [x] b\n\n`- [ ] c`\n\n<!--\n- [ ] d\n-->\n"),
            (0, 0, 0)
        );
        assert_eq!(
            counted("## Legend\n- ✅ done\n- ❌ missing\n\n## a\n- ✅ = done\n- [x](b) c\n"),
            (0, 0, 0)
        );
        assert_eq!(counted("| ✅ | ❌ |\n|---|---|\n| 1 | 2 |\n"), (0, 0, 0));
        assert_eq!(counted("We use ✅ for what is done.\n\n> ⚠\u{fe0f} Read this\n"), (0, 0, 0));
    }

    #[test]
    fn marked_heading_counts_only_without_boxes() {
        assert_eq!(counted("## ✅ a\ntext\n## b ❌\n"), (1, 1, 0));
        assert_eq!(counted("## ✅ a\n- [x] b\n### c\n- [ ] d\n"), (1, 1, 0));
        assert_eq!(counted("# ✅ a\n## ✅ b\n"), (1, 0, 0));
        assert_eq!(counted("# a ✅ (100%)\n"), (1, 0, 0));
    }

    /// Headings such as `## 🔐 Security`, `## 🔄 Cache` and `## ✅ Checklist` occur together in real files.
    #[test]
    fn icons_are_not_boxes() {
        assert_eq!(counted("## 🔐 Security\ntext\n## 🔄 Cache\ntext\n## ✅ Checklist\ntext\n"), (0, 0, 0));
        assert_eq!(counted("## 🔄 Cache\ntext\n"), (0, 0, 0));
        assert_eq!(counted("- 🔐 Sign-in\n- 🔄 Sync\n- ✅ Checks\n"), (0, 0, 0));
        assert_eq!(counted("- 🔄 Sync\n- 🔄 Cache\n"), (0, 0, 0));
        assert_eq!(counted("- 🔐 Sign-in\n- [x] Checks\n- [ ] More\n"), (1, 1, 0));
    }

    #[test]
    fn status_glyphs_beside_icons_are_counted() {
        assert_eq!(counted("## ✅ a\ntext\n## ❌ b\ntext\n## 📋 Notes\ntext\n"), (1, 1, 0));
        assert_eq!(counted("- ✅ a\n- 🔄 b\n"), (1, 1, 0));
        assert_eq!(counted("## 🔐 Security ✅\ntext\n## 🔄 Cache ❌\ntext\n"), (1, 1, 0));
    }

    #[test]
    fn table_box_is_labelled_by_row_and_column() {
        let items = Items::of(&Outline::of("| # | a | tested |\n|---|---|---|\n| 1 | b | ✅ |\n"));
        assert_eq!(items.all[0].label, "b / tested");
    }
}
