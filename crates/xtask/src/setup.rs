//! `cargo xtask setup`: installs what the tests and the lints need, and nothing that is already there.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use kith_store::testing::server::{self, find_bin};

use crate::fuzz;
use crate::workspace::{cargo, run, succeeds};

const PGBOUNCER: &str = "/usr/sbin/pgbouncer";

/// Installs what is missing, or says what to install where it cannot.
pub fn setup() -> Result<()> {
    servers()?;
    components()?;
    cargo_deny()?;
    python()?;
    fuzz::install()?;
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

/// What schemathesis runs on.
fn python() -> Result<()> {
    if fuzz::has_python() {
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

/// `apt-get` as root, without questions.
fn apt_get() -> Command {
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
