//! Plain language: how doc comments and API texts begin, words with a better term, and names of constants.

use serde_json::Value;

use super::scan::{PieceKind, pieces};
use super::{File, Finding};

/// The OpenAPI document, whose texts are checked where clients read them.
pub const OPENAPI: &str = "docs/openapi.json";
/// Longest summary of an operation, in characters.
const MAX_SUMMARY_CHARS: usize = 60;

/// First words that make a doc comment a riddle: it should name the thing, or say what it does.
const FIRST_WORDS: &[&str] = &["What", "Who", "Whoever", "Whom", "Whose", "Whether", "Of", "It", "Which"];

/// Words and phrases that have a better term, in lower case, with the term.
const BANNED_WORDS: &[(&str, &str)] = &[
    ("whoever", "name the role: caller, user, owner, recipient, sender"),
    ("somebody", "name the role: caller, user, owner, recipient, sender"),
    ("someone", "name the role: caller, user, owner, recipient, sender"),
    ("nobody", "say `no user`, `no worker`, `no caller`"),
    ("oneself", "name the role: the caller, the user"),
    ("made-up", "synthetic"),
    ("late word", "stale report"),
    ("fares", "state, status, or health"),
    ("is told that", "is rejected with, receives, or learns from"),
    ("not one of them", "unknown value; expected one of"),
];

/// Parts of a constant's name that have a conventional word.
const CONSTANT_WORDS: &[(&str, &str)] = &[
    ("MOST", "MAX_"),
    ("LONGEST", "MAX_"),
    ("LARGEST", "MAX_"),
    ("LEAST", "MIN_"),
    ("SHORTEST", "MIN_"),
    ("KEPT", "RETENTION_ or RETAINED_"),
];

/// Looks at one file.
pub fn check(file: &File) -> Vec<Finding> {
    match file.extension() {
        "rs" => rust(file),
        "json" if file.path == OPENAPI => openapi(file),
        _ => Vec::new(),
    }
}

fn rust(file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    // A doc comment of several lines is several pieces; the line before decides whether one begins.
    let mut last_doc_line = 0;
    for piece in pieces(&file.text) {
        match piece.kind {
            PieceKind::Comment => {
                let doc = piece.text.strip_prefix("///").or_else(|| piece.text.strip_prefix("//!"));
                if let Some(text) = doc {
                    if piece.line > last_doc_line + 1 {
                        findings.extend(first_word(file, piece.line, text));
                    }
                    last_doc_line = piece.line;
                }
                findings.extend(banned_words(file, piece.line, piece.text));
            }
            PieceKind::Code => findings.extend(constants(file, piece.line, piece.text)),
            PieceKind::Literal => {}
        }
    }
    findings
}

fn first_word(file: &File, line: usize, text: &str) -> Option<Finding> {
    let word = text.trim_start().split(|c: char| !c.is_alphabetic()).next()?;
    let why = "a doc comment begins with a noun phrase or a third-person verb";
    FIRST_WORDS.contains(&word).then(|| file.finding(line, format!("begins with `{word}`"), why))
}

fn banned_words(file: &File, line: usize, text: &str) -> Vec<Finding> {
    let text = text.to_lowercase();
    let words = BANNED_WORDS.iter().filter(|(word, _)| contains_word(&text, word));
    words.map(|(word, term)| file.finding(line, format!("`{word}`"), term)).collect()
}

/// Returns whether `text` contains `word` with no letter directly before or after it.
fn contains_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
    })
}

/// Checks the names of the constants that a stretch of code declares.
fn constants(file: &File, from: usize, code: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (line, text) in (from..).zip(code.split('\n')) {
        let mut words =
            text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty());
        while let Some(word) = words.next() {
            let Some(name) = matches!(word, "const" | "static").then(|| words.next()).flatten() else {
                continue;
            };
            let better = CONSTANT_WORDS.iter().find(|(part, _)| name.split('_').any(|given| given == *part));
            findings.extend(better.map(|(_, better)| file.finding(line, format!("`{name}`"), better)));
        }
    }
    findings
}

