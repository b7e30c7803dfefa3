//! Execution times of statements for monitoring, as one histogram per statement text.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Upper bounds of the histogram buckets in microseconds. An additional bucket counts longer runs.
pub const STATEMENT_BUCKETS_US: [u64; 12] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000];
const BUCKETS: usize = STATEMENT_BUCKETS_US.len() + 1;

/// Times of all statements of a store, by statement text.
#[derive(Debug, Default)]
pub(crate) struct Statements(Mutex<HashMap<&'static str, Arc<Times>>>);

/// Times of one statement.
#[derive(Debug, Default)]
pub(crate) struct Times {
    total_us: AtomicU64,
    max_us: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

/// Snapshot of the times of one statement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatementTimes {
    /// Number of runs.
    pub count: u64,
    /// Total time of all runs in microseconds.
    pub total_us: u64,
    /// Duration of the longest run in microseconds.
    pub max_us: u64,
    /// Number of runs per bucket of [`STATEMENT_BUCKETS_US`]. The last element counts longer runs.
    pub buckets: [u64; BUCKETS],
}

impl Statements {
    pub fn of(&self, sql: &'static str) -> Arc<Times> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(sql).or_default())
    }

    /// Returns the times of each statement that was prepared.
    pub fn snapshot(&self) -> Vec<(&'static str, StatementTimes)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(sql, times)| (*sql, times.snapshot())).collect()
    }
}

impl Times {
    pub fn count(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = STATEMENT_BUCKETS_US.partition_point(|bound| *bound < us);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.total_us.fetch_add(us, Ordering::Relaxed);
        self.max_us.fetch_max(us, Ordering::Relaxed);
    }

    fn snapshot(&self) -> StatementTimes {
        let buckets = std::array::from_fn(|at| self.buckets[at].load(Ordering::Relaxed));
        StatementTimes {
            count: buckets.iter().sum(),
            total_us: self.total_us.load(Ordering::Relaxed),
            max_us: self.max_us.load(Ordering::Relaxed),
            buckets,
        }
    }
}

impl StatementTimes {
    /// Returns the sum of both times. `max_us` is the larger of the two values.
    #[must_use]
    pub fn with(self, other: &Self) -> Self {
        Self {
            count: self.count + other.count,
            total_us: self.total_us + other.total_us,
            max_us: self.max_us.max(other.max_us),
            buckets: std::array::from_fn(|at| self.buckets[at] + other.buckets[at]),
        }
    }

    /// Returns the number of runs that took longer than `bound_us`, which must be one of
    /// [`STATEMENT_BUCKETS_US`].
    pub fn above(&self, bound_us: u64) -> u64 {
        let within = STATEMENT_BUCKETS_US.partition_point(|bound| *bound <= bound_us);
        self.buckets[within..].iter().sum()
    }

    /// Returns the upper bound of the bucket that contains the 95th percentile, in microseconds. The result
    /// is at most `max_us`.
    pub fn p95_us(&self) -> u64 {
        let wanted = self.count - self.count / 20;
        let mut seen = 0;
        for (bound, runs) in STATEMENT_BUCKETS_US.iter().zip(self.buckets) {
            seen += runs;
            if seen >= wanted {
                return (*bound).min(self.max_us);
            }
        }
        self.max_us
    }
}

/// Measures the time until this value is dropped, even if the statement fails.
pub(crate) struct Stopwatch {
    times: Option<Arc<Times>>,
    began: Instant,
}

impl Stopwatch {
    #[expect(clippy::disallowed_methods, reason = "measures the database")]
    pub fn start(times: Option<Arc<Times>>) -> Self {
        Self { times, began: Instant::now() }
    }
}

impl Drop for Stopwatch {
    fn drop(&mut self) {
        if let Some(times) = &self.times {
            times.count(self.began.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_counted_in_their_buckets() {
        let statements = Statements::default();
        let one = statements.of("SELECT 1");
        (0..95).for_each(|_| one.count(Duration::from_micros(200)));
        (0..5).for_each(|_| one.count(Duration::from_millis(120)));
        statements.of("SELECT 2").count(Duration::from_secs(3));
        let all = statements.snapshot();
        let of = |sql| all.iter().find(|(known, _)| *known == sql).unwrap().1;
        let (first, second) = (of("SELECT 1"), of("SELECT 2"));
        assert_eq!((first.count, first.p95_us(), first.above(100_000)), (100, 250, 5));
        assert_eq!((second.count, second.p95_us(), second.max_us), (1, 3_000_000, 3_000_000));
        let both = first.with(&second);
        assert_eq!((both.count, both.above(100_000), both.above(250_000)), (101, 6, 1));
        one.count(Duration::from_millis(120));
        assert_eq!(
            statements.of("SELECT 1").snapshot().p95_us(),
            120_000,
            "more than 5 % of the runs take longer than 100 ms"
        );
    }
}
