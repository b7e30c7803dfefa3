//! `cargo xtask fuzz`: schemathesis asks a running server whatever its OpenAPI document admits, and what it does not.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::kith::{Kith, Start};
use crate::workspace::{cargo, root, run, succeeds};

/// Installed by pip, and what it is asked with.
const FOLDER: &str = "tests/fuzz";
const VENV: &str = "target/schemathesis";
/// Succeed at most once in the life of a server, before the first case.
const ONCE: &[&str] = &["accept_first_admin"];

/// How often each operation answered with each status.
type Seen = BTreeMap<String, BTreeMap<u16, u32>>;

/// Runs it against a server of its own.
///
/// # Errors
/// An answer that is not declared, a 5xx, bad input that was taken, an operation that never succeeded.
#[expect(clippy::disallowed_methods, reason = "reports how long it took")]
pub fn fuzz() -> Result<()> {
    let root = root()?;
    let schemathesis = root.join(VENV).join("bin/st");
    if !is_installed(&root) {
        bail!("schemathesis is not installed: run `cargo xtask setup`");
    }
    run(cargo()?.args(["build", "--locked", "-p", "kith"]))?;
    let started = Instant::now();
    let folder = tempfile::tempdir()?;
    let (data, seen) = (folder.path().join("data"), folder.path().join("seen.json"));
    let binary = root.join("target/debug/kith");
    let kith = Kith::start(&Start {
        binary,
        data: data.clone(),
        log: folder.path().join("log"),
        ..Start::default()
    })?;
    let url = format!("http://{}", kith.address);
    let mut asked = Command::new(schemathesis);
    asked.current_dir(root.join(FOLDER)).args(["--config-file", "schemathesis.toml", "run"]);
    asked.arg(format!("{url}/openapi.json")).env("PYTHONDONTWRITEBYTECODE", "1");
    asked.env("KITH_FUZZ_URL", &url).env("KITH_FUZZ_DATA", &data).env("KITH_FUZZ_SEEN", &seen);
    run(&mut asked)?;
    let status = kith.stop()?;
    if !status.success() {
        bail!("the server ended with {status}");
    }
    report(&fs::read_to_string(&seen).context("schemathesis left no account of what it saw")?, started)
}

/// Installs schemathesis where it is not, or is another version.
pub fn install() -> Result<()> {
    let root = root()?;
    if is_installed(&root) {
        return Ok(());
    }
    let (venv, wanted) = (root.join(VENV), requirements(&root));
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    run(Command::new(venv.join("bin/pip")).args(["install", "--quiet", "--requirement"]).arg(&wanted))?;
    fs::copy(wanted, installed(&root))?;
    Ok(())
}

/// Whether an interpreter is there that can make a place of its own for what it installs.
pub fn has_python() -> bool {
    succeeds(Command::new("python3").args(["-c", "import venv, ensurepip"]))
}

fn requirements(root: &Path) -> PathBuf {
    root.join(FOLDER).join("requirements.txt")
}

/// A copy of the requirements that are installed.
fn installed(root: &Path) -> PathBuf {
    root.join(VENV).join("requirements.txt")
}

fn is_installed(root: &Path) -> bool {
    let wanted = fs::read(requirements(root)).ok();
    wanted.is_some() && wanted == fs::read(installed(root)).ok()
}

/// Says what was seen, and whether every operation was seen to succeed.
fn report(seen: &str, started: Instant) -> Result<()> {
    let seen: Seen = serde_json::from_str(seen).context("what schemathesis saw cannot be read")?;
    let cases: u32 = seen.values().flat_map(BTreeMap::values).sum();
    let took = started.elapsed().as_secs();
    println!("fuzz: {} operations, {cases} answers, all as declared, in {took} s", seen.len());
    let never = never_succeeded(&seen);
    if !never.is_empty() {
        bail!("never seen to succeed: {}; say in {FOLDER}/people.py what suits them", never.join(", "));
    }
    Ok(())
}

fn never_succeeded(seen: &Seen) -> Vec<&str> {
    let succeeds = |statuses: &BTreeMap<u16, u32>| statuses.keys().any(|status| (200..400).contains(status));
    let never = seen.iter().filter(|(name, statuses)| !succeeds(statuses) && !ONCE.contains(&name.as_str()));
    never.map(|(name, _)| name.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_that_never_succeeds_is_named() {
        let seen = r#"{"a": {"200": 1, "422": 5}, "b": {"404": 7, "401": 2}, "c": {"308": 1}}"#;
        let seen: Seen = serde_json::from_str(seen).unwrap();
        assert_eq!(never_succeeded(&seen), ["b"]);
    }
}
