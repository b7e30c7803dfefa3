//! `cargo xtask smoke`: runs, in smoke mode, every command that CI does not run in full.

use std::collections::VecDeque;
use std::env;
use std::fs::{self, File};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::kith;
use crate::load::now;
use crate::mode::Mode;
use crate::workspace::{cargo, root, run};

/// Commands that check time limits. They run alone.
const ALONE: &[&[&str]] = &[&["attack"]];
/// Other commands, longest first. Two of them run at a time.
const TOGETHER: &[&[&str]] = &[
    &["chaos", "kill"],
    &["bench"],
    &["chaos", "jobs"],
    &["bench", "jobs"],
    &["chaos", "power"],
    &["chaos", "stop"],
    &["coverage"],
    &["timing"],
    &["fuzz", "parsers"],
    &["mutants"],
    &["reliability"],
];
const AT_ONCE: usize = 2;
/// Maximum duration of a command.
const ENDS_WITHIN: Duration = Duration::from_secs(300);

/// Options of `cargo xtask smoke`.
#[derive(clap::Args, Default)]
pub struct Args {
    /// Run only commands whose name begins with this text, such as `chaos`; repeat for several
    #[arg(long)]
    only: Vec<String>,
}

impl Args {
    fn chooses(&self, words: &[&str]) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| words.join(" ").starts_with(name.as_str()))
    }
}

/// Result of one command of the smoke run.
struct CommandResult {
    name: String,
    seconds: f64,
    /// Error message, if the command failed.
    fault: Option<String>,
}

/// Runs the selected commands. Writes their logs to `target/smoke`.
///
/// # Errors
/// Returns an error if a command fails or does not end in time.
pub fn smoke(args: &Args) -> Result<()> {
    // The binaries are built in advance, so that the reported durations do not include builds.
    kith::build(Mode::SMOKE)?;
    run(cargo()?.args(["build", "--locked", "--workspace", "--example", "chaos", "--bench", "jobs"]))?;
    run(cargo()?.args(["test", "--locked", "--workspace", "--lib", "--no-run"]))?;
    let folder = root()?.join("target/smoke");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let began = now();
    let mut ended = start_all(ALONE, 1, args, &folder)?;
    ended.extend(start_all(TOGETHER, AT_ONCE, args, &folder)?);
    if ended.is_empty() {
        bail!("no command is named {}", args.only.join(" or "));
    }
    println!();
    for CommandResult { name, seconds, fault } in &ended {
        println!("smoke: {name:<16} {seconds:>5.1} s  {}", fault.as_deref().unwrap_or("ok"));
    }
    println!("smoke: {} commands in {:.0} s", ended.len(), began.elapsed().as_secs_f64());
    let failed: Vec<_> =
        ended.iter().filter(|one| one.fault.is_some()).map(|one| one.name.as_str()).collect();
    if !failed.is_empty() {
        bail!("failed in smoke mode: {}", failed.join(", "));
    }
    Ok(())
}

fn start_all(commands: &[&[&str]], at_once: usize, args: &Args, folder: &Path) -> Result<Vec<CommandResult>> {
    let chosen = commands.iter().copied().filter(|words| args.chooses(words));
    let waiting = Mutex::new(chosen.collect::<VecDeque<_>>());
    let ended = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let work = || -> Result<()> {
            loop {
                let Some(words) = waiting.lock().expect("unpoisoned").pop_front() else { return Ok(()) };
                let one = start(words, folder)?;
                ended.lock().expect("unpoisoned").push(one);
            }
        };
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker does not panic"))
    })?;
    Ok(ended.into_inner().expect("unpoisoned"))
}

/// Runs the command `words` with `--smoke` and prints its output. The log is written to `folder`.
fn start(words: &[&str], folder: &Path) -> Result<CommandResult> {
    let name = words.join(" ");
    let log = folder.join(format!("{}.log", words.join("-")));
    let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = Command::new(env::current_exe()?);
    command.args(words).arg("--smoke").stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    // The command gets a process group of its own, so that its child processes can be killed with it.
    command.process_group(0);
    let began = now();
    let status = wait(command.spawn().with_context(|| format!("cannot start `{name}`"))?)?;
    let seconds = began.elapsed().as_secs_f64();
    println!("\n=== cargo xtask {name} --smoke\n{}", fs::read_to_string(&log)?.trim_end());
    let fault = match status {
        status if status.success() => None,
        status if status.signal().is_some() => Some(format!("no end within {ENDS_WITHIN:?}: {status}")),
        status => Some(format!("failed: {status}")),
    };
    Ok(CommandResult { name, seconds, fault })
}

/// Waits until the command has ended. On timeout, kills its process group.
fn wait(mut child: Child) -> Result<ExitStatus> {
    let group = Pid::from_child(&child);
    let (over, is_over) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if is_over.recv_timeout(ENDS_WITHIN) == Err(mpsc::RecvTimeoutError::Timeout) {
                // The process may have ended already.
                let _ = kill_process_group(group, Signal::KILL);
            }
        });
        let status = child.wait().context("cannot wait for a command");
        drop(over);
        status
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_selected_by_prefix() {
        let chosen = |only: &[&str]| {
            let args = Args { only: only.iter().map(|name| (*name).to_owned()).collect() };
            ALONE.iter().chain(TOGETHER).filter(|words| args.chooses(words)).count()
        };
        assert_eq!(chosen(&[]), ALONE.len() + TOGETHER.len());
        assert_eq!((chosen(&["chaos"]), chosen(&["chaos jobs"]), chosen(&["none"])), (4, 1, 0));
    }
}
