//! Redis server for BullMQ: the program of Debian's package, on a free loopback port and with a data folder
//! of its own.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::load::now;

const ANSWERS_WITHIN: Duration = Duration::from_secs(20);

/// Time at which Redis syncs its append-only file to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsyncPolicy {
    /// Before a write is acknowledged.
    Always,
    /// At most a second after a write is acknowledged.
    EachSecond,
}

/// Running Redis server. Killed when dropped.
pub struct Redis {
    port: u16,
    child: Child,
}

impl Redis {
    /// Starts the server with its append-only file in `folder` and waits until it responds.
    pub fn start(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let log = File::create(folder.join("redis.log"))?;
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]).arg(folder);
        command.args(["--appendonly", "yes", "--maxmemory-policy", "noeviction"]);
        let child = command.stdin(Stdio::null()).stdout(log).spawn();
        let child = child.context("redis-server does not start; `cargo xtask setup` installs it")?;
        let redis = Self { port, child };
        let began = now();
        while redis.ask(&["PING"]).is_err() {
            ensure!(began.elapsed() < ANSWERS_WITHIN, "Redis does not respond");
            #[expect(clippy::disallowed_methods, reason = "Redis does not report when it listens")]
            thread::sleep(Duration::from_millis(20));
        }
        Ok(redis)
    }

    /// Returns the loopback port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Deletes all data and sets the time at which writes are synced.
    pub fn reset(&self, synced: FsyncPolicy) -> Result<()> {
        let synced = match synced {
            FsyncPolicy::Always => "always",
            FsyncPolicy::EachSecond => "everysec",
        };
        self.ask(&["FLUSHALL"])?;
        self.ask(&["CONFIG", "SET", "appendfsync", synced])
    }

    fn ask(&self, words: &[&str]) -> Result<()> {
        let done = Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(words).output()?;
        let output = String::from_utf8_lossy(&done.stdout);
        ensure!(done.status.success() && matches!(output.trim(), "OK" | "PONG"), "Redis replied {output}");
        Ok(())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
