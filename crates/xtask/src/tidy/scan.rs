//! Splits Rust source into code, comments and literals, so that rules can ignore text.

/// Kind of a piece of Rust source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceKind {
    Code,
    Comment,
    Literal,
}

/// Part of Rust source that is code, a comment or a literal.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    pub kind: PieceKind,
    /// Line on which the piece begins, counted from 1.
    pub line: usize,
    pub text: &'a str,
}

impl<'a> Piece<'a> {
    /// Returns the lines of the piece with their numbers.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &'a str)> {
        (self.line..).zip(self.text.split('\n'))
    }
}

/// Splits Rust source into pieces, in order.
pub fn pieces(source: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let (mut code_from, mut at, mut line) = (0, 0, 1);
    let mut code_line = 1;
    while at < source.len() {
        let Some((kind, length)) = comment_or_literal(source, at) else {
            line += usize::from(source.as_bytes()[at] == b'\n');
            at += 1;
            continue;
        };
        if code_from < at {
            pieces.push(Piece { kind: PieceKind::Code, line: code_line, text: &source[code_from..at] });
        }
        let text = &source[at..at + length];
        pieces.push(Piece { kind, line, text });
        line += text.matches('\n').count();
        at += length;
        (code_from, code_line) = (at, line);
    }
    if code_from < source.len() {
        pieces.push(Piece { kind: PieceKind::Code, line: code_line, text: &source[code_from..] });
    }
    pieces
}

/// Returns the kind and length of the comment or literal that begins at byte `at`.
fn comment_or_literal(source: &str, at: usize) -> Option<(PieceKind, usize)> {
    let rest = &source.as_bytes()[at..];
    match rest {
        [b'/', b'/', ..] => {
            Some((PieceKind::Comment, rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len())))
        }
        [b'/', b'*', ..] => Some((PieceKind::Comment, block_comment(rest))),
        [b'"', ..] => Some((PieceKind::Literal, quoted(rest, b'"'))),
        [b'r', b'"' | b'#', ..] if !is_inside_word(source, at) => {
            Some((PieceKind::Literal, raw_string(rest)?))
        }
        [b'\'', b'\\', ..] => Some((PieceKind::Literal, quoted(rest, b'\''))),
        [b'\'', ..] => {
            // `'a'` is a literal. `'a` is a lifetime if no quote follows after one character.
            let character = source[at + 1..].chars().next()?;
            let close = 1 + character.len_utf8();
            (rest.get(close) == Some(&b'\'')).then_some((PieceKind::Literal, close + 1))
        }
        _ => None,
    }
}

/// Returns true if the byte before `at` belongs to the same word. A raw string's `r` may follow `b` or `c`.
fn is_inside_word(source: &str, at: usize) -> bool {
    let is_word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    match source.as_bytes()[..at] {
        [.., before, b'b' | b'c'] => is_word(&before),
        [b'b' | b'c'] => false,
        [.., before] => is_word(&before),
        [] => false,
    }
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// Returns the length of a raw string such as `r"…"` or `r#"…"#`. Returns `None` for a raw identifier.
fn raw_string(rest: &[u8]) -> Option<usize> {
    let hashes = rest[1..].iter().take_while(|b| **b == b'#').count();
    let open = 1 + hashes;
    if rest.get(open) != Some(&b'"') {
        return None;
    }
    let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let body = &rest[open + 1..];
    let end = body.windows(close.len()).position(|window| window == close);
    Some(end.map_or(rest.len(), |end| open + 1 + end + close.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_kind(source: &str, kind: PieceKind) -> Vec<&str> {
        pieces(source).into_iter().filter(|piece| piece.kind == kind).map(|piece| piece.text).collect()
    }

    #[test]
    fn source_is_split_into_code_comments_and_literals() {
        let source = r####"let a = "x // \" y"; // one " two
/* a /* nested */ b */ let c: &'static str = r#"raw " // "#; let d = '"'; let e = '\''; fn f<'a>(r: &'a str) {}"####;
        assert_eq!(of_kind(source, PieceKind::Comment), ["// one \" two", "/* a /* nested */ b */"]);
        let literals = ["\"x // \\\" y\"", "r#\"raw \" // \"#", "'\"'", "'\\''"];
        assert_eq!(of_kind(source, PieceKind::Literal), literals);
        assert_eq!(of_kind(source, PieceKind::Code).last().unwrap(), &"; fn f<'a>(r: &'a str) {}");
    }

    #[test]
    fn pieces_cover_source_and_count_lines() {
        let source = "a\n\"b\nc\"\n// d\ne 'ü' br\"f\" r#type for\"g\"";
        let pieces = pieces(source);
        assert_eq!(pieces.iter().map(|piece| piece.text).collect::<String>(), source);
        let comment = pieces.iter().find(|piece| piece.kind == PieceKind::Comment).unwrap();
        assert_eq!((comment.line, comment.text), (4, "// d"));
        assert_eq!(pieces.last().unwrap().line, 5);
    }
}
