//! Queues as they are seen and ruled: what is set for them, how they stand, and what was done lately.

use kith_jobs::{Minute, QueueSettings, Rate, Sample, check_name};
use kith_kernel::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The name of a queue in a path.
#[derive(Clone, Debug)]
pub struct QueueName(pub String);

impl std::str::FromStr for QueueName {
    type Err = kith_jobs::Invalid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        check_name("queue", text).map(|()| Self(text.to_owned()))
    }
}

/// At most `limit` starts in each window of `period_ms`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QueueRate {
    /// Starts.
    #[schema(minimum = 1)]
    pub limit: i64,
    /// Milliseconds, at most a day.
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

/// The limits of a queue, counted across all nodes. What is absent is not limited.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QueueLimitsBody {
    /// Most jobs that run at once.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub concurrency: Option<i64>,
    /// Most jobs that start in a time.
    #[serde(default)]
    pub rate: Option<QueueRate>,
    /// Most jobs of one `limit_key` that run at once.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub key_concurrency: Option<i64>,
    /// Most jobs of one `limit_key` that start in a time.
    #[serde(default)]
    pub key_rate: Option<QueueRate>,
}

/// What is set for a queue.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct QueueLimits {
    /// Whether no job of it is started.
    pub paused: bool,
    /// Most jobs that run at once.
    #[schema(required = true)]
    pub concurrency: Option<i64>,
    /// Most jobs that start in a time.
    #[schema(required = true)]
    pub rate: Option<QueueRate>,
    /// Most jobs of one `limit_key` that run at once.
    #[schema(required = true)]
    pub key_concurrency: Option<i64>,
    /// Most jobs of one `limit_key` that start in a time.
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

/// How many jobs of a queue stand how.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct QueueDepth {
    /// That wait for a worker.
    pub ready: i64,
    /// That wait for their time.
    pub scheduled: i64,
    /// That run.
    pub running: i64,
    /// That wait for others.
    pub blocked: i64,
    /// Dead letters.
    pub dead: i64,
    /// When the job that has waited longest was to run; null if none waits.
    #[schema(required = true)]
    pub oldest_ready_at: Option<Timestamp>,
}

impl From<&Sample> for QueueDepth {
    fn from(sample: &Sample) -> Self {
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

/// What was done in a time.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub struct QueueTally {
    /// Attempts that began.
    pub started: i64,
    /// Jobs that were done.
    pub completed: i64,
    /// Attempts that failed.
    pub failed: i64,
    /// Jobs that went to the dead letters.
    pub dead: i64,
    /// Milliseconds that attempts took together.
    pub run_ms: i64,
    /// Milliseconds that they waited together, from when they were to run until they did.
    pub wait_ms: i64,
}

impl QueueTally {
    /// Adds a minute.
    pub fn add(&mut self, minute: &Minute) {
        self.started += minute.tally.started;
        self.completed += minute.tally.completed;
        self.failed += minute.tally.failed;
        self.dead += minute.tally.dead;
        self.run_ms += minute.tally.run_ms;
        self.wait_ms += minute.tally.wait_ms;
    }
}

/// A queue.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// What is set for it.
    pub limits: QueueLimits,
    /// How it stands.
    pub depth: QueueDepth,
    /// What was done within the last five minutes, as far as it was written down: it is every few seconds.
    pub lately: QueueTally,
}

/// All queues that hold anything, or that anything was set for, by name.
#[derive(Debug, Serialize, ToSchema)]
pub struct Queues {
    pub items: Vec<Queue>,
}

impl Queues {
    /// A line for each, for a terminal.
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

/// What was done in a minute.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueMinute {
    /// When it began.
    pub minute: Timestamp,
    /// What was done in it.
    pub tally: QueueTally,
}

/// How a queue stood at a moment.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueMoment {
    /// When.
    pub at: Timestamp,
    /// How it stood.
    pub depth: QueueDepth,
}

/// A queue and its past.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueDetails {
    #[serde(flatten)]
    pub about: Queue,
    /// What was done, minute by minute; minutes in which nothing was are left out.
    pub minutes: Vec<QueueMinute>,
    /// How it stood, moment by moment.
    pub moments: Vec<QueueMoment>,
}
