//! What is measured of each contender: the rows, and how many jobs each of them gets.

use super::contenders::Contender;

/// One row of the comparison.
pub struct Row {
    /// As the programs that measure know it.
    pub name: &'static str,
    pub title: &'static str,
    /// How many processes work.
    pub workers: u32,
    /// Jobs for those who do tens of thousands a second; the slow get a tenth, so that no run lasts minutes.
    pub jobs: u64,
    /// What it says: a rate, or times.
    pub says: Says,
    /// Whether only Kith is asked.
    pub own: bool,
}

/// What a row says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Says {
    Rate,
    Times,
}

const fn row(name: &'static str, title: &'static str, jobs: u64) -> Row {
    Row { name, title, workers: 1, jobs, says: Says::Rate, own: false }
}

/// All of them, in the order of the table.
pub const ROWS: &[Row] = &[
    row("cycle", "full cycle: enqueue in bulk, claim, run a no-op, complete", 30_000),
    row("single", "enqueue one by one, 64 callers", 20_000),
    row("bulk", "enqueue in bulk", 60_000),
    row("drain", "drain what is there, 50 at once", 30_000),
    Row { says: Says::Times, ..row("latency", "enqueue to start, 500 a second", 2_500) },
    row("due", "50,000 deferred jobs fall due at once", 50_000),
    row("workers", "1 worker process", 30_000),
    Row { workers: 4, ..row("workers", "4 worker processes", 30_000) },
    Row { own: true, ..row("million", "1,000,000 deferred jobs fall due at once", 1_000_000) },
];

impl Row {
    /// How many jobs `contender` gets.
    pub fn jobs(&self, contender: Contender, quick: bool) -> u64 {
        let jobs = if quick { self.jobs / 10 } else { self.jobs };
        match self.says {
            Says::Times => jobs,
            Says::Rate if contender.is_slow_at(self.name) => jobs / 10,
            Says::Rate => jobs,
        }
    }
}
