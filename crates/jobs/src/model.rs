//! What a job is: what may be asked for, what is known of one, and how an attempt can end.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use kith_kernel::{Random, Timestamp};
use kith_store::Error as StoreError;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::finish::Attempt;
use crate::retry::Retry;

/// A job. Greater than those made before it in one process; never used twice.
pub type JobId = i64;

/// Longest name of a queue or kind, in bytes.
pub const NAME_BYTES: usize = 64;
/// Longest key, in bytes.
pub const KEY_BYTES: usize = 200;
/// Longest payload or result, in bytes.
pub const PAYLOAD_BYTES: usize = 256 * 1024;
/// The least urgent priority; 0 is the most urgent.
pub const LEAST_PRIORITY: i64 = 9;
/// The priority of a job that says nothing of it.
pub const USUAL_PRIORITY: i64 = 5;
/// Most failures that may be allowed to a job.
pub const MOST_ATTEMPTS: i64 = 1_000;
/// A job that was running whenever its worker died so often is not tried again.
pub const CRASHES: i64 = 3;

/// How a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waits for a worker.
    Ready,
    /// Waits for its time: delayed, to be tried again, or snoozed.
    Scheduled,
    /// A worker has it.
    Running,
    /// Waits for other jobs.
    Blocked,
    /// Done.
    Completed,
    /// Taken back.
    Cancelled,
    /// Failed for good, among the dead letters.
    Dead,
}

kith_kernel::scalar_schema! { JobState => "JobState", String }

impl JobState {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Ready,
        Self::Scheduled,
        Self::Running,
        Self::Blocked,
        Self::Completed,
        Self::Cancelled,
        Self::Dead,
    ];

    /// As the database writes it.
    pub const fn number(self) -> i64 {
        self as i64
    }

    /// Reads what [`JobState::number`] wrote.
    ///
    /// # Errors
    /// A fault if no state has that number.
    pub fn from_number(number: i64) -> Result<Self, StoreError> {
        let at = usize::try_from(number).ok().and_then(|at| Self::ALL.get(at).copied());
        at.ok_or_else(|| StoreError::fault(format!("no state has the number {number}")))
    }

    /// As people read it.
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

    /// Whether nothing more happens to it by itself.
    pub const fn has_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Cancelled | Self::Dead)
    }
}

/// Why something cannot be enqueued or set.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{field}` {why}")]
pub struct Invalid {
    /// Which field.
    pub field: &'static str,
    /// What is wrong with it.
    pub why: String,
}

impl Invalid {
    /// `field` is wrong for this reason.
    pub fn new(field: &'static str, why: impl Into<String>) -> Self {
        Self { field, why: why.into() }
    }
}

/// A name of a queue or kind: letters of ASCII, digits, `.`, `_`, `-`.
///
/// # Errors
/// [`Invalid`] names `field`.
pub fn check_name(field: &'static str, name: &str) -> Result<(), Invalid> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > NAME_BYTES || !name.bytes().all(legal) {
        let why = format!("is not 1 to {NAME_BYTES} letters, digits, dots, dashes or underscores");
        return Err(Invalid::new(field, why));
    }
    Ok(())
}

/// A key: anything short without control characters.
///
/// # Errors
/// [`Invalid`] names `field`.
pub fn check_key(field: &'static str, key: &str) -> Result<(), Invalid> {
    if key.is_empty() || key.len() > KEY_BYTES || key.chars().any(char::is_control) {
        let why = format!("is not 1 to {KEY_BYTES} bytes of text without control characters");
        return Err(Invalid::new(field, why));
    }
    Ok(())
}

/// What an enqueue came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enqueued {
    /// The job.
    pub id: JobId,
    /// Whether it was there already, under its unique key.
    pub existing: bool,
}

/// Fencing token of a claim: random, and so different from that of a claim that a crash of the database undid, whose
/// attempt number is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClaimToken(i64);

impl ClaimToken {
    /// A new token. It is positive.
    pub(crate) fn random(random: &dyn Random) -> Self {
        let mut bytes = [0; 8];
        random.fill(&mut bytes);
        Self((i64::from_le_bytes(bytes) & i64::MAX).max(1))
    }

    /// As the database stores it.
    pub(crate) const fn number(self) -> i64 {
        self.0
    }

    /// Reads what [`ClaimToken::number`] wrote.
    pub(crate) const fn from_number(number: i64) -> Self {
        Self(number)
    }
}

