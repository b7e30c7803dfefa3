//! Rules for crates: the diagram in ARCHITECTURE.md matches the `Cargo.toml` files, and only the store uses
//! database drivers.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::scan::{PieceKind, pieces};
use super::{File, Finding};

/// File with the Mermaid diagram of the crates. `bonds --> accounts` is a normal dependency, `platform -.->
/// verify` one of tests only.
const DIAGRAM_FILE: &str = "ARCHITECTURE.md";
const NORMAL: &str = "-->";
const FOR_TESTS: &str = "-.->";
const STORE: &str = "store";
/// Folder in which code may use database drivers directly, because it reads query plans.
const PLANS: &str = "crates/xtask/src/plans/";
const DRIVERS: &[&str] =
    &["rusqlite", "libsqlite3_sys", "sqlite", "sqlx", "tokio_postgres", "tokio_postgres_rustls", "postgres"];

/// Dependency between two crates of the workspace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Edge {
    from: String,
    arrow: &'static str,
    to: String,
}

/// Checks the `Cargo.toml` and the sources of each crate, and the diagram.
pub fn check(files: &[File]) -> Vec<Finding> {
    let manifests: Vec<_> =
        files.iter().filter(|f| f.krate().is_some() && f.name() == "Cargo.toml").collect();
    let sources = files
        .iter()
        .filter(|f| f.extension() == "rs" && f.krate() != Some(STORE) && !f.path.starts_with(PLANS));
    let mut findings: Vec<_> = sources.flat_map(source).collect();
    let mut declared = BTreeMap::new();
    for file in manifests {
        match file.text.parse::<Table>() {
            Ok(table) => collect_dependencies(file, &table, &mut declared, &mut findings),
            Err(e) => {
                findings.push(file.finding(
                    1,
                    format!("unreadable: {}", e.message()),
                    "cargo also parses the manifest",
                ));
            }
        }
    }
    let picture = files.iter().find(|file| file.path == DIAGRAM_FILE);
    let drawn = picture.map(edges).unwrap_or_default();
    for (Edge { from, to, .. }, (file, line)) in declared.iter().filter(|(edge, _)| !drawn.contains_key(edge))
    {
        let why = "the diagram in ARCHITECTURE.md lacks this dependency";
        findings.push(file.finding(*line, format!("{from} depends on {to}"), why));
    }
    for (Edge { from, arrow, to }, line) in drawn.iter().filter(|(edge, _)| !declared.contains_key(edge)) {
        let why = "no Cargo.toml lists this dependency";
        findings.extend(picture.map(|file| file.finding(*line, format!("{from} {arrow} {to}"), why)));
    }
    findings
}

/// Collects the dependencies of a crate on other crates of the workspace. Reports dependencies on database
/// drivers.
fn collect_dependencies<'f>(
    file: &'f File,
    table: &Table,
    declared: &mut BTreeMap<Edge, (&'f File, usize)>,
    findings: &mut Vec<Finding>,
) {
    let from = file.krate().unwrap_or_default();
    for (section, arrow) in
        [("dependencies", NORMAL), ("build-dependencies", NORMAL), ("dev-dependencies", FOR_TESTS)]
    {
        let dependencies = table.get(section).and_then(Value::as_table).into_iter().flatten();
        for dependency in dependencies.map(|(key, value)| renamed(key, value)) {
            let line = 1 + file.text.lines().position(|line| line.contains(dependency)).unwrap_or(0);
            let edge = |arrow, to: &str| Edge { from: from.to_owned(), arrow, to: to.to_owned() };
            if let Some(to) = folder(dependency).filter(|to| !declared.contains_key(&edge(NORMAL, to))) {
                declared.insert(edge(arrow, to), (file, line));
            }
            let has_drivers = [STORE, "xtask"].contains(&from);
            if !has_drivers && DRIVERS.contains(&dependency.replace('-', "_").as_str()) {
                findings.push(file.finding(line, dependency, "only crates/store names a database's driver"));
            }
        }
    }
}

