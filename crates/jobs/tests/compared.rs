//! Checks of `docs/jobs-compared.md`: the tests that it names exist, for each cell of Kith and for each
//! complaint.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const PAGE: &str = include_str!("../../../docs/jobs-compared.md");
/// Folders that contain tests.
const PLACES: &[&str] = &["crates/jobs", "crates/automation", "crates/platform", "tests/api"];
/// Macros that turn each listed name into a test for every database.
const LISTS: &[&str] = &["contract! {", "on_every_engine! {"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Returns the names of the tests in a file.
fn tests_of(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let (mut is_test, mut is_listed) = (false, false);
    for line in text.lines().map(str::trim) {
        if is_listed {
            is_listed = !line.ends_with('}');
            let words = line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            names.extend(words.filter(|word| !word.is_empty()).map(str::to_owned));
        } else if LISTS.iter().any(|list| line.ends_with(list)) {
            is_listed = true;
        } else if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some(rest) = line.strip_prefix("async fn ").or(line.strip_prefix("fn ")) {
            if is_test && let Some((name, _)) = rest.split_once('(') {
                names.insert(name.to_owned());
            }
            is_test = false;
        }
    }
    names
}

fn all_tests() -> BTreeSet<String> {
    let mut files = Vec::new();
    PLACES.iter().for_each(|place| rust_files(&root().join(place), &mut files));
    files.iter().flat_map(|file| tests_of(&fs::read_to_string(file).unwrap())).collect()
}

/// Returns the names in backquotes, except commands and paths.
fn named(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).filter(|name| !name.contains([' ', '/', '.'])).collect()
}

/// Returns the cells of each row of the tables below `heading`, without the header rows.
fn lines(heading: &str) -> Vec<Vec<&'static str>> {
    let part = PAGE.split("\n## ").find(|part| part.starts_with(heading)).unwrap_or_default();
    let rows = part.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

#[test]
fn each_kith_cell_names_existing_test() {
    let tests = all_tests();
    let headings: Vec<_> = PAGE.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(headings.last(), Some(&"Twenty complaints"));
    let mut cells = 0;
    for heading in &headings[..headings.len() - 1] {
        for line in lines(heading) {
            assert_eq!(line.len(), 8, "{line:?}");
            let names = named(line[1]);
            assert!(!names.is_empty(), "no test for \"{}\"", line[0]);
            for name in names {
                assert!(tests.contains(name), "\"{}\" names `{name}`, which is not a test", line[0]);
            }
            cells += 1;
        }
    }
    assert!(cells >= 40, "{cells} rows");
}

#[test]
fn each_of_the_twenty_complaints_has_a_test() {
    let tests = all_tests();
    let complaints = lines("Twenty complaints");
    assert_eq!(complaints.len(), 20);
    for (number, line) in (1..).zip(&complaints) {
        assert_eq!(line[0], number.to_string());
        let names = named(line[3]);
        assert!(!names.is_empty(), "no test for \"{}\"", line[1]);
        for name in names {
            assert!(tests.contains(name), "complaint {number} names `{name}`, which is not a test");
        }
    }
}

#[test]
fn non_test_names_are_not_matched() {
    let text = "contract! {\n    one\n    two\n}\n#[test]\nfn three() {}\nfn four() {}\n    #[tokio::test(flavor = \"x\")]\n    async fn five() {}\n";
    let names: Vec<_> = tests_of(text).into_iter().collect();
    assert_eq!(names, ["five", "one", "three", "two"]);
}
