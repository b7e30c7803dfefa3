//! Report of the job benchmark as a table and as JSON.

use std::fs;
use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::bloat::Bloat;
use super::contenders::Contender;
use super::figures::{number, thousands};
use super::rows::{JobBenchRow, ResultKind};
use crate::bench::machine::{self, Fsync};
use crate::bench::rows::{median, spread};
use crate::mode::Mode;
use crate::workspace::root;

/// Row of the comparison with the runs of all contenders.
pub struct RowComparison {
    row: &'static JobBenchRow,
    /// fsync performance of the disk, measured before each round of runs.
    pub fsyncs: Vec<Fsync>,
    pub runs: Vec<ContenderRuns>,
}

/// JSON outputs of the runs of one contender in a row.
pub struct ContenderRuns {
    pub contender: Contender,
    pub outputs: Vec<Value>,
}

impl RowComparison {
    /// Creates a row for the contenders `who`, without runs.
    pub fn new(row: &'static JobBenchRow, who: Vec<Contender>) -> Self {
        let runs =
            who.into_iter().map(|contender| ContenderRuns { contender, outputs: Vec::new() }).collect();
        Self { row, fsyncs: Vec::new(), runs }
    }

    /// Returns the minimum, median and maximum ratio of Kith's result to that of `other` in the same round.
    /// For latencies the ratio is inverted, so that a higher value is always better for Kith.
    fn ratios_to(&self, kith: &ContenderRuns, other: &ContenderRuns) -> [f64; 3] {
        let ratios = kith.outputs.iter().zip(&other.outputs).map(|(kith, other)| match self.row.result {
            ResultKind::Rate => number(kith, "rate_per_s") / number(other, "rate_per_s"),
            ResultKind::Times => number(other, "p99_ms") / number(kith, "p99_ms"),
        });
        spread(&ratios.collect::<Vec<_>>())
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("\n### {}", self.row.title), String::new()];
        let fsync = |of: fn(&Fsync) -> f64| median(&self.fsyncs.iter().map(of).collect::<Vec<_>>());
        lines.push(format!(
            "Disk: {:.0} fsync/s, p99 {:.2} ms.\n",
            fsync(|fsync| fsync.rate),
            fsync(|fsync| fsync.p99_ms)
        ));
        let is_alone = self.runs.iter().all(|runs| runs.contender.is_kith());
        let ours = self.runs.iter().filter(|runs| runs.contender.is_kith() && !is_alone);
        let ours: Vec<_> = ours.collect();
        let mut head = match self.row.result {
            ResultKind::Rate => "| | jobs | per second |".to_owned(),
            ResultKind::Times => "| | jobs | p50 ms | p99 ms |".to_owned(),
        };
        for kith in &ours {
            head.push_str(&format!(" {} is ahead by |", kith.contender.name()));
        }
        let columns = head.matches('|').count() - 1;
        lines.push(head);
        lines.push(format!("|{}", "---|".repeat(columns)));
        for runs in &self.runs {
            let mut line = format!("| {} | {} |", runs.contender.name(), thousands(runs.first("jobs")));
            match self.row.result {
                ResultKind::Rate => line.push_str(&format!(" {} |", with_range(&runs.all("rate_per_s"), 0))),
                ResultKind::Times => {
                    for what in ["p50_ms", "p99_ms"] {
                        line.push_str(&format!(" {} |", with_range(&runs.all(what), 2)));
                    }
                }
            }
            for kith in &ours {
                let is_other = !runs.contender.is_kith();
                let [min, middle, max] = self.ratios_to(kith, runs);
                let lead = format!(" {middle:.1} × ({min:.1}–{max:.1}) |");
                line.push_str(if is_other { &lead } else { " |" });
            }
            lines.push(line);
        }
        lines
    }

    /// Returns true if every run of every contender has a positive figure.
    fn has_figures(&self) -> bool {
        let what = match self.row.result {
            ResultKind::Rate => "rate_per_s",
            ResultKind::Times => "p99_ms",
        };
        let has = |runs: &ContenderRuns| {
            !runs.outputs.is_empty() && runs.outputs.iter().all(|output| number(output, what) > 0.0)
        };
        !self.runs.is_empty() && self.runs.iter().all(has)
    }

    fn json(&self) -> Value {
        let runs = self.runs.iter().map(|runs| {
            let last = runs.outputs.last().cloned().unwrap_or_default();
            json!({
                "contender": runs.contender.name(),
                "version": last["version"],
                "settings": last["settings"],
                "durability": last["durability"],
                "runs": runs.outputs,
            })
        });
        let fsyncs = self.fsyncs.iter().map(|f| json!({ "per_s": f.rate, "p99_ms": f.p99_ms }));
        json!({
            "row": self.row.name,
            "title": self.row.title,
            "worker_processes": self.row.workers,
            "fsync": fsyncs.collect::<Vec<_>>(),
            "contenders": runs.collect::<Vec<_>>(),
        })
    }
}

