//! Who is compared: Kith on both databases, BullMQ and Graphile Worker, each as a process that prints one JSON line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use kith_store::testing::server::{PostgresServer, find_bin};
use serde_json::Value;

use super::redis::{Redis, Synced};
use super::rows::Row;
use crate::smoke::Mode;
use crate::workspace::{cargo, root, run};

/// One of them, at one setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contender {
    KithSqlite,
    KithPostgres,
    BullAlways,
    BullEachSecond,
    Graphile,
    /// Without its local queue and without batches, which is its default.
    GraphilePlain,
}

impl Contender {
    /// All, Kith first.
    pub const ALL: [Self; 6] = [
        Self::KithSqlite,
        Self::KithPostgres,
        Self::BullAlways,
        Self::BullEachSecond,
        Self::Graphile,
        Self::GraphilePlain,
    ];

    /// What it is called in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::KithSqlite => "Kith, SQLite",
            Self::KithPostgres => "Kith, PostgreSQL",
            Self::BullAlways => "BullMQ, AOF always",
            Self::BullEachSecond => "BullMQ, AOF each second",
            Self::Graphile => "Graphile Worker, batching",
            Self::GraphilePlain => "Graphile Worker, defaults",
        }
    }

    /// Whether it is ours.
    pub fn is_kith(self) -> bool {
        matches!(self, Self::KithSqlite | Self::KithPostgres)
    }

    /// Whether it does a few thousand a second where others do tens of thousands.
    pub fn is_slow_at(self, row: &str) -> bool {
        match self {
            Self::Graphile => row == "single",
            Self::GraphilePlain => matches!(row, "single" | "drain" | "cycle" | "workers" | "due"),
            _ => false,
        }
    }

    /// Whether it has this row: one process has SQLite to itself, and Graphile's batching changes nothing about
    /// enqueueing.
    pub fn has(self, row: &Row) -> bool {
        match self {
            Self::KithSqlite => row.name != "workers",
            Self::KithPostgres => true,
            Self::GraphilePlain => !row.own && !matches!(row.name, "single" | "bulk"),
            _ => !row.own,
        }
    }
}

/// The servers that they work on, and the programs that do.
pub struct Ring {
    pub folder: PathBuf,
    pub driver: Option<PathBuf>,
    pub postgres: PostgresServer,
    pub redis: Option<Redis>,
}

/// The database that is made anew for each run.
const DATABASE: &str = "jobs";

impl Ring {
    /// Has `contender` do `row` on an empty database, and gives what it said.
    pub fn run(&self, contender: Contender, row: &Row, jobs: u64) -> Result<Value> {
        let mut command = self.command(contender)?;
        command.args(["--row", row.name, "--jobs", &jobs.to_string()]);
        command.args(["--workers", &row.workers.to_string()]);
        heard(command, contender.name())
    }

    fn command(&self, contender: Contender) -> Result<Command> {
        match contender {
            Contender::KithSqlite => {
                let data = self.folder.join("sqlite");
                if data.exists() {
                    fs::remove_dir_all(&data)?;
                }
                fs::create_dir(&data)?;
                let mut command = self.driver()?;
                command.arg("--data").arg(data);
                Ok(command)
            }
            Contender::KithPostgres => {
                let mut command = self.driver()?;
                command.args(["--database", &self.fresh_database()?]);
                Ok(command)
            }
            Contender::BullAlways => self.bull(Synced::Always),
            Contender::BullEachSecond => self.bull(Synced::EachSecond),
            Contender::Graphile => self.graphile("on"),
            Contender::GraphilePlain => self.graphile("off"),
        }
    }

    /// The program that drives our own engine.
    pub fn driver(&self) -> Result<Command> {
        Ok(Command::new(self.driver.as_ref().context("our driver was not built")?))
    }

    fn bull(&self, synced: Synced) -> Result<Command> {
        let redis = self.redis.as_ref().context("Redis was not started")?;
        redis.reset(synced)?;
        let mut command = node("bullmq.js")?;
        command.args(["--port", &redis.port().to_string()]);
        Ok(command)
    }

    fn graphile(&self, batching: &str) -> Result<Command> {
        let mut command = node("graphile.js")?;
        command.args(["--database", &self.fresh_database()?, "--batching", batching]);
        Ok(command)
    }

    /// An empty database of this server; what the last run left is gone, and written out.
    pub fn fresh_database(&self) -> Result<String> {
        let maintenance = self.postgres.url("postgres");
        psql(&maintenance, &format!("DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)"))?;
        psql(&maintenance, &format!("CREATE DATABASE {DATABASE}"))?;
        psql(&maintenance, "CHECKPOINT")?;
        Ok(self.postgres.url(DATABASE))
    }
}

/// Runs a program that prints a line of JSON last, and gives that.
pub fn heard(mut command: Command, who: &str) -> Result<Value> {
    let done = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let done = done.with_context(|| format!("{who} cannot be run"))?;
    let said = String::from_utf8_lossy(&done.stdout);
    ensure!(done.status.success(), "{who} failed ({}): {said}", done.status);
    let line = said.lines().last().unwrap_or_default();
    serde_json::from_str(line).with_context(|| format!("{who} said {line}"))
}

/// Runs one statement and gives what it printed.
pub fn psql(url: &str, statement: &str) -> Result<String> {
    let mut command = Command::new(find_bin()?.join("psql"));
    command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statement, url]);
    let done = command.stdin(Stdio::null()).output().context("psql cannot be run")?;
    ensure!(done.status.success(), "`{statement}`: {}", String::from_utf8_lossy(&done.stderr).trim());
    Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
}

fn peers() -> Result<PathBuf> {
    Ok(root()?.join("load/peers"))
}

fn node(program: &str) -> Result<Command> {
    let mut command = Command::new("node");
    command.arg(peers()?.join(program));
    Ok(command)
}

/// Installs what the peers' lock file names, if it is not there yet.
pub fn install_peers() -> Result<()> {
    let folder = peers()?;
    if folder.join("node_modules").exists() {
        return Ok(());
    }
    let mut npm = Command::new("npm");
    run(npm.args(["ci", "--no-audit", "--no-fund", "--prefix"]).arg(folder))
        .context("the peers need Node 20 or newer and npm")
}

/// Builds the program that drives our own engine, in a smoke run without optimizations, and says where it is.
pub fn build_driver(mode: Mode) -> Result<PathBuf> {
    let mut build = cargo()?;
    // The features of the whole workspace are those that the tests have built.
    build.args(
        mode.pick(["bench", "--no-run", "--package=kith-jobs"], ["build", "--profile=dev", "--workspace"]),
    );
    build.args(["--locked", "--bench", "jobs"]);
    build.args(["--message-format", "json-render-diagnostics"]);
    let done = build.stderr(Stdio::inherit()).output().context("cargo cannot be run")?;
    ensure!(done.status.success(), "the driver of our own jobs does not build");
    driver_in(&String::from_utf8_lossy(&done.stdout)).context("cargo does not say where the driver is")
}

/// The last program that cargo says it has made.
fn driver_in(messages: &str) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    messages
        .filter_map(|message| message["executable"].as_str().map(Path::new).map(Path::to_owned))
        .next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_is_found_in_what_cargo_says() {
        let said = "{\"reason\":\"compiler-artifact\",\"executable\":null}\n\
                    {\"reason\":\"compiler-artifact\",\"executable\":\"/x/jobs-1\"}\n\
                    {\"reason\":\"build-finished\",\"success\":true}\n";
        assert_eq!(driver_in(said), Some(PathBuf::from("/x/jobs-1")));
        assert_eq!(driver_in("{}"), None);
    }
}
