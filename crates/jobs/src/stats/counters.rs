//! Counts of jobs in this process, by queue and kind.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

use crate::finish::ReportOutcome;
use crate::model::JobState;

/// Upper bounds of the buckets for the durations of attempts, in milliseconds.
pub const DURATION_BUCKETS_MS: [u64; 12] =
    [1, 5, 10, 50, 100, 500, 1_000, 5_000, 15_000, 60_000, 300_000, 3_600_000];
/// Maximum number of pairs of queue and kind that are counted separately. It is limited because clients
/// choose the names.
const MAX_KINDS: usize = 1_000;
/// Name under which all further pairs are counted.
const OTHER: &str = "(other)";

/// Counts for jobs of one kind in one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct JobCounts {
    /// Number of attempts started.
    pub started: i64,
    /// Number of jobs completed.
    pub completed: i64,
    /// Number of attempts failed.
    pub failed: i64,
    /// Number of jobs moved to the dead letters.
    pub dead: i64,
    /// Number of running jobs cancelled.
    pub cancelled: i64,
    /// Total duration of the attempts in milliseconds.
    pub run_ms: i64,
    /// Total time in milliseconds that jobs waited from their due time to their claim.
    pub wait_ms: i64,
    /// Duration of the longest attempt in milliseconds.
    pub longest_ms: i64,
}

/// Counts since the start of this process, with durations by bucket.
#[derive(Clone, Debug, Default)]
pub struct JobTotals {
    /// Counts.
    pub counts: JobCounts,
    /// Number of attempts by duration. The last bucket has no upper bound.
    pub durations: [u64; DURATION_BUCKETS_MS.len() + 1],
}

/// Counts of this process.
#[derive(Debug, Default)]
pub(crate) struct JobCounters {
    all: Mutex<HashMap<(String, String), Counted>>,
}

#[derive(Debug, Default)]
struct Counted {
    total: JobTotals,
    unwritten: JobCounts,
}

impl JobCounts {
    fn add(&mut self, other: Self) {
        self.started += other.started;
        self.completed += other.completed;
        self.failed += other.failed;
        self.dead += other.dead;
        self.cancelled += other.cancelled;
        self.run_ms += other.run_ms;
        self.wait_ms += other.wait_ms;
        self.longest_ms = self.longest_ms.max(other.longest_ms);
    }
}

impl JobCounters {
    /// Adds `counts` to the counts of a queue and kind. `took` is the duration of the attempt, if an attempt
    /// has ended.
    pub fn record(&self, queue: &str, kind: &str, counts: JobCounts, took: Option<Duration>) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = (queue.to_owned(), kind.to_owned());
        if all.len() >= MAX_KINDS && !all.contains_key(&key) {
            key = (OTHER.to_owned(), OTHER.to_owned());
        }
        let counted = all.entry(key).or_default();
        let mut counts = counts;
        if let Some(took) = took {
            let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            counts.run_ms = i64::try_from(ms).unwrap_or(i64::MAX / 4);
            counts.longest_ms = counts.run_ms;
            counted.total.durations[DURATION_BUCKETS_MS.partition_point(|bound| *bound < ms)] += 1;
        }
        counted.total.counts.add(counts);
        counted.unwritten.add(counts);
    }

    /// Counts the end of an attempt.
    pub fn record_outcome(
        &self,
        queue: &str,
        kind: &str,
        outcome: &ReportOutcome,
        is_snooze: bool,
        took: Duration,
    ) {
        let counts = match outcome {
            ReportOutcome::Stale => return,
            ReportOutcome::Finished(JobState::Completed) => {
                JobCounts { completed: 1, ..JobCounts::default() }
            }
            ReportOutcome::Finished(JobState::Cancelled) => {
                JobCounts { cancelled: 1, ..JobCounts::default() }
            }
            ReportOutcome::Finished(_) => JobCounts { failed: 1, dead: 1, ..JobCounts::default() },
            ReportOutcome::Rescheduled(_) if is_snooze => JobCounts::default(),
            ReportOutcome::Rescheduled(_) => JobCounts { failed: 1, ..JobCounts::default() },
        };
        self.record(queue, kind, counts, Some(took));
    }

    pub fn totals(&self) -> Vec<(String, String, JobTotals)> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let mut totals: Vec<_> =
            all.iter().map(|((queue, kind), one)| (queue.clone(), kind.clone(), one.total.clone())).collect();
        totals.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        totals
    }

    /// Removes and returns the counts that are not in the database yet. The caller must write them.
    pub fn take_unwritten(&self) -> Vec<(String, String, JobCounts)> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let take = |((queue, kind), one): (&(String, String), &mut Counted)| {
            let counts = std::mem::take(&mut one.unwritten);
            (counts != JobCounts::default()).then(|| (queue.clone(), kind.clone(), counts))
        };
        let mut taken: Vec<_> = all.iter_mut().filter_map(take).collect();
        // All nodes write the counts in the same order, so that their transactions do not deadlock.
        taken.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        taken
    }

    /// Adds counts back that could not be written, so that they are written later.
    pub fn return_to_queue(&self, unwritten: Vec<(String, String, JobCounts)>) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        for (queue, kind, counts) in unwritten {
            all.entry((queue, kind)).or_default().unwritten.add(counts);
        }
    }
}
