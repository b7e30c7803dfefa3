//! `cargo xtask mutants --smoke`: checks everything that a run needs, except for the program cargo-mutants.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::{PARTS, REASONS, Reason, reasons};
use crate::workspace::{cargo, succeeds};

/// Checks that the file patterns and test filters of each part match something. Also checks that the
/// functions of explained survivors still exist.
pub fn check(root: &Path) -> Result<()> {
    let sources = sources(root)?;
    for part in PARTS {
        for pattern in part.files {
            let matched = sources.keys().filter(|path| matches(pattern, path)).count();
            ensure!(matched > 0, "{}: no file is {pattern}", part.name);
            println!("{}: {matched} files are {pattern}", part.name);
        }
        let filters = part.tests.iter().skip_while(|word| **word != "--").skip(1);
        for filter in filters {
            let word = filter.trim_end_matches("::");
            let is_named = sources
                .iter()
                .any(|(path, text)| path.contains(word) || text.contains(&format!("fn {word}")));
            ensure!(is_named, "{}: no test is in a module named {filter}", part.name);
        }
    }
    let reasons = reasons(root)?;
    for Reason { mutant, explanation } in &reasons.survivor {
        let (file, what) = mutant.split_once(": ").with_context(|| format!("{mutant} names no file"))?;
        let text = sources.get(file).with_context(|| format!("{REASONS}: {file} does not exist"))?;
        let function = what.rsplit_once(" in ").map_or(what, |(_, function)| function);
        let name = function.rsplit("::").next().unwrap_or(function);
        let is_there = text.contains(&format!("fn {name}")) || text.contains(name);
        ensure!(is_there && !explanation.is_empty(), "{REASONS}: {name} does not exist in {file}");
    }
    println!("{REASONS}: {} survivors, each in an existing function", reasons.survivor.len());
    if succeeds(cargo()?.args(["mutants", "--version"])) {
        let mut list = cargo()?;
        list.args(["mutants", "--list"])
            .args(PARTS.iter().flat_map(|part| part.files).flat_map(|file| ["--file", file]));
        let listed = list.output().context("cannot run cargo-mutants")?;
        let count = String::from_utf8_lossy(&listed.stdout).lines().count();
        ensure!(listed.status.success() && count > 0, "cargo-mutants lists no change");
        println!("cargo-mutants lists {count} changes");
    } else {
        println!("cargo-mutants is not installed: no mutant was tested or listed");
    }
    Ok(())
}

/// Returns the text of all Rust files below `crates` and `tests`, by path from the root.
fn sources(root: &Path) -> Result<BTreeMap<String, String>> {
    let mut sources = BTreeMap::new();
    let mut folders = vec![root.join("crates"), root.join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root)?.to_string_lossy().into_owned();
                sources.insert(name, fs::read_to_string(&path)?);
            }
        }
    }
    Ok(sources)
}

/// Returns true if `path` matches a pattern of [`Part::files`]. A pattern is a file, or has the form
/// `FOLDER/**/*.rs`.
fn matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix("**/*.rs") {
        Some(folder) => path.starts_with(folder),
        None => path == pattern,
    }
}
