//! Failed events: retries and dead letters.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kith_kernel::Timestamp;
use kith_store::{Error, Query};
use serde::{Deserialize, Serialize};

use crate::rows::{self, PendingRow};

/// Number of attempts after which an event is dead-lettered. All attempts together take about two minutes.
pub const MAX_ATTEMPTS: i64 = 8;
/// Maximum number of pending failures of a consumer. At this limit the cursor stops until some of the events
/// are handled or dead-lettered.
pub const MAX_PENDING: i64 = 1_000;
/// Maximum number of pending events of a subject. At this limit the first of them gets its last attempt
/// immediately.
pub(crate) const MAX_PENDING_OF_SUBJECT: usize = 100;
/// Maximum delay before a retry. A retry time later than now plus this delay was written by a node whose
/// clock is ahead, and counts as due.
const MAX_DELAY: Duration = Duration::from_secs(60);
/// Maximum length of a stored error, in bytes.
const MAX_ERROR_BYTES: usize = 1_000;

/// Returns the delay after `attempts` failed attempts: 1, 2, 4, … seconds, at most one minute.
pub(crate) fn backoff(attempts: i64) -> Duration {
    let exponent = u32::try_from(attempts.saturating_sub(1)).unwrap_or(0).min(6);
    Duration::from_secs(1 << exponent).min(MAX_DELAY)
}

/// Replaces NUL characters in an error text and cuts it to its stored length.
pub(crate) fn stored_error(error: &str) -> String {
    let without_nul = error.replace('\0', "\u{fffd}");
    let mut end = without_nul.len().min(MAX_ERROR_BYTES);
    while !without_nul.is_char_boundary(end) {
        end -= 1;
    }
    without_nul[..end].to_owned()
}

/// Failure whose retry is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DueRetry {
    pub row: PendingRow,
    /// True if the event is dead-lettered when this retry fails.
    pub is_last: bool,
}

/// Pending failures, in order of position.
#[derive(Debug, Default)]
pub(crate) struct Pending(pub Vec<PendingRow>);

impl Pending {
    /// Returns the subjects that have a pending failure. Later events of these subjects must wait.
    pub fn subjects(&self) -> BTreeSet<&str> {
        self.0.iter().map(|row| row.subject.as_str()).collect()
    }

    /// Returns the first failure to retry at `now`. Only the oldest failure of each subject is retried: when
    /// its retry time has passed, or when [`MAX_PENDING_OF_SUBJECT`] events of the subject are pending.
    pub fn due(&self, now: Timestamp) -> Option<DueRetry> {
        let counts = self.counts();
        let is_crowded =
            |row: &PendingRow| counts.get(row.subject.as_str()).is_some_and(|n| *n >= MAX_PENDING_OF_SUBJECT);
        let is_due = |row: &PendingRow| row.retry_at <= now || row.retry_at > now + MAX_DELAY;
        let row = self.heads().find(|row| is_due(row) || is_crowded(row))?;
        Some(DueRetry { row: row.clone(), is_last: is_crowded(row) || row.attempts + 1 >= MAX_ATTEMPTS })
    }

    fn counts(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for row in &self.0 {
            *counts.entry(row.subject.as_str()).or_default() += 1;
        }
        counts
    }

    /// Returns the earliest retry time; `None` if no failure is pending.
    pub fn next_retry(&self) -> Option<Timestamp> {
        self.heads().map(|row| row.retry_at).min()
    }

    pub fn is_full(&self) -> bool {
        i64::try_from(self.0.len()).unwrap_or(i64::MAX) >= MAX_PENDING
    }

    /// Returns the oldest failure of each subject.
    fn heads(&self) -> impl Iterator<Item = &PendingRow> {
        let mut seen = BTreeSet::new();
        self.0.iter().filter(move |row| seen.insert(row.subject.as_str()))
    }
}

/// Event that was dead-lettered after [`MAX_ATTEMPTS`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetteredEvent {
    /// Position of the event.
    pub position: i64,
    /// Subject of the event.
    pub subject: String,
    /// Error of the last attempt.
    pub error: String,
    /// Time at which the event was dead-lettered.
    pub dead_lettered_at: Timestamp,
}

/// Returns up to `limit` dead letters of `consumer`, in order of position.
///
/// # Errors
/// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
pub fn list_dead_letters(q: &Query<'_>, consumer: &str, limit: i64) -> Result<Vec<DeadLetteredEvent>, Error> {
    rows::list_dead_letters(q, consumer, limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(position: i64, subject: &str, retry_at: i64) -> PendingRow {
        let retry_at = Timestamp::from_millis(retry_at);
        PendingRow { position, subject: subject.into(), attempts: 1, retry_at }
    }

    #[test]
    fn later_event_of_a_subject_waits_for_the_first() {
        let pending = Pending(vec![row(1, "a", 50), row(2, "a", 0), row(3, "b", 60)]);
        assert_eq!(pending.due(Timestamp::from_millis(40)), None);
        assert_eq!(pending.due(Timestamp::from_millis(60)).map(|due| due.row.position), Some(1));
        assert_eq!(pending.next_retry(), Some(Timestamp::from_millis(50)));
        assert_eq!(pending.subjects(), BTreeSet::from(["a", "b"]));
    }

    #[test]
    fn retry_scheduled_by_clock_ahead_is_due() {
        let pending = Pending(vec![row(1, "a", 86_400_000)]);
        assert!(pending.due(Timestamp::EPOCH).is_some());
    }

    #[test]
    fn subject_with_too_many_events_gets_its_last_attempt_at_once() {
        let mut pending = Pending((1..100).map(|position| row(position, "a", 50)).collect());
        assert_eq!(pending.due(Timestamp::EPOCH), None);
        pending.0.push(row(100, "a", 0));
        let due = pending.due(Timestamp::EPOCH).unwrap();
        assert_eq!((due.row.position, due.is_last), (1, true));
    }

    #[test]
    fn retry_delay_doubles_up_to_one_minute() {
        let delays: Vec<u64> = (1..=8).map(|attempts| backoff(attempts).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn stored_error_is_truncated_without_nul() {
        let error = stored_error(&"é\0".repeat(1_000));
        assert!(error.len() <= MAX_ERROR_BYTES && !error.contains('\0'), "{}", error.len());
    }
}
