//! Rules for prose outside of code comments: string literals, Markdown, and the comments of configuration and
//! SQL files.

use super::super::scan::Piece;
use super::super::{File, Finding};
use super::words;

/// Files whose texts the project did not write, each with the reason.
const FOREIGN_TEXTS: &[(&str, &str)] = &[
    ("crates/checklist/tests/checklists/", "checklists as users write them"),
    ("docs/READINESS.md", "written by `kith verify`, whose texts are checked in the source"),
    ("crates/xtask/src/tidy/language/words.rs", "the list of banned words"),
];

/// Words with which no heading and no list item may begin.
const FIRST_WORDS: &[&str] = &["Whoever", "Whose", "Of the"];

/// Returns true if the project wrote the texts of the file.
pub fn is_own(file: &File) -> bool {
    !FOREIGN_TEXTS.iter().any(|(path, _)| file.path.starts_with(path))
}

/// Returns the line at which test code begins. The test module is the last item of a file.
pub fn first_test_line(file: &File) -> usize {
    let parts: Vec<&str> = file.path.split('/').collect();
    let is_test = |part: &&str| matches!(*part, "tests" | "benches" | "fuzz") || part.ends_with("tests.rs");
    if parts.iter().any(is_test) {
        return 1;
    }
    let module = file.text.find("#[cfg(test)]\nmod tests {");
    module.map_or(usize::MAX, |at| file.text[..at].matches('\n').count() + 1)
}

/// Checks a string literal. A literal without a space counts as a value and is not checked.
pub fn literal(file: &File, piece: &Piece<'_>) -> Vec<Finding> {
    if !piece.text.contains(' ') {
        return Vec::new();
    }
    words::banned(file, piece.line, piece.text)
}

/// Checks the comments of an SQL file.
pub fn sql(file: &File) -> Vec<Finding> {
    let lines = (1..).zip(file.text.split('\n'));
    let comments = lines.filter_map(|(line, text)| Some((line, text.split_once("--")?.1)));
    comments.flat_map(|(line, comment)| words::banned(file, line, comment)).collect()
}

/// Checks the text of a Markdown file outside of code blocks and code spans.
pub fn markdown(file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut is_fenced = false;
    for (line, text) in (1..).zip(file.text.split('\n')) {
        if text.trim_start().starts_with("```") {
            is_fenced = !is_fenced;
        } else if !is_fenced {
            findings.extend(words::banned(file, line, text));
            findings.extend(check_first_word(file, line, text));
        }
    }
    findings
}

/// Reports a heading or list item that begins with one of [`FIRST_WORDS`].
fn check_first_word(file: &File, line: usize, text: &str) -> Option<Finding> {
    let text = text.trim_start();
    let marker = text.split(' ').next()?;
    let is_number = |digits: &str| !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit());
    let is_marker = matches!(marker, "*" | "-" | "+")
        || (!marker.is_empty() && marker.chars().all(|c| c == '#'))
        || marker.strip_suffix(['.', ')']).is_some_and(is_number);
    let content = text[marker.len()..].trim_start_matches([' ', '*', '_']);
    let begins = |word: &&&str| {
        content.strip_prefix(**word).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
    };
    let word = FIRST_WORDS.iter().find(begins).filter(|_| is_marker)?;
    let why = "name the thing first: \"The owner of …\", \"A user who …\"";
    Some(file.finding(line, format!("begins with \"{word}\""), why))
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::{formatted, tree};
    use super::super::check;

    fn found(path: &str, text: &str) -> Vec<String> {
        formatted(&check(&tree(&[(path, text)])[0]))
    }

    #[test]
    fn banned_words_in_literals_with_spaces_are_reported() {
        let source = "//! a\nf(\"nobody\", \"user `nobody` exists\", \"one\n  waits for nobody\");\n";
        assert_eq!(found("crates/a/src/a.rs", source), ["crates/a/src/a.rs:3: \"nobody\""]);
    }

    #[test]
    fn string_literals_in_tests_are_not_checked() {
        let source = "//! a\nconst A: &str = \"no upkeep\";\n#[cfg(test)]\nmod tests {\n    const B: &str = \"no upkeep\";\n}\n";
        assert_eq!(found("crates/a/src/a.rs", source), ["crates/a/src/a.rs:2: \"upkeep\""]);
        assert_eq!(found("tests/api/a.rs", source), [""; 0]);
        assert_eq!(found("crates/a/src/rules_tests.rs", source), [""; 0]);
    }

    #[test]
    fn banned_words_in_markdown_outside_code_are_reported() {
        let text =
            "# Users\n\nSomebody waits, `nobody` asks.\n\n```sh\necho nobody knows\n```\nIt begins anew.\n";
        assert_eq!(found("docs/a.md", text), ["docs/a.md:3: \"somebody\"", "docs/a.md:8: \"anew\""]);
        assert_eq!(found("docs/READINESS.md", text), [""; 0]);
    }

    #[test]
    fn question_word_at_start_of_heading_or_item_is_reported() {
        let text = "## Whose key it is\n* Of them, one.\n* **Of the jobs**, one.\n 2. Whoever\n10. Whoever asks\nOf the jobs\n* Often\n";
        let expected = [
            "docs/a.md:1: begins with \"Whose\"",
            "docs/a.md:3: begins with \"Of the\"",
            "docs/a.md:4: \"whoever\"",
            "docs/a.md:4: begins with \"Whoever\"",
            "docs/a.md:5: \"whoever\"",
            "docs/a.md:5: begins with \"Whoever\"",
        ];
        assert_eq!(found("docs/a.md", text), expected);
    }

    #[test]
    fn comments_in_toml_and_sql_files_are_checked() {
        assert_eq!(found("a.toml", "# For somebody.\n"), ["a.toml:1: \"somebody\""]);
        assert_eq!(found("a.sql", "CHECK (a = 'nobody') -- Begins anew.\n"), ["a.sql:1: \"anew\""]);
    }
}
