//! Reports import cycles: two files of one folder that `use` each other.
//!
//! An import counts for the file in which its path ends. Imports through re-exports of a parent, between a
//! folder and files inside it, and in tests do not count.

use std::collections::{BTreeMap, BTreeSet};

use super::scan::{PieceKind, pieces};
use super::{File, Finding};

/// Pairs of files that may import each other, each with the reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    (
        "crates/server/src/control/mod.rs",
        "crates/server/src/start.rs",
        "without a server, a command opens the database itself",
    ),
    (
        "crates/store/src/audit.rs",
        "crates/store/src/sequencer.rs",
        "entries are sealed, and verified by their seals",
    ),
    (
        "crates/xtask/src/bench/jobs/contenders.rs",
        "crates/xtask/src/bench/jobs/rows.rs",
        "each names the other in one table",
    ),
];

/// Path of a module within its crate. Empty for the root of the crate.
type ModulePath = Vec<String>;

/// Reports pairs of sibling files below `src` that import each other, in each crate.
pub fn check(files: &[File]) -> Vec<Finding> {
    let mut crates: BTreeMap<&str, BTreeMap<ModulePath, &File>> = BTreeMap::new();
    for file in files {
        if let Some((krate, path)) = module_path(file) {
            crates.entry(krate).or_default().insert(path, file);
        }
    }
    crates.values().flat_map(circles).collect()
}

fn circles(modules: &BTreeMap<ModulePath, &File>) -> Vec<Finding> {
    let used = |path: &ModulePath, file: &File| -> BTreeSet<ModulePath> {
        imports(&code(file)).into_iter().filter_map(|import| file_of(modules, path, import)).collect()
    };
    let used: BTreeMap<_, _> = modules.iter().map(|(path, file)| (path, used(path, file))).collect();
    let mut found = Vec::new();
    for (path, file) in modules {
        for other in used[path].iter().filter(|other| *other > path && is_sibling(path, other)) {
            let pair = (&*file.path, &*modules[other].path);
            let is_exception = EXCEPTIONS.iter().any(|(a, b, _)| pair == (*a, *b) || pair == (*b, *a));
            if used[other].contains(path) && !is_exception {
                let why = "move the shared code into a separate file";
                found.push(file.finding(1, format!("a circle with {}", modules[other].path), why));
            }
        }
    }
    found
}

fn is_sibling(one: &[String], other: &[String]) -> bool {
    one.len() == other.len()
        && one.split_last().map(|(_, parent)| parent) == other.split_last().map(|(_, parent)| parent)
}

/// Returns the crate and the module path of a file. `None` unless the file belongs to shipped code.
fn module_path(file: &File) -> Option<(&str, ModulePath)> {
    let krate = file.krate()?;
    let path = file.path.strip_prefix(&format!("crates/{krate}/src/"))?.strip_suffix(".rs")?;
    let mut path: ModulePath = path.split('/').map(str::to_owned).collect();
    let name = path.last()?;
    if name == "tests" || name.ends_with("_tests") || ["fuzzing", "testing"].contains(&&**name) {
        return None;
    }
    if ["mod", "lib", "main"].contains(&&**name) {
        path.pop();
    }
    Some((krate, path))
}

/// Returns the code of a file without comments, literals and the test module at its end.
fn code(file: &File) -> String {
    let all = pieces(&file.text);
    let code: String =
        all.iter().filter(|piece| piece.kind == PieceKind::Code).map(|piece| piece.text).collect();
    let end = code.find("#[cfg(test)]\nmod tests").unwrap_or(code.len());
    code[..end].to_owned()
}

/// Returns all paths that the code imports.
fn imports(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for statement in code.split(';') {
        let is_start = |line: &&str| {
            let line = line.trim_start();
            line.starts_with("use ") || line.starts_with("pub") && line.contains(" use ")
        };
        let Some(start) = statement.lines().find(is_start) else { continue };
        let from = start.as_ptr() as usize - statement.as_ptr() as usize;
        if let Some((_, tree)) = statement[from..].split_once("use ") {
            expand(&[], tree, &mut found);
        }
    }
    found
}

/// Resolves the braces of a `use` and adds each complete path to `found`.
fn expand(before: &[String], tree: &str, found: &mut Vec<Vec<String>>) {
    for item in split(tree) {
        let (path, inner) = match item.split_once('{') {
            Some((path, inner)) => (path, Some(inner.trim_end().trim_end_matches('}'))),
            None => (item.split(" as ").next().unwrap_or_default(), None),
        };
        let names = path.split("::").map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned);
        let path: Vec<String> = before.iter().cloned().chain(names).collect();
        match inner {
            Some(inner) => expand(&path, inner, found),
            None if path.is_empty() => {}
            None => found.push(path),
        }
    }
}

/// Splits a list at its commas, except those inside braces.
fn split(tree: &str) -> Vec<&str> {
    let (mut depth, mut from, mut items) = (0, 0, Vec::new());
    for (at, character) in tree.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(&tree[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    items.push(&tree[from..]);
    items
}

/// Returns the module whose file defines the last part of an imported path that is a module.
fn file_of(
    modules: &BTreeMap<ModulePath, &File>,
    importing: &[String],
    import: Vec<String>,
) -> Option<ModulePath> {
    let ups = import.iter().take_while(|name| *name == "super").count();
    let mut path = match import.first()?.as_str() {
        "crate" => import[1..].to_vec(),
        "super" => [importing.get(..importing.len().checked_sub(ups)?)?, &import[ups..]].concat(),
        "self" => [importing, &import[1..]].concat(),
        _ => return None,
    };
    while !path.is_empty() && !modules.contains_key(&path) {
        path.pop();
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{formatted, tree};
    use super::*;

    #[test]
    fn import_cycle_between_sibling_files_is_reported() {
        let found = check(&tree(&[
            ("crates/bonds/src/a.rs", "use std::fmt;\nuse crate::{\n    b::{self, B},\n    c as d,\n};\n"),
            ("crates/bonds/src/b.rs", "//! b\npub use super::a::A;\n"),
            ("crates/bonds/src/c.rs", "use crate::b;\n"),
            ("crates/bonds/src/x/mod.rs", "mod y;\nuse y::Y;\n"),
            ("crates/bonds/src/x/y.rs", "use super::X;\nfn f() {\n    use super::z::Z;\n}\n"),
            ("crates/bonds/src/x/z.rs", "use super::y::{inner::Y};\n"),
        ]));
        let expected = [
            "crates/bonds/src/a.rs:1: a circle with crates/bonds/src/b.rs",
            "crates/bonds/src/x/y.rs:1: a circle with crates/bonds/src/x/z.rs",
        ];
        assert_eq!(formatted(&found), expected);
    }

    #[test]
    fn tests_re_exports_and_other_crates_form_no_import_cycle() {
        let found = check(&tree(&[
            ("crates/bonds/src/lib.rs", "pub use a::A;\npub use b::B;\n"),
            (
                "crates/bonds/src/a.rs",
                "// use crate::b;\nuse crate::B;\n#[cfg(test)]\nmod tests {\n    use crate::b;\n}\n",
            ),
            ("crates/bonds/src/b.rs", "use crate::a::A;\n"),
            ("crates/bonds/src/a_tests.rs", "use crate::b;\nuse super::b;\n"),
            ("crates/store/src/a.rs", "use crate::b;\n"),
        ]));
        assert_eq!(formatted(&found), [""; 0]);
    }
}
