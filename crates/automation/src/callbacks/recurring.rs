//! Recurring callbacks. This module stores the request; the job engine stores the schedule. Each run creates
//! a callback, which no longer depends on the recurring callback.

use kith_jobs::schedules::{self, Missed, Plan, Schedule, ScheduleError};
use kith_jobs::{JobError, JobId, JobOutput};
use kith_kernel::uuid::Uuid;
use kith_kernel::{Ctx, FieldError, Page, PageLimit, Timestamp};
use kith_platform::App;
use kith_platform::auth::Keyring;
use kith_store::{Error, Query, Tx};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::commands::{self, CallbackInsert};
use super::model::{
    CallbackError, CallbackMessage, CallbackTarget, EndpointId, RecurringId, StoredRecurringCallback,
};
use super::transitions::LOCK;
use super::{RECURRING_RUN, RecurringRun, events, rows, sealed};

/// Number of upcoming runs in a response.
const UPCOMING_RUNS: usize = 5;

/// Handling of runs that were missed because no server was running.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MissedRunPolicy {
    /// Send no callbacks for missed runs.
    Skip,
    /// Send one callback for the latest missed run.
    #[default]
    Latest,
    /// Send one callback for each missed run, but only for the latest 100.
    All,
}

/// Recurring callback to create. Its fields were checked, except the schedule.
#[derive(Clone, Debug)]
pub struct RecurringDraft {
    /// Target.
    pub to: CallbackTarget,
    /// Request to send.
    pub message: CallbackMessage,
    /// Schedule expression: cron, a macro, or `@every` with a duration.
    pub schedule: String,
    /// IANA time zone.
    pub zone: String,
    /// Handling of missed runs.
    pub missed: MissedRunPolicy,
}

/// Recurring callback.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RecurringCallback {
    /// Recurring callback ID.
    pub id: RecurringId,
    /// ID of the endpoint.
    pub endpoint_id: EndpointId,
    /// Target URL, including its query.
    pub url: String,
    /// HTTP method.
    pub method: String,
    /// Body as sent; `null` if there is none.
    #[schema(required = true)]
    pub body: Option<String>,
    /// Name of the schedule. Use `/api/v1/schedules/{name}` to pause, resume or run it.
    pub schedule_name: String,
    /// Schedule expression; `null` if the schedule was deleted.
    #[schema(required = true)]
    pub schedule: Option<String>,
    /// Time zone as a name of the IANA time zone database; `null` if the schedule was deleted.
    #[schema(required = true)]
    pub time_zone: Option<String>,
    /// `true` if the schedule is paused.
    pub paused: bool,
    /// Scheduled time of the latest run, including missed runs that were caught up. Manual runs and
    /// backfills do not count. `null` if there was none.
    #[schema(required = true)]
    pub last_run_at: Option<Timestamp>,
    /// Times of the next runs, at most five.
    pub next: Vec<Timestamp>,
    /// Time at which the recurring callback was created.
    pub created_at: Timestamp,
}

/// New recurring callback.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct NewRecurringCallback {
    /// Recurring callback.
    #[serde(flatten)]
    pub recurring: RecurringCallback,
    /// Signing secret of the endpoint, if the endpoint was created with this recurring callback; otherwise
    /// `null`. It is returned once.
    #[schema(required = true, example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    pub secret: Option<String>,
}

fn schedule_name(id: RecurringId) -> String {
    format!("callbacks.{id}")
}

fn headers_name(id: RecurringId) -> String {
    format!("recurring_callback:{id}")
}

impl From<MissedRunPolicy> for Missed {
    fn from(missed: MissedRunPolicy) -> Self {
        match missed {
            MissedRunPolicy::Skip => Self::Skip,
            MissedRunPolicy::Latest => Self::Latest,
            MissedRunPolicy::All => Self::All,
        }
    }
}

