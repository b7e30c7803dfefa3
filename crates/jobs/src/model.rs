//! Job model: states, limits on the input, job records and errors of attempts.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use kith_kernel::{Random, Timestamp};
use kith_store::Error as StoreError;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::retry::RetryPolicy;

/// Job id. The ids increase within one process and are never reused.
pub type JobId = i64;

/// Maximum length of a queue or kind name, in bytes.
pub const MAX_NAME_BYTES: usize = 64;
/// Maximum length of a key, in bytes.
pub const MAX_KEY_BYTES: usize = 200;
/// Maximum length of a payload or result, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 256 * 1024;
/// Lowest priority; 0 is the most urgent.
pub const MAX_PRIORITY: i64 = 9;
/// Default priority.
pub const DEFAULT_PRIORITY: i64 = 5;
/// Highest value allowed for the maximum number of failures of a job.
pub const MAX_ATTEMPTS: i64 = 1_000;
/// Number of consecutive attempts with a death of the worker after which a job goes to the dead letters.
pub const MAX_CRASHES: i64 = 3;

/// State of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waiting for a worker.
    Ready,
    /// Waiting until its due time, because it is delayed, will be retried or was snoozed.
    Scheduled,
    /// Claimed by a worker.
    Running,
    /// Waiting for other jobs.
    Blocked,
    /// Completed successfully.
    Completed,
    /// Cancelled.
    Cancelled,
    /// Failed permanently and moved to the dead letters.
    Dead,
}

kith_kernel::scalar_schema! { JobState => "JobState", String }

impl JobState {
    /// All states, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Ready,
        Self::Scheduled,
        Self::Running,
        Self::Blocked,
        Self::Completed,
        Self::Cancelled,
        Self::Dead,
    ];

    /// Returns the number used in the database.
    pub const fn number(self) -> i64 {
        self as i64
    }

    /// Names of the states and the numbers that the database stores for them, for `named_sql!`.
    pub(crate) const NUMBERS: [(&'static str, &'static str); 7] = {
        const DIGITS: [&str; 7] = ["0", "1", "2", "3", "4", "5", "6"];
        let mut numbers = [("", ""); 7];
        let mut i = 0;
        while i < numbers.len() {
            numbers[i] = (Self::ALL[i].as_str(), DIGITS[Self::ALL[i].number() as usize]);
            i += 1;
        }
        numbers
    };

    /// Returns the state with a number from [`JobState::number`].
    ///
    /// # Errors
    /// Returns [`StoreError::Fault`] if no state has that number.
    pub fn from_number(number: i64) -> Result<Self, StoreError> {
        let at = usize::try_from(number).ok().and_then(|at| Self::ALL.get(at).copied());
        at.ok_or_else(|| StoreError::fault(format!("no state has the number {number}")))
    }

    /// Returns the name used in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Scheduled => "scheduled",
            Self::Running => "running",
            Self::Blocked => "blocked",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Dead => "dead",
        }
    }

    /// Returns true if the state is final.
    pub const fn has_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Cancelled | Self::Dead)
    }
}

/// Validation error of a job or a setting.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{field}` {why}")]
pub struct Invalid {
    /// Name of the field.
    pub field: &'static str,
    /// Description of what is wrong, without the name of the field.
    pub why: String,
}

impl Invalid {
    /// Creates an error for `field`.
    pub fn new(field: &'static str, why: impl Into<String>) -> Self {
        Self { field, why: why.into() }
    }
}

/// Validates the name of a queue or kind: 1 to [`MAX_NAME_BYTES`] ASCII letters, digits, `.`, `_` or `-`.
///
/// # Errors
/// Returns [`Invalid`] for `field`.
pub fn check_name(field: &'static str, name: &str) -> Result<(), Invalid> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(legal) {
        let why = format!("is not 1 to {MAX_NAME_BYTES} letters, digits, dots, dashes or underscores");
        return Err(Invalid::new(field, why));
    }
    Ok(())
}

/// Validates a key: 1 to [`MAX_KEY_BYTES`] bytes without control characters.
///
/// # Errors
/// Returns [`Invalid`] for `field`.
pub fn check_key(field: &'static str, key: &str) -> Result<(), Invalid> {
    if key.is_empty() || key.len() > MAX_KEY_BYTES || key.chars().any(char::is_control) {
        let why = format!("is not 1 to {MAX_KEY_BYTES} bytes of text without control characters");
        return Err(Invalid::new(field, why));
    }
    Ok(())
}

/// Result of enqueueing a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enqueued {
    /// Id of the new or the existing job.
    pub id: JobId,
    /// True if a job with the same unique key already existed.
    pub is_existing: bool,
}

/// Fencing token of a claim. Tokens are random. After a crash of the database has undone a claim, its attempt
/// number can be used again, but not its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClaimToken(i64);

impl ClaimToken {
    /// Returns a new token, which is a positive number.
    pub(crate) fn random(random: &dyn Random) -> Self {
        let mut bytes = [0; 8];
        random.fill(&mut bytes);
        Self((i64::from_le_bytes(bytes) & i64::MAX).max(1))
    }

    /// Returns the number used in the database.
    pub(crate) const fn number(self) -> i64 {
        self.0
    }

    /// Returns the token with a number from [`ClaimToken::number`].
    pub(crate) const fn from_number(number: i64) -> Self {
        Self(number)
    }
}

impl fmt::Display for ClaimToken {
    /// Writes 16 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for ClaimToken {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let is_hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = i64::from_str_radix(text, 16).ok().filter(|_| is_hex);
        number.map(Self).ok_or_else(|| Invalid::new("claim_token", "is not 16 hexadecimal digits"))
    }
}

