//! The binary in a process of its own: started, listened to, asked to stop. None outlives its test.

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

/// Longer than any start, stop or recovery takes; reached only when one is broken.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How long a test waits for what Kith promises within `promised`. A machine that is busy with other things shows nothing about
/// latency, so it is [`PATIENCE`] unless `KITH_TEST_LATENCY` is set, as `cargo xtask soak` does.
pub fn latency_bound(promised: Duration) -> Duration {
    if std::env::var_os("KITH_TEST_LATENCY").is_some() { promised } else { promised.max(PATIENCE) }
}

/// `kith`, and nothing of our own environment but where it is to note which lines it ran, while lines are counted.
pub fn bare_kith() -> Command {
    const LINES: &str = "LLVM_PROFILE_FILE";
    let mut command = Command::new(env!("CARGO_BIN_EXE_kith"));
    command.env_clear().envs(std::env::var_os(LINES).map(|file| (LINES, file)));
    command
}

/// `kith` with `args` and the data folder `folder`, and nothing of our own environment.
pub fn kith(folder: &Path, args: &[&str]) -> Command {
    let mut command = bare_kith();
    command.current_dir(folder).args(args).arg("--data").arg(folder);
    command.env("KITH__AUTH__PASSWORD_MEMORY_KIB", "8").env("KITH__AUTH__PASSWORD_ITERATIONS", "1");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// `kith` with `args` on `database`; whatever else it keeps is in `folder`.
pub fn kith_on(database: &TestDatabase, folder: &Path, args: &[&str]) -> Command {
    let mut command = kith(folder, args);
    command.env("KITH__DATABASE__URL", database.url());
    // Two that share a database share the secrets.
    command.env("JWT_SECRET", SECRET);
    command.env("JWT_REFRESH_SECRET", "the refresh secret of all processes");
    command
}

const SECRET: &str = "the secret of all processes together";

/// Options that open `database` with the secrets of such processes, so that audit entries can be left in it.
pub fn options_on(database: &TestDatabase) -> StoreOptions {
    let mut config = Config::default();
    config.auth.jwt_secret = Secret::new(SECRET);
    StoreOptions { audit_vault: config.store_options().audit_vault, ..database.options() }
}

/// How `kith` is told to serve on any free port, whatever one address asks of it.
pub const SERVE: &[&str] = &["serve", "--listen", "127.0.0.1:0", "--without-limits"];

/// `kith serve` in a process of its own; killed when dropped.
pub struct Kith {
    child: Child,
    /// Where it listens.
    pub addr: SocketAddr,
    log: Receiver<String>,
    /// Held open, so that what else it says on standard output has somewhere to go.
    stdout: BufReader<ChildStdout>,
}

impl Kith {
    /// Starts it and waits for the line that says where it listens.
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
            child.kill().expect("a process of ours");
            panic!("no address in {line:?}; it logged {:#?}", log.iter().collect::<Vec<_>>());
        };
        Self { child, addr, log, stdout }
    }

    /// The next line that it says on standard output.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("a line");
        line
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop, as a system does.
    pub fn terminate(&self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).expect("a process of ours");
    }

    /// Waits for its end.
    pub async fn wait(mut self) -> ExitStatus {
        let waited = tokio::task::spawn_blocking(move || self.child.wait().expect("a process of ours"));
        tokio::time::timeout(PATIENCE, waited).await.expect("it ends").expect("no panic")
    }

    /// What it logs from here on, up to the first line that has all of `words`: that one is the last.
    pub fn log_up_to(&self, words: &[&str]) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let Ok(line) = self.log.recv_timeout(PATIENCE) else { panic!("no {words:?} in {lines:#?}") };
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
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            self.log.try_iter().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// Reads what it says on standard error, so that it never waits for a reader.
fn follow(child: &mut Child) -> Receiver<String> {
    let (line_read, log) = channel();
    let stderr = BufReader::new(child.stderr.take().expect("standard error"));
    std::thread::spawn(move || {
        // The test may have seen enough.
        stderr.lines().map_while(Result::ok).for_each(|line| drop(line_read.send(line)));
    });
    log
}

/// Runs it to its end, which has to be a success, and returns what it said on standard output.
pub fn success(mut command: Command) -> String {
    let done = command.output().expect("a process");
    let said = String::from_utf8(done.stdout).expect("text");
    assert!(done.status.success(), "{command:?}: {said}{}", String::from_utf8_lossy(&done.stderr));
    said
}

/// Runs it to its end, which has to be a failure, and returns what it said on standard error.
pub fn refusal(mut command: Command) -> String {
    let mut child = command.stdout(Stdio::null()).spawn().expect("a process");
    let log = follow(&mut child);
    let mut said = String::new();
    loop {
        match log.recv_timeout(PATIENCE) {
            Ok(line) => said += &line,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                child.kill().expect("a process of ours");
                child.wait().expect("a process of ours");
                panic!("{command:?} goes on; it said {said}");
            }
        }
    }
    let status = child.wait().expect("a process of ours");
    assert!(!status.success(), "{command:?} succeeded; it said {said}");
    said
}
