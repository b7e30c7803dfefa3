//! Decodes bytes to text. Handles byte order marks, UTF-16, invalid bytes, and UTF-8 that was decoded as
//! Windows-1252. Positions in the text can be mapped to positions in the original file.

/// Characters of Windows-1252 for the bytes 0x80 to 0x9F. The five undefined bytes map to control characters,
/// as in Latin-1.
const WINDOWS_1252_UPPER: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', '\u{90}',
    '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

/// Maximum depth of nested blocks. The Markdown parser compares each line with every open block, which takes
/// quadratic time. Markers beyond this depth are therefore read as plain text.
const MAX_MARKERS: usize = 48;
const MAX_INDENT: usize = 128;

/// Decoded text of a document, with the positions in the original file.
#[derive(Debug)]
pub(super) struct Source {
    /// Text in which wrongly decoded characters are repaired.
    pub text: String,
    /// Offset in `text` of the first byte of each line.
    lines: Vec<usize>,
    /// Repaired pieces of the text, in order.
    repairs: Vec<Repair>,
    /// Offsets of characters that cannot be repaired.
    pub undecodable: Vec<usize>,
}

/// Repaired piece: its range in the text, and its original characters.
#[derive(Debug)]
pub(super) struct Repair {
    pub start: usize,
    pub end: usize,
    pub undecoded: String,
}

impl Source {
    pub(super) fn read(bytes: &[u8]) -> Self {
        let raw = decode(bytes);
        let mut source = Self {
            text: String::with_capacity(raw.len()),
            lines: vec![0],
            repairs: vec![],
            undecodable: vec![],
        };
        let mut rest = raw.strip_prefix('\u{feff}').unwrap_or(&raw);
        while let Some(at) = rest.find(|c: char| !c.is_ascii()) {
            source.text.push_str(&rest[..at]);
            rest = &rest[at..];
            let run = &rest[..rest.find(|c: char| c.is_ascii()).unwrap_or(rest.len())];
            source.push_run(run);
            rest = &rest[run.len()..];
        }
        source.text.push_str(rest);
        source.text = limit_depth(source.text);
        source.lines.extend(source.text.match_indices('\n').map(|(at, _)| at + 1));
        source.undecodable = source.text.match_indices('\u{fffd}').map(|(at, _)| at).collect();
        source
    }

    fn push_run(&mut self, run: &str) {
        let mut now = repair(run);
        if let Some(again) = now.as_deref().and_then(repair) {
            now = Some(again);
        }
        let start = self.text.len();
        self.text.push_str(now.as_deref().unwrap_or(run));
        if now.is_some() {
            self.repairs.push(Repair { start, end: self.text.len(), undecoded: run.to_owned() });
        }
    }

    /// Returns the repaired pieces of the text, in order.
    pub(super) fn repairs(&self) -> &[Repair] {
        &self.repairs
    }

    /// Returns the number of lines, at least 1.
    pub(super) fn line_count(&self) -> usize {
        let last_is_empty = self.lines.last() == Some(&self.text.len());
        (self.lines.len() - usize::from(last_is_empty)).max(1)
    }

    /// Returns the line and the column of an offset, both counted from 1. The column is the number of
    /// characters in the original file.
    pub(super) fn position(&self, offset: usize) -> (usize, usize) {
        let offset = offset.min(self.text.len());
        let line = self.lines.partition_point(|start| *start <= offset);
        let start = self.lines[line - 1];
        let end = (offset..=self.text.len()).find(|at| self.text.is_char_boundary(*at)).unwrap_or(offset);
        let mut column = 1 + self.text[start..end].chars().count();
        let first = self.repairs.partition_point(|one| one.start < start);
        for one in self.repairs[first..].iter().take_while(|one| one.end <= offset) {
            column = column + one.undecoded.chars().count() - self.text[one.start..one.end].chars().count();
        }
        if line > self.line_count() { (self.line_count(), 1) } else { (line, column) }
    }
}

