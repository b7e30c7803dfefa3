//! What a statement may read, and which ones may read more.

use std::fmt;

/// Tuples that a statement may read for each row that it returns or changes.
const TUPLES_A_ROW: u64 = 20;
/// Tuples that any statement may read: far fewer than a filled table has.
const FREE_TUPLES: u64 = 1_000;
/// Pages that any statement may touch: fewer than an index of a filled table has.
const FREE_PAGES: u64 = 400;
/// Steps of SQLite's virtual machine that any statement may take; reading one tuple takes three to ten.
const FREE_STEPS: u64 = 15_000;
const STEPS_A_ROW: u64 = 400;

/// What a statement that was stopped is taken to have read.
pub const STOPPED: u64 = 1_000_000_000;

/// What one run of a statement cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Rows returned or changed.
    pub rows: u64,
    /// Tuples read (PostgreSQL).
    pub tuples: u64,
    /// Pages touched (PostgreSQL).
    pub pages: u64,
    /// Steps of the virtual machine (SQLite).
    pub steps: u64,
}

impl Cost {
    /// How many times what is allowed this run cost.
    pub fn excess(&self) -> f64 {
        let share = |spent: u64, free: u64, each: u64| spent as f64 / (free + each * self.rows) as f64;
        share(self.tuples, FREE_TUPLES, TUPLES_A_ROW)
            .max(share(self.pages, FREE_PAGES, TUPLES_A_ROW))
            .max(share(self.steps, FREE_STEPS, STEPS_A_ROW))
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, tuples, pages, steps } = self;
        match steps {
            0 => write!(f, "{rows} rows, {tuples} tuples, {pages} pages"),
            _ => write!(f, "{rows} rows, {steps} steps"),
        }
    }
}

/// A statement that costs too much.
#[derive(Debug)]
pub struct Finding {
    pub engine: &'static str,
    /// How plans were made and what the database knew of its tables.
    pub mode: &'static str,
    pub sql: String,
    pub cost: Cost,
    /// The plan as the database explains it.
    pub plan: String,
}

/// What a judge saw.
#[derive(Debug, Default)]
pub struct Report {
    pub findings: Vec<Finding>,
    /// Runs judged.
    pub judged: usize,
    /// Statements that failed with all their samples, and what was said.
    pub failed: Vec<(String, String)>,
}

/// Statements that may read more, by how they begin, and why.
const ALLOWED: &[(&str, &str)] = &[];

/// Why `sql` may read as much as it does.
pub fn reason(sql: &str) -> Option<&'static str> {
    let plain = plain(sql);
    ALLOWED.iter().find(|(start, _)| plain.starts_with(start)).map(|(_, reason)| *reason)
}

/// A statement with single spaces.
pub fn plain(sql: &str) -> String {
    sql.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_measured_by_rows() {
        let cost = |rows, tuples| Cost { rows, tuples, ..Cost::default() }.excess();
        assert!(cost(0, 1_000) <= 1.0);
        assert!(cost(0, 1_001) > 1.0);
        assert!(cost(100, 3_000) <= 1.0);
        assert!(Cost { steps: 300_000, rows: 20, ..Cost::default() }.excess() > 10.0);
    }
}
