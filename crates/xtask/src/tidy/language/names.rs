//! Rules for names in code: reports words for which the field has a better term.

use std::collections::BTreeSet;

use super::super::scan::{PieceKind, pieces};
use super::super::{File, Finding};

/// Banned parts of names in snake case, each with advice on what to write instead. `TellNobody`, for example,
/// has the parts `tell` and `nobody`.
const PARTS: &[(&str, &str)] = &[
    ("told", "write `outcome`, `sent`, `reported`"),
    ("untold", "write `unsent`, `unreported`"),
    ("heard", "write `outcome`, `received`"),
    ("upkeep", "write `maintenance`"),
    ("upkept", "write `maintained`, `MaintenanceOutcome`"),
    ("hurry", "write `run_now`"),
    ("relived", "write `revived`, `replayed`"),
    ("hush", "write `suppress`"),
    ("rung", "write `notified`, `step`"),
    ("bell", "write `listener`, `channel`, `notification`"),
    ("bells", "write `listeners`, `channels`, `notifications`"),
    ("one_less", "write `decrement`"),
    ("give_up", "write `abandon`, `evict`, `bury`"),
    ("gives_up", "write `abandons`, `evicts`, `is_dead`"),
    ("gave_up", "write `abandoned`, `timed_out`"),
    ("given_up", "write `abandoned`, `evicted`, `dead`"),
    ("close_door", "write `cancel_pending`"),
    ("door", "write `block`, `entry`, `endpoint`"),
    ("made_up", "write `synthetic`"),
    ("claim_to_be_oneself", "write `verify_current_password`"),
    ("oneself", "write `self`, `own`"),
    ("whoever", "write `user`, `caller`, `owner`"),
    ("whom", "write `recipient`"),
    ("somebody", "write `user`, `caller`, `owner`"),
    ("someone", "write `user`, `caller`, `owner`"),
    ("anybody", "write `anonymous`, `any_user`"),
    ("everybody", "write `all_users`, `all_clients`"),
    ("nobody", "write `no_user`, `unknown_user`, `anonymous`"),
    ("campaign", "write `acquire_leadership`, `election`"),
    ("strike", "write `inject`, `matches`"),
    ("strikes", "write `injects`, `matches`"),
    ("fate", "write `outcome`, `result`"),
    ("fare", "write `state`, `status`"),
    ("fares", "write `state`, `status`"),
    ("fared", "write `outcome`, `STATUS`"),
    ("seam", "write `override`, `hook`"),
    ("seams", "write `overrides`, `hooks`"),
    ("spare", "write `free`, `reserve`"),
    ("anew", "write `new`, `again`, `reenqueued`"),
    ("most", "write `max`, `limit`"),
];

/// Sequences that are plain English in test names and therefore allowed, although they contain a banned part.
const ALLOWED_SEQUENCES: &[&str] = &["at_most"];

/// Complete names that are banned, each with advice on what to write instead.
const WHOLE_NAMES: &[(&str, &str)] = &[
    ("Kept", "name what is stored: `StoredItem`, `RetainedRow`"),
    ("Gone", "write `Removed`, `Deleted`, `Disconnected`"),
    ("Owned", "name what is owned: `OwnedLease`"),
    ("Doing", "write `Activity`, `CurrentOperation`"),
    ("Asked", "write `Request`, `Command`"),
    ("tell", "write `record`, `send`, `report`"),
    ("ring", "write `notify`"),
    ("rings", "write `notifications`"),
];

/// Parts of constant names for which there is a conventional word, each with advice on what to write instead.
const CONSTANT_PARTS: &[(&str, &str)] = &[
    ("most", "write `MAX_`"),
    ("longest", "write `MAX_`"),
    ("largest", "write `MAX_`"),
    ("least", "write `MIN_`"),
    ("shortest", "write `MIN_`"),
    ("kept", "write `RETENTION_` or `RETAINED_`"),
];

/// Exceptions: the beginning of a path, a name that is allowed under it, and the reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("", "Nobody", "value of the API: `accepts_requests_from` is `nobody`"),
    ("crates/automation/src/callbacks/", "Gone", "HTTP status 410 Gone"),
];

/// Checks the names in a source file. Each name is reported once, at its first occurrence. Names after `.` or
/// `::` are skipped, because they are checked where they are declared.
pub fn check(file: &File) -> Vec<Finding> {
    let mut seen = BTreeSet::new();
    let mut findings = Vec::new();
    for piece in pieces(&file.text).iter().filter(|piece| piece.kind == PieceKind::Code) {
        for (line, text) in piece.lines() {
            for name in declared(text).filter(|name| seen.insert(*name)) {
                let Some((word, term)) = banned(name).filter(|_| !is_exception(file, name)) else { continue };
                findings.push(file.finding(line, format!("\"{word}\" in the name `{name}`"), term));
            }
        }
    }
    findings
}

