//! The wall between crates: who may depend on whom, and that only the store names a database's driver.

use toml::{Table, Value};

use super::scan::{Kind, pieces};
use super::{File, Finding};

/// From the ground up; a crate depends only on those before it.
const LAYERS: &[&str] = &[
    "kith-kernel",
    "kith-checklist",
    "kith-store",
    "kith-jobs",
    "kith-readiness",
    "kith-verify",
    "kith-platform",
    "kith-domain",
    "kith",
];
const XTASK: &str = "kith-xtask";
const XTASK_USES: &[&str] = &["kith-kernel", "kith-checklist", "kith-store"];
const STORE: &str = "store";
/// Folder that asks the databases for their plans without the store.
const PLANS: &str = "crates/xtask/src/plans/";
const DRIVERS: &[&str] =
    &["rusqlite", "libsqlite3_sys", "sqlite", "sqlx", "tokio_postgres", "tokio_postgres_rustls", "postgres"];

/// Looks at each crate's `Cargo.toml` and sources.
pub fn check(files: &[File]) -> Vec<Finding> {
    let manifests = files.iter().filter(|f| f.krate().is_some() && f.name() == "Cargo.toml");
    let sources = files
        .iter()
        .filter(|f| f.extension() == "rs" && f.krate() != Some(STORE) && !f.path.starts_with(PLANS));
    manifests.flat_map(manifest).chain(sources.flat_map(source)).collect()
}

fn manifest(file: &File) -> Vec<Finding> {
    let table = match file.text.parse::<Table>() {
        Ok(table) => table,
        Err(e) => return vec![file.finding(1, format!("unreadable: {}", e.message()), "cargo reads it too")],
    };
    let name = table.get("package").and_then(|package| package.get("name")).and_then(Value::as_str);
    let Some(name) = name else {
        return vec![file.finding(1, "no package name", "each folder in crates/ is one crate")];
    };
    let mut findings = Vec::new();
    for dependency in ["dependencies", "dev-dependencies", "build-dependencies"]
        .iter()
        .filter_map(|section| table.get(*section)?.as_table())
        .flat_map(|section| section.iter().map(|(key, value)| renamed(key, value)))
    {
        let line = 1 + file.text.lines().position(|line| line.contains(dependency)).unwrap_or(0);
        if is_ours(dependency) && !may_use(name, dependency) {
            let why = "kernel ← store ← jobs ← readiness ← platform ← domain ← server, never against it";
            findings.push(file.finding(line, format!("{name} depends on {dependency}"), why));
        }
        let has_drivers = [STORE, "xtask"].map(Some).contains(&file.krate());
        if !has_drivers && DRIVERS.contains(&dependency.replace('-', "_").as_str()) {
            findings.push(file.finding(line, dependency, "only crates/store names a database's driver"));
        }
    }
    findings
}

/// The crate that a dependency is, whatever it is called here.
fn renamed<'a>(key: &'a str, value: &'a Value) -> &'a str {
    value.get("package").and_then(Value::as_str).unwrap_or(key)
}

fn is_ours(name: &str) -> bool {
    name == XTASK || LAYERS.contains(&name)
}

fn may_use(who: &str, whom: &str) -> bool {
    let layer = |name: &str| LAYERS.iter().position(|layer| *layer == name);
    match (layer(who), layer(whom)) {
        (Some(who), Some(whom)) => whom < who,
        (None, Some(_)) => who == XTASK && XTASK_USES.contains(&whom),
        (_, None) => false,
    }
}

fn source(file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    for piece in pieces(&file.text).iter().filter(|piece| piece.kind == Kind::Code) {
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
    use super::super::tests::{said, tree};
    use super::*;

    #[test]
    fn a_dependency_upward_or_on_the_tasks_is_found() {
        let found = check(&tree(&[
            (
                "crates/store/Cargo.toml",
                "[package]\nname = \"kith-store\"\n[dependencies]\nkith-kernel = \"1\"\nkith-platform = \"1\"\n",
            ),
            (
                "crates/platform/Cargo.toml",
                "[package]\nname = \"kith-platform\"\n[dev-dependencies]\nd = { package = \"kith-domain\" }\n",
            ),
            (
                "crates/domain/Cargo.toml",
                "[package]\nname = \"kith-domain\"\n[dependencies]\nkith-xtask = \"1\"\nkith-store = \"1\"\n",
            ),
            (
                "crates/xtask/Cargo.toml",
                "[package]\nname = \"kith-xtask\"\n[dependencies]\nkith-store = \"1\"\nkith = \"1\"\n",
            ),
        ]));
        let expected = [
            "crates/store/Cargo.toml:5: kith-store depends on kith-platform",
            "crates/platform/Cargo.toml:4: kith-platform depends on kith-domain",
            "crates/domain/Cargo.toml:4: kith-domain depends on kith-xtask",
            "crates/xtask/Cargo.toml:2: kith-xtask depends on kith",
        ];
        assert_eq!(said(&found), expected);
    }

    #[test]
    fn a_driver_outside_the_store_is_found_in_code_but_not_in_comments() {
        let use_it = "//! Not rusqlite.\nuse rusqlite::Connection;\n";
        let found = check(&tree(&[
            (
                "crates/platform/Cargo.toml",
                "[package]\nname = \"kith-platform\"\n[dependencies]\ntokio-postgres = \"1\"\n",
            ),
            ("crates/domain/src/a.rs", use_it),
            ("tests/api/main.rs", use_it),
            ("crates/store/src/a.rs", use_it),
            ("crates/xtask/src/plans/a.rs", use_it),
            ("crates/xtask/src/a.rs", use_it),
        ]));
        let expected = [
            "crates/platform/Cargo.toml:4: tokio-postgres",
            "crates/domain/src/a.rs:2: rusqlite",
            "tests/api/main.rs:2: rusqlite",
            "crates/xtask/src/a.rs:2: rusqlite",
        ];
        assert_eq!(said(&found), expected);
    }
}
