//! `cargo xtask setup`: installs missing tools for tests and lints.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use kith_store::testing::server::{self, find_bin};

use crate::fuzz::api;
use crate::workspace::{cargo, root, run, succeeds};

/// Alternative names of each program, and the Debian package that contains it.
const PROGRAMS: &[(&[&str], &str)] = &[
    (&["chromium", "chromium-browser", "google-chrome"], "chromium"),
    (&["curl"], "curl"),
    // Runs the example workers.
    (&["node"], "nodejs"),
    // Installs tools that read the OpenAPI document. Debian's Node package does not include it.
    (&["npm"], "npm"),
    (&["python3"], "python3"),
    (&["ab"], "apache2-utils"),
    // BullMQ needs it in `cargo xtask bench jobs`, which starts its own server.
    (&["redis-server"], "redis-server"),
    // Load balancer of `cargo xtask chaos stop`.
    (&["haproxy"], "haproxy"),
];
const PGBOUNCER: &str = "/usr/sbin/pgbouncer";

/// Installs all missing tools. If installation is not possible, prints what to install.
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

/// Installs PostgreSQL for the tests, and PgBouncer for the test that Kith rejects it. Debian's default
/// cluster is not used, because tests have their own data folder and port.
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

/// Installs the programs that tests start besides Kith: a browser, and commands from the documentation.
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

/// Installs Python for schemathesis.
fn python() -> Result<()> {
    if api::has_python() {
        return Ok(());
    }
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("Python 3 or its `venv` is not installed; schemathesis, which tests the API, requires both.");
    }
    run(apt_get().arg("update"))?;
    run(apt_get().args(["install", "-y", "python3-venv"]))
}

/// Installs the npm tools that tests use to read the OpenAPI document.
fn openapi_tools() -> Result<()> {
    let folder = root()?.join("tests/openapi");
    // npm writes this file last, so an interrupted or outdated installation is detected and repeated.
    let changed = |name: &str| folder.join(name).metadata().and_then(|file| file.modified()).ok();
    let installed = changed("node_modules/.package-lock.json");
    if installed.is_some() && installed >= changed("package-lock.json") {
        return Ok(());
    }
    run(Command::new("npm")
        .args(["ci", "--no-audit", "--no-fund", "--fetch-retries", "5"])
        .current_dir(folder))
}

/// Returns a non-interactive `apt-get` command as root.
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
    eprintln!("\nbuilding cargo-deny, which checks licences; once, four to five minutes on two cores");
    run(cargo()?.args(["install", "cargo-deny", "--locked", "--debug"]))
}
