//! Rules for files: they begin with a module comment, are not too long, have specific names, and contain no
//! stray white space.

use super::{File, Finding};

const WARNING_LINES: usize = 400;
const TOO_LONG: usize = 800;
const VAGUE: &[&str] = &["util", "utils", "helper", "helpers", "common", "manager", "service", "misc"];

/// Checks one file against all rules of this module.
pub fn check(file: &File) -> Vec<Finding> {
    let mut findings = white_space(file);
    if file.extension() == "rs" {
        findings.extend(module_comment(file));
        findings.extend(length(file));
        findings.extend(name(file));
    }
    findings
}

fn module_comment(file: &File) -> Option<Finding> {
    let why = "a file begins with a `//!` comment that states its responsibility";
    (!file.text.starts_with("//!")).then(|| file.finding(1, "no `//!` line", why))
}

fn length(file: &File) -> Option<Finding> {
    let lines = file.text.lines().count();
    let why = "split the file by responsibility";
    let finding = || file.finding(lines, format!("{lines} lines"), why);
    (lines > WARNING_LINES).then(|| Finding { warning: lines <= TOO_LONG, ..finding() })
}

fn name(file: &File) -> Option<Finding> {
    let mut names = file.path.split('/').map(|part| part.trim_end_matches(".rs"));
    let vague = names.find(|name| VAGUE.contains(name))?;
    Some(file.finding(1, format!("a module named `{vague}`"), "name it after its content"))
}

fn white_space(file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    let why = "invisible white space";
    for (line, text) in (1..).zip(file.text.split('\n')) {
        if text.contains('\t') {
            findings.push(file.finding(line, "a tab", why));
        }
        if text.ends_with([' ', '\r']) {
            findings.push(file.finding(line, "white space at the end of a line", why));
        }
    }
    if !file.text.is_empty() && !file.text.ends_with('\n') {
        let last = file.text.lines().count();
        findings.push(file.finding(last, "no newline at the end of the file", "a file ends with a newline"));
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
    fn missing_module_comment_is_reported() {
        assert_eq!(found("crates/a/src/b.rs", "use c::d;\n"), ["crates/a/src/b.rs:1: no `//!` line"]);
        assert_eq!(found("docs/b.md", "# B\n"), [""; 0]);
    }

    #[test]
    fn file_over_400_lines_warns_and_over_800_lines_fails() {
        let of = |lines: usize| format!("//! a\n{}", "\n".repeat(lines - 1));
        let judge =
            |lines| check(&tree(&[("a.rs", &of(lines))])[0]).iter().map(|f| f.warning).collect::<Vec<_>>();
        assert_eq!(judge(400), [false; 0]);
        assert_eq!(judge(401), [true]);
        assert_eq!(judge(800), [true]);
        assert_eq!(judge(801), [false]);
    }

    #[test]
    fn vague_file_and_folder_names_are_reported() {
        assert_eq!(
            found("crates/a/src/utils.rs", "//! a\n"),
            ["crates/a/src/utils.rs:1: a module named `utils`"]
        );
        assert_eq!(
            found("tests/common/mod.rs", "//! a\n"),
            ["tests/common/mod.rs:1: a module named `common`"]
        );
    }

    #[test]
    fn stray_white_space_is_reported() {
        let expected = ["a.sql:1: a tab", "a.sql:2: white space at the end of a line"];
        assert_eq!(found("a.sql", "a\tb\nc \n"), expected);
        assert_eq!(found("a.md", "a"), ["a.md:1: no newline at the end of the file"]);
    }
}
