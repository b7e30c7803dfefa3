//! Systems that the benchmark compares: Kith on both databases, BullMQ and Graphile Worker. Each runs as a
//! separate process, which prints its results as one line of JSON.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use kith_store::testing::server::{PostgresServer, find_bin};
use serde_json::Value;

use super::redis::{FsyncPolicy, Redis};
use super::rows::JobBenchRow;
use crate::mode::Mode;
use crate::workspace::{cargo, root, run};

/// System in one configuration that takes part in the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contender {
    KithSqlite,
    KithPostgres,
    BullAlways,
    BullEachSecond,
    Graphile,
    /// Graphile Worker in its default configuration, without local queue and batching.
    GraphilePlain,
}

impl Contender {
    /// All contenders, Kith first.
    pub const ALL: [Self; 6] = [
        Self::KithSqlite,
        Self::KithPostgres,
        Self::BullAlways,
        Self::BullEachSecond,
        Self::Graphile,
        Self::GraphilePlain,
    ];

    /// Returns the name used in the table.
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

    /// Returns true for Kith.
    pub fn is_kith(self) -> bool {
        matches!(self, Self::KithSqlite | Self::KithPostgres)
    }

    /// Returns true if this contender processes only a few thousand jobs per second in the benchmark `row`.
    pub fn is_slow_at(self, row: &str) -> bool {
        match self {
            Self::Graphile => row == "single",
            Self::GraphilePlain => matches!(row, "single" | "drain" | "cycle" | "workers" | "due"),
            _ => false,
        }
    }

    /// Returns true if this contender is measured in `row`. SQLite is not measured with separate worker
    /// processes, and `GraphilePlain` is not measured in the enqueue rows, where it does not differ from
    /// `Graphile`. Rows with `own` measure Kith only.
    pub fn has(self, row: &JobBenchRow) -> bool {
        match self {
            Self::KithSqlite => row.name != "workers",
            Self::KithPostgres => true,
            Self::GraphilePlain => !row.own && !matches!(row.name, "single" | "bulk"),
            _ => !row.own,
        }
    }
}

/// Database servers and driver programs of the comparison.
pub struct BenchEnvironment {
    pub folder: PathBuf,
    pub driver: Option<PathBuf>,
    pub postgres: PostgresServer,
    pub redis: Option<Redis>,
}

/// Name of the database that is recreated for each run.
const DATABASE: &str = "jobs";

impl BenchEnvironment {
    /// Runs `row` with `contender` on an empty database and returns its output.
    pub fn run(&self, contender: Contender, row: &JobBenchRow, jobs: u64) -> Result<Value> {
        let mut command = self.command(contender)?;
        command.args(["--row", row.name, "--jobs", &jobs.to_string()]);
        command.args(["--workers", &row.workers.to_string()]);
        run_json(command, contender.name())
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
            Contender::BullAlways => self.bullmq(FsyncPolicy::Always),
            Contender::BullEachSecond => self.bullmq(FsyncPolicy::EachSecond),
            Contender::Graphile => self.graphile("on"),
            Contender::GraphilePlain => self.graphile("off"),
        }
    }

    /// Returns a command that runs the driver program of Kith's job engine.
    pub fn driver(&self) -> Result<Command> {
        Ok(Command::new(self.driver.as_ref().context("our driver was not built")?))
    }

    fn bullmq(&self, synced: FsyncPolicy) -> Result<Command> {
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

    /// Recreates the database and runs a checkpoint, so that earlier runs leave no pending writes. Returns
    /// its URL.
    pub fn fresh_database(&self) -> Result<String> {
        let maintenance = self.postgres.url("postgres");
        psql(&maintenance, &format!("DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)"))?;
        psql(&maintenance, &format!("CREATE DATABASE {DATABASE}"))?;
        psql(&maintenance, "CHECKPOINT")?;
        Ok(self.postgres.url(DATABASE))
    }
}

/// Runs a program and parses the last line of its output as JSON.
pub fn run_json(mut command: Command, who: &str) -> Result<Value> {
    let done = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let done = done.with_context(|| format!("{who} cannot be run"))?;
    let output = String::from_utf8_lossy(&done.stdout);
    ensure!(done.status.success(), "{who} failed ({}): {output}", done.status);
    let line = output.lines().last().unwrap_or_default();
    serde_json::from_str(line).with_context(|| format!("{who} printed {line}"))
}

/// Runs one SQL statement and returns its output.
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

/// Installs the peers' npm packages from their lock file, if they are missing.
pub fn install_peers() -> Result<()> {
    let folder = peers()?;
    if folder.join("node_modules").exists() {
        return Ok(());
    }
    let mut npm = Command::new("npm");
    run(npm.args(["ci", "--no-audit", "--no-fund", "--prefix"]).arg(folder))
        .context("the peers need Node 20 or newer and npm")
}

/// Builds the driver for Kith's job engine and returns its path. A smoke run builds without optimizations.
pub fn build_driver(mode: Mode) -> Result<PathBuf> {
    let mut build = cargo()?;
    // The tests were built with the features of the whole workspace. A smoke build selects the same features
    // and so reuses their build.
    build.args(
        mode.pick(["bench", "--no-run", "--package=kith-jobs"], ["build", "--profile=dev", "--workspace"]),
    );
    build.args(["--locked", "--bench", "jobs"]);
    build.args(["--message-format", "json-render-diagnostics"]);
    let done = build.stderr(Stdio::inherit()).output().context("cargo cannot be run")?;
    ensure!(done.status.success(), "the driver of our own jobs does not build");
    driver_in(&String::from_utf8_lossy(&done.stdout)).context("cargo does not report the path of the driver")
}

/// Returns the path of the last executable in the JSON messages of cargo.
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
    fn driver_path_is_read_from_cargo_messages() {
        let output = "{\"reason\":\"compiler-artifact\",\"executable\":null}\n\
                    {\"reason\":\"compiler-artifact\",\"executable\":\"/x/jobs-1\"}\n\
                    {\"reason\":\"build-finished\",\"success\":true}\n";
        assert_eq!(driver_in(output), Some(PathBuf::from("/x/jobs-1")));
        assert_eq!(driver_in("{}"), None);
    }
}