impl ContenderRuns {
    fn all(&self, what: &str) -> Vec<f64> {
        self.outputs.iter().map(|output| number(output, what)).collect()
    }

    fn first(&self, what: &str) -> f64 {
        self.outputs.first().map_or(f64::NAN, |output| number(output, what))
    }
}

/// Formats the result of one run: the rate, or the latencies.
pub fn format_run(row: &JobBenchRow, output: &Value) -> String {
    match row.result {
        ResultKind::Rate => format!("{:.0}/s", number(output, "rate_per_s")),
        ResultKind::Times => {
            format!("p50 {:.2} ms, p99 {:.2} ms", number(output, "p50_ms"), number(output, "p99_ms"))
        }
    }
}

fn with_range(values: &[f64], decimals: usize) -> String {
    let [min, middle, max] = spread(values);
    if decimals == 0 {
        return format!("{} ({}–{})", thousands(middle), thousands(min), thousands(max));
    }
    format!("{middle:.decimals$} ({min:.decimals$}–{max:.decimals$})")
}

/// Returns a line for each contender with the ratio of its rate with four worker processes to its rate with
/// one. Empty unless both rows were measured.
fn scaling(all: &[RowComparison]) -> Vec<String> {
    let find = |workers| all.iter().find(|one| one.row.name == "workers" && one.row.workers == workers);
    let (Some(one), Some(four)) = (find(1), find(4)) else { return Vec::new() };
    let ratio = |runs: &ContenderRuns| {
        let four = four.runs.iter().find(|other| other.contender == runs.contender)?;
        let rate = |runs: &ContenderRuns| median(&runs.all("rate_per_s"));
        Some(format!("{} {:.2}", runs.contender.name(), rate(four) / rate(runs)))
    };
    let ratios: Vec<_> = one.runs.iter().filter_map(ratio).collect();
    vec![format!("\nFour processes over one, medians: {}.", ratios.join("; "))]
}

/// Returns lines in which each contender describes the durability of acknowledged jobs.
fn durabilities(all: &[RowComparison]) -> Vec<String> {
    let mut lines = vec!["\nWhat of an acknowledged job survives:".to_owned(), String::new()];
    for contender in Contender::ALL {
        let runs = all.iter().flat_map(|one| &one.runs).find(|runs| runs.contender == contender);
        let Some(output) = runs.and_then(|runs| runs.outputs.last()) else { continue };
        let text = |what: &str| output[what].as_str().unwrap_or("?").to_owned();
        lines.push(format!("* {} ({}): {}.", contender.name(), text("version"), text("durability")));
    }
    lines
}

/// Prints the report and writes `target/bench-jobs.json`. A smoke run only checks that every contender has
/// figures.
pub fn report(all: &[RowComparison], bloat: Option<&Bloat>, mode: Mode) -> Result<()> {
    let commit = Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12"]).output();
    let commit =
        commit.map(|done| String::from_utf8_lossy(&done.stdout).trim().to_owned()).unwrap_or_default();
    let machine = machine::describe()?;
    println!("\ncommit {commit}, {} cores of {}", machine["cores"], machine["processor"]);
    println!("medians with their range, of interleaved runs on all cores; ratios are of runs of one round");
    let lines = all.iter().flat_map(RowComparison::lines).chain(scaling(all));
    let lines = lines.chain(durabilities(all)).chain(bloat.into_iter().flat_map(Bloat::lines));
    lines.for_each(|line| println!("{line}"));
    if mode.is_smoke() {
        ensure!(!all.is_empty() && all.iter().all(RowComparison::has_figures), "a contender has no figures");
        return Ok(());
    }
    let rows: Vec<_> = all.iter().map(RowComparison::json).collect();
    let path = root()?.join("target/bench-jobs.json");
    let whole =
        json!({ "commit": commit, "machine": machine, "rows": rows, "bloat": bloat.map(Bloat::json) });
    fs::write(&path, serde_json::to_string_pretty(&whole)? + "\n")?;
    println!("\nthe same for programs: {}", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::jobs::rows::ROWS;

    #[test]
    fn ratios_compare_runs_of_one_round() {
        let output = |rates: [f64; 2]| rates.map(|rate| json!({ "rate_per_s": rate, "jobs": 10 })).to_vec();
        let mut compared = RowComparison::new(&ROWS[0], vec![Contender::KithSqlite, Contender::BullAlways]);
        compared.runs[0].outputs = output([10.0, 100.0]);
        compared.runs[1].outputs = output([5.0, 50.0]);
        assert_eq!(compared.ratios_to(&compared.runs[0], &compared.runs[1]), [2.0, 2.0, 2.0]);
    }
}
