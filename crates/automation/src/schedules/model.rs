//! What is asked of schedules, and what is answered.

use std::str::FromStr;
use std::time::Duration;

use kith_jobs::schedules::{
    Backfilled, Missed, Occurrence, Origin, Overlap, Plan, Schedule, check_schedule_name,
};
use kith_jobs::{JobId, JobRecord, JobState, Retry};
use kith_kernel::{FieldError, StoredJson, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::jobs::RetryBody;

/// How many of the next runs an answer shows.
const UPCOMING: usize = 5;
/// Longest timeout of a run: a week.
const MAX_TIMEOUT_MS: i64 = 7 * 86_400_000;
/// Of a path beside the schedules, so of none of them.
const RESERVED: &str = "preview";

/// What a schedule is called.
#[derive(Clone, Debug)]
pub struct ScheduleName(pub String);

impl FromStr for ScheduleName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match check_schedule_name(text) {
            Ok(()) if text != RESERVED => Ok(Self(text.to_owned())),
            _ => Err("a name is made of letters, digits, dots, dashes and underscores, at most 64 of them"),
        }
    }
}

/// What is to be run, and when.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScheduleBody {
    /// In which queue its jobs stand.
    #[schema(pattern = "^[A-Za-z0-9._-]{1,64}$")]
    queue: String,
    /// What is to be done.
    #[schema(pattern = "^[A-Za-z0-9._-]{1,64}$")]
    kind: String,
    /// With what; `{}` if absent. At most 256 KiB as JSON.
    #[serde(default = "nothing")]
    payload: Value,
    /// 0 is first; 5 if absent.
    #[serde(default = "five")]
    #[schema(minimum = 0, maximum = 9)]
    priority: i64,
    /// How often a run may fail, and how long it waits each time; ten times if absent.
    #[serde(default)]
    retry: Option<RetryBody>,
    /// A run that takes longer has failed; none does if it is 0 or absent.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 604_800_000)]
    timeout_ms: i64,
    /// Five fields of cron, six with seconds first, seven with a year last; `@daily` and the like; or `@every 1h30m`.
    #[schema(example = "30 2 * * MON-FRI", max_length = 500)]
    schedule: String,
    /// Of the IANA database; UTC if absent.
    #[serde(default = "utc")]
    #[schema(example = "Europe/Vienna")]
    time_zone: String,
    /// What becomes of runs whose time passed while nobody was there, by more than a minute: `skip`, `latest` (which it is
    /// if absent), or `all`.
    #[serde(default)]
    #[schema(value_type = String, pattern = "^(skip|latest|all)$")]
    missed: Missed,
    /// How many of them are run at most, where all are; 100 if absent.
    #[serde(default = "hundred")]
    #[schema(minimum = 1, maximum = 1000)]
    missed_cap: i64,
    /// What becomes of a run while another has not ended: `allow` (which it is if absent), `skip`, `queue`, or `cancel` the
    /// older one.
    #[serde(default)]
    #[schema(value_type = String, pattern = "^(allow|skip|queue|cancel)$")]
    overlap: Overlap,
    /// Each run starts later by a random part of this, at most a day.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 86_400_000)]
    jitter_ms: i64,
    /// No run before.
    #[serde(default)]
    starts_at: Option<Timestamp>,
    /// No run from then on.
    #[serde(default)]
    ends_at: Option<Timestamp>,
}

fn nothing() -> Value {
    Value::Object(serde_json::Map::new())
}

const fn five() -> i64 {
    5
}

const fn hundred() -> i64 {
    100
}

fn utc() -> String {
    "UTC".to_owned()
}

impl ScheduleBody {
    /// What it says, as far as its numbers are times.
    pub fn plan(&self) -> Result<Plan, Vec<FieldError>> {
        let mut faults = Vec::new();
        let mut time = |pointer: &'static str, ms: i64, most: i64| {
            if !(0..=most).contains(&ms) {
                faults.push(FieldError::new(pointer, "out_of_range", format!("From 0 to {most}.")));
            }
            Duration::from_millis(u64::try_from(ms).unwrap_or(0))
        };
        let timeout = time("/timeout_ms", self.timeout_ms, MAX_TIMEOUT_MS);
        let jitter = time("/jitter_ms", self.jitter_ms, 86_400_000);
        faults.extend(self.retry.as_ref().and_then(|retry| retry.check("/retry").err()));
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Plan {
            payload: self.payload.to_string(),
            priority: self.priority,
            retry: self.retry.as_ref().map_or(Retry::DEFAULT, RetryBody::policy),
            timeout,
            zone: self.time_zone.clone(),
            missed: self.missed,
            missed_cap: self.missed_cap,
            overlap: self.overlap,
            jitter,
            starts_at: self.starts_at,
            ends_at: self.ends_at,
            ..Plan::new(&self.queue, &self.kind, &self.schedule)
        })
    }
}

/// Whether a schedule runs anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleState {
    /// It has a next run.
    Active,
    /// Until somebody resumes it.
    Paused,
    /// It has no run any more.
    Over,
}

