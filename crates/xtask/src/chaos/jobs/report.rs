//! Result of a run, as text and as evidence.

use anyhow::Result;
use serde_json::json;

use super::process_group::FaultCounts;
use super::verdict::JobVerdict;
use crate::evidence::{self, EvidenceOutcome, EvidenceRow, Tests, Trials};

/// Result of one run.
pub struct JobChaosReport {
    pub name: &'static str,
    pub seed: u64,
    pub faults: FaultCounts,
    pub verdict: JobVerdict,
    /// Highest number under which any process tried to enqueue a job.
    pub max_number: i64,
    pub stale: i64,
}

impl JobChaosReport {
    /// Prints the report.
    pub fn print(&self) {
        let Self { name, seed, faults, verdict, max_number, stale } = self;
        let FaultCounts { kills, freezes, database_kills, backend_kills, terminations, .. } = faults;
        println!("jobs on {name} (seed {seed})");
        println!(
            "  {kills} kills of processes, {freezes} frozen past their lease; of the database {database_kills} kills, \
             {backend_kills} kills of backends, {terminations} connections terminated"
        );
        println!(
            "  {} outages of {:.0} s together, {} rests of {:.0} s together",
            faults.outages, faults.outage_s, faults.idle_periods, faults.idle_s
        );
        println!(
            "  {max_number} tried, {} acknowledged, {} executed, {} pending, {} dead letters: {} lost",
            verdict.acknowledged,
            verdict.executed,
            verdict.pending,
            verdict.dead,
            verdict.lost.len()
        );
        println!(
            "  {} jobs run again, {} wrong effects, {} attempts together",
            verdict.run_again,
            verdict.wrong_effects.len(),
            verdict.concurrent.len()
        );
        println!(
            "  {} attempts frozen, {} of them ended late and counted for nothing ({stale} told so); {} stale ends accepted",
            verdict.frozen,
            verdict.fenced_off,
            verdict.stale_accepted.len()
        );
        verdict.faults().iter().for_each(|fault| println!("  - {fault}"));
    }

    fn figures(&self) -> serde_json::Value {
        let Self { name, seed, faults, verdict, max_number, stale } = self;
        json!({
            "on": name,
            "seed": seed,
            "kills": faults.kills,
            "freezes": faults.freezes,
            "database_kills": faults.database_kills,
            "backend_kills": faults.backend_kills,
            "terminations": faults.terminations,
            "outages": faults.outages,
            "outage_s": faults.outage_s,
            "rests": faults.idle_periods,
            "rest_s": faults.idle_s,
            "tried": max_number,
            "acknowledged": verdict.acknowledged,
            "executed": verdict.executed,
            "pending": verdict.pending,
            "dead": verdict.dead,
            "lost": verdict.lost.len(),
            "run_again": verdict.run_again,
            "wrong_effects": verdict.wrong_effects.len(),
            "together": verdict.concurrent.len(),
            "frozen_attempts": verdict.frozen,
            "fenced_off": verdict.fenced_off,
            "told_stale": stale,
            "stale_accepted": verdict.stale_accepted.len(),
        })
    }
}

/// Writes evidence. The rows pass only with at least 100,000 acknowledged jobs, so smaller runs can only
/// record failures.
pub fn write_evidence(reports: &[JobChaosReport]) -> Result<()> {
    let verdicts = || reports.iter().map(|report| &report.verdict);
    let acknowledged: usize = verdicts().map(|verdict| verdict.acknowledged).sum();
    let freezes: u32 = reports.iter().map(|report| report.faults.freezes).sum();
    let kills = reports.iter().map(|report| report.faults.count()).sum::<u32>() - freezes;
    let count = |of: fn(&JobVerdict) -> usize| verdicts().map(of).sum::<usize>();
    let figures = || json!(reports.iter().map(JobChaosReport::figures).collect::<Vec<_>>());
    let row = |id, faults: usize, is_enough: bool, summary: String| {
        (is_enough || faults > 0).then(|| EvidenceRow {
            id,
            result: EvidenceOutcome::of(faults == 0),
            figures: figures(),
            summary,
        })
    };
    let (lost, pending) = (count(|v| v.lost.len()), count(|v| v.pending));
    let (wrong, again) = (count(|v| v.wrong_effects.len()), count(|v| v.run_again));
    let (stale, fenced) = (count(|v| v.stale_accepted.len()), count(|v| v.fenced_off));
    let concurrent = count(|v| v.concurrent.len());
    let is_large = acknowledged >= 100_000;
    let has_four = reports.iter().any(|report| report.name.contains("four"));
    let rows = [
        row(
            "DRV-06",
            lost + pending,
            is_large && kills > 0,
            format!("{kills} kills, {acknowledged} jobs acknowledged, {lost} lost, {pending} left over"),
        ),
        row("DRV-07", wrong, is_large && again > 0, format!("{again} jobs run again, {wrong} effects wrong")),
        row(
            "DRV-08",
            stale + concurrent,
            freezes > 0 && fenced > 0,
            format!(
                "{freezes} workers frozen past their lease, {fenced} late ends fenced off, {stale} accepted"
            ),
        ),
        row(
            "JOB-04",
            concurrent,
            has_four && is_large,
            format!("four worker processes, {acknowledged} jobs, {concurrent} run by two at once"),
        ),
    ];
    let trials = reports.iter().filter(|report| report.verdict.is_clean()).map(|report| Trials {
        row: "DRV-06".to_owned(),
        what: format!(
            "jobs on {}: nothing of {} acknowledgements lost",
            report.name, report.verdict.acknowledged
        ),
        trials: u64::from(report.faults.count()),
    });
    let tests = Tests { trials: trials.collect(), ..Tests::default() };
    let rows: Vec<_> = rows.into_iter().flatten().collect();
    evidence::write_with_tests("cargo xtask chaos jobs", &rows, &tests)
}
