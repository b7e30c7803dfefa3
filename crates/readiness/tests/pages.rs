//! Tests that the generated pages in `docs` are up to date.

use std::fs;
use std::path::Path;

use kith_readiness::{Catalogue, RowOutcome};

const CATALOGUE: &str = include_str!("../../../docs/catalogue.md");
const READINESS: &str = include_str!("../../../docs/READINESS.md");

#[test]
fn catalogue_page_is_up_to_date() {
    let page = Catalogue::built_in().to_markdown();
    assert!(CATALOGUE.trim_end() == page, "run `kith verify --list > docs/catalogue.md`");
}

/// DOC-11: `docs/READINESS.md` is the report of a run, and contains exactly the rows of the catalogue.
#[test]
fn readiness_page_matches_catalogue() {
    let rows: Vec<Vec<_>> = READINESS
        .lines()
        .filter(|line| {
            line.starts_with("| ") && line.split('|').nth(1).is_some_and(|cell| cell.contains('-'))
        })
        .filter(|line| !line.contains("---"))
        .map(|line| {
            line.replace("\\|", "\u{1}").split('|').map(|cell| cell.trim().replace('\u{1}', "|")).collect()
        })
        .collect();
    let catalogue = Catalogue::built_in();
    let again = "run `kith verify --format markdown > docs/READINESS.md` against the demo";
    assert_eq!(rows.len(), catalogue.rows.len(), "{again}");
    let outcomes = RowOutcome::ALL.map(RowOutcome::name);
    for (shown, row) in rows.iter().zip(&catalogue.rows) {
        let [_, id, gate, result, requirement, found, _] = &shown[..] else { panic!("{shown:?}") };
        let expected =
            (&*row.id, format!("{:?}", row.gate).to_lowercase(), row.requirement.replace('<', "&lt;"));
        assert_eq!((&**id, gate.clone(), requirement.clone()), expected, "{again}");
        assert!(outcomes.contains(&&**result), "{id}: {result}");
        assert!(!found.is_empty(), "{id}");
        assert!(row.awaits.is_none() || result == "not yet" || result == "waived", "{id}: {result}");
    }
    for part in ["* Build: ", "* Configuration: sha256:", "* Measured: ", "Score ", "gate is"] {
        assert!(READINESS.contains(part), "{part}");
    }
}

/// Adds the names of all functions in Rust files below `folder` to `names`.
fn collect_functions(folder: &Path, names: &mut String) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            collect_functions(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let functions = text.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next());
            functions.for_each(|name| names.extend([name, "\n"]));
        }
    }
}

#[test]
fn tests_named_in_catalogue_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut names = String::new();
    ["crates", "tests/api"].iter().for_each(|folder| collect_functions(&root.join(folder), &mut names));
    for row in &Catalogue::built_in().rows {
        for test in &row.tests {
            // The name of a module ends with `::` or contains no underscore.
            let Some(name) = test.split("::").last().filter(|name| name.contains('_')) else { continue };
            assert!(names.contains(name), "{}: no test is named {test}", row.id);
        }
    }
}
