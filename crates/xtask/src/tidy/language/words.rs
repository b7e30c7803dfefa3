//! Words that have a better term, and words with which a doc comment may not begin.

use super::super::{File, Finding};

/// Words with which no doc comment may begin. It should begin with a noun phrase or a verb.
const FIRST_WORDS: &[&str] = &["What", "Who", "Whoever", "Whom", "Whose", "Whether", "Of", "It", "Which"];

/// Banned words and phrases, in lower case, each with advice on what to write instead. Words that are
/// sometimes correct, such as `told`, `kept` or `answers`, are not listed.
const BANNED_WORDS: &[(&str, &str)] = &[
    ("whoever", "write \"the user\", \"the caller\", \"the owner\""),
    ("somebody", "write \"a user\", \"a caller\", \"another node\""),
    ("someone", "write \"a user\", \"a caller\", \"another node\""),
    ("anybody", "write \"any user\", \"any caller\", \"anyone\""),
    ("everybody", "write \"every user\", \"all clients\""),
    ("nobody", "write \"no user\", \"no caller\", \"no worker\""),
    ("oneself", "write \"the caller\", \"your own account\""),
    ("made-up", "write \"synthetic\""),
    ("late word", "write \"stale report\""),
    ("fares", "write \"state\", \"status\", \"health\""),
    ("is told", "write \"receives\", \"is rejected with\", \"is notified\""),
    ("are told", "write \"receive\", \"are rejected with\", \"are notified\""),
    ("be told", "write \"receive\", \"be rejected with\", \"be notified\""),
    ("not one of them", "write \"unknown value; expected one of\""),
    ("given up", "write \"abandoned\", \"evicted\", \"dead\""),
    ("upkeep", "write \"maintenance\""),
    ("anew", "write \"again\", \"from the start\""),
    ("bell", "write \"notification\", \"channel\""),
    ("hush", "write \"suppress\""),
    ("untold", "write \"not yet sent\""),
    ("heed", "write \"apply\", \"observe\""),
    ("heeds", "write \"applies\", \"observes\""),
    ("mend", "write \"fix\", \"repair\""),
    ("mends", "write \"fixes\", \"repairs\""),
    ("mended", "write \"fixed\", \"repaired\""),
];

/// Reports a doc comment or API text that begins with one of [`FIRST_WORDS`].
pub fn first_word(file: &File, line: usize, text: &str) -> Option<Finding> {
    let word = text.trim_start().split(|c: char| !c.is_alphabetic()).next()?;
    let why = "a doc comment begins with a noun phrase or a third-person verb";
    FIRST_WORDS.contains(&word).then(|| file.finding(line, format!("begins with `{word}`"), why))
}

/// Reports the banned words in a text that begins on `line`. Code spans are skipped.
pub fn banned(file: &File, line: usize, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (line, text) in (line..).zip(text.split('\n')) {
        let text = text.split('`').step_by(2).collect::<Vec<_>>().join("`").to_lowercase();
        let words = BANNED_WORDS.iter().filter(|(word, _)| contains_word(&text, word));
        findings.extend(words.map(|(word, term)| file.finding(line, format!("\"{word}\""), term)));
    }
    findings
}

/// Returns true if `text` contains `word` with no letter directly before or after it.
fn contains_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::{formatted, tree};
    use super::*;

    #[test]
    fn banned_words_match_whole_words_in_any_case() {
        let file = &tree(&[("a.md", "")])[0];
        let text = "Somebody waits.\nIt is told, but nobodys bellow and `nobody` are not.\nA made-up user";
        let expected = ["a.md:3: \"somebody\"", "a.md:4: \"is told\"", "a.md:5: \"made-up\""];
        assert_eq!(formatted(&banned(file, 3, text)), expected);
    }

    #[test]
    fn first_word_is_reported_only_if_capitalized() {
        let file = &tree(&[("a.rs", "")])[0];
        let begins = |text| first_word(file, 1, text).is_some();
        assert!(begins(" Whose it is.") && begins("It."));
        assert!(!begins(" Item.") && !begins("of") && !begins(""));
    }
}