/// A schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Schedule)]
pub struct ScheduleAnswer {
    /// Its name, which no other has.
    pub name: String,
    /// Who made it: `module:…` where the code declares it.
    pub owner: String,
    /// Whether the code declares it; then only the code changes it, and it can be paused, run and backfilled.
    pub declared: bool,
    /// Whether it runs anything.
    pub state: ScheduleState,
    /// In which queue its jobs stand.
    pub queue: String,
    /// What is to be done.
    pub kind: String,
    /// With what.
    pub payload: StoredJson,
    /// 0 is first.
    pub priority: i64,
    /// How often a run may fail, and how long it waits each time.
    pub retry: RetryBody,
    /// A run that takes longer has failed; none does if it is 0.
    pub timeout_ms: i64,
    /// When, as it was written.
    pub schedule: String,
    /// Of the IANA database.
    pub time_zone: String,
    /// What becomes of missed runs: `skip`, `latest` or `all`.
    pub missed: Missed,
    /// How many of them are run at most, where all are.
    pub missed_cap: i64,
    /// What becomes of a run while another has not ended: `allow`, `skip`, `queue` or `cancel`.
    pub overlap: Overlap,
    /// Each run starts later by a random part of this.
    pub jitter_ms: i64,
    /// No run before.
    #[schema(required = true)]
    pub starts_at: Option<Timestamp>,
    /// No run from then on.
    #[schema(required = true)]
    pub ends_at: Option<Timestamp>,
    /// The latest run that came because its time did.
    #[schema(required = true)]
    pub last_at: Option<Timestamp>,
    /// The next runs, at most five; none while it is paused.
    pub upcoming: Vec<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed, paused or resumed.
    pub changed_at: Timestamp,
}

impl From<Schedule> for ScheduleAnswer {
    fn from(one: Schedule) -> Self {
        let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        let upcoming = upcoming(&one);
        let state = match one.next_at {
            _ if one.paused => ScheduleState::Paused,
            None => ScheduleState::Over,
            Some(_) => ScheduleState::Active,
        };
        let plan = one.plan;
        Self {
            name: one.name,
            owner: one.owner,
            declared: one.is_declared,
            state,
            queue: plan.queue,
            kind: plan.kind,
            payload: StoredJson::from_text(plan.payload).unwrap_or_default(),
            priority: plan.priority,
            retry: plan.retry.into(),
            timeout_ms: ms(plan.timeout),
            schedule: plan.schedule,
            time_zone: plan.zone,
            missed: plan.missed,
            missed_cap: plan.missed_cap,
            overlap: plan.overlap,
            jitter_ms: ms(plan.jitter),
            starts_at: plan.starts_at,
            ends_at: plan.ends_at,
            last_at: one.last_at,
            upcoming,
            created_at: one.created_at,
            changed_at: one.changed_at,
        }
    }
}

fn upcoming(one: &Schedule) -> Vec<Timestamp> {
    let Some(next_at) = one.next_at.filter(|_| !one.paused) else { return Vec::new() };
    let Ok(spec) = one.plan.check(one.anchor_at) else { return Vec::new() };
    let mut all = vec![next_at];
    all.extend(one.plan.preview(&spec, next_at, UPCOMING - 1));
    all
}

/// A run of a schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ScheduleRun {
    /// When it was to be.
    pub at: Timestamp,
    /// Why it came to be: `due`, `missed` and made up for, `now` because somebody asked, or `backfill`.
    pub origin: Origin,
    /// When that was decided.
    pub decided_at: Timestamp,
    /// Its job; null if it was left out because another run had not ended.
    #[schema(required = true)]
    pub job_id: Option<JobId>,
    /// How the job stands; null if there is none, or it is no longer known.
    #[schema(required = true)]
    pub job_state: Option<JobState>,
    /// When its last attempt began.
    #[schema(required = true)]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[schema(required = true)]
    pub finished_at: Option<Timestamp>,
    /// Its last failure.
    #[schema(required = true)]
    pub error: Option<String>,
}

impl From<(Occurrence, Option<JobRecord>)> for ScheduleRun {
    fn from((one, job): (Occurrence, Option<JobRecord>)) -> Self {
        Self {
            at: one.at,
            origin: one.origin,
            decided_at: one.decided_at,
            job_id: one.job,
            job_state: job.as_ref().map(|job| job.state),
            started_at: job.as_ref().and_then(|job| job.started_at),
            finished_at: job.as_ref().and_then(|job| job.finished_at),
            error: job.and_then(|job| Some(job.errors.last()?.error.clone())),
        }
    }
}

/// A job that was asked for.
#[derive(Serialize, ToSchema)]
pub struct ScheduledJob {
    /// Its id.
    pub job_id: JobId,
}

/// What a backfill came to.
#[derive(Serialize, ToSchema)]
pub struct BackfillAnswer {
    /// The jobs, the earliest run first.
    job_ids: Vec<JobId>,
    /// Runs that had been before, or left out.
    known: i64,
}

impl From<Backfilled> for BackfillAnswer {
    fn from(done: Backfilled) -> Self {
        Self { job_ids: done.jobs.into_iter().map(|(_, job)| job).collect(), known: done.known }
    }
}
