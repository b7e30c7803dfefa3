//! Builds the `kith` binary and runs it as a child process.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use std::{fs, thread};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::mode::Mode;
use crate::workspace::{cargo, root, run};

const READY_WITHIN: Duration = Duration::from_secs(60);

/// Secrets that all nodes on one database must share.
pub const SECRETS: [(&str, &str); 2] = [
    ("JWT_SECRET", "the secret of all measurements and faults"),
    ("JWT_REFRESH_SECRET", "the refresh secret of all measurements and faults"),
];

/// Builds the release binary, or the debug binary in a smoke run, and returns its path.
///
/// The tests use the same debug binary. It is built with the features of the whole workspace, including the
/// test code of the store, which does not compile in a release build.
pub fn build(mode: Mode) -> Result<PathBuf> {
    let chosen: &[&str] = mode.pick(&["--package=kith", "--release"], &["--workspace"]);
    run(cargo()?.args(["build", "--locked", "--bin", "kith"]).args(chosen))?;
    Ok(root()?.join(mode.pick("target/release/kith", "target/debug/kith")))
}

/// Options of a server process.
#[derive(Clone, Debug, Default)]
pub struct Start {
    pub binary: PathBuf,
    pub data: PathBuf,
    /// Database URL (`postgres://…`). `None` uses SQLite in `data`.
    pub database: Option<String>,
    /// Additional environment variables. Settings for cheap hashing and long-lived tokens are always added.
    pub environment: Vec<(String, String)>,
    /// True to keep rate limits on.
    pub has_limits: bool,
    /// Port. `None` chooses a free one.
    pub port: Option<u16>,
    /// Core to which the process is pinned.
    pub core: Option<u32>,
    /// File to which the log is appended.
    pub log: PathBuf,
}

impl Start {
    /// Returns a command that runs the same binary with the arguments `words` on the same data.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(words).arg("--data").arg(&self.data);
        if let Some(url) = &self.database {
            command.args(["--database", url]);
        }
        command.envs(SECRETS);
        command
    }
}

/// Running server on a loopback port. Killed when dropped.
#[derive(Debug)]
pub struct Kith {
    pub address: SocketAddr,
    child: Child,
}

impl Kith {
    /// Starts the server and waits until it prints its address.
    ///
    /// # Errors
    /// Returns an error if the process ended or did not print its address in time. The error contains the end
    /// of the log.
    pub fn start(start: &Start) -> Result<Self> {
        let mut command = on_core(start.core, &start.binary);
        let listen = format!("127.0.0.1:{}", start.port.unwrap_or(0));
        command.args(["serve", "--listen", &listen, "--data"]).arg(&start.data);
        if !start.has_limits {
            command.arg("--disable-limits");
        }
        if let Some(url) = &start.database {
            command.args(["--database", url]);
        }
        command.env("KITH__AUTH__PASSWORD_MEMORY_KIB", "8").env("KITH__AUTH__ACCESS_TOKEN_MINUTES", "1440");
        command.envs(SECRETS);
        command.envs(start.environment.iter().map(|(key, value)| (key, value)));
        let log = File::options().create(true).append(true).open(&start.log)?;
        command.stdin(Stdio::null()).stderr(log);
        spawn(command).with_context(|| format!("kith did not start; its log ends:\n{}", tail(&start.log)))
    }

    /// Returns the process id of the server. This also holds if the server is pinned, because `taskset`
    /// replaces itself by the server.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGKILL and does not wait for the end. Needs only a shared reference.
    ///
    /// # Errors
    /// Returns an error if the process has ended already.
    pub fn send_sigkill(&self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::KILL).context("cannot send SIGKILL")
    }

    /// Sends SIGKILL and waits until the process has ended.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends SIGTERM and waits until the process has ended.
    pub fn stop(mut self) -> Result<ExitStatus> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).context("cannot send SIGTERM")?;
        Ok(self.child.wait()?)
    }
}

impl Drop for Kith {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns a command that runs `program`, pinned to `core` if one is given.
pub fn on_core(core: Option<u32>, program: &Path) -> Command {
    match core {
        Some(core) => {
            let mut command = Command::new("taskset");
            command.args(["-c", &core.to_string()]).arg(program);
            command
        }
        None => Command::new(program),
    }
}

/// Starts a server process and waits for the address that it prints.
pub fn spawn(mut command: Command) -> Result<Kith> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start it")?;
    let stdout = child.stdout.take().expect("standard output is piped");
    // The process is killed if this function returns early from here on.
    let mut kith = Kith { address: SocketAddr::from(([127, 0, 0, 1], 0)), child };
    let (sender, addresses) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if let Some(address) = address_in(&line) {
                // Sending fails after the first address, because the receiver is then dropped.
                let _ = sender.send(address);
            }
        }
    });
    match addresses.recv_timeout(READY_WITHIN) {
        Ok(address) => kith.address = address,
        Err(mpsc::RecvTimeoutError::Timeout) => bail!("it did not print its address in time"),
        Err(mpsc::RecvTimeoutError::Disconnected) => bail!("it ended ({})", kith.child.wait()?),
    }
    Ok(kith)
}

fn address_in(line: &str) -> Option<SocketAddr> {
    let address = line.split("http://").nth(1)?;
    let end =
        address.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | ':'))).unwrap_or(address.len());
    address[..end].parse().ok()
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().rev().take(15).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_parsed_from_output() {
        let expected = Some("127.0.0.1:8081".parse().unwrap());
        for line in
            ["http://127.0.0.1:8081", "Kith is ready at http://127.0.0.1:8081/.", "> http://127.0.0.1:8081 <"]
        {
            assert_eq!(address_in(line), expected, "{line}");
        }
        assert_eq!(address_in("port 8080 is in use"), None);
    }
}