/// Job claimed by a worker. Each report about the job must carry [`ClaimedJob::as_attempt`].
#[derive(Clone, Debug)]
pub struct ClaimedJob {
    /// Job id.
    pub id: JobId,
    /// Queue.
    pub queue: String,
    /// Kind.
    pub kind: String,
    /// Payload, a JSON text.
    pub payload: String,
    /// Number of the attempt, starting at 1. It increases by one with each claim.
    pub attempt: i64,
    /// Number of failures so far.
    pub failures: i64,
    /// Retry policy.
    pub retry: RetryPolicy,
    /// Number of consecutive attempts during which the worker died.
    pub crashes: i64,
    /// Time limit of the attempt; zero if there is none.
    pub timeout: Duration,
    /// Time at which the job was due.
    pub run_at: Timestamp,
    /// Time of enqueueing.
    pub created_at: Timestamp,
    /// Key to which the limits per key of the queue apply.
    pub limit_key: Option<String>,
    /// Worker that claimed the job.
    pub worker: i64,
    /// Fencing token of the claim.
    pub token: ClaimToken,
    pub(crate) priority: i64,
    pub(crate) position: i64,
}

/// Attempt to run a job, identified by its claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attempt {
    /// Job id.
    pub job: JobId,
    /// Number of the attempt, starting at 1.
    pub attempt: i64,
    /// Fencing token of the claim.
    pub token: ClaimToken,
}

impl ClaimedJob {
    /// Returns the identity of the attempt, for reports.
    pub const fn as_attempt(&self) -> Attempt {
        Attempt { job: self.id, attempt: self.attempt, token: self.token }
    }
}

/// Reason why an attempt did not succeed.
#[derive(Clone, Debug, Error)]
pub enum JobError {
    /// Failure. The job is retried as its retry policy allows.
    #[error("{0}")]
    Retry(String),
    /// Failure. The job is retried after `wait` instead of the delay of its retry policy, as long as the
    /// policy allows another attempt.
    #[error("{why}")]
    RetryIn {
        /// Description of the failure.
        why: String,
        /// Delay until the next attempt.
        wait: Duration,
    },
    /// Permanent failure. The job is not retried.
    #[error("{0}")]
    Discard(String),
    /// Not a failure. The job runs again after this delay.
    #[error("snoozed")]
    Snooze(Duration),
    /// The attempt stopped because its cancellation was requested.
    #[error("cancelled")]
    Cancelled,
}

impl JobError {
    /// Creates a [`JobError::Retry`].
    pub fn retry(error: impl fmt::Display) -> Self {
        Self::Retry(error.to_string())
    }

    /// Creates a [`JobError::Discard`].
    pub fn discard(error: impl fmt::Display) -> Self {
        Self::Discard(error.to_string())
    }
}

impl From<StoreError> for JobError {
    fn from(error: StoreError) -> Self {
        Self::retry(error)
    }
}

/// Result of a completed job. Operators and the jobs that wait for the job can read it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobOutput {
    /// JSON text of at most [`MAX_PAYLOAD_BYTES`], or `None`.
    pub result: Option<String>,
}

impl JobOutput {
    /// Returns true if the result is within the size limit.
    pub(crate) fn fits(&self) -> bool {
        self.result.as_ref().is_none_or(|result| result.len() <= MAX_PAYLOAD_BYTES)
    }
}

/// Failure of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Number of the attempt.
    pub attempt: i64,
    /// Time of the failure.
    pub at: Timestamp,
    /// Description of the failure.
    pub error: String,
}

/// Full record of a job.
#[derive(Clone, Debug)]
pub struct JobRecord {
    /// Job id.
    pub id: JobId,
    /// Queue.
    pub queue: String,
    /// Kind.
    pub kind: String,
    /// State.
    pub state: JobState,
    /// Priority; 0 is the most urgent.
    pub priority: i64,
    /// Time at which the job is or was due.
    pub run_at: Timestamp,
    /// Payload, a JSON text.
    pub payload: String,
    /// Number of claims so far.
    pub attempt: i64,
    /// Number of failures so far.
    pub failures: i64,
    /// Retry policy.
    pub retry: RetryPolicy,
    /// Time limit of an attempt; zero if there is none.
    pub timeout: Duration,
    /// Key to which the limits per key of the queue apply.
    pub limit_key: Option<String>,
    /// Start of the last attempt.
    pub started_at: Option<Timestamp>,
    /// Time at which the job ended.
    pub finished_at: Option<Timestamp>,
    /// Result, a JSON text.
    pub result: Option<String>,
    /// Progress that was reported last, a JSON text.
    pub progress: Option<String>,
    /// Latest failures, oldest first.
    pub errors: Vec<Failure>,
    /// Number of unfinished jobs that this job waits for.
    pub pending_dependencies: i64,
    /// Time at which cancellation was requested.
    pub cancel_requested_at: Option<Timestamp>,
    /// Origin of the job, such as the schedule that enqueued it.
    pub source: Option<String>,
    /// Time of enqueueing.
    pub created_at: Timestamp,
}

/// State of a job that another job depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DependencyResult {
    /// Id of the job depended on.
    pub job: JobId,
    /// Final state; `None` while the job has not ended.
    pub state: Option<JobState>,
    /// Result, a JSON text.
    pub result: Option<String>,
    /// True if the result is omitted because all results together exceed the size limit.
    pub is_result_omitted: bool,
}

/// Line in the log of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogLine {
    /// Number of the attempt.
    pub attempt: i64,
    /// Time of the line.
    pub at: Timestamp,
    /// Level, such as `info` or `warn`.
    pub level: String,
    /// Text of the line.
    pub line: String,
}
