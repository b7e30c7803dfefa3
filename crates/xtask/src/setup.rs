//! `cargo xtask setup`: installs what the tests and the lints need, and nothing that is already there.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use kith_store::testing::server::{self, find_bin};

use crate::workspace::{cargo, run, succeeds};

/// Installs what is missing, or says what to install where it cannot.
pub fn setup() -> Result<()> {
    postgres()?;
    components()?;
    cargo_deny()?;
    println!("everything that the tests and the lints need is installed");
    Ok(())
}

/// A server to start for the tests. The cluster that Debian makes on its own is left alone: tests use a data
/// folder and a port of their own.
fn postgres() -> Result<()> {
    if find_bin().is_ok() {
        return Ok(());
    }
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!(
            "no PostgreSQL server is installed. On Debian and Ubuntu this command would have run `{}`; here, \
             install PostgreSQL 15 or newer so that `initdb` and `postgres` are on the search path.",
            server::INSTALL
        );
    }
    run(apt_get().arg("update"))?;
    run(apt_get().args(["install", "-y", "postgresql"]))?;
    find_bin()?;
    Ok(())
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
