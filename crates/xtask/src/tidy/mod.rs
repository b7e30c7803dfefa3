//! `cargo xtask tidy`: checks rules of architecture and style. Each rule is a function from the file tree to
//! findings.
//!
//! Rules read the text of files and compile nothing, so they are fast. Rules that Rust's visibility or clippy
//! can enforce are not in this module.

mod circles;
mod files;
mod language;
mod layers;
mod scan;
mod words;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

/// File of the repository, with its text.
struct File {
    /// Path relative to the root of the repository, with `/` as separator.
    path: String,
    text: String,
}

impl File {
    fn extension(&self) -> &str {
        self.name().rsplit_once('.').map_or("", |(_, extension)| extension)
    }

    fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// Returns the folder of the crate that contains the file.
    fn krate(&self) -> Option<&str> {
        self.path.strip_prefix("crates/")?.split('/').next()
    }

    /// Returns true if the file belongs to a feature crate.
    fn is_of_feature(&self) -> bool {
        self.krate().is_some_and(|krate| !FOUNDATION.contains(&krate))
    }

    fn finding(&self, line: usize, what: impl Into<String>, why: &'static str) -> Finding {
        Finding { path: self.path.clone(), line, what: what.into(), why, warning: false }
    }
}

/// Violation of a rule, reported as an error or a warning.
struct Finding {
    path: String,
    line: usize,
    what: String,
    why: &'static str,
    warning: bool,
}

/// Crates that contain no features.
const FOUNDATION: &[&str] = &[
    "kernel",
    "store",
    "jobs",
    "consumers",
    "platform",
    "readiness",
    "verify",
    "checklist",
    "server",
    "xtask",
];
/// Names of folders that are not scanned.
const SKIPPED: &[&str] = &[".git", "target", "node_modules", "kith-data"];
const READ: &[&str] = &["rs", "md", "toml", "sql", "c", "yml"];
const CI: &str = ".ci/run";

/// Runs all rules and prints the findings. Fails if a finding is not just a warning.
pub fn tidy(root: &Path) -> Result<()> {
    let mut files = Vec::new();
    collect(root, root, &mut files)?;
    let findings = check(&files);
    for finding in &findings {
        let Finding { path, line, what, why, warning } = finding;
        let weight = if *warning { "warning: " } else { "" };
        eprintln!("{path}:{line}: {weight}{what}: {why}");
    }
    let errors = findings.iter().filter(|finding| !finding.warning).count();
    if errors > 0 {
        bail!("tidy found {errors} fault{} in {} files", if errors == 1 { "" } else { "s" }, files.len());
    }
    println!("tidy: {} files, no fault", files.len());
    Ok(())
}

fn check(files: &[File]) -> Vec<Finding> {
    let mut findings = layers::check(files);
    findings.extend(circles::check(files));
    findings.extend(files.iter().flat_map(files::check));
    findings.extend(files.iter().flat_map(language::check));
    findings.extend(files.iter().flat_map(words::check));
    findings.sort_by(|a, b| (a.warning, &a.path, a.line).cmp(&(b.warning, &b.path, b.line)));
    findings
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<File>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !SKIPPED.contains(&name.as_str()) {
            collect(root, &path, files)?;
        }
        let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
        let is_openapi = path.strip_prefix(root).is_ok_and(|path| path == Path::new(language::OPENAPI));
        if path.is_file() && (is_openapi || READ.contains(&extension.as_str())) {
            let text =
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            files.push(File { path: path.strip_prefix(root)?.to_string_lossy().into_owned(), text });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds a file tree for tests.
    pub(super) fn tree(files: &[(&str, &str)]) -> Vec<File> {
        files.iter().map(|(path, text)| File { path: (*path).into(), text: (*text).into() }).collect()
    }

    /// Formats findings as `path:line: what`.
    pub(super) fn formatted(findings: &[Finding]) -> Vec<String> {
        findings.iter().map(|f| format!("{}:{}: {}", f.path, f.line, f.what)).collect()
    }

    #[test]
    fn clean_tree_has_no_findings_and_errors_precede_warnings() {
        let long = format!("//! Long.\n{}", "fn f() {}\n".repeat(401));
        let found = check(&tree(&[("crates/a/src/long.rs", &long), ("crates/a/src/z.rs", "fn f() {}\n")]));
        assert_eq!(found.iter().map(|f| f.warning).collect::<Vec<_>>(), [false, true]);
        assert!(check(&tree(&[("crates/a/src/z.rs", "//! Tidy.\n")])).is_empty());
    }
}