fn from_schedule_error(error: ScheduleError) -> CallbackError {
    let (pointer, code) = match &error {
        ScheduleError::Store(error) => return CallbackError::Store(error.clone()),
        ScheduleError::TooMany => return CallbackError::TooManySchedules,
        ScheduleError::Spec(schedules::SpecError::Zone) => ("/time_zone", "not_a_time_zone"),
        ScheduleError::Over => ("/schedule", "no_run"),
        _ => ("/schedule", "not_a_schedule"),
    };
    CallbackError::Invalid(vec![FieldError::new(pointer, code, format!("{error}."))])
}

/// Creates a recurring callback with its schedule. If no endpoint exists for its URL, creates the endpoint
/// too.
///
/// # Errors
/// Returns [`CallbackError::Invalid`] if the schedule expression or time zone is invalid or the schedule has
/// no future runs. Returns [`CallbackError::EndpointNotFound`] or [`CallbackError::EndpointDisabled`] if the
/// target endpoint does not exist or is disabled, and [`CallbackError::TooManySchedules`] if no further
/// schedule is allowed.
pub fn create(
    tx: &Tx<'_>,
    ctx: &Ctx,
    keyring: &Keyring,
    draft: &RecurringDraft,
) -> Result<NewRecurringCallback, CallbackError> {
    let (endpoint, url, secret) = commands::resolve_target(tx, ctx, keyring, &draft.to)?;
    let id = ctx.new_id(RecurringId);
    let message = &draft.message;
    let stored = StoredRecurringCallback {
        id,
        endpoint_id: endpoint.id,
        url,
        method: message.method.to_string(),
        headers: sealed::seal_headers(keyring, ctx, &headers_name(id), &message.headers),
        body: message.body.clone(),
        timeout_ms: message.timeout.and_then(|timeout| i64::try_from(timeout.as_millis()).ok()),
        created_at: ctx.now,
    };
    let run = RECURRING_RUN.with(&RecurringRun { recurring_id: id }).map_err(Error::fault)?;
    let plan = Plan {
        payload: run.payload,
        zone: draft.zone.clone(),
        missed: draft.missed.into(),
        ..Plan::new(run.queue, run.kind, &draft.schedule)
    };
    let schedule =
        schedules::create(tx, ctx, &schedule_name(id), plan, false).map_err(from_schedule_error)?;
    rows::insert_recurring(tx, &stored)?;
    tx.audit(ctx, events::RECURRING_CREATED, id);
    tx.emit(ctx, events::recurring_callback_event(events::RECURRING_CREATED, &stored));
    Ok(NewRecurringCallback { recurring: to_response(stored, Some(schedule), ctx.now), secret })
}

/// Deletes a recurring callback and its schedule. Callbacks that it has created are still sent.
///
/// # Errors
/// Returns [`CallbackError::CallbackNotFound`] if the recurring callback does not exist.
pub fn delete(tx: &Tx<'_>, ctx: &Ctx, id: RecurringId) -> Result<(), CallbackError> {
    tx.lock(LOCK, [id])?;
    let stored = rows::find_recurring(tx, id)?.ok_or(CallbackError::CallbackNotFound)?;
    match schedules::delete(tx, ctx, &schedule_name(id), None) {
        // The schedule may have been deleted through the schedules API.
        Ok(()) | Err(ScheduleError::Unknown) => {}
        Err(error) => return Err(from_schedule_error(error)),
    }
    rows::delete_recurring(tx, id)?;
    tx.audit(ctx, events::RECURRING_DELETED, id);
    tx.emit(ctx, events::recurring_callback_event(events::RECURRING_DELETED, &stored));
    Ok(())
}

/// Returns a page of recurring callbacks, newest first.
///
/// # Errors
/// Returns the store's error if a query fails.
pub fn list(
    q: &Query<'_>,
    before: Option<RecurringId>,
    limit: PageLimit,
    now: Timestamp,
) -> Result<Page<RecurringCallback>, Error> {
    let found = rows::list_recurring(q, before.unwrap_or(RecurringId(Uuid::max())), limit.rows())?;
    let Page { items, next_cursor } = Page::from_rows(found, limit, |last| last.id);
    let items = items.into_iter().map(|stored| with_schedule(q, stored, now)).collect::<Result<_, _>>()?;
    Ok(Page { items, next_cursor })
}