fn decode(bytes: &[u8]) -> String {
    let units = |of: fn([u8; 2]) -> u16| -> Vec<u16> {
        bytes[2..].chunks(2).map(|pair| of([pair[0], pair.get(1).copied().unwrap_or(0)])).collect()
    };
    match bytes {
        [0xff, 0xfe, ..] => String::from_utf16_lossy(&units(u16::from_le_bytes)),
        [0xfe, 0xff, ..] => String::from_utf16_lossy(&units(u16::from_be_bytes)),
        _ => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// Repairs a sequence of non-ASCII characters. Returns `None` if none of them was wrongly decoded.
fn repair(run: &str) -> Option<String> {
    let mut repaired = String::new();
    let mut changed = false;
    let chars: Vec<char> = run.chars().collect();
    let mut at = 0;
    while at < chars.len() {
        match original_char(&chars[at..]) {
            Some((original, taken)) => {
                repaired.push(original);
                changed = true;
                at += taken;
            }
            None => {
                repaired.push(chars[at]);
                at += 1;
            }
        }
    }
    changed.then_some(repaired)
}

/// Returns the original character of a wrongly decoded sequence, and the length of the sequence. Accepts only
/// sequences that do not occur in real text: `Ã©` is accepted, `é…”` is not.
fn original_char(chars: &[char]) -> Option<(char, usize)> {
    let byte = |at: usize| chars.get(at).and_then(|c| windows_1252(*c));
    let lead = byte(0)?;
    let length = match (lead, byte(1)) {
        (0xc2 | 0xc3, Some(0xa0..=0xbf)) => 2,
        (0xc2, Some(0x80..=0x9f)) if chars[1].is_control() => 2,
        // Characters that were wrongly decoded twice: Ã, Â, œ, Œ, Š, š, Ÿ, Ž, ž, ˆ and ˜.
        (0xc3, Some(0x82 | 0x83))
        | (0xc5, Some(0x92 | 0x93 | 0xa0 | 0xa1 | 0xb8 | 0xbd | 0xbe))
        | (0xcb, Some(0x86 | 0x9c)) => 2,
        (0xe2, Some(0x80..=0x84 | 0x86..=0xaf)) | (0xef, Some(0xb8..=0xbf)) => 3,
        (0xf0, Some(0x9f)) => 4,
        _ => return None,
    };
    let bytes: Option<Vec<u8>> = (0..length).map(byte).collect();
    let whole = bytes.and_then(|bytes| str::from_utf8(&bytes).ok()?.chars().next());
    if let Some(original) = whole {
        return Some((original, length));
    }
    // The undefined bytes of Windows-1252 are often lost when text is converted.
    match (lead, byte(1), byte(2)) {
        (0xe2, Some(0x8c), _) => Some(('❌', 2)),
        (0xe2, Some(0x98), _) => Some(('☐', 2)),
        (0xef, Some(0xb8), _) => Some(('\u{fe0f}', 2)),
        _ => None,
    }
}

fn windows_1252(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ 0x80..=0xff => u8::try_from(code).ok(),
        _ => WINDOWS_1252_UPPER.iter().position(|one| *one == c).and_then(|at| u8::try_from(at + 0x80).ok()),
    }
}

/// Replaces the markers of blocks that are nested too deeply. The length of the text does not change.
fn limit_depth(text: String) -> String {
    let mut bytes = text.into_bytes();
    let (mut in_prefix, mut markers, mut indent) = (true, 0, 0);
    for at in 0..bytes.len() {
        let ends = matches!(bytes.get(at + 1), None | Some(b' ' | b'\t' | b'\n' | b'\r'));
        match bytes[at] {
            b'\n' | b'\r' => (in_prefix, markers, indent) = (true, 0, 0),
            _ if !in_prefix => {}
            b' ' | b'0'..=b'9' => indent += 1,
            b'\t' => indent += 4,
            b'>' | b'-' | b'*' | b'+' | b'.' | b')' if ends || bytes[at] == b'>' => {
                markers += 1;
                indent += 1;
                if markers > MAX_MARKERS || indent > MAX_INDENT {
                    bytes[at] = b'_';
                    in_prefix = false;
                }
            }
            _ => in_prefix = false,
        }
    }
    String::from_utf8(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> String {
        Source::read(bytes).text
    }

    #[test]
    fn windows_1252_mojibake_is_repaired() {
        for original in ["✅", "❌", "☐", "☑", "✔", "⬜", "🔒", "é", "–", "“", "’", "\u{fe0f}"]
        {
            let once: String = original.bytes().map(as_windows).collect();
            assert_eq!(text(once.as_bytes()), original, "{once}");
            let twice: String = once.bytes().map(as_windows).collect();
            assert_eq!(text(twice.as_bytes()), original, "{twice}");
        }
        // One byte of these characters is undefined in Windows-1252 and was lost.
        assert_eq!(text("âŒ and â˜ and âœ…".as_bytes()), "❌ and ☐ and ✅");
    }

    fn as_windows(byte: u8) -> char {
        if (0x80..0xa0).contains(&byte) {
            WINDOWS_1252_UPPER[usize::from(byte) - 0x80]
        } else {
            char::from(byte)
        }
    }

    #[test]
    fn valid_text_is_unchanged() {
        for text_of in ["café…”", "voilà…»", "CAFÉ” à la “crème”", "Ångström – naïve", "«ça»", "日本", "âge"]
        {
            let source = Source::read(text_of.as_bytes());
            assert_eq!(source.text, text_of);
            assert!(source.repairs().is_empty());
        }
    }

    #[test]
    fn byte_order_marks_and_utf16_are_decoded() {
        assert_eq!(text(b"\xef\xbb\xbf# A"), "# A");
        assert_eq!(text(b"\xff\xfe#\0 \0A\0"), "# A");
        assert_eq!(text(b"\xfe\xff\0#\0 \0A"), "# A");
        assert_eq!(text(b"\xff\xfe#"), "#");
    }

    #[test]
    fn columns_refer_to_original_file() {
        let source = Source::read("é\n- âœ… âœ… x y".as_bytes());
        let at = source.text.find('x').expect("the text contains x");
        assert_eq!(source.position(at), (2, 11));
        assert_eq!(source.position(usize::MAX), (2, 14));
        assert_eq!(Source::read(b"a\n").position(2), (1, 1));
        assert_eq!(Source::read(b"").position(0), (1, 1));
    }

    #[test]
    fn invalid_bytes_are_reported() {
        let source = Source::read(b"- \x85 a");
        assert_eq!((source.undecodable.len(), source.text.as_str()), (1, "- \u{fffd} a"));
    }

    #[test]
    fn nesting_is_limited_and_offsets_are_preserved() {
        let deep = format!("{}a\n> b", "> ".repeat(1000));
        let read = text(deep.as_bytes());
        assert_eq!(read.len(), deep.len());
        assert_eq!(read.find('_'), Some(96));
        assert!(read.ends_with("> b"));
        let rule = "-".repeat(200);
        assert_eq!(text(rule.as_bytes()), rule);
    }
}
