//! Processes that enqueue jobs or run them: starting, sending commands, freezing and killing. Their output is
//! recorded in the journal.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, ensure};
use kith_kernel::{Clock as _, SystemClock};
use rustix::process::{Pid, Signal, kill_process};

use super::journal::Journal;

/// Command line of the test program.
#[derive(Clone, Debug)]
pub struct Program {
    pub binary: PathBuf,
    /// Arguments that select the database: `--data FOLDER` or `--database URL`.
    pub place: [String; 2],
    pub log: PathBuf,
    pub journal: Arc<Mutex<Journal>>,
}

/// Running process. Killed when dropped.
pub struct Process {
    number: usize,
    child: Child,
    listener: Option<JoinHandle<()>>,
    journal: Arc<Mutex<Journal>>,
    frozen_since: Option<i64>,
}

/// Returns the current time in milliseconds since the Unix epoch, as the processes report it.
pub fn now_ms() -> i64 {
    SystemClock.now().as_millis()
}

impl Program {
    /// Locks and returns the journal.
    pub fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn command(&self, task: &str, more: &[String]) -> Result<Command> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.binary);
        command.args(["--do", task]).args(&self.place).args(more).stderr(log);
        Ok(command)
    }

    /// Starts a process that performs `task`: enqueueing or working.
    pub fn start(&self, task: &str, more: &[String]) -> Result<Process> {
        let mut command = self.command(task, more)?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().context("a process without output")?;
        let number = self.journal().add_process();
        let journal = Arc::clone(&self.journal);
        let listener = std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                journal.lock().unwrap_or_else(PoisonError::into_inner).record_line(number, &line);
            }
        });
        let journal = Arc::clone(&self.journal);
        Ok(Process { number, child, listener: Some(listener), journal, frozen_since: None })
    }

    /// Runs the program until it ends and returns its output.
    pub fn run(&self, task: &str) -> Result<String> {
        let done = self.command(task, &[])?.stdin(Stdio::null()).output()?;
        ensure!(done.status.success(), "`{task}` failed; see {}", self.log.display());
        Ok(String::from_utf8(done.stdout)?)
    }
}

impl Process {
    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a command to the process. Does nothing if the process has ended.
    pub fn send_command(&mut self, word: &str) {
        if let Some(orders) = &mut self.child.stdin {
            // A write to a process that has just ended fails. Its end is detected later.
            let _ = writeln!(orders, "{word}");
        }
    }

    /// Returns true if the process has ended by itself, which is a failure.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Sends SIGKILL. All earlier output is in the journal when this returns.
    pub fn kill(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.note_thaw();
        self.child.kill()?;
        self.child.wait()?;
        let killed_ms = now_ms();
        if let Some(listener) = self.listener.take() {
            ensure!(listener.join().is_ok(), "a listener panicked");
        }
        self.journal().process_faults[self.number].killed_ms = Some(killed_ms);
        Ok(())
    }

    /// Sends SIGSTOP.
    pub fn freeze(&mut self) -> Result<()> {
        self.frozen_since = Some(now_ms());
        Ok(kill_process(Pid::from_child(&self.child), Signal::STOP)?)
    }

    /// Sends SIGCONT.
    pub fn thaw(&mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::CONT)?;
        self.note_thaw();
        Ok(())
    }

    pub fn is_frozen(&self) -> bool {
        self.frozen_since.is_some()
    }

    fn note_thaw(&mut self) {
        if let Some(from) = self.frozen_since.take() {
            let (number, to) = (self.number, now_ms());
            self.journal().process_faults[number].frozen_ms.push((from, to));
        }
    }

    /// Requests the process to stop and waits for a clean exit.
    pub fn stop(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let status = self.child.wait()?;
        if let Some(listener) = self.listener.take() {
            ensure!(listener.join().is_ok(), "a listener panicked");
        }
        ensure!(status.success(), "a process ended with {status} on a stop request");
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The process may have ended already. Other errors cannot be reported in `drop`.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
