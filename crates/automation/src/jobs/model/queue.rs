//! Types of queues as the API returns them: settings, depth and throughput.

use kith_jobs::{Minute, QueueSettings, Rate, check_name};
use kith_kernel::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Name of a queue in a path.
#[derive(Clone, Debug)]
pub struct QueueName(pub String);

impl std::str::FromStr for QueueName {
    type Err = kith_jobs::Invalid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        check_name("queue", text).map(|()| Self(text.to_owned()))
    }
}

/// Rate limit: at most `limit` starts in each window of `period_ms`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QueueRate {
    /// Maximum number of starts per period.
    #[schema(minimum = 1)]
    pub limit: i64,
    /// Period in milliseconds, at most one day.
    #[schema(minimum = 1)]
    pub period_ms: i64,
}

impl From<QueueRate> for Rate {
    fn from(QueueRate { limit, period_ms }: QueueRate) -> Self {
        Self { limit, period_ms }
    }
}

impl From<Rate> for QueueRate {
    fn from(Rate { limit, period_ms }: Rate) -> Self {
        Self { limit, period_ms }
    }
}

/// Limits of a queue, enforced across all nodes. A limit that is absent is removed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QueueLimitsBody {
    /// Maximum number of jobs that run at once.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub concurrency: Option<i64>,
    /// Maximum number of jobs that start per period.
    #[serde(default)]
    pub rate: Option<QueueRate>,
    /// Maximum number of jobs with the same `limit_key` that run at once.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub key_concurrency: Option<i64>,
    /// Maximum number of jobs with the same `limit_key` that start per period.
    #[serde(default)]
    pub key_rate: Option<QueueRate>,
}

/// Settings of a queue.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct QueueLimits {
    /// `true` if the queue is paused: no job of it is started.
    pub paused: bool,
    /// Maximum number of jobs that run at once; `null` for no limit.
    #[schema(required = true)]
    pub concurrency: Option<i64>,
    /// Maximum number of jobs that start per period; `null` for no limit.
    #[schema(required = true)]
    pub rate: Option<QueueRate>,
    /// Maximum number of jobs with the same `limit_key` that run at once; `null` for no limit.
    #[schema(required = true)]
    pub key_concurrency: Option<i64>,
    /// Maximum number of jobs with the same `limit_key` that start per period; `null` for no limit.
    #[schema(required = true)]
    pub key_rate: Option<QueueRate>,
}

impl From<QueueSettings> for QueueLimits {
    fn from(settings: QueueSettings) -> Self {
        Self {
            paused: settings.paused,
            concurrency: settings.concurrency,
            rate: settings.rate.map(QueueRate::from),
            key_concurrency: settings.key_concurrency,
            key_rate: settings.key_rate.map(QueueRate::from),
        }
    }
}

/// Number of jobs of a queue by state.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct QueueDepth {
    /// Jobs waiting for a worker.
    pub ready: i64,
    /// Jobs waiting for their run time.
    pub scheduled: i64,
    /// Running jobs.
    pub running: i64,
    /// Jobs waiting for other jobs.
    pub blocked: i64,
    /// Dead letters.
    pub dead: i64,
    /// Run time of the ready job that has waited longest; `null` if no job is ready.
    #[schema(required = true)]
    pub oldest_ready_at: Option<Timestamp>,
}

impl From<&kith_jobs::QueueSample> for QueueDepth {
    fn from(sample: &kith_jobs::QueueSample) -> Self {
        Self {
            ready: sample.ready,
            scheduled: sample.scheduled,
            running: sample.running,
            blocked: sample.blocked,
            dead: sample.dead,
            oldest_ready_at: sample.oldest_ready_at,
        }
    }
}

/// Throughput of a queue within a period.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub struct QueueThroughput {
    /// Attempts that started.
    pub started: i64,
    /// Jobs that completed.
    pub completed: i64,
    /// Attempts that failed.
    pub failed: i64,
    /// Jobs that became dead letters.
    pub dead: i64,
    /// Total duration of the attempts in milliseconds.
    pub run_ms: i64,
    /// Total time in milliseconds between the run times of the jobs and the starts of the attempts.
    pub wait_ms: i64,
}

impl QueueThroughput {
    /// Adds the numbers of one minute.
    pub fn add(&mut self, minute: &Minute) {
        self.started += minute.counts.started;
        self.completed += minute.counts.completed;
        self.failed += minute.counts.failed;
        self.dead += minute.counts.dead;
        self.run_ms += minute.counts.run_ms;
        self.wait_ms += minute.counts.wait_ms;
    }
}

/// Queue with its settings, depth and recent throughput.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Queue {
    /// Name of the queue.
    pub name: String,
    /// Settings of the queue.
    pub limits: QueueLimits,
    /// Current number of jobs, by state.
    pub depth: QueueDepth,
    /// Throughput of the last five minutes. Nodes update it every few seconds.
    pub recent: QueueThroughput,
}

/// All queues that have jobs, settings or recent activity.
#[derive(Debug, Serialize, ToSchema)]
pub struct Queues {
    /// Queues, ordered by name.
    pub items: Vec<Queue>,
}

impl Queues {
    /// Formats one line of text per queue, for a terminal.
    pub fn lines(&self) -> Vec<String> {
        let line = |Queue { name, limits, depth, .. }: &Queue| {
            let paused = if limits.paused { " paused" } else { "" };
            let QueueDepth { ready, scheduled, running, blocked, dead, .. } = depth;
            format!(
                "{name} ready {ready} scheduled {scheduled} running {running} blocked {blocked} dead {dead}{paused}"
            )
        };
        self.items.iter().map(line).collect()
    }
}

/// Throughput of a queue in one minute.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueMinute {
    /// Start of the minute.
    pub minute: Timestamp,
    /// Throughput in this minute.
    pub throughput: QueueThroughput,
}

/// Depth of a queue at one time.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueSample {
    /// Time of the sample.
    pub at: Timestamp,
    /// Number of jobs by state.
    pub depth: QueueDepth,
}

/// Queue with its history.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueDetails {
    /// Settings and current state of the queue.
    #[serde(flatten)]
    pub queue: Queue,
    /// Throughput per minute. Minutes without activity are omitted.
    pub minutes: Vec<QueueMinute>,
    /// Samples of the depth, at most 500, each with its time.
    pub samples: Vec<QueueSample>,
}
