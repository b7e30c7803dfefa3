//! Callbacks that are sent again and again: what is sent stands here, when stands with a schedule of the job engine, and each
//! time a callback is made that goes its own way.

use kith_jobs::schedules::{self, Missed, Plan, Schedule, ScheduleError};
use kith_jobs::{Done, JobError, JobId};
use kith_kernel::uuid::Uuid;
use kith_kernel::{Ctx, FieldError, Page, PageLimit, Timestamp};
use kith_platform::App;
use kith_platform::auth::Keyring;
use kith_store::{Error, Query, Tx};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::commands::{self, LOCK, Sending};
use super::model::{CallbackError, EndpointId, Message, RecurringId, To};
use super::{OCCASION, Occasion, events, rows, sealed};

/// Runs that are told ahead.
const PREVIEW: usize = 5;

/// What becomes of times that passed while nobody was there to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MissedCallbacks {
    /// Nothing is sent for them.
    Skip,
    /// One is sent, for the latest.
    #[default]
    Latest,
    /// One is sent for each, the latest hundred at most.
    All,
}

/// A recurring callback that somebody asks for, checked but for its schedule.
#[derive(Clone, Debug)]
pub struct RecurringDraft {
    /// Where to.
    pub to: To,
    /// What is sent.
    pub message: Message,
    /// A cron pattern, or `@every` and a duration.
    pub schedule: String,
    /// The IANA time zone that it goes by.
    pub zone: String,
    /// What becomes of missed times.
    pub missed: MissedCallbacks,
}

/// What is sent again and again, as it is kept.
#[derive(Clone, Debug)]
pub struct KeptRecurring {
    /// Which.
    pub id: RecurringId,
    /// Whose endpoint.
    pub endpoint_id: EndpointId,
    /// With its query.
    pub url: String,
    /// `POST`.
    pub method: String,
    /// Sealed.
    pub headers: Option<Vec<u8>>,
    /// The body.
    pub body: Option<String>,
    /// How long the receiver may take.
    pub timeout_ms: Option<i64>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A callback that is sent again and again.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RecurringCallback {
    pub id: RecurringId,
    pub endpoint_id: EndpointId,
    pub url: String,
    /// `POST`.
    pub method: String,
    /// The body as it is sent.
    #[schema(required = true)]
    pub body: Option<String>,
    /// The schedule of the job engine, by which it is paused, resumed and run at once: `/api/v1/schedules/…`.
    pub schedule_name: String,
    /// A cron pattern, or `@every` and a duration; null if that schedule is gone.
    #[schema(required = true)]
    pub schedule: Option<String>,
    /// The IANA time zone that it goes by.
    #[schema(required = true)]
    pub time_zone: Option<String>,
    pub paused: bool,
    /// When it was last due.
    #[schema(required = true)]
    pub last_at: Option<Timestamp>,
    /// When it is due next, five times ahead at most.
    pub next: Vec<Timestamp>,
    pub created_at: Timestamp,
}

/// A recurring callback that was just made.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct NewRecurringCallback {
    #[serde(flatten)]
    pub recurring: RecurringCallback,
    /// If its endpoint was made with it: the secret of that endpoint, told this once.
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

/// Makes a recurring callback, its schedule, and its endpoint if there is none for its address.
///
/// # Errors
/// [`CallbackError::Invalid`] if its schedule cannot be read or is over; [`CallbackError::EndpointNotFound`],
/// [`CallbackError::EndpointDisabled`], [`CallbackError::TooManySchedules`].
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
    let run = OCCASION.with(&Occasion { recurring_id: id }).map_err(Error::fault)?;
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

/// Ends a recurring callback. Those that it has made go their way.
///
/// # Errors
/// [`CallbackError::CallbackNotFound`].
pub fn delete(tx: &Tx<'_>, ctx: &Ctx, id: RecurringId) -> Result<(), CallbackError> {
    tx.lock(LOCK, [id])?;
    let kept = rows::find_recurring(tx, id)?.ok_or(CallbackError::CallbackNotFound)?;
    match schedules::delete(tx, ctx, &schedule_name(id), None) {
        // Somebody who administers schedules was faster.
        Ok(()) | Err(ScheduleError::Unknown) => {}
        Err(error) => return Err(refused(error)),
    }
    rows::delete_recurring(tx, id)?;
    tx.audit(ctx, events::RECURRING_DELETED, id);
    tx.emit(ctx, events::of_recurring(events::RECURRING_DELETED, &kept));
    Ok(())
}

/// Recurring callbacks, the newest first.
///
/// # Errors
/// The database's.
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

/// A recurring callback.
///
/// # Errors
/// [`CallbackError::CallbackNotFound`].
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
        next: spec.map_or_else(Vec::new, |(schedule, spec)| schedule.plan.preview(&spec, now, PREVIEW)),
        time_zone: schedule.as_ref().map(|schedule| schedule.plan.zone.clone()),
        schedule: schedule.map(|schedule| schedule.plan.schedule),
        created_at: kept.created_at,
    }
}

/// Makes the callback of one time, for the job that stands for it.
///
/// # Errors
/// [`JobError`] if the database does not answer, or what was sealed cannot be opened.
pub async fn occur(app: &App, id: RecurringId, job: JobId) -> Result<Done, JobError> {
    let keyring = std::sync::Arc::clone(&app.keyring);
    app.write(&app.system_ctx("callbacks"), move |tx, ctx| make(tx, ctx, &keyring, id, job))
        .await
        .map(|()| Done::default())
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
        headers: headers.ok_or_else(|| Error::fault("its headers were sealed with another secret"))?,
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
