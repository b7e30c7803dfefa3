//! Limits for the cost of statements, and a list of statements that may exceed them.

use std::fmt;

/// Number of tuples that a statement may read for each row that it returns or changes.
const TUPLES_PER_ROW: u64 = 20;
/// Number of tuples that any statement may read. A filled table has many more.
const MIN_TUPLE_BUDGET: u64 = 1_000;
/// Number of pages that any statement may touch. An index of a filled table has more.
const FREE_PAGES: u64 = 500;
/// Number of virtual machine steps that any statement may execute on SQLite. Reading one tuple takes three to
/// ten steps.
const FREE_STEPS: u64 = 15_000;
const STEPS_PER_ROW: u64 = 400;

/// Cost recorded for a statement that was stopped early, in tuples or steps.
pub const STOPPED: u64 = 1_000_000_000;

/// Cost of one run of a statement.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Number of rows returned or changed.
    pub rows: u64,
    /// Number of tuples read (PostgreSQL only).
    pub tuples: u64,
    /// Number of pages touched (PostgreSQL only).
    pub pages: u64,
    /// Number of virtual machine steps (SQLite only).
    pub steps: u64,
}

impl Cost {
    /// Returns the ratio of this cost to the allowed cost.
    pub fn excess(&self) -> f64 {
        let share = |spent: u64, free: u64, each: u64| spent as f64 / (free + each * self.rows) as f64;
        share(self.tuples, MIN_TUPLE_BUDGET, TUPLES_PER_ROW)
            .max(share(self.pages, FREE_PAGES, TUPLES_PER_ROW))
            .max(share(self.steps, FREE_STEPS, STEPS_PER_ROW))
    }
}

/// Choice of the recorded parameters by which a statement is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sample {
    /// Parameters with which the statement costs least, relative to the allowed cost.
    Cheapest,
    /// Parameters with which the statement costs most, relative to the allowed cost.
    Costliest,
}

impl Sample {
    /// Returns the ratio of actual to allowed cost above which a statement fails. PostgreSQL chooses its
    /// plans by sampled statistics. In CI a statement therefore fails there only if it scans a whole table,
    /// which exceeds the allowed cost about twenty times. The plans of SQLite do not vary between runs.
    pub fn tolerance(self, engine: &str) -> f64 {
        match (self, engine) {
            (Self::Cheapest, "PostgreSQL") => 15.0,
            _ => 1.0,
        }
    }

