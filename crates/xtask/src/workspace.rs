//! Where the repository is, and how its programs are run: shown, then waited for.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// The folder that holds the whole repository, found from wherever in it one stands.
pub fn root() -> Result<PathBuf> {
    let here = env::current_dir().context("the current folder is gone")?;
    // The fuzz targets have a lock file of their own.
    let root = here.ancestors().filter(|folder| folder.join("Cargo.lock").is_file()).last();
    root.map(PathBuf::from).context("not inside Kith's repository: no Cargo.lock here or above")
}

/// The cargo that runs us, at the root of the repository.
pub fn cargo() -> Result<Command> {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()?);
    Ok(command)
}

/// Shows a command and runs it to its end.
///
/// # Errors
/// It cannot be started, or it fails.
pub fn run(command: &mut Command) -> Result<()> {
    let shown = show(command);
    eprintln!("\n$ {shown}");
    let status = command.status().with_context(|| format!("cannot run `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    Ok(())
}

/// Whether a command can be run and succeeds; what it prints is not shown.
pub fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|done| done.status.success())
}

fn show(command: &Command) -> String {
    let program = PathBuf::from(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    let words = command.get_args().map(|word| word.to_string_lossy().into_owned());
    std::iter::once(name).chain(words).collect::<Vec<_>>().join(" ")
}