/// Checks the texts of the OpenAPI document. Findings carry the JSON pointer, not a line: the file is generated.
fn openapi(file: &File) -> Vec<Finding> {
    let Ok(document) = serde_json::from_str::<Value>(&file.text) else {
        return vec![file.finding(1, "not JSON", "the document is written by `cargo xtask openapi`")];
    };
    let mut findings = Vec::new();
    texts(file, "", &document, &mut findings);
    let paths = document["paths"].as_object().into_iter().flatten();
    for (path, operations) in paths {
        for (method, operation) in operations.as_object().into_iter().flatten() {
            findings.extend(operation_texts(file, &format!("{method} {path}"), operation));
        }
    }
    findings
}

fn operation_texts(file: &File, name: &str, operation: &Value) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut fault = |what: String, why| findings.push(file.finding(1, format!("{name}: {what}"), why));
    let summary = operation["summary"].as_str().unwrap_or_default();
    if summary.is_empty() || summary.chars().count() > MAX_SUMMARY_CHARS {
        fault(format!("summary `{summary}`"), "a summary has 1 to 60 characters; more is a description");
    }
    if summary.ends_with('.') {
        fault(format!("summary `{summary}`"), "a summary is a title, without a full stop");
    }
    let id = operation["operationId"].as_str().unwrap_or_default();
    if id.is_empty() || !id.starts_with(|c: char| c.is_ascii_lowercase()) || id.contains('_') {
        fault(format!("operationId `{id}`"), "it becomes a client method such as `acceptPartnerRequest`");
    }
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        if parameter["description"].as_str().unwrap_or_default().is_empty() {
            fault(
                format!("parameter {} has no description", parameter["name"]),
                "describe it, with its unit and bounds",
            );
        }
    }
    findings
}

/// Checks every summary and description below `value`.
fn texts(file: &File, pointer: &str, value: &Value, findings: &mut Vec<Finding>) {
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                let pointer = format!("{pointer}/{key}");
                match member.as_str() {
                    Some(text) if key == "summary" || key == "description" => {
                        let begun = first_word(file, 1, text).into_iter();
                        findings.extend(begun.chain(banned_words(file, 1, text)).map(|finding| Finding {
                            what: format!("{pointer}: {}", finding.what),
                            ..finding
                        }));
                    }
                    _ => texts(file, &pointer, member, findings),
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                texts(file, &format!("{pointer}/{index}"), item, findings);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{formatted, tree};
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        formatted(&check(&tree(&[(path, text)])[0]))
    }

    #[test]
    fn doc_comment_that_begins_with_a_question_word_is_found() {
        let source = "//! Owns a.\n\n/// What it is.\nstruct A {\n    /// It.\n    a: u8,\n    /// Number of b,\n    /// Which is small.\n    b: u8, // Of c\n}\n";
        let expected = ["a.rs:3: begins with `What`", "a.rs:5: begins with `It`"];
        assert_eq!(found("a.rs", source), expected);
    }

    #[test]
    fn words_with_a_better_term_are_found_in_comments_only() {
        let source = "//! Notifies whoever waits.\n// Somebody else.\nlet a = \"nobody\"; // nobodys\n";
        assert_eq!(found("a.rs", source), ["a.rs:1: `whoever`", "a.rs:2: `somebody`"]);
    }

    #[test]
    fn constants_with_a_conventional_name_are_found_where_they_are_declared() {
        let source = "//! a\nconst MOST_ROWS: usize = 1;\nconst MOSTLY: u8 = 1;\nfn a() { MOST_ROWS }\n";
        assert_eq!(found("a.rs", source), ["a.rs:2: `MOST_ROWS`"]);
    }

    #[test]
    fn texts_of_the_openapi_document_are_checked() {
        let document = r#"{"paths": {"/a": {"get": {"operationId": "get_a", "summary": "Get a.",
            "description": "What a is.", "parameters": [{"name": "b"}]}}}}"#;
        let expected = [
            "docs/openapi.json:1: /paths//a/get/description: begins with `What`",
            "docs/openapi.json:1: get /a: summary `Get a.`",
            "docs/openapi.json:1: get /a: operationId `get_a`",
            "docs/openapi.json:1: get /a: parameter \"b\" has no description",
        ];
        assert_eq!(found(OPENAPI, document), expected);
        let document = r#"{"paths": {"/a": {"get": {"operationId": "getA", "summary": "Get a"}}}}"#;
        assert_eq!(found(OPENAPI, document), [""; 0]);
    }
}