    /// Returns true if a statement with the cost `known` should be judged by `new` instead.
    pub fn prefers(self, new: &Cost, known: &Cost) -> bool {
        match self {
            Self::Cheapest => new.excess() < known.excess(),
            Self::Costliest => new.excess() > known.excess(),
        }
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

/// Statement that costs more than allowed.
#[derive(Debug)]
pub struct Finding {
    pub engine: &'static str,
    /// Kind of plan, and state of the statistics.
    pub mode: &'static str,
    pub sql: String,
    pub cost: Cost,
    /// Query plan.
    pub plan: String,
}

/// Results of judging the statements on one database.
#[derive(Debug, Default)]
pub struct PlanReport {
    pub findings: Vec<Finding>,
    /// Number of runs that were judged.
    pub judged: usize,
    /// Statements that failed with all recorded parameters, each with an error.
    pub failed: Vec<(String, String)>,
}

const ARCHIVE: &str = "an administrator's archive, a thousand links at a time";
const FACTS: &str = "a count for the facts that administrators see, stopped after 5 s";
const FILTERS: &str = "a list by several filters, for administrators; it walks by id until a page is full";
const MAINTENANCE: &str = "maintenance, once a minute";
const OCCURRENCES: &str = "a schedule keeps a thousand occurrences, copies have more";
const RUNNING: &str = "there are as many running jobs as workers run at once";
const SCHEDULES: &str = "there are as many schedules as are declared";
const SERIES: &str = "one row for each minute, queue and kind, kept for days";

/// Parts of statements that list rows with several optional filters. The first filter of these statements has
/// no index.
const FILTER_SIGNS: &[&str] = &[
    "AND (CAST($1 AS TEXT) IS NULL OR",
    "AND (CAST($2 AS TEXT) IS NULL OR",
    "AND (CAST($6 AS TEXT) IS NULL OR",
];

/// Beginnings of statements that may exceed the limits, each with the reason.
const ALLOWED: &[(&str, &str)] = &[
    ("DELETE FROM audit_details WHERE entry_id IN (SELECT d.entry_id", MAINTENANCE),
    ("DELETE FROM audit_details WHERE entry_id IN (SELECT entry_id FROM audit_seals", ARCHIVE),
    ("DELETE FROM audit_entries WHERE id IN (SELECT entry_id FROM audit_seals", ARCHIVE),
    ("DELETE FROM consumer_failures WHERE consumer", "a consumer that no build has any more, once"),
    ("DELETE FROM consumer_failures WHERE position", MAINTENANCE),
    ("DELETE FROM job_dependencies WHERE job IN", MAINTENANCE),
    ("DELETE FROM job_minutes WHERE minute <", MAINTENANCE),
    ("DELETE FROM job_occurrences WHERE schedule", OCCURRENCES),
    ("DELETE FROM job_queue_samples WHERE at <", MAINTENANCE),
    ("DELETE FROM job_rate_windows WHERE opened_at <", MAINTENANCE),
    (
        "DELETE FROM job_dependent_updates WHERE id IN",
        "dependent updates wait for milliseconds, copies have more",
    ),
    ("DELETE FROM job_workers WHERE id = $1 AND is_remote", RUNNING),
    ("SELECT (SELECT COUNT(*) FROM space_items WHERE (created_by", "one account's purge"),
    ("SELECT CAST(indexrelname AS TEXT) FROM pg_stat_user_indexes", FACTS),
    ("SELECT 1 FROM jobs WHERE queue = $1 AND state = 2 AND worker", RUNNING),
    ("SELECT CAST(t AS TEXT) FROM", "a dump that tests look through"),
    ("SELECT COALESCE(c.space, i.space)", FACTS),
    ("SELECT COUNT(*) FROM ( SELECT person", FACTS),
    (
        "SELECT COUNT(*) FROM (SELECT position FROM consumer_failures",
        "counted up to 10,000 for the metrics, every 10 s",
    ),
    ("SELECT COUNT(*) FROM bond_slots", FACTS),
    ("SELECT COUNT(*) FROM bonds", FACTS),
    ("SELECT COUNT(*) FROM job_history_segment_", MAINTENANCE),
    ("SELECT COUNT(*) FROM partner_requests", FACTS),
    ("SELECT COUNT(*) FROM users WHERE purged_at IS NULL AND created_at", MAINTENANCE),
    ("SELECT COUNT(*) FROM users WHERE role = 'admin'", FACTS),
    ("SELECT COUNT(*), COALESCE(MIN(position), 0)", FACTS),
    ("SELECT COUNT(*), COALESCE(SUM(CASE WHEN LENGTH(digest)", FACTS),
    ("SELECT MIN(b.archived_at)", FACTS),
    ("SELECT a.id, a.at, a.actor, a.action, a.object, a.request_id, a.details_hash, d.body", FILTERS),
    (
        "SELECT b.id, b.user_a, b.user_b FROM bonds b WHERE b.archived_at IS NOT NULL",
        "begins once, then goes on from a mark",
    ),
    ("SELECT d.id FROM job_dead_letters d WHERE d.id > $3", FILTERS),
    ("SELECT id FROM job_dead_letters WHERE id > $3", FILTERS),
    (
        "SELECT id, attempt, claim_token FROM jobs WHERE cancel_requested_at IS NOT NULL AND state = 2",
        RUNNING,
    ),
    ("SELECT id, attempt, claim_token FROM jobs WHERE state = 2", RUNNING),
    ("SELECT id, attempt, claim_token, worker FROM jobs WHERE state = 2", RUNNING),
    ("SELECT id, email, display_name, role, created_at, suspended_at", FILTERS),
    ("SELECT errors, id, queue, kind, state, priority, run_at", FILTERS),
    (
        "SELECT i.id, i.collection, i.data, i.version, i.created_at, i.created_by, i.updated_at, i.updated_by, i.space",
        MAINTENANCE,
    ),
    ("SELECT k.bond_id, k.ended_at, k.restored_at", "PostgreSQL hashes all breakups until they are analyzed"),
    ("SELECT kind, COUNT(*) FROM ( SELECT CASE WHEN password_hash", FACTS),
    ("SELECT kind, MAX(CASE WHEN completed", SERIES),
    ("SELECT minute, queue, kind, started", SERIES),
    ("SELECT name FROM job_schedules WHERE NOT paused", SCHEDULES),
    ("SELECT name, owner, is_declared, queue, kind, payload", SCHEDULES),
    ("SELECT o.job FROM job_occurrences o JOIN jobs j", OCCURRENCES),
    ("SELECT queue, CAST(SUM(ready) AS BIGINT)", "counts live jobs for the metrics, every 10 s"),
    ("SELECT queue, ready, scheduled, running, blocked, dead", SERIES),
    ("SELECT reason, recurring_id, id, endpoint_id, url", FILTERS),
    ("UPDATE archived_spaces SET purge_at = NULL", MAINTENANCE),
    ("UPDATE consumer_failures SET attempts", "at most a thousand failures of a consumer wait"),
    ("UPDATE archived_spaces SET purge_elapsed_ms", MAINTENANCE),
    ("UPDATE archived_space_items SET created_by = CASE", "one account's purge"),
    ("UPDATE space_items SET created_by = CASE", "one account's purge"),
];

/// Returns the reason why `sql` may exceed the limits. `None` if it may not.
pub fn reason(sql: &str) -> Option<&'static str> {
    let plain = collapse_whitespace(sql);
    let allowed = ALLOWED.iter().find(|(start, _)| plain.starts_with(start));
    // The same list without filters is a separate statement, which is not exempt.
    let applies = |reason: &&str| *reason != FILTERS || FILTER_SIGNS.iter().any(|sign| plain.contains(sign));
    allowed.map(|(_, reason)| *reason).filter(applies)
}

/// Returns a statement in which each run of white space is replaced by one space.
pub fn collapse_whitespace(sql: &str) -> String {
    sql.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allowed_cost_grows_with_rows() {
        let cost = |rows, tuples| Cost { rows, tuples, ..Cost::default() }.excess();
        assert!(cost(0, 1_000) <= 1.0);
        assert!(cost(0, 1_001) > 1.0);
        assert!(cost(100, 3_000) <= 1.0);
        assert!(Cost { steps: 300_000, rows: 20, ..Cost::default() }.excess() > 10.0);
    }
}