/// Returns a recurring callback with its schedule at `now`.
///
/// # Errors
/// Returns [`CallbackError::CallbackNotFound`] if the recurring callback does not exist.
pub fn get(q: &Query<'_>, id: RecurringId, now: Timestamp) -> Result<RecurringCallback, CallbackError> {
    let stored = rows::find_recurring(q, id)?.ok_or(CallbackError::CallbackNotFound)?;
    Ok(with_schedule(q, stored, now)?)
}

fn with_schedule(
    q: &Query<'_>,
    stored: StoredRecurringCallback,
    now: Timestamp,
) -> Result<RecurringCallback, Error> {
    let schedule = schedules::find_schedule(q, &schedule_name(stored.id))?;
    Ok(to_response(stored, schedule, now))
}

fn to_response(
    stored: StoredRecurringCallback,
    schedule: Option<Schedule>,
    now: Timestamp,
) -> RecurringCallback {
    let runs = schedule.as_ref().filter(|schedule| !schedule.paused);
    let spec = runs.and_then(|schedule| Some((schedule, schedule.plan.check(schedule.anchor_at).ok()?)));
    RecurringCallback {
        id: stored.id,
        endpoint_id: stored.endpoint_id,
        url: stored.url,
        method: stored.method,
        body: stored.body,
        schedule_name: schedule_name(stored.id),
        paused: schedule.as_ref().is_some_and(|schedule| schedule.paused),
        last_run_at: schedule.as_ref().and_then(|schedule| schedule.last_run_at),
        next: spec.map_or_else(Vec::new, |(schedule, spec)| schedule.plan.preview(&spec, now, UPCOMING_RUNS)),
        time_zone: schedule.as_ref().map(|schedule| schedule.plan.zone.clone()),
        schedule: schedule.map(|schedule| schedule.plan.schedule),
        created_at: stored.created_at,
    }
}

/// Creates the callback of one run. If the job `job` runs again, no second callback is created.
///
/// # Errors
/// Returns a [`JobError`] that retries the job if the database operation fails or the headers cannot be
/// decrypted.
pub async fn run(app: &App, id: RecurringId, job: JobId) -> Result<JobOutput, JobError> {
    let keyring = std::sync::Arc::clone(&app.keyring);
    app.write(&app.system_ctx("callbacks"), move |tx, ctx| create_for_run(tx, ctx, &keyring, id, job))
        .await
        .map(|()| JobOutput::default())
        .map_err(JobError::retry)
}

fn create_for_run(
    tx: &Tx<'_>,
    ctx: &Ctx,
    keyring: &Keyring,
    id: RecurringId,
    job: JobId,
) -> Result<(), CallbackError> {
    tx.lock(LOCK, [id])?;
    let Some(stored) = rows::find_recurring(tx, id)? else { return Ok(()) };
    if rows::has_callback_for_run(tx, id, job)? {
        return Ok(());
    }
    let headers = sealed::open_headers(keyring, &headers_name(id), stored.headers.as_deref());
    let message = CallbackMessage {
        method: stored.method.parse().unwrap_or(http::Method::POST),
        headers: headers.ok_or_else(|| Error::fault("headers were sealed with another secret"))?,
        body: stored.body,
        timeout: stored
            .timeout_ms
            .and_then(|ms| u64::try_from(ms).ok())
            .map(std::time::Duration::from_millis),
    };
    let new = CallbackInsert {
        endpoint_id: stored.endpoint_id,
        url: stored.url,
        message: &message,
        at: None,
        recurring: Some((id, job)),
    };
    commands::insert(tx, ctx, keyring, new).map(drop)
}
