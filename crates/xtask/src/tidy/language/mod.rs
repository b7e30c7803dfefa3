//! Language rules: reports words that have a better term. Covers names, comments, string literals, Markdown
//! and API
//! texts.

mod names;
mod openapi;
mod prose;
mod words;

use super::scan::{PieceKind, pieces};
use super::{File, Finding};

pub use openapi::OPENAPI;

/// Checks one file against all language rules.
pub fn check(file: &File) -> Vec<Finding> {
    match file.extension() {
        _ if !prose::is_own(file) => Vec::new(),
        "rs" => rust(file),
        "md" => prose::markdown(file),
        "toml" | "yml" => words::banned(file, 1, &file.text),
        "sql" => prose::sql(file),
        "json" if file.path == OPENAPI => openapi::check(file),
        _ => Vec::new(),
    }
}

fn rust(file: &File) -> Vec<Finding> {
    let mut findings = names::check(file);
    let first_test_line = prose::first_test_line(file);
    // Each line of a doc comment is a separate piece. The number of the previous line shows whether a new
    // comment begins.
    let mut last_doc_line = 0;
    for piece in pieces(&file.text) {
        match piece.kind {
            PieceKind::Comment => {
                let doc = piece.text.strip_prefix("///").or_else(|| piece.text.strip_prefix("//!"));
                if let Some(text) = doc {
                    if piece.line > last_doc_line + 1 {
                        findings.extend(words::first_word(file, piece.line, text));
                    }
                    last_doc_line = piece.line;
                }
                findings.extend(words::banned(file, piece.line, piece.text));
            }
            PieceKind::Literal if piece.line < first_test_line => {
                findings.extend(prose::literal(file, &piece));
            }
            PieceKind::Literal | PieceKind::Code => {}
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::tests::{formatted, tree};
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        formatted(&check(&tree(&[(path, text)])[0]))
    }

    #[test]
    fn doc_comment_that_begins_with_question_word_is_reported() {
        let source = "//! Owns a.\n\n/// What it is.\nstruct A {\n    /// It.\n    a: u8,\n    /// Number of b,\n    /// Which is small.\n    b: u8, // Of c\n}\n";
        let expected = ["a.rs:3: begins with `What`", "a.rs:5: begins with `It`"];
        assert_eq!(found("a.rs", source), expected);
    }

    #[test]
    fn banned_words_in_comments_are_reported() {
        let source = "//! Notifies whoever waits.\n// Somebody else.\nlet a = \"nobody\"; // nobodys\n";
        assert_eq!(found("a.rs", source), ["a.rs:1: \"whoever\"", "a.rs:2: \"somebody\""]);
    }
}
