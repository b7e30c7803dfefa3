//! Reads the text of tests and migrations. Statements that occur in it are not judged.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::judge::collapse_whitespace;

/// Returns the text of all tests and migrations below `root`, with white space collapsed.
pub fn test_sources(root: &Path) -> Result<String> {
    let mut texts = String::new();
    for folder in ["tests", "crates"] {
        collect(&root.join(folder), folder == "tests", &mut texts)?;
    }
    Ok(texts)
}

fn collect(folder: &Path, all: bool, texts: &mut String) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() {
            collect(&path, all || matches!(name, "tests" | "testing" | "benches" | "migrations"), texts)?;
        } else if all || name.ends_with("tests.rs") {
            let text = fs::read_to_string(&path).unwrap_or_default();
            texts.push_str(&collapse_whitespace(&text.replace("\\\"", "\"")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_of_tests_and_migrations_are_collected() {
        let folder = tempfile::tempdir().unwrap();
        for inner in ["tests", "crates/a/src", "crates/a/migrations"] {
            fs::create_dir_all(folder.path().join(inner)).unwrap();
        }
        let write = |file: &str, text: &str| fs::write(folder.path().join(file), text).unwrap();
        write("tests/a.rs", "q.one(\"SELECT 1\n    FROM \\\"a\\\"\")");
        write("crates/a/src/rows.rs", "SELECT 2");
        write("crates/a/migrations/1.sql", "SELECT 3;");
        let texts = test_sources(folder.path()).unwrap();
        assert!(texts.contains(&collapse_whitespace("SELECT 1 FROM  \"a\"")) && texts.contains("SELECT 3"));
        assert!(!texts.contains("SELECT 2"));
    }
}
