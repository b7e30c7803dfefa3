//! Types of the schedules API, and their conversion from and to the engine's types.

use std::str::FromStr;
use std::time::Duration;

use kith_jobs::schedules::{Missed, Occurrence, Origin, Overlap, Plan, Schedule, check_schedule_name};
use kith_jobs::{JobId, JobRecord, JobState, RetryPolicy};
use kith_kernel::{FieldError, StoredJson, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::jobs::RetryBody;

/// Number of upcoming runs in a response.
const UPCOMING: usize = 5;
/// Maximum timeout of a run in milliseconds: one week.
const MAX_TIMEOUT_MS: i64 = 7 * 86_400_000;
/// Path segment of another endpoint (`/api/v1/schedules/preview`), so no schedule can have this name.
const RESERVED: &str = "preview";

/// Name of a schedule: 1 to 64 letters, digits, dots, dashes or underscores, but not `preview`.
#[derive(Clone, Debug)]
pub struct ScheduleName(pub String);

impl FromStr for ScheduleName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match check_schedule_name(text) {
            Ok(()) if text != RESERVED => Ok(Self(text.to_owned())),
            _ => Err("expected 1 to 64 letters, digits, dots, dashes or underscores, but not `preview`"),
        }
    }
}

/// Schedule to create or update.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScheduleBody {
    /// Queue of the jobs.
    #[schema(pattern = "^[A-Za-z0-9._-]{1,64}$")]
    queue: String,
    /// Kind of the jobs.
    #[schema(pattern = "^[A-Za-z0-9._-]{1,64}$")]
    kind: String,
    /// Payload of the jobs as any JSON value, at most 256 KiB. Default `{}`.
    #[serde(default = "default_payload")]
    payload: Value,
    /// Priority of the jobs, 0 (first) to 9 (last). Default 5.
    #[serde(default = "default_priority")]
    #[schema(minimum = 0, maximum = 9)]
    priority: i64,
    /// Retry policy of the jobs. Default: 10 attempts over about eight hours.
    #[serde(default)]
    retry: Option<RetryBody>,
    /// Maximum duration of an attempt in milliseconds, at most one week; 0 for no limit. Default 0.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 604_800_000)]
    timeout_ms: i64,
    /// Schedule expression: cron with five fields, six with seconds first, or seven with a year last; a macro
    /// such as `@daily`; or an interval such as `@every 1h30m`.
    #[schema(example = "30 2 * * MON-FRI", max_length = 500)]
    schedule: String,
    /// Time zone as a name of the IANA time zone database. Default `UTC`.
    #[serde(default = "default_time_zone")]
    #[schema(example = "Europe/Vienna")]
    time_zone: String,
    /// Handling of runs that are more than a minute late because no server was running. `skip` drops them.
    /// `latest` runs only the last one. `all` runs all of them, up to `missed_cap`. Default `latest`.
    #[serde(default)]
    #[schema(value_type = String, pattern = "^(skip|latest|all)$")]
    missed: Missed,
    /// Maximum number of missed runs that are caught up if `missed` is `all`, 1 to 1,000. Default 100.
    #[serde(default = "default_missed_cap")]
    #[schema(minimum = 1, maximum = 1000)]
    missed_cap: i64,
    /// Handling of a run that is due while an earlier run has not ended. `allow` starts it, and `skip` drops
    /// it. `queue` runs it after the earlier run; at most 100 runs wait, and further runs are dropped.
    /// `cancel` cancels the earlier run and then starts the new one. Default `allow`.
    #[serde(default)]
    #[schema(value_type = String, pattern = "^(allow|skip|queue|cancel)$")]
    overlap: Overlap,
    /// Maximum random delay of each run in milliseconds, at most one day. Default 0.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 86_400_000)]
    jitter_ms: i64,
    /// Time before which the schedule has no runs. Default: no bound.
    #[serde(default)]
    starts_at: Option<Timestamp>,
    /// Time from which on the schedule has no runs. Default: no bound.
    #[serde(default)]
    ends_at: Option<Timestamp>,
}

fn default_payload() -> Value {
    Value::Object(serde_json::Map::new())
}

const fn default_priority() -> i64 {
    5
}

const fn default_missed_cap() -> i64 {
    100
}

fn default_time_zone() -> String {
    "UTC".to_owned()
}

