//! Queues as they are seen and ruled: what is set for them, how they stand, and what was done lately.

use std::collections::BTreeMap;
use std::time::Duration;

use kith_jobs::{JobFilter, JobState, Minute, QueueSettings, Rate, Sample, check_name};
use kith_kernel::{Ctx, Timestamp, days, hours, minutes};
use kith_store::{Query, Tx};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::enqueueing::JobsError;

/// How far back the rates of a list go.
const LATELY: Duration = minutes(5);
/// How far back a queue's past goes unless somebody asks for more.
const USUAL_PAST: Duration = hours(1);
/// As long as the engine keeps it.
const LONGEST_PAST: Duration = days(2);
/// Rows that are read for it at most.
const ROWS: i64 = 20_000;
/// Points of depth that are shown at most.
const POINTS: usize = 500;
/// Jobs that one call of a drain takes back at most.
pub const DRAINED: usize = 1_000;

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
    concurrency: Option<i64>,
    /// Most jobs that start in a time.
    #[serde(default)]
    rate: Option<QueueRate>,
    /// Most jobs of one `limit_key` that run at once.
    #[serde(default)]
    #[schema(minimum = 1)]
    key_concurrency: Option<i64>,
    /// Most jobs of one `limit_key` that start in a time.
    #[serde(default)]
    key_rate: Option<QueueRate>,
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
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
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
    fn add(&mut self, minute: &Minute) {
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
    items: Vec<Queue>,
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
    #[schema(value_type = String, format = DateTime)]
    minute: Timestamp,
    /// What was done in it.
    tally: QueueTally,
}

/// How a queue stood at a moment.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueMoment {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// How it stood.
    depth: QueueDepth,
}

/// A queue and its past.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueDetails {
    #[serde(flatten)]
    about: Queue,
    /// What was done, minute by minute; minutes in which nothing was are left out.
    minutes: Vec<QueueMinute>,
    /// How it stood, moment by moment.
    moments: Vec<QueueMoment>,
}

/// All queues, by name.
///
/// # Errors
/// The database's.
pub fn list(q: &Query<'_>, ctx: &Ctx) -> Result<Queues, JobsError> {
    let settings: BTreeMap<_, _> = kith_jobs::list_settings(q)?.into_iter().collect();
    let depths = kith_jobs::look(q, ctx.now)?;
    let depths: BTreeMap<_, _> = depths.iter().map(|sample| (sample.queue.clone(), sample.into())).collect();
    let mut lately: BTreeMap<String, QueueTally> = BTreeMap::new();
    for minute in kith_jobs::list_minutes(q, None, ctx.now - LATELY, ROWS)? {
        lately.entry(minute.queue.clone()).or_default().add(&minute);
    }
    let mut names: Vec<_> = settings.keys().chain(depths.keys()).chain(lately.keys()).cloned().collect();
    names.sort_unstable();
    names.dedup();
    let items = names.into_iter().map(|name| Queue {
        limits: settings.get(&name).cloned().unwrap_or_default().into(),
        depth: depths.get(&name).cloned().unwrap_or_default(),
        lately: lately.get(&name).copied().unwrap_or_default(),
        name,
    });
    Ok(Queues { items: items.collect() })
}

/// A queue and its past since `since`. One that nobody has heard of stands empty.
///
/// # Errors
/// The database's.
pub fn get(
    q: &Query<'_>,
    ctx: &Ctx,
    name: &str,
    since: Option<Timestamp>,
) -> Result<QueueDetails, JobsError> {
    let since = since.unwrap_or(ctx.now - USUAL_PAST).max(ctx.now - LONGEST_PAST);
    let depths = kith_jobs::look(q, ctx.now)?;
    let depth = depths.iter().find(|sample| sample.queue == name).map(QueueDepth::from);
    let mut by_minute: BTreeMap<Timestamp, QueueTally> = BTreeMap::new();
    let mut lately = QueueTally::default();
    for minute in kith_jobs::list_minutes(q, Some(name), since.min(ctx.now - LATELY), ROWS)? {
        if minute.minute >= since {
            by_minute.entry(minute.minute).or_default().add(&minute);
        }
        if minute.minute >= ctx.now - LATELY {
            lately.add(&minute);
        }
    }
    let samples = kith_jobs::list_samples(q, name, since, ROWS)?;
    let step = samples.len().div_ceil(POINTS).max(1);
    Ok(QueueDetails {
        about: Queue {
            name: name.to_owned(),
            limits: kith_jobs::find_settings(q, name)?.into(),
            depth: depth.unwrap_or_default(),
            lately,
        },
        minutes: by_minute.into_iter().map(|(minute, tally)| QueueMinute { minute, tally }).collect(),
        moments: samples
            .iter()
            .step_by(step)
            .map(|sample| QueueMoment { at: sample.at, depth: sample.into() })
            .collect(),
    })
}

/// Sets the limits of a queue; what is absent is not limited any more.
///
/// # Errors
/// What is wrong with them; the database's.
pub fn limit(tx: &Tx<'_>, ctx: &Ctx, name: &str, body: &QueueLimitsBody) -> Result<QueueLimits, JobsError> {
    let set = kith_jobs::set_queue(tx, ctx, name, None, |settings| {
        settings.concurrency = body.concurrency;
        settings.rate = body.rate.map(Rate::from);
        settings.key_concurrency = body.key_concurrency;
        settings.key_rate = body.key_rate.map(Rate::from);
    });
    Ok(set?.into())
}

/// Pauses a queue, or lets it go on.
///
/// # Errors
/// The database's.
pub fn pause(tx: &Tx<'_>, ctx: &Ctx, name: &str, paused: bool) -> Result<QueueLimits, JobsError> {
    Ok(kith_jobs::set_queue(tx, ctx, name, None, |settings| settings.paused = paused)?.into())
}

/// Takes back jobs of a queue that wait, at most [`DRAINED`], and says how many. What runs goes on.
///
/// # Errors
/// The database's.
pub fn drain(tx: &Tx<'_>, ctx: &Ctx, name: &str) -> Result<usize, JobsError> {
    let mut drained = 0;
    for state in [JobState::Ready, JobState::Scheduled, JobState::Blocked] {
        let filter = JobFilter { state: Some(state), queue: Some(name.to_owned()), ..JobFilter::default() };
        let most = i64::try_from(DRAINED - drained).unwrap_or(0);
        for job in kith_jobs::list_jobs(tx, &filter, most)? {
            let outcome = kith_jobs::cancel(tx, ctx, job.id, "its queue was drained")?;
            drained += usize::from(outcome == kith_jobs::CancelOutcome::Cancelled);
        }
    }
    if drained > 0 {
        tx.audit(ctx, "queue.drained", name);
    }
    Ok(drained)
}
