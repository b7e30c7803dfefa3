//! Rows of the job benchmark, each with its number of jobs.

use super::contenders::Contender;

/// Row of the comparison.
pub struct JobBenchRow {
    /// Name that the driver programs accept.
    pub name: &'static str,
    pub title: &'static str,
    /// Number of worker processes.
    pub workers: u32,
    /// Number of jobs for fast contenders. Slow contenders get a tenth of it, to limit the duration.
    pub jobs: u64,
    /// Kind of result that the row measures.
    pub result: ResultKind,
    /// True if only Kith is measured in this row.
    pub own: bool,
}

/// Kind of result of a row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ResultKind {
    Rate,
    Times,
}

const fn row(name: &'static str, title: &'static str, jobs: u64) -> JobBenchRow {
    JobBenchRow { name, title, workers: 1, jobs, result: ResultKind::Rate, own: false }
}

/// All rows, in table order.
pub const ROWS: &[JobBenchRow] = &[
    row("cycle", "full cycle: enqueue in bulk, claim, run a no-op, complete", 30_000),
    row("single", "enqueue one by one, 64 callers", 20_000),
    row("bulk", "enqueue in bulk", 60_000),
    row("drain", "drain what is there, 50 at once", 30_000),
    JobBenchRow { result: ResultKind::Times, ..row("latency", "enqueue to start, 500 a second", 2_500) },
    row("due", "50,000 deferred jobs fall due at once", 50_000),
    row("workers", "1 worker process", 30_000),
    JobBenchRow { workers: 4, ..row("workers", "4 worker processes", 30_000) },
    JobBenchRow { own: true, ..row("million", "1,000,000 deferred jobs fall due at once", 1_000_000) },
];

impl JobBenchRow {
    /// Returns the number of jobs for `contender`.
    pub fn jobs(&self, contender: Contender, quick: bool) -> u64 {
        let jobs = if quick { self.jobs / 10 } else { self.jobs };
        match self.result {
            ResultKind::Times => jobs,
            ResultKind::Rate if contender.is_slow_at(self.name) => jobs / 10,
            ResultKind::Rate => jobs,
        }
    }
}