impl fmt::Display for ClaimToken {
    /// 16 hexadecimal digits.
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

/// A job that a worker has claimed. Every report about it carries [`Claimed::as_attempt`].
#[derive(Clone, Debug)]
pub struct Claimed {
    /// The job.
    pub id: JobId,
    /// In which queue it stood.
    pub queue: String,
    /// What is to be done.
    pub kind: String,
    /// With what: JSON.
    pub payload: String,
    /// Which attempt this is, from 1; greater for each claim.
    pub attempt: i64,
    /// How often it has failed.
    pub failures: i64,
    /// When it is given up and when tried again.
    pub retry: Retry,
    /// How often its worker has died under it.
    pub crashes: i64,
    /// How long the attempt may take; zero: as long as it wants.
    pub timeout: Duration,
    /// When it was to run.
    pub run_at: Timestamp,
    /// When it was enqueued.
    pub created_at: Timestamp,
    /// What limits per key count by.
    pub limit_key: Option<String>,
    /// Who has it.
    pub worker: i64,
    /// Fencing token of the claim.
    pub token: ClaimToken,
    pub(crate) priority: i64,
    pub(crate) place: i64,
}

impl Claimed {
    /// The attempt, as its owner names it.
    pub const fn as_attempt(&self) -> Attempt {
        Attempt { job: self.id, attempt: self.attempt, token: self.token }
    }
}

/// Why an attempt did not do what it should.
#[derive(Clone, Debug, Error)]
pub enum JobError {
    /// To be tried again, as long as its policy allows.
    #[error("{0}")]
    Retry(String),
    /// To be tried again after this time, whatever the policy's ladder says; it counts as a failure.
    #[error("{why}")]
    RetryIn {
        /// What went wrong.
        why: String,
        /// From now.
        wait: Duration,
    },
    /// Never to be tried again.
    #[error("{0}")]
    Discard(String),
    /// Not now: to be run again later. Not a failure.
    #[error("snoozed")]
    Snooze(Duration),
    /// Stopped, because somebody asked for it.
    #[error("cancelled")]
    Cancelled,
}

impl JobError {
    /// To be tried again because of `error`.
    pub fn retry(error: impl fmt::Display) -> Self {
        Self::Retry(error.to_string())
    }

    /// Never to be tried again because of `error`.
    pub fn discard(error: impl fmt::Display) -> Self {
        Self::Discard(error.to_string())
    }
}

impl From<StoreError> for JobError {
    fn from(error: StoreError) -> Self {
        Self::retry(error)
    }
}

/// What a job leaves when it is done: JSON, for people and for jobs that await it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Nothing, or JSON of at most [`PAYLOAD_BYTES`].
    pub result: Option<String>,
}

impl Done {
    /// Returns true if the result is within the size limit.
    pub(crate) fn fits(&self) -> bool {
        self.result.as_ref().is_none_or(|result| result.len() <= PAYLOAD_BYTES)
    }
}

/// One failure of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Of which attempt.
    pub attempt: i64,
    /// When.
    pub at: Timestamp,
    /// What went wrong.
    pub error: String,
}

/// All that is known of a job.
#[derive(Clone, Debug)]
pub struct JobRecord {
    /// The job.
    pub id: JobId,
    /// Its queue.
    pub queue: String,
    /// What is, or was, to be done.
    pub kind: String,
    /// How it stands.
    pub state: JobState,
    /// 0 is first.
    pub priority: i64,
    /// When it was, or is, to run next.
    pub run_at: Timestamp,
    /// With what: JSON.
    pub payload: String,
    /// Claims so far.
    pub attempt: i64,
    /// Failures so far.
    pub failures: i64,
    /// When it is given up and when tried again.
    pub retry: Retry,
    /// How long an attempt may take; zero: as long as it wants.
    pub timeout: Duration,
    /// What limits per key count by.
    pub limit_key: Option<String>,
    /// When the last attempt began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// JSON that it left.
    pub result: Option<String>,
    /// JSON that it last said of its progress.
    pub progress: Option<String>,
    /// Its last failures, the oldest first.
    pub errors: Vec<Failure>,
    /// How many jobs it waits for.
    pub waiting_for: i64,
    /// When somebody asked it to stop.
    pub cancel_asked_at: Option<Timestamp>,
    /// Who or what asked for it.
    pub source: Option<String>,
    /// When it was enqueued.
    pub created_at: Timestamp,
}

/// How a job stands that another waits, or waited, for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Awaited {
    /// It.
    pub job: JobId,
    /// How it ended; nothing until then.
    pub state: Option<JobState>,
    /// JSON that it left.
    pub result: Option<String>,
    /// Whether the result is left out because the results are too large together.
    pub is_result_omitted: bool,
}

/// A line of a job's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogLine {
    /// In which attempt.
    pub attempt: i64,
    /// When.
    pub at: Timestamp,
    /// `info`, `warn`, …
    pub level: String,
    /// What.
    pub line: String,
}
