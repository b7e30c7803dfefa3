//! Types of jobs as the API returns them.

use kith_jobs::{DependencyResult, Failure, JobRecord, JobState, LogLine, RetryPolicy};
use kith_kernel::{StoredJson, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use super::RetryBody;

/// State of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobStatus {
    /// Waiting for a worker.
    Ready,
    /// Waiting for its run time because it was delayed, will be retried, or was snoozed.
    Scheduled,
    /// Claimed by a worker.
    Running,
    /// Waiting for other jobs to end.
    Blocked,
    /// Completed successfully.
    Completed,
    /// Cancelled before it completed.
    Cancelled,
    /// Failed permanently: a dead letter.
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

/// Failure of an attempt.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct JobFailure {
    /// Number of the attempt, from 1; 0 if the failure did not occur in an attempt.
    pub attempt: i64,
    /// Time of the failure.
    pub at: Timestamp,
    /// Error message.
    pub error: String,
}

/// Job without payload and result.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Job {
    /// Job ID.
    pub id: i64,
    /// Queue of the job.
    pub queue: String,
    /// Kind of the job.
    pub kind: String,
    /// State of the job.
    pub state: JobStatus,
    /// Priority, 0 (first) to 9 (last).
    pub priority: i64,
    /// Time at which the job is, or was, due to run.
    pub run_at: Timestamp,
    /// Number of attempts started so far.
    pub attempt: i64,
    /// Number of failures so far.
    pub failures: i64,
    /// Retry policy.
    pub retry: RetryBody,
    /// Maximum duration of an attempt in milliseconds; 0 for no limit. A longer attempt counts as failed.
    pub timeout_ms: i64,
    /// Key for the per-key limits of the queue; `null` if there is none. Jobs with the same key share these
    /// limits.
    #[schema(required = true)]
    pub limit_key: Option<String>,
    /// Start time of the last attempt; `null` if there was none.
    #[schema(required = true)]
    pub started_at: Option<Timestamp>,
    /// Time at which the job ended; `null` if it has not ended.
    #[schema(required = true)]
    pub finished_at: Option<Timestamp>,
    /// Last reported progress, any JSON value; `null` if there is none.
    #[schema(required = true)]
    pub progress: Option<StoredJson>,
    /// Most recent failures, oldest first.
    pub errors: Vec<JobFailure>,
    /// Number of jobs that must still end before this job runs.
    pub pending_dependencies: i64,
    /// Time at which cancellation of the running job was requested; `null` if no cancellation was requested.
    #[schema(required = true)]
    pub cancel_requested_at: Option<Timestamp>,
    /// Actor that enqueued the job, such as a user or an API key; `null` if unknown.
    #[schema(required = true)]
    pub source: Option<String>,
    /// Time at which the job was enqueued.
    pub created_at: Timestamp,
}

/// Log line of a job.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobLogLine {
    /// Number of the attempt that wrote the line.
    pub attempt: i64,
    /// Time at which the line was written.
    pub at: Timestamp,
    /// Log level, such as `info` or `warn`.
    pub level: String,
    /// Text of the line.
    pub line: String,
}

/// Job for which another job waits or waited.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobDependency {
    /// Job ID.
    pub id: i64,
    /// Final state of the job; `null` until it has ended.
    #[schema(required = true)]
    pub state: Option<JobStatus>,
    /// Result, any JSON value; `null` if there is none.
    #[schema(required = true)]
    pub result: Option<StoredJson>,
    /// `true` if the result is omitted because all results together are too large. Get the job with this ID
    /// to read it.
    pub is_result_omitted: bool,
}

/// Job with payload, result, log and dependencies.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobDetails {
    /// State and settings of the job.
    #[serde(flatten)]
    pub job: Job,
    /// Payload, any JSON value.
    pub payload: StoredJson,
    /// Result, any JSON value; `null` if there is none.
    #[schema(required = true)]
    pub result: Option<StoredJson>,
    /// Most recent log lines.
    pub log: Vec<JobLogLine>,
    /// Jobs for which this job waits or waited.
    pub dependencies: Vec<JobDependency>,
}

/// Job claimed by a worker.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ClaimedJob {
    /// Job ID.
    pub id: i64,
    /// Lease token of the claim. Send it unchanged with each report about the job.
    pub lease_token: String,
    /// Number of this attempt, from 1.
    pub attempt: i64,
    /// Kind of the job.
    pub kind: String,
    /// Payload, any JSON value.
    pub payload: StoredJson,
    /// Number of earlier failures.
    pub failures: i64,
    /// Maximum duration of an attempt in milliseconds; 0 for no limit. A longer attempt counts as failed.
    pub timeout_ms: i64,
    /// Time at which the job was due to run.
    pub run_at: Timestamp,
    /// Time at which the job was enqueued.
    pub created_at: Timestamp,
}

/// Result of a claim.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ClaimedJobs {
    /// Claimed jobs in the order of the queue; empty if no job became available in time.
    pub jobs: Vec<ClaimedJob>,
}

impl From<RetryPolicy> for RetryBody {
    fn from(RetryPolicy { max_attempts, base, cap }: RetryPolicy) -> Self {
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

impl From<DependencyResult> for JobDependency {
    fn from(DependencyResult { job, state, result, is_result_omitted }: DependencyResult) -> Self {
        Self { id: job, state: state.map(JobStatus::from), result: read_json(result), is_result_omitted }
    }
}

impl From<kith_jobs::ClaimedJob> for ClaimedJob {
    fn from(claimed: kith_jobs::ClaimedJob) -> Self {
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
            pending_dependencies: job.pending_dependencies,
            cancel_requested_at: job.cancel_requested_at,
            source: job.source,
            created_at: job.created_at,
        }
    }
}

/// Parses stored JSON. The text was validated before it was stored.
pub fn read_json(text: Option<String>) -> Option<StoredJson> {
    text.and_then(|text| StoredJson::from_text(text).ok())
}

fn millis(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