/// Returns the identifiers in a line of code, except those that follow `.` or `::`.
fn declared(code: &str) -> impl Iterator<Item = &str> {
    let mut at = 0;
    code.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(move |name| {
        let before = code[..at].trim_end();
        at += name.len() + code[at + name.len()..].chars().next().map_or(0, char::len_utf8);
        let is_use = before.ends_with("::") || (before.ends_with('.') && !before.ends_with(".."));
        name.starts_with(|c: char| c.is_alphabetic() || c == '_') && !is_use
    })
}

fn is_exception(file: &File, name: &str) -> bool {
    EXCEPTIONS.iter().any(|(path, exception, _)| file.path.starts_with(path) && *exception == name)
}

/// Returns the banned word that a name contains, with advice on what to write instead.
fn banned(name: &str) -> Option<(&'static str, &'static str)> {
    if let Some(found) = WHOLE_NAMES.iter().find(|(whole, _)| *whole == name) {
        return Some(*found);
    }
    let mut parts = format!("_{}_", snake_case(name));
    for allowed in ALLOWED_SEQUENCES {
        parts = parts.replace(&format!("_{allowed}_"), "__");
    }
    let is_constant = !name.contains(|c: char| c.is_lowercase());
    let constant_parts = if is_constant { CONSTANT_PARTS } else { &[] };
    constant_parts.iter().chain(PARTS).find(|(part, _)| contains_part(&parts, part)).copied()
}

/// Returns true if `parts`, which begins and ends with `_`, contains `part` between two `_`.
fn contains_part(parts: &str, part: &str) -> bool {
    parts
        .match_indices(part)
        .any(|(at, _)| parts[..at].ends_with('_') && parts[at + part.len()..].starts_with('_'))
}

/// Converts `CamelCase` and `SCREAMING_CASE` to `snake_case`.
fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    let mut was_lowercase = false;
    for c in name.chars() {
        if c.is_uppercase() && was_lowercase {
            snake.push('_');
        }
        was_lowercase = c.is_lowercase() || c.is_numeric();
        snake.extend(c.to_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::{formatted, tree};
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        formatted(&check(&tree(&[(path, text)])[0]))
    }

    #[test]
    fn banned_parts_are_reported_in_every_kind_of_name() {
        let source = "//! a\nmod upkeep;\nstruct ToldUser {\n    is_made_up: bool,\n}\nenum A {\n    Nobody,\n    \
                      AskNobody,\n}\n#[test]\nfn jobs_are_given_up() {}\nfn give_up(most_rows: u8) {}\n";
        let expected = [
            "a.rs:2: \"upkeep\" in the name `upkeep`",
            "a.rs:3: \"told\" in the name `ToldUser`",
            "a.rs:4: \"made_up\" in the name `is_made_up`",
            "a.rs:8: \"nobody\" in the name `AskNobody`",
            "a.rs:11: \"given_up\" in the name `jobs_are_given_up`",
            "a.rs:12: \"give_up\" in the name `give_up`",
            "a.rs:12: \"most\" in the name `most_rows`",
        ];
        assert_eq!(found("a.rs", source), expected);
    }

    #[test]
    fn word_banned_as_whole_name_is_allowed_as_part() {
        let source =
            "//! a\nstruct Kept;\nfn f(kept: OwnedLease, string: Owned) {}\nfn ring(ring_buffer: u8) {}\n";
        let expected = [
            "a.rs:2: \"Kept\" in the name `Kept`",
            "a.rs:3: \"Owned\" in the name `Owned`",
            "a.rs:4: \"ring\" in the name `ring`",
        ];
        assert_eq!(found("a.rs", source), expected);
    }

    #[test]
    fn uses_literals_and_parts_of_words_are_not_reported() {
        let source = "//! told\nlet a = \"told\"; // told\nCow::Owned(b.told); (0..most);\nfn almost_at_most_bellow() {}\n";
        assert_eq!(found("a.rs", source), ["a.rs:3: \"most\" in the name `most`"]);
    }

    #[test]
    fn name_is_reported_once_per_file() {
        assert_eq!(found("a.rs", "//! a\nlet told = 1;\nf(told);\n").len(), 1);
    }

    #[test]
    fn exception_applies_only_under_its_path() {
        let source = "//! a\nenum A {\n    Gone,\n}\n";
        assert_eq!(found("crates/automation/src/callbacks/a.rs", source), [""; 0]);
        assert_eq!(
            found("crates/bonds/src/a.rs", source),
            ["crates/bonds/src/a.rs:3: \"Gone\" in the name `Gone`"]
        );
    }

    #[test]
    fn unconventional_words_in_constant_names_are_reported() {
        let source = "//! a\nconst MOST_ROWS: usize = 1;\nconst MOSTLY: u8 = 1;\nconst KEPT_MS: u8 = 1;\nfn kept_ms() {}\n";
        let expected = ["a.rs:2: \"most\" in the name `MOST_ROWS`", "a.rs:4: \"kept\" in the name `KEPT_MS`"];
        assert_eq!(found("a.rs", source), expected);
    }
}
