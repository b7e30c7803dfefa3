//! Finds the root folder of the repository, and runs commands in it.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// Returns the root folder of the repository. The current folder may be any folder in it.
pub fn root() -> Result<PathBuf> {
    let here = env::current_dir().context("the current folder does not exist")?;
    // Takes the outermost folder with a lock file, because the fuzz targets have a lock file of their own.
    let root = here.ancestors().filter(|folder| folder.join("Cargo.lock").is_file()).last();
    root.map(PathBuf::from).context("not inside Kith's repository: no Cargo.lock here or above")
}

/// Returns a command that runs, in the root folder, the same cargo that runs this program.
pub fn cargo() -> Result<Command> {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()?);
    Ok(command)
}

/// Prints a command and runs it.
///
/// # Errors
/// Returns an error if the command cannot be started or fails.
pub fn run(command: &mut Command) -> Result<()> {
    let shown = show(command);
    eprintln!("\n$ {shown}");
    let status = command.status().with_context(|| format!("cannot run `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    Ok(())
}

/// Returns true if a command can be started and succeeds. Its output is discarded.
pub fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|done| done.status.success())
}

fn show(command: &Command) -> String {
    let program = PathBuf::from(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    let words = command.get_args().map(|word| word.to_string_lossy().into_owned());
    std::iter::once(name).chain(words).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the features `testing` and `fuzzing` that a build of `kith` with these edges activates.
    fn test_features(edges: &str) -> Vec<String> {
        let mut tree = cargo().expect("the workspace");
        tree.args(["tree", "--offline", "-p", "kith", "--prefix", "none", "-e", edges]);
        let output = tree.output().expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).expect("the tree is UTF-8");
        let is_of_tests = |line: &&str| {
            line.starts_with("kith-") && (line.contains("\"testing\"") || line.contains("\"fuzzing\""))
        };
        text.lines().filter(is_of_tests).map(str::to_owned).collect()
    }

    #[test]
    fn released_binary_has_no_test_features() {
        assert_eq!(test_features("features,no-dev"), [""; 0]);
        assert!(!test_features("features").is_empty(), "the tests of kith use the feature `testing`");
    }
}
