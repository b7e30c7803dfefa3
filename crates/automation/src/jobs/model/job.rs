//! Jobs as other programs and administrators see them.

use kith_jobs::{Awaited, Claimed, Failure, JobRecord, JobState, LogLine, Retry};
use kith_kernel::{StoredJson, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use super::RetryBody;

/// How a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobStatus {
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

impl From<JobState> for JobStatus {
    fn from(state: JobState) -> Self {
        match state {
            JobState::Ready => Self::Ready,
            JobState::Scheduled => Self::Scheduled,
            JobState::Running => Self::Running,
            JobState::Blocked => Self::Blocked,
            JobState::Completed => Self::Completed,
            JobState::Cancelled => Self::Cancelled,
            JobState::Dead => Self::Dead,
        }
    }
}

impl From<JobStatus> for JobState {
    fn from(status: JobStatus) -> Self {
        match status {
            JobStatus::Ready => Self::Ready,
            JobStatus::Scheduled => Self::Scheduled,
            JobStatus::Running => Self::Running,
            JobStatus::Blocked => Self::Blocked,
            JobStatus::Completed => Self::Completed,
            JobStatus::Cancelled => Self::Cancelled,
            JobStatus::Dead => Self::Dead,
        }
    }
}

/// A failure of a job.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct JobFailure {
    /// Of which attempt; 0 is of none.
    pub attempt: i64,
    /// When.
    pub at: Timestamp,
    /// What went wrong.
    pub error: String,
}

/// A job.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Job {
    /// Of the job.
    pub id: i64,
    /// Where it stands.
    pub queue: String,
    /// What is, or was, to be done.
    pub kind: String,
    /// How it stands.
    pub state: JobStatus,
    /// 0 is first, 9 last.
    pub priority: i64,
    /// When it is, or was, to run.
    pub run_at: Timestamp,
    /// How often it was begun.
    pub attempt: i64,
    /// How often it has failed.
    pub failures: i64,
    /// How often it may.
    pub retry: RetryBody,
    /// An attempt that takes longer has failed; 0: none does.
    pub timeout_ms: i64,
    /// What limits per key count it by.
    #[schema(required = true)]
    pub limit_key: Option<String>,
    /// When the last attempt began.
    #[schema(required = true)]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[schema(required = true)]
    pub finished_at: Option<Timestamp>,
    /// What it last said of its progress: any JSON.
    #[schema(required = true)]
    pub progress: Option<StoredJson>,
    /// Its last failures, the oldest first.
    pub errors: Vec<JobFailure>,
    /// How many jobs it waits for.
    pub waiting_for: i64,
    /// When somebody asked it to stop.
    #[schema(required = true)]
    pub cancel_asked_at: Option<Timestamp>,
    /// Who or what asked for it.
    #[schema(required = true)]
    pub source: Option<String>,
    /// When it was enqueued.
    pub created_at: Timestamp,
}

/// A line of a job's log.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobLogLine {
    /// In which attempt.
    pub attempt: i64,
    /// When.
    pub at: Timestamp,
    /// `info`, `warn`, …
    pub level: String,
    /// What.
    pub line: String,
}

/// How a job stands that another waits, or waited, for.
#[derive(Debug, Serialize, ToSchema)]
pub struct AwaitedJob {
    /// Of the job.
    pub id: i64,
    /// How it ended; null until then.
    #[schema(required = true)]
    pub state: Option<JobStatus>,
    /// What it left: any JSON.
    #[schema(required = true)]
    pub result: Option<StoredJson>,
    /// Whether the result is left out here because the results are too large together: read that job for it.
    pub is_result_omitted: bool,
}

/// All that is known of a job.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobDetails {
    #[serde(flatten)]
    pub about: Job,
    /// With what: any JSON.
    pub payload: StoredJson,
    /// What it left: any JSON.
    #[schema(required = true)]
    pub result: Option<StoredJson>,
    /// Its last lines.
    pub log: Vec<JobLogLine>,
    /// The jobs that it waits, or waited, for.
    pub awaits: Vec<AwaitedJob>,
}

/// A job that a worker has taken. Each later word about it carries `attempt`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ClaimedJob {
    /// Of the job.
    pub id: i64,
    /// Proves that this claim has the job. Send it unchanged with every report about the job.
    pub lease_token: String,
    /// Which attempt this is, from 1.
    pub attempt: i64,
    /// What is to be done.
    pub kind: String,
    /// With what: any JSON.
    pub payload: StoredJson,
    /// How often it has failed before.
    pub failures: i64,
    /// An attempt that takes longer has failed; 0: none does.
    pub timeout_ms: i64,
    /// When it was to run.
    pub run_at: Timestamp,
    /// When it was enqueued.
    pub created_at: Timestamp,
}

/// What a worker got.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ClaimedJobs {
    /// In their order; none if there was none in time.
    pub jobs: Vec<ClaimedJob>,
}

impl From<Retry> for RetryBody {
    fn from(Retry { max_attempts, base, cap }: Retry) -> Self {
        Self { max_attempts, base_ms: Some(millis(base)), cap_ms: Some(millis(cap)) }
    }
}

impl From<Failure> for JobFailure {
    fn from(Failure { attempt, at, error }: Failure) -> Self {
        Self { attempt, at, error }
    }
}

impl From<LogLine> for JobLogLine {
    fn from(LogLine { attempt, at, level, line }: LogLine) -> Self {
        Self { attempt, at, level, line }
    }
}

impl From<Awaited> for AwaitedJob {
    fn from(Awaited { job, state, result, is_result_omitted }: Awaited) -> Self {
        Self { id: job, state: state.map(JobStatus::from), result: read_json(result), is_result_omitted }
    }
}

impl From<Claimed> for ClaimedJob {
    fn from(claimed: Claimed) -> Self {
        Self {
            id: claimed.id,
            lease_token: claimed.token.to_string(),
            attempt: claimed.attempt,
            kind: claimed.kind,
            payload: read_json(Some(claimed.payload)).unwrap_or_default(),
            failures: claimed.failures,
            timeout_ms: millis(claimed.timeout),
            run_at: claimed.run_at,
            created_at: claimed.created_at,
        }
    }
}

impl From<JobRecord> for Job {
    fn from(job: JobRecord) -> Self {
        Self {
            id: job.id,
            queue: job.queue,
            kind: job.kind,
            state: job.state.into(),
            priority: job.priority,
            run_at: job.run_at,
            attempt: job.attempt,
            failures: job.failures,
            retry: job.retry.into(),
            timeout_ms: millis(job.timeout),
            limit_key: job.limit_key,
            started_at: job.started_at,
            finished_at: job.finished_at,
            progress: read_json(job.progress),
            errors: job.errors.into_iter().map(JobFailure::from).collect(),
            waiting_for: job.waiting_for,
            cancel_asked_at: job.cancel_asked_at,
            source: job.source,
            created_at: job.created_at,
        }
    }
}

/// JSON that was checked before it was kept.
pub fn read_json(text: Option<String>) -> Option<StoredJson> {
    text.and_then(|text| StoredJson::from_text(text).ok())
}

fn millis(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
