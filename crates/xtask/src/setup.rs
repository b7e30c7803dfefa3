//! `cargo xtask setup`: installs what the tests and the lints need, and nothing that is already there.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use kith_store::testing::server::{self, find_bin};

use crate::fuzz::api;
use crate::workspace::{cargo, root, run, succeeds};

/// Programs by any of their names, and Debian's package that has them.
const PROGRAMS: &[(&[&str], &str)] = &[
    (&["chromium", "chromium-browser", "google-chrome"], "chromium"),
    (&["curl"], "curl"),
    // For the examples of workers.
    (&["node"], "nodejs"),
    // For the tools that read the OpenAPI document; Debian's package of Node does not have it, others do.
    (&["npm"], "npm"),
    (&["python3"], "python3"),
    (&["ab"], "apache2-utils"),
    // For BullMQ in `cargo xtask bench jobs`, which starts one of its own.
    (&["redis-server"], "redis-server"),
    // Between clients and two nodes in `cargo xtask chaos stop`.
    (&["haproxy"], "haproxy"),
];
const PGBOUNCER: &str = "/usr/sbin/pgbouncer";

/// Installs what is missing, or says what to install where it cannot.
pub fn setup() -> Result<()> {
    servers()?;
    programs()?;
    components()?;
    cargo_deny()?;
    python()?;
    api::install()?;
    openapi_tools()?;
    println!("everything that the tests and the lints need is installed");
    Ok(())
}

/// PostgreSQL to start for the tests, and PgBouncer, which Kith must refuse. The cluster that Debian makes on its
/// own is left alone: tests use a data folder and a port of their own.
fn servers() -> Result<()> {
    if find_bin().is_ok() && Path::new(PGBOUNCER).exists() {
        return Ok(());
    }
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!(
            "PostgreSQL or PgBouncer is not installed. On Debian and Ubuntu this command would have run `{} pgbouncer`; \
             here, install PostgreSQL 15 or newer so that `initdb` and `postgres` are on the search path, and PgBouncer.",
            server::INSTALL
        );
    }
    run(apt_get().arg("update"))?;
    run(apt_get().args(["install", "-y", "postgresql", "pgbouncer"]))?;
    find_bin()?;
    Ok(())
}

/// What tests start beside Kith: a browser, and what documents tell people to type. Each may have several names.
fn programs() -> Result<()> {
    let missing: Vec<_> =
        PROGRAMS.iter().filter(|(names, _)| !names.iter().any(|name| is_on_path(name))).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    if !Path::new("/usr/bin/apt-get").exists() {
        let names: Vec<_> = missing.iter().map(|(names, _)| names[0]).collect();
        bail!("not installed: {}; on Debian they are in {}", names.join(", "), packages.join(", "));
    }
    run(apt_get().arg("update"))?;
    run(apt_get().args(["install", "-y", "--no-install-recommends"]).args(packages))
}

fn is_on_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).exists())
}

/// What schemathesis runs on.
fn python() -> Result<()> {
    if api::has_python() {
        return Ok(());
    }
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!(
            "Python 3 is not installed, or its `venv` is not; schemathesis, which asks the API, needs both."
        );
    }
    run(apt_get().arg("update"))?;
    run(apt_get().args(["install", "-y", "python3-venv"]))
}

/// What the tests run on the OpenAPI document.
fn openapi_tools() -> Result<()> {
    let folder = root()?.join("tests/openapi");
    // npm writes it last; what was cut short, or is of another lock file, is installed anew.
    let changed = |name: &str| folder.join(name).metadata().and_then(|file| file.modified()).ok();
    let installed = changed("node_modules/.package-lock.json");
    if installed.is_some() && installed >= changed("package-lock.json") {
        return Ok(());
    }
    run(Command::new("npm")
        .args(["ci", "--no-audit", "--no-fund", "--fetch-retries", "5"])
        .current_dir(folder))
}

/// `apt-get` as root, without questions.
pub fn apt_get() -> Command {
    let root = rustix::process::geteuid().is_root();
    let mut command = Command::new(if root { "env" } else { "sudo" });
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    command
}

fn components() -> Result<()> {
    for (component, word) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
        if !succeeds(cargo()?.args([word, "--version"])) {
            run(Command::new("rustup").args(["component", "add", component]))?;
        }
    }
    Ok(())
}

fn cargo_deny() -> Result<()> {
    if succeeds(cargo()?.args(["deny", "--version"])) {
        return Ok(());
    }
    eprintln!("\nbuilding cargo-deny, which holds the licence list; four to five minutes on two cores, once");
    run(cargo()?.args(["install", "cargo-deny", "--locked", "--debug"]))
}