impl ScheduleBody {
    /// Checks the times in milliseconds and converts the body into the engine's plan.
    pub fn plan(&self) -> Result<Plan, Vec<FieldError>> {
        let mut faults = Vec::new();
        let mut time = |pointer: &'static str, ms: i64, max: i64| {
            if !(0..=max).contains(&ms) {
                faults.push(FieldError::new(pointer, "out_of_range", format!("Expected 0 to {max}.")));
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
            retry: self.retry.as_ref().map_or(RetryPolicy::DEFAULT, RetryBody::policy),
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

/// State of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleState {
    /// The schedule has a next run.
    Active,
    /// The schedule is paused until it is resumed.
    Paused,
    /// The schedule has no further runs.
    Ended,
}

/// Schedule with its settings, state and next runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Schedule)]
pub struct ScheduleResponse {
    /// Name of the schedule.
    pub name: String,
    /// Creator of the schedule; `module:…` if a module of the server declares it.
    pub owner: String,
    /// `true` if a module of the server declares the schedule. Such a schedule can be paused, run and
    /// backfilled, but not changed or deleted.
    pub declared: bool,
    /// State of the schedule.
    pub state: ScheduleState,
    /// Queue of the jobs.
    pub queue: String,
    /// Kind of the jobs.
    pub kind: String,
    /// Payload of the jobs.
    pub payload: StoredJson,
    /// Priority of the jobs, 0 (first) to 9 (last).
    pub priority: i64,
    /// Retry policy of the jobs.
    pub retry: RetryBody,
    /// Maximum duration of an attempt in milliseconds; 0 for no limit.
    pub timeout_ms: i64,
    /// Schedule expression as the caller sent it.
    pub schedule: String,
    /// Time zone as a name of the IANA time zone database.
    pub time_zone: String,
    /// Handling of missed runs: `skip`, `latest` or `all`.
    pub missed: Missed,
    /// Maximum number of missed runs that are caught up if `missed` is `all`.
    pub missed_cap: i64,
    /// Handling of a run that is due while an earlier run has not ended: `allow`, `skip`, `queue` or
    /// `cancel`.
    pub overlap: Overlap,
    /// Maximum random delay of each run in milliseconds.
    pub jitter_ms: i64,
    /// Time before which the schedule has no runs; `null` for no bound.
    #[schema(required = true)]
    pub starts_at: Option<Timestamp>,
    /// Time from which on the schedule has no runs; `null` for no bound.
    #[schema(required = true)]
    pub ends_at: Option<Timestamp>,
    /// Scheduled time of the latest run, including missed runs that were caught up. Manual runs and
    /// backfills do not count. `null` if there was none.
    #[schema(required = true)]
    pub last_run_at: Option<Timestamp>,
    /// Times of the next runs, at most five; empty while the schedule is paused.
    pub upcoming: Vec<Timestamp>,
    /// Time at which the schedule was created.
    pub created_at: Timestamp,
    /// Time at which the schedule was last changed, paused or resumed.
    pub updated_at: Timestamp,
}

impl From<Schedule> for ScheduleResponse {
    fn from(one: Schedule) -> Self {
        let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        let upcoming = upcoming(&one);
        let state = match one.next_run_at {
            _ if one.paused => ScheduleState::Paused,
            None => ScheduleState::Ended,
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
            last_run_at: one.last_run_at,
            upcoming,
            created_at: one.created_at,
            updated_at: one.updated_at,
        }
    }
}

fn upcoming(one: &Schedule) -> Vec<Timestamp> {
    let Some(next_run_at) = one.next_run_at.filter(|_| !one.paused) else { return Vec::new() };
    let Ok(spec) = one.plan.check(one.anchor_at) else { return Vec::new() };
    let mut all = vec![next_run_at];
    all.extend(one.plan.preview(&spec, next_run_at, UPCOMING - 1));
    all
}

/// Run of a schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ScheduleRun {
    /// Scheduled time of the run.
    pub at: Timestamp,
    /// Origin of the run: `due` (at its scheduled time), `missed` (caught up later), `now` (manual) or
    /// `backfill`.
    pub origin: Origin,
    /// Time at which the server decided to enqueue or skip the run.
    pub decided_at: Timestamp,
    /// Job ID; `null` if the run was skipped because an earlier run had not ended.
    #[schema(required = true)]
    pub job_id: Option<JobId>,
    /// State of the job; `null` if the run has no job or the job is no longer stored.
    #[schema(required = true)]
    pub job_state: Option<JobState>,
    /// Start time of the last attempt; `null` if there was none.
    #[schema(required = true)]
    pub started_at: Option<Timestamp>,
    /// Time at which the job ended; `null` if it has not ended.
    #[schema(required = true)]
    pub finished_at: Option<Timestamp>,
    /// Last error of the job; `null` if there is none.
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

/// Job that a manual run enqueued.
#[derive(Serialize, ToSchema)]
pub struct ScheduledJob {
    /// Job ID.
    pub job_id: JobId,
}

/// Result of a backfill.
#[derive(Serialize, ToSchema)]
pub struct BackfillResult {
    /// IDs of the enqueued jobs, earliest run first.
    job_ids: Vec<JobId>,
    /// Number of runs in the period that were already recorded.
    already_recorded: i64,
}

impl From<kith_jobs::schedules::BackfillResult> for BackfillResult {
    fn from(done: kith_jobs::schedules::BackfillResult) -> Self {
        Self { job_ids: done.jobs.into_iter().map(|(_, job)| job).collect(), already_recorded: done.skipped }
    }
}