/// Returns the package name of a dependency. It differs from `key` if the dependency is renamed.
fn renamed<'a>(key: &'a str, value: &'a Value) -> &'a str {
    value.get("package").and_then(Value::as_str).unwrap_or(key)
}

/// Returns the folder of the crate with this package name. `None` if it is not in the workspace.
fn folder(package: &str) -> Option<&str> {
    if package == "kith" { Some("server") } else { package.strip_prefix("kith-") }
}

/// Returns the edges of the diagram with their line numbers.
fn edges(picture: &File) -> BTreeMap<Edge, usize> {
    let lines = (1..).zip(picture.text.lines());
    let block = lines.skip_while(|(_, line)| *line != "```mermaid").take_while(|(_, line)| *line != "```");
    let edge = |line: &str| {
        let [from, arrow, to] = line.split_whitespace().collect::<Vec<_>>()[..] else { return None };
        let arrow = [NORMAL, FOR_TESTS].into_iter().find(|known| *known == arrow)?;
        Some(Edge { from: from.to_owned(), arrow, to: to.to_owned() })
    };
    block.filter_map(|(number, line)| Some((edge(line)?, number))).collect()
}

fn source(file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    for piece in pieces(&file.text).iter().filter(|piece| piece.kind == PieceKind::Code) {
        for (line, text) in piece.lines() {
            let mut words = text.split(|c: char| !(c.is_alphanumeric() || c == '_'));
            let named = words.find(|word| {
                ["rusqlite", "libsqlite3_sys", "tokio_postgres", "tokio_postgres_rustls", "sqlx"]
                    .contains(word)
            });
            if let Some(driver) = named {
                findings.push(file.finding(line, driver, "only crates/store names a database's driver"));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::tests::{formatted, tree};
    use super::*;

    #[test]
    fn differences_from_crate_diagram_are_reported() {
        let picture = "# A\n```mermaid\ngraph TD\n    server --> bonds\n    bonds --> store\n    \
                       platform -.-> verify\n    bonds --> verify\n```\n    bonds --> kernel\n";
        let found = check(&tree(&[
            ("ARCHITECTURE.md", picture),
            (
                "crates/bonds/Cargo.toml",
                "[package]\nname = \"kith-bonds\"\n[dependencies]\nkith-store = \"1\"\nk = { package = \"kith-kernel\" }\n\
                 [dev-dependencies]\nkith-store = \"1\"\n",
            ),
            ("crates/server/Cargo.toml", "[package]\nname = \"kith\"\n[dependencies]\nkith-bonds = \"1\"\n"),
            ("crates/xtask/Cargo.toml", "[package]\nname = \"kith-xtask\"\n[dependencies]\nkith = \"1\"\n"),
            ("crates/platform/Cargo.toml", "[package]\n[dev-dependencies]\nkith-verify = \"1\"\n"),
        ]));
        let expected = [
            "crates/bonds/Cargo.toml:5: bonds depends on kernel",
            "crates/xtask/Cargo.toml:2: xtask depends on server",
            "ARCHITECTURE.md:7: bonds --> verify",
        ];
        assert_eq!(formatted(&found), expected);
    }

    #[test]
    fn driver_outside_store_is_reported_in_code_only() {
        let use_it = "//! Not rusqlite.\nuse rusqlite::Connection;\n";
        let found = check(&tree(&[
            (
                "crates/platform/Cargo.toml",
                "[package]\nname = \"kith-platform\"\n[dependencies]\ntokio-postgres = \"1\"\n",
            ),
            ("crates/bonds/src/a.rs", use_it),
            ("tests/api/main.rs", use_it),
            ("crates/store/src/a.rs", use_it),
            ("crates/xtask/src/plans/a.rs", use_it),
            ("crates/xtask/src/a.rs", use_it),
        ]));
        let expected = [
            "crates/bonds/src/a.rs:2: rusqlite",
            "tests/api/main.rs:2: rusqlite",
            "crates/xtask/src/a.rs:2: rusqlite",
            "crates/platform/Cargo.toml:4: tokio-postgres",
        ];
        assert_eq!(formatted(&found), expected);
    }
}
