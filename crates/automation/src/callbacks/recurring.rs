//! Recurring callbacks. The request is stored here, its times in a schedule of the job engine. Each time
//! creates a callback, which is then independent.

use kith_jobs::schedules::{self, Missed, Plan, Schedule, ScheduleError};
use kith_jobs::{JobError, JobId, JobOutput};
use kith_kernel::uuid::Uuid;
use kith_kernel::{Ctx, FieldError, Page, PageLimit, Timestamp};
use kith_platform::App;
use kith_platform::auth::Keyring;
use kith_store::{Error, Query, Tx};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::commands::{self, Sending};
use super::model::{CallbackError, EndpointId, KeptRecurring, Message, RecurringId, To};
use super::transitions::LOCK;
use super::{Occasion, RECURRING_RUN, events, rows, sealed};

/// Number of upcoming times in a response.
const UPCOMING_RUNS: usize = 5;

/// Handling of runs that were missed because no server was running.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MissedCallbacks {
    /// Send nothing for them.
    Skip,
    /// Send one callback, for the latest.
    #[default]
    Latest,
    /// Send one callback for each of them, at most for the latest 100.
    All,
}

/// Recurring callback to create, checked except for its schedule.
#[derive(Clone, Debug)]
pub struct RecurringDraft {
    /// Target.
    pub to: To,
    /// Request to send.
    pub message: Message,
    /// Schedule expression: cron, a macro, or `@every` with a duration.
    pub schedule: String,
    /// IANA time zone.
    pub zone: String,
    /// Handling of missed runs.
    pub missed: MissedCallbacks,
}

/// Recurring callback.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RecurringCallback {
    /// Recurring callback ID.
    pub id: RecurringId,
    /// ID of the endpoint.
    pub endpoint_id: EndpointId,
    /// Target URL, with its query.
    pub url: String,
    /// HTTP method.
    pub method: String,
    /// Body as sent; `null` if there is none.
    #[schema(required = true)]
    pub body: Option<String>,
    /// Name of its schedule. Use `/api/v1/schedules/{name}` to pause, resume or run it.
    pub schedule_name: String,
    /// Schedule expression; `null` if the schedule was deleted.
    #[schema(required = true)]
    pub schedule: Option<String>,
    /// Time zone as a name of the IANA time zone database; `null` if the schedule was deleted.
    #[schema(required = true)]
    pub time_zone: Option<String>,
    /// `true` if the schedule is paused.
    pub paused: bool,
    /// Time of the latest regular run; `null` if there was none.
    #[schema(required = true)]
    pub last_at: Option<Timestamp>,
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
    /// Signing secret of the endpoint if it was created with this recurring callback, returned once; else
    /// `null`.
    #[schema(required = true, example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    pub secret: Option<String>,
}

fn schedule_name(id: RecurringId) -> String {
    format!("callbacks.{id}")
}

fn headers_name(id: RecurringId) -> String {
    format!("recurring_callback:{id}")
}

impl From<MissedCallbacks> for Missed {
    fn from(missed: MissedCallbacks) -> Self {
        match missed {
            MissedCallbacks::Skip => Self::Skip,
            MissedCallbacks::Latest => Self::Latest,
            MissedCallbacks::All => Self::All,
        }
    }
}

fn refused(error: ScheduleError) -> CallbackError {
    let (pointer, code) = match &error {
        ScheduleError::Store(error) => return CallbackError::Store(error.clone()),
        ScheduleError::TooMany => return CallbackError::TooManySchedules,
        ScheduleError::Spec(schedules::SpecError::Zone) => ("/time_zone", "not_a_time_zone"),
        ScheduleError::Over => ("/schedule", "over"),
        _ => ("/schedule", "not_a_schedule"),
    };
    CallbackError::Invalid(vec![FieldError::new(pointer, code, format!("{error}."))])
}

/// Creates a recurring callback with its schedule, and the endpoint if it does not exist.
///
/// # Errors
/// Returns [`CallbackError::Invalid`] if the schedule expression or time zone is invalid or has no further
/// runs, and [`CallbackError::EndpointNotFound`], [`CallbackError::EndpointDisabled`] or
/// [`CallbackError::TooManySchedules`].
pub fn create(
    tx: &Tx<'_>,
    ctx: &Ctx,
    keyring: &Keyring,
    draft: &RecurringDraft,
) -> Result<NewRecurringCallback, CallbackError> {
    let (endpoint, url, secret) = commands::receiver(tx, ctx, keyring, &draft.to)?;
    let id = ctx.new_id(RecurringId);
    let message = &draft.message;
    let kept = KeptRecurring {
        id,
        endpoint_id: endpoint.id,
        url,
        method: message.method.to_string(),
        headers: sealed::seal_headers(keyring, ctx, &headers_name(id), &message.headers),
        body: message.body.clone(),
        timeout_ms: message.timeout.and_then(|timeout| i64::try_from(timeout.as_millis()).ok()),
        created_at: ctx.now,
    };
    let run = RECURRING_RUN.with(&Occasion { recurring_id: id }).map_err(Error::fault)?;
    let plan = Plan {
        payload: run.payload,
        zone: draft.zone.clone(),
        missed: draft.missed.into(),
        ..Plan::new(run.queue, run.kind, &draft.schedule)
    };
    let schedule = schedules::create(tx, ctx, &schedule_name(id), plan, false).map_err(refused)?;
    rows::insert_recurring(tx, &kept)?;
    tx.audit(ctx, events::RECURRING_CREATED, id);
    tx.emit(ctx, events::of_recurring(events::RECURRING_CREATED, &kept));
    Ok(NewRecurringCallback { recurring: shown(kept, Some(schedule), ctx.now), secret })
}

