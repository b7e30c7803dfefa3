//! The wall between features: inside `crates/domain/src` a module uses only what another's `mod.rs` hands out.

use super::scan::{Kind, pieces};
use super::{File, Finding};

const FEATURES: &str = "crates/domain/src/";
const WHY: &str = "a module uses only what another module's mod.rs hands out";

/// Looks at every path in the sources of `domain`.
pub fn check(files: &[File]) -> Vec<Finding> {
    let sources: Vec<_> =
        files.iter().filter(|f| f.extension() == "rs" && f.path.starts_with(FEATURES)).collect();
    let all: Vec<_> = sources.iter().map(|f| place(f)).collect();
    let reaches_inside = |own: &[&str], path: &[&str]| match path {
        [other, inner, rest @ ..]
            if own.first() != Some(other) && all.iter().any(|p| p.first() == Some(other)) =>
        {
            all.iter().any(|p| p.starts_with(&[other, inner])) || (!rest.is_empty() && is_module_name(inner))
        }
        _ => false,
    };
    let mut findings = Vec::new();
    for (file, own) in sources.iter().zip(&all) {
        for (line, path) in paths(&file.text, own) {
            if reaches_inside(own, &path) {
                findings.push(file.finding(line, format!("crate::{}", path.join("::")), WHY));
            }
        }
    }
    findings
}

/// Where a file is in the tree of modules: `["bonds", "rows"]`.
fn place(file: &File) -> Vec<&str> {
    let inner =
        file.path.strip_prefix(FEATURES).and_then(|path| path.strip_suffix(".rs")).unwrap_or_default();
    inner.split('/').filter(|name| !["mod", "lib"].contains(name)).collect()
}

/// Types and constants begin with a capital letter; `_` is what is left of a wildcard.
fn is_module_name(segment: &str) -> bool {
    segment.starts_with(|c: char| c.is_lowercase())
}

/// Every path in the code, from the crate's root, with `{}` spread out.
fn paths<'a>(source: &'a str, own: &[&'a str]) -> Vec<(usize, Vec<&'a str>)> {
    let tokens = tokens(source);
    let mut paths = Vec::new();
    let mut inline: Vec<(usize, &str)> = Vec::new();
    let (mut at, mut depth) = (0, 0);
    while at < tokens.len() {
        let before = at.checked_sub(1).map(|i| tokens[i].1);
        match tokens[at].1 {
            "{" => depth += 1,
            "}" => {
                depth -= 1_usize.min(depth);
                inline.retain(|(opened, _)| *opened < depth + 1);
            }
            name if before == Some("mod") && tokens.get(at + 1).is_some_and(|t| t.1 == "{") => {
                inline.push((depth + 1, name));
            }
            name if starts_path(name)
                && before != Some("::")
                && tokens.get(at + 1).is_some_and(|t| t.1 == "::") =>
            {
                let base: Vec<_> = own.iter().copied().chain(inline.iter().map(|(_, name)| *name)).collect();
                let mut leaves = Vec::new();
                at = tree(&tokens, at, &Vec::new(), &mut leaves);
                paths.extend(leaves.into_iter().map(|(line, path)| (line, absolute(&base, &path))));
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    paths
}

fn starts_path(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Reads one path or use-tree at `at`, adds its leaves, and returns where it ends.
fn tree<'a>(
    tokens: &[(usize, &'a str)],
    mut at: usize,
    prefix: &[&'a str],
    leaves: &mut Vec<(usize, Vec<&'a str>)>,
) -> usize {
    let mut path = prefix.to_vec();
    let line = tokens[at].0;
    while let Some((_, token)) = tokens.get(at) {
        if *token == "{" {
            at += 1;
            while tokens.get(at).is_some_and(|t| t.1 != "}") {
                let begins = starts_path(tokens[at].1) || tokens[at].1 == "*";
                let is_rename = at > 0 && tokens[at - 1].1 == "as";
                at = if begins && !is_rename && tokens[at].1 != "as" {
                    tree(tokens, at, &path, leaves)
                } else {
                    at + 1
                };
            }
            return at + 1;
        }
        if !starts_path(token) && *token != "*" {
            break;
        }
        path.push(*token);
        at += 1;
        if tokens.get(at).is_none_or(|t| t.1 != "::") {
            break;
        }
        at += 1;
    }
    leaves.push((line, path));
    at
}

/// The path from the crate's root, as seen from the module `base`. One that starts with a feature's own name is
/// taken as that feature: it can only have been brought in by a `use`.
fn absolute<'a>(base: &[&'a str], path: &[&'a str]) -> Vec<&'a str> {
    let mut from = match path.first() {
        Some(&"super" | &"self") => base.to_vec(),
        _ => Vec::new(),
    };
    for segment in path {
        match *segment {
            "crate" | "self" => {}
            "super" => drop(from.pop()),
            name => from.push(name),
        }
    }
    from
}

/// Words, `::`, braces and single other characters of the code, each with its line.
fn tokens(source: &str) -> Vec<(usize, &str)> {
    let mut tokens = Vec::new();
    for piece in pieces(source).iter().filter(|piece| piece.kind == Kind::Code) {
        for (line, text) in piece.lines() {
            let mut rest = text.trim_start();
            while let Some(first) = rest.chars().next() {
                let is_word = |c: char| c.is_alphanumeric() || c == '_';
                let length = match first {
                    _ if is_word(first) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
                    ':' if rest.starts_with("::") => 2,
                    _ => first.len_utf8(),
                };
                tokens.push((line, &rest[..length]));
                rest = rest[length..].trim_start();
            }
        }
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::super::tests::{said, tree};
    use super::*;

    fn in_bonds(source: &str) -> Vec<String> {
        said(&check(&tree(&[
            ("crates/domain/src/accounts/mod.rs", "//! a"),
            ("crates/domain/src/accounts/rows.rs", "//! a"),
            ("crates/domain/src/bonds/rows.rs", "//! a"),
            ("crates/domain/src/bonds/commands.rs", source),
        ])))
    }

    #[test]
    fn a_path_into_another_feature_is_found_however_it_is_written() {
        for reach in [
            "use crate::accounts::rows;",
            "use crate::accounts::rows::find;",
            "use crate::accounts::{User, rows::find as look};",
            "use crate::{accounts::{model::{Email}}};",
            "use super::super::accounts::rows::*;",
            "fn f() { crate::accounts::rows::find() }",
            "use crate::accounts;\nfn f() { accounts::rows::find() }",
            "mod tests { use super::super::super::accounts::rows; }",
        ] {
            assert_eq!(in_bonds(reach).len(), 1, "{reach}");
        }
    }

    #[test]
    fn what_another_hands_out_and_what_is_ones_own_is_free() {
        for free in [
            "use crate::accounts::{self, User, find_user};\nfn f() { accounts::find_user(); User::named(\"a\"); }",
            "fn f() -> crate::accounts::AccountError { crate::accounts::AccountError::Gone }",
            "use crate::bonds::rows::find;\nuse super::rows;\nuse self::inner::x;",
            "// use crate::accounts::rows;\nconst A: &str = \"crate::accounts::rows::x\";",
            "mod a { mod b { use super::super::super::rows; } }\nuse super::rows::find;",
            "use std::collections::btree_map::Entry;",
        ] {
            assert_eq!(in_bonds(free), Vec::<String>::new(), "{free}");
        }
    }
}
