//! Determines the Git commit of a release build. Debug builds do not contain the commit, so that a new commit
//! does not cause a rebuild.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=KITH_COMMIT");
    println!("cargo::rerun-if-env-changed=KITH_EVIDENCE_KEY");
    let commit = std::env::var("KITH_COMMIT").ok().or_else(commit_of_release);
    let version = env!("CARGO_PKG_VERSION");
    let build = commit.map_or_else(|| version.to_owned(), |commit| format!("{version}+{commit}"));
    println!("cargo::rustc-env=KITH_BUILD={build}");
}

/// Returns the commit of the Git clone that contains this crate. It is followed by `.dirty` if the working
/// tree has uncommitted changes. Returns `None` in debug builds.
fn commit_of_release() -> Option<String> {
    if std::env::var("PROFILE").is_ok_and(|profile| profile != "release") {
        println!("cargo::rerun-if-changed=build.rs");
        return None;
    }
    let folder = git(&["rev-parse", "--git-dir"])?;
    for watched in ["logs/HEAD", "HEAD", "index"] {
        let path = Path::new(&folder).join(watched);
        if path.exists() {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    for watched in ["../../crates", "../../readiness", "../../Cargo.lock", "../../Cargo.toml"] {
        println!("cargo::rerun-if-changed={watched}");
    }
    let commit = git(&["rev-parse", "HEAD"])?;
    let dirty = !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Some(if dirty { commit + ".dirty" } else { commit })
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
