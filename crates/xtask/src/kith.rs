//! The `kith` binary as a process of its own: built, started, watched, asked to stop or killed.

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

use crate::smoke::Mode;
use crate::workspace::{cargo, root, run};

const READY_WITHIN: Duration = Duration::from_secs(60);

/// Nodes of one database need the same, wherever their folders are.
pub const SECRETS: [(&str, &str); 2] = [
    ("JWT_SECRET", "the secret of all measurements and faults"),
    ("JWT_REFRESH_SECRET", "the refresh secret of all measurements and faults"),
];

/// Builds the release binary, or in a smoke run the debug binary, and returns its path.
///
/// The debug binary is the one that the tests start: it is built with the features of the whole workspace, test code of the
/// store included. A release binary with these does not compile.
pub fn build(mode: Mode) -> Result<PathBuf> {
    let chosen: &[&str] = mode.pick(&["--package=kith", "--release"], &["--workspace"]);
    run(cargo()?.args(["build", "--locked", "--bin", "kith"]).args(chosen))?;
    Ok(root()?.join(mode.pick("target/release/kith", "target/debug/kith")))
}

/// How to start it.
#[derive(Clone, Debug, Default)]
pub struct Start {
    pub binary: PathBuf,
    pub data: PathBuf,
    /// `postgres://…`; SQLite in `data` if none.
    pub database: Option<String>,
    /// Beside what is set for every one: cheap hashing, and tokens that outlive a measurement.
    pub environment: Vec<(String, String)>,
    /// Whether limits of requests hold; no measurement is of them.
    pub has_limits: bool,
    /// Where it listens; on a free port if none.
    pub port: Option<u16>,
    /// Pins it to this core.
    pub core: Option<u32>,
    /// Its log is appended here.
    pub log: PathBuf,
}

impl Start {
    /// Another command of the same binary, on the same data.
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

/// A server of ours that listens on a free loopback port. Dropped, it is killed.
#[derive(Debug)]
pub struct Kith {
    pub address: SocketAddr,
    child: Child,
}

impl Kith {
    /// Starts it; it answers when this returns.
    ///
    /// # Errors
    /// It ended, or did not say its address in time; the error ends with the end of its log.
    pub fn start(start: &Start) -> Result<Self> {
        let mut command = on_core(start.core, &start.binary);
        let listen = format!("127.0.0.1:{}", start.port.unwrap_or(0));
        command.args(["serve", "--listen", &listen, "--data"]).arg(&start.data);
        if !start.has_limits {
            command.arg("--without-limits");
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

    /// Its process id; with a pinned core too, as `taskset` becomes what it starts.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, from whoever shares it; its end is waited for when it is dropped.
    ///
    /// # Errors
    /// It has ended already.
    pub fn strike(&self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::KILL).context("cannot send SIGKILL")
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and waits for its end.
    pub fn stop(mut self) -> Result<ExitStatus> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).context("cannot send SIGTERM")?;
        Ok(self.child.wait()?)
    }
}

impl Drop for Kith {
    fn drop(&mut self) {
        // It may have ended already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command, on one core if one is given.
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

/// Starts a server that prints its address, and waits for that.
pub fn spawn(mut command: Command) -> Result<Kith> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start it")?;
    let stdout = child.stdout.take().expect("standard output is piped");
    // From here on whoever leaves kills it.
    let mut kith = Kith { address: SocketAddr::from(([127, 0, 0, 1], 0)), child };
    let (say, said) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if let Some(address) = address_in(&line) {
                // The receiver is gone once it has heard the first.
                let _ = say.send(address);
            }
        }
    });
    match said.recv_timeout(READY_WITHIN) {
        Ok(address) => kith.address = address,
        Err(mpsc::RecvTimeoutError::Timeout) => bail!("it did not say its address in time"),
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
    fn the_address_is_found_in_what_it_prints() {
        let expected = Some("127.0.0.1:8081".parse().unwrap());
        for line in
            ["http://127.0.0.1:8081", "Kith is ready at http://127.0.0.1:8081/.", "> http://127.0.0.1:8081 <"]
        {
            assert_eq!(address_in(line), expected, "{line}");
        }
        assert_eq!(address_in("port 8080 is taken"), None);
    }
}