/// Deletes a recurring callback and its schedule. Callbacks that it has created are still sent.
///
/// # Errors
/// Returns [`CallbackError::CallbackNotFound`] if it does not exist.
pub fn delete(tx: &Tx<'_>, ctx: &Ctx, id: RecurringId) -> Result<(), CallbackError> {
    tx.lock(LOCK, [id])?;
    let kept = rows::find_recurring(tx, id)?.ok_or(CallbackError::CallbackNotFound)?;
    match schedules::delete(tx, ctx, &schedule_name(id), None) {
        // The schedule may have been deleted through the schedules API.
        Ok(()) | Err(ScheduleError::Unknown) => {}
        Err(error) => return Err(refused(error)),
    }
    rows::delete_recurring(tx, id)?;
    tx.audit(ctx, events::RECURRING_DELETED, id);
    tx.emit(ctx, events::of_recurring(events::RECURRING_DELETED, &kept));
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
    let items = items.into_iter().map(|kept| with_schedule(q, kept, now)).collect::<Result<_, _>>()?;
    Ok(Page { items, next_cursor })
}

/// Returns a recurring callback.
///
/// # Errors
/// Returns [`CallbackError::CallbackNotFound`] if it does not exist.
pub fn get(q: &Query<'_>, id: RecurringId, now: Timestamp) -> Result<RecurringCallback, CallbackError> {
    let kept = rows::find_recurring(q, id)?.ok_or(CallbackError::CallbackNotFound)?;
    Ok(with_schedule(q, kept, now)?)
}

fn with_schedule(q: &Query<'_>, kept: KeptRecurring, now: Timestamp) -> Result<RecurringCallback, Error> {
    let schedule = schedules::find_schedule(q, &schedule_name(kept.id))?;
    Ok(shown(kept, schedule, now))
}

fn shown(kept: KeptRecurring, schedule: Option<Schedule>, now: Timestamp) -> RecurringCallback {
    let runs = schedule.as_ref().filter(|schedule| !schedule.paused);
    let spec = runs.and_then(|schedule| Some((schedule, schedule.plan.check(schedule.anchor_at).ok()?)));
    RecurringCallback {
        id: kept.id,
        endpoint_id: kept.endpoint_id,
        url: kept.url,
        method: kept.method,
        body: kept.body,
        schedule_name: schedule_name(kept.id),
        paused: schedule.as_ref().is_some_and(|schedule| schedule.paused),
        last_at: schedule.as_ref().and_then(|schedule| schedule.last_at),
        next: spec.map_or_else(Vec::new, |(schedule, spec)| schedule.plan.preview(&spec, now, UPCOMING_RUNS)),
        time_zone: schedule.as_ref().map(|schedule| schedule.plan.zone.clone()),
        schedule: schedule.map(|schedule| schedule.plan.schedule),
        created_at: kept.created_at,
    }
}

/// Creates the callback of one run. `job` is the job of the run and creates at most one callback.
///
/// # Errors
/// Returns a [`JobError`] that retries the job if the database operation fails or the sealed headers cannot
/// be opened.
pub async fn occur(app: &App, id: RecurringId, job: JobId) -> Result<JobOutput, JobError> {
    let keyring = std::sync::Arc::clone(&app.keyring);
    app.write(&app.system_ctx("callbacks"), move |tx, ctx| make(tx, ctx, &keyring, id, job))
        .await
        .map(|()| JobOutput::default())
        .map_err(JobError::retry)
}

fn make(tx: &Tx<'_>, ctx: &Ctx, keyring: &Keyring, id: RecurringId, job: JobId) -> Result<(), CallbackError> {
    tx.lock(LOCK, [id])?;
    let Some(kept) = rows::find_recurring(tx, id)? else { return Ok(()) };
    if rows::has_occurred(tx, id, job)? {
        return Ok(());
    }
    let headers = sealed::open_headers(keyring, &headers_name(id), kept.headers.as_deref());
    let message = Message {
        method: kept.method.parse().unwrap_or(http::Method::POST),
        headers: headers.ok_or_else(|| Error::fault("headers were sealed with another secret"))?,
        body: kept.body,
        timeout: kept.timeout_ms.and_then(|ms| u64::try_from(ms).ok()).map(std::time::Duration::from_millis),
    };
    let sending = Sending {
        endpoint_id: kept.endpoint_id,
        url: kept.url,
        message: &message,
        at: None,
        recurring: Some((id, job)),
    };
    commands::insert(tx, ctx, keyring, sending).map(drop)
}
