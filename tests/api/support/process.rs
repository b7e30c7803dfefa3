//! Runs the `kith` binary as a child process, which is killed when its test ends.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use kith_platform::config::{Config, Secret};
use kith_store::StoreOptions;
use kith_store::testing::TestDatabase;
use rustix::process::{Pid, Signal, kill_process};

/// Timeout that is reached only on failure.
pub const MAX_WAIT: Duration = Duration::from_secs(30);

/// Returns the maximum time that a test waits for an effect that Kith guarantees within `promised`. Latency
/// cannot be measured on a busy machine, so the maximum is at least [`MAX_WAIT`]. If `KITH_TEST_LATENCY` is
/// set, as `cargo xtask soak` does, it is exactly `promised`.
pub fn latency_bound(promised: Duration) -> Duration {
    if std::env::var_os("KITH_TEST_LATENCY").is_some() { promised } else { promised.max(MAX_WAIT) }
}

/// Returns a `kith` command with an empty environment, except for the variable that names the file for
/// coverage data.
pub fn bare_kith() -> Command {
    const LINES: &str = "LLVM_PROFILE_FILE";
    let mut command = Command::new(env!("CARGO_BIN_EXE_kith"));
    command.env_clear().envs(std::env::var_os(LINES).map(|file| (LINES, file)));
    command
}

/// Returns a `kith` command with `args`, the data folder `folder`, and an otherwise empty environment.
pub fn kith(folder: &Path, args: &[&str]) -> Command {
    let mut command = bare_kith();
    command.current_dir(folder).args(args).arg("--data").arg(folder);
    command.env("KITH__AUTH__PASSWORD_MEMORY_KIB", "8").env("KITH__AUTH__PASSWORD_ITERATIONS", "1");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Returns a `kith` command with `args` on `database`, with its data folder in `folder`.
pub fn kith_on(database: &TestDatabase, folder: &Path, args: &[&str]) -> Command {
    let mut command = kith(folder, args);
    command.env("KITH__DATABASE__URL", database.url());
    // Nodes that share a database need the same secrets.
    command.env("JWT_SECRET", SECRET);
    command.env("JWT_REFRESH_SECRET", "the refresh secret of all processes");
    command
}

const SECRET: &str = "the secret of all processes together";

/// Returns options to open `database` in the test process with the secret of the child processes. It is
/// needed to append entries to the audit chain.
pub fn options_on(database: &TestDatabase) -> StoreOptions {
    let mut config = Config::default();
    config.auth.jwt_secret = Secret::new(SECRET);
    StoreOptions { audit_vault: config.store_options().audit_vault, ..database.options() }
}

/// Arguments to serve on a free port with rate limits disabled.
pub const SERVE: &[&str] = &["serve", "--listen", "127.0.0.1:0", "--disable-limits"];

/// `kith serve` as a child process. Killed when dropped.
pub struct Kith {
    child: Child,
    /// Address on which the server listens.
    pub addr: SocketAddr,
    log: Receiver<String>,
    /// Kept open, so that the process can continue to write to standard output.
    stdout: BufReader<ChildStdout>,
}

impl Kith {
    /// Starts the process and waits until it prints the address on which it listens.
    pub fn start(mut command: Command) -> Self {
        let mut child = command.spawn().expect("a process");
        let mut stdout = BufReader::new(child.stdout.take().expect("standard output"));
        let log = follow(&mut child);
        let mut line = String::new();
        stdout.read_line(&mut line).expect("a line");
        let addr = line.split("http://").nth(1).and_then(|rest| {
            let addr = rest.split(|c: char| c.is_whitespace() || c == '/').next()?;
            addr.parse().ok()
        });
        let Some(addr) = addr else {
            child.kill().expect("a child process");
            panic!("no address in {line:?}; the process logged {:#?}", log.iter().collect::<Vec<_>>());
        };
        Self { child, addr, log, stdout }
    }

    /// Returns the next line of the process's standard output.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("a line");
        line
    }

    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).expect("a child process");
    }

    /// Waits until the process exits.
    pub async fn wait(mut self) -> ExitStatus {
        let waited = tokio::task::spawn_blocking(move || self.child.wait().expect("a child process"));
        tokio::time::timeout(MAX_WAIT, waited).await.expect("the process exits").expect("no panic")
    }

    /// Returns the log lines up to and including the first one that contains all of `words`.
    pub fn log_up_to(&self, words: &[&str]) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let Ok(line) = self.log.recv_timeout(MAX_WAIT) else {
                panic!("{words:?} is missing in {lines:#?}")
            };
            let found = words.iter().all(|word| line.contains(word));
            lines.push(line);
            if found {
                return lines;
            }
        }
    }
}

impl Drop for Kith {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            self.log.try_iter().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// Reads standard error continuously, so that the process never blocks on it.
fn follow(child: &mut Child) -> Receiver<String> {
    let (line_read, log) = channel();
    let stderr = BufReader::new(child.stderr.take().expect("standard error"));
    std::thread::spawn(move || {
        // The receiver may have been dropped.
        stderr.lines().map_while(Result::ok).for_each(|line| drop(line_read.send(line)));
    });
    log
}

/// Runs a command that must succeed, and returns its standard output.
pub fn successful_stdout(mut command: Command) -> String {
    let done = command.output().expect("a process");
    let output = String::from_utf8(done.stdout).expect("text");
    assert!(done.status.success(), "{command:?}: {output}{}", String::from_utf8_lossy(&done.stderr));
    output
}

/// Runs a command that must fail, and returns its standard error.
pub fn failing_stderr(mut command: Command) -> String {
    let mut child = command.stdout(Stdio::null()).spawn().expect("a process");
    let log = follow(&mut child);
    let mut output = String::new();
    loop {
        match log.recv_timeout(MAX_WAIT) {
            Ok(line) => output += &line,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                child.kill().expect("a child process");
                child.wait().expect("a child process");
                panic!("{command:?} did not exit; it printed {output}");
            }
        }
    }
    let status = child.wait().expect("a child process");
    assert!(!status.success(), "{command:?} succeeded; it printed {output}");
    output
}
