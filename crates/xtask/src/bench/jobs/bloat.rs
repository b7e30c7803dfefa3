//! Measures how a long-running snapshot in PostgreSQL slows down claims. Reports pages touched and throughput
//! while jobs are created and completed.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use kith_store::testing::server::find_bin;
use serde_json::{Value, json};

use super::contenders::{BenchEnvironment, run_json};
use super::figures::{number, thousands};
use crate::bench::rows::spread;

/// Maximum ratio of the pages touched per claim with the snapshot to those without it.
const MAX_BUFFERS_RATIO: f64 = 2.0;
/// Minimum ratio of the throughput with the snapshot to that without it.
const MIN_RATE_RATIO: f64 = 0.8;

/// Results of pairs of runs, one without and one with the snapshot.
pub struct Bloat {
    jobs: u64,
    pairs: Vec<[Value; 2]>,
}

/// Transaction that another session keeps open with a snapshot from its start. Ends when dropped.
struct Snapshot {
    session: Child,
    // The session would end if its standard input were closed.
    _input: ChildStdin,
}

impl Snapshot {
    fn hold(url: &str) -> Result<Self> {
        let mut command = Command::new(find_bin()?.join("psql"));
        command.args(["-X", "-q", "-A", "-t", url]);
        let mut session = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut input = session.stdin.take().context("psql has no input")?;
        let output = session.stdout.take().context("psql has no output")?;
        let transaction = Self {
            session,
            _input: {
                writeln!(input, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT COUNT(*) FROM pg_class;")?;
                input.flush()?;
                input
            },
        };
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        ensure!(!line.trim().is_empty(), "psql printed nothing");
        Ok(transaction)
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.session.kill();
        let _ = self.session.wait();
    }
}

/// Measures `pairs` pairs of runs with `jobs` jobs each. In every second pair the run with the snapshot comes
/// first.
pub fn bloat(environment: &BenchEnvironment, pairs: usize, jobs: u64) -> Result<Bloat> {
    eprintln!("\n{} jobs come and go, without and with a snapshot held open", thousands(jobs as f64));
    let mut all = Vec::new();
    for pair in 0..pairs {
        let first = pair % 2 == 1;
        let one = run(environment, first, jobs)?;
        let other = run(environment, !first, jobs)?;
        all.push(if first { [other, one] } else { [one, other] });
    }
    Ok(Bloat { jobs, pairs: all })
}

fn run(environment: &BenchEnvironment, is_held: bool, jobs: u64) -> Result<Value> {
    let url = environment.fresh_database()?;
    let snapshot = if is_held { Some(Snapshot::hold(&url)?) } else { None };
    let mut command = environment.driver()?;
    command.args(["--database", &url, "--row", "bloat", "--jobs", &jobs.to_string()]);
    let output = run_json(command, "Kith, PostgreSQL")?;
    drop(snapshot);
    eprintln!(
        "  {}: {:.0}/s, {} pages a claim, {} dead rows",
        if is_held { "held" } else { "free" },
        number(&output, "rate_per_s"),
        output["buffers_per_claim"],
        output["dead_rows"],
    );
    Ok(output)
}

impl Bloat {
    fn ratios(&self, what: &str) -> [f64; 3] {
        let ratios =
            self.pairs.iter().map(|[free, transaction]| number(transaction, what) / number(free, what));
        spread(&ratios.collect::<Vec<_>>())
    }

    /// Returns true if both ratios are within their bounds.
    pub fn holds(&self) -> bool {
        self.ratios("buffers_per_claim")[1] <= MAX_BUFFERS_RATIO
            && self.ratios("rate_per_s")[1] >= MIN_RATE_RATIO
    }

    /// Returns the report as lines.
    pub fn lines(&self) -> Vec<String> {
        let jobs = thousands(self.jobs as f64);
        let mut lines = vec![
            format!("\n### A snapshot held open over {jobs} jobs, PostgreSQL"),
            String::new(),
            "| | per second | pages a claim of 100 touches | dead rows at the end |".to_owned(),
            "|---|---|---|---|".to_owned(),
        ];
        for (at, name) in ["without", "with the snapshot"].into_iter().enumerate() {
            let all = |what: &str| {
                spread(&self.pairs.iter().map(|pair| number(&pair[at], what)).collect::<Vec<_>>())
            };
            let format_column = |what: &str| {
                let [min, middle, max] = all(what).map(thousands);
                format!("{middle} ({min}–{max})")
            };
            let columns = ["rate_per_s", "buffers_per_claim", "dead_rows"].map(format_column).join(" | ");
            lines.push(format!("| {name} | {columns} |"));
        }
        let [rate, buffers] = ["rate_per_s", "buffers_per_claim"].map(|what| self.ratios(what));
        lines.push(format!(
            "\nOf interleaved pairs: rate {:.2} ({:.2}–{:.2}), wanted at least {MIN_RATE_RATIO}; pages {:.2} ({:.2}–{:.2}), \
             wanted at most {MAX_BUFFERS_RATIO}.",
            rate[1], rate[0], rate[2], buffers[1], buffers[0], buffers[2]
        ));
        lines
    }

    /// Returns the report as JSON, with the plans.
    pub fn json(&self) -> Value {
        json!({ "jobs": self.jobs, "pairs": self.pairs, "holds": self.holds() })
    }
}
