//! What other programs ask to be enqueued, made into what the engine takes: by what their kind declares, and checked.

use std::collections::HashMap;
use std::time::Duration;

use kith_jobs::{
    EnqueueError, Enqueued, Flow, Invalid, NewJob, OnConflict, OnFailure, QueueError, Unique, check_name,
};
use kith_kernel::{Ctx, FieldError, Timestamp};
use kith_platform::ReservedJobs;
use kith_store::{Error, Tx};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;
use utoipa::ToSchema;

use super::kinds::{JobKind, RetryBody};
use super::{reserved, rows};
use kith_json_schema::{AwaitsValidation, SchemaText, Validated};

/// Where a job stands whose kind says nothing of it.
const USUAL_QUEUE: &str = "default";
/// The longest wait or period that makes sense: ten years.
pub const LONGEST_MS: i64 = 10 * 366 * 86_400_000;
/// Jobs in one request.
pub const MOST_AT_ONCE: usize = 1_000;
/// How deep a flow may be.
const DEEPEST: usize = 10;

/// Why nothing was done to jobs.
#[derive(Debug, Error)]
pub enum JobsError {
    /// The input has faults.
    #[error("the input has faults")]
    Faults(Vec<FieldError>),
    /// Payloads have not been validated against the schemas that hold.
    #[error(transparent)]
    Unvalidated(#[from] AwaitsValidation),
    /// There is no such thing.
    #[error("there is no such job")]
    NotFound,
    /// The attempt is somebody else's by now, or has ended.
    #[error("the attempt is no longer the caller's")]
    Stale,
    /// It has ended.
    #[error("the job has ended")]
    HadEnded,
    /// It is ready, runs or waits for others.
    #[error("the job is under way")]
    UnderWay,
    /// Another job holds its unique key.
    #[error("job {0} holds the unique key")]
    KeyHeld(i64),
    /// Somebody else changed it since it was read.
    #[error("it was changed since it was read")]
    Changed,
    /// A module declares this queue, job kind or schedule for its own work.
    #[error("the {what} {name} is reserved")]
    Reserved {
        /// `queue`, `job kind` or `schedule`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The database's.
    #[error(transparent)]
    Store(#[from] Error),
}

impl From<FieldError> for JobsError {
    fn from(fault: FieldError) -> Self {
        Self::Faults(vec![fault])
    }
}

impl From<Invalid> for JobsError {
    fn from(invalid: Invalid) -> Self {
        fault_at("", &invalid).into()
    }
}

impl From<QueueError> for JobsError {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::Invalid(invalid) => invalid.into(),
            QueueError::Changed => Self::Changed,
            QueueError::Store(error) => Self::Store(error),
        }
    }
}

impl From<EnqueueError> for JobsError {
    fn from(error: EnqueueError) -> Self {
        match error {
            EnqueueError::Invalid(invalid) => invalid.into(),
            EnqueueError::Unknown(id) => {
                let detail = format!("There is no job {id} to wait for.");
                FieldError::new("/after", "unknown_job", detail).into()
            }
            EnqueueError::Store(error) => Self::Store(error),
        }
    }
}

/// What the engine found wrong, as a fault of a field below `at`.
fn fault_at(at: &str, Invalid { field, why }: &Invalid) -> FieldError {
    FieldError::new(format!("{at}/{}", field.replace('.', "/")), "invalid", format!("It {why}."))
}

/// Whether a time in milliseconds is one.
///
/// # Errors
/// `out_of_range` at `at`.
pub fn check_ms(ms: Option<i64>, at: &str) -> Result<(), FieldError> {
    if ms.is_none_or(|ms| (0..=LONGEST_MS).contains(&ms)) {
        return Ok(());
    }
    Err(FieldError::new(at.to_owned(), "out_of_range", "Between 0 and ten years."))
}

/// What there may be only one of.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UniqueBody {
    /// What is compared within a kind; absent: the payload itself, as it was sent.
    #[serde(default)]
    key: Option<String>,
    /// How long the key stays taken, from the enqueue, although its job has ended; absent: only while the job lives.
    #[serde(default)]
    #[schema(minimum = 0)]
    period_ms: Option<i64>,
    /// What becomes of the second.
    #[serde(default)]
    #[schema(inline)]
    on_conflict: OnConflictBody,
}

/// What becomes of a job whose key is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnConflictBody {
    /// It is not made; the job that is there is the answer.
    #[default]
    Keep,
    /// The job that is there takes its payload, priority and time while it waits.
    Replace,
    /// The same, and it is done once, so long after the last of them.
    Debounce,
    /// It is not made, nor another one within the period, which has to be given.
    Throttle,
}

/// What becomes of a job when one that it waits for is dead or cancelled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFailureBody {
    /// It dies too.
    #[default]
    Die,
    /// It runs all the same, and finds out by their results.
    Run,
}

/// A job to be enqueued.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewJobBody {
    /// What is to be done: 1 to 64 letters, digits, dots, dashes or underscores.
    #[schema(example = "thumbnails.make")]
    kind: String,
    /// Where it stands; absent: where its kind is declared to stand, else `default`.
    #[serde(default)]
    queue: Option<String>,
    /// With what: any JSON, at most 256 KiB.
    #[serde(default)]
    payload: Value,
    /// 0 is first, 9 last; 5 unless its kind is declared otherwise.
    #[serde(default)]
    #[schema(minimum = 0)]
    priority: Option<i64>,
    /// Not before.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    run_at: Option<Timestamp>,
    /// Not before so many milliseconds from now. Either this or `run_at`.
    #[serde(default)]
    #[schema(minimum = 0)]
    delay_ms: Option<i64>,
    /// How often it may fail; 10 times over about eight hours unless its kind is declared otherwise.
    #[serde(default)]
    retry: Option<RetryBody>,
    /// An attempt that takes longer has failed; 0: none does.
    #[serde(default)]
    #[schema(minimum = 0)]
    timeout_ms: Option<i64>,
    /// What limits per key count by.
    #[serde(default)]
    limit_key: Option<String>,
    /// What there may be only one of.
    #[serde(default)]
    unique: Option<UniqueBody>,
    /// Jobs that must have ended before.
    #[serde(default)]
    after: Vec<i64>,
    /// Jobs that are enqueued with it and run before it; it learns their results.
    #[serde(default)]
    #[schema(no_recursion)]
    children: Vec<NewJobBody>,
    /// What becomes of it when one that it waits for fails.
    #[serde(default)]
    #[schema(inline)]
    on_failure: OnFailureBody,
}

/// Jobs to be enqueued, all or none.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewJobsBody {
    /// At most 1000, none with children.
    jobs: Vec<NewJobBody>,
}

/// What an enqueue came to.
#[derive(Debug, Serialize, ToSchema)]
pub struct EnqueuedJob {
    /// Of the job.
    pub id: i64,
    /// Whether it was there already, under its unique key.
    pub existing: bool,
    /// Of its children, in order.
    pub children: Vec<i64>,
}

/// What an enqueue of many came to, in their order.
#[derive(Debug, Serialize, ToSchema)]
pub struct EnqueuedJobs {
    /// Each.
    pub jobs: Vec<EnqueuedJob>,
}

impl EnqueuedJob {
    fn of(enqueued: Enqueued, children: &[Enqueued]) -> Self {
        let children = children.iter().map(|child| child.id).collect();
        Self { id: enqueued.id, existing: enqueued.existing, children }
    }
}

/// Enqueues a job with all its children.
///
/// # Errors
/// What is wrong with any of them; the database's.
pub fn enqueue(
    tx: &Tx<'_>,
    ctx: &Ctx,
    reserved: ReservedJobs,
    body: &NewJobBody,
    validated: &Validated,
) -> Result<EnqueuedJob, JobsError> {
    let mut making = Making::new(tx, ctx, reserved, validated);
    let flow = making.flow(body, "", 0)?;
    making.finish()?;
    let (enqueued, children) = kith_jobs::enqueue_flow(tx, ctx, &flow)?;
    Ok(EnqueuedJob::of(enqueued, &children))
}

/// Enqueues jobs, all or none.
///
/// # Errors
/// What is wrong with any of them; the database's.
pub fn enqueue_all(
    tx: &Tx<'_>,
    ctx: &Ctx,
    reserved: ReservedJobs,
    body: &NewJobsBody,
    validated: &Validated,
) -> Result<EnqueuedJobs, JobsError> {
    if body.jobs.is_empty() || body.jobs.len() > MOST_AT_ONCE {
        return Err(FieldError::new("/jobs", "out_of_range", format!("1 to {MOST_AT_ONCE}.")).into());
    }
    let mut making = Making::new(tx, ctx, reserved, validated);
    let mut jobs = Vec::with_capacity(body.jobs.len());
    for (n, job) in body.jobs.iter().enumerate() {
        if !job.children.is_empty() {
            let detail = "A job with children is enqueued alone.";
            return Err(FieldError::new(format!("/jobs/{n}/children"), "not_here", detail).into());
        }
        jobs.push(making.job(job, &format!("/jobs/{n}"))?);
    }
    making.finish()?;
    let enqueued = kith_jobs::enqueue_all(tx, ctx.now, &jobs)?;
    Ok(EnqueuedJobs { jobs: enqueued.into_iter().map(|one| EnqueuedJob::of(one, &[])).collect() })
}

/// Jobs in the making: what their kinds declare is read once.
struct Making<'t> {
    tx: &'t Tx<'t>,
    ctx: &'t Ctx,
    reserved: ReservedJobs,
    validated: &'t Validated,
    kinds: HashMap<String, Option<DeclaredKind>>,
    made: usize,
    awaits_validation: Option<AwaitsValidation>,
}

struct DeclaredKind {
    kind: JobKind,
    schema: Option<SchemaText>,
}

impl<'t> Making<'t> {
    fn new(tx: &'t Tx<'_>, ctx: &'t Ctx, reserved: ReservedJobs, validated: &'t Validated) -> Self {
        Self { tx, ctx, reserved, validated, kinds: HashMap::new(), made: 0, awaits_validation: None }
    }

    /// Says whether all payloads are validated: they are asked for together.
    fn finish(self) -> Result<(), AwaitsValidation> {
        self.awaits_validation.map_or(Ok(()), Err)
    }

    fn flow(&mut self, body: &NewJobBody, at: &str, depth: usize) -> Result<Flow, JobsError> {
        if depth > DEEPEST {
            return Err(FieldError::new(at.to_owned(), "too_deep", format!("At most {DEEPEST}.")).into());
        }
        if body.unique.is_some() && !body.children.is_empty() {
            let detail = "A job with children is never another one.";
            return Err(FieldError::new(format!("{at}/unique"), "not_here", detail).into());
        }
        let job = self.job(body, at)?;
        let children = body.children.iter().enumerate();
        let children = children.map(|(n, child)| self.flow(child, &format!("{at}/children/{n}"), depth + 1));
        Ok(Flow { job, children: children.collect::<Result<_, _>>()? })
    }

    /// A job as the engine takes it.
    fn job(&mut self, body: &NewJobBody, at: &str) -> Result<NewJob, JobsError> {
        self.made += 1;
        if self.made > MOST_AT_ONCE {
            return Err(FieldError::new(at.to_owned(), "too_many", format!("At most {MOST_AT_ONCE}.")).into());
        }
        check_name("kind", &body.kind).map_err(|invalid| fault_at(at, &invalid))?;
        body.check(at)?;
        let (ctx, reserved, validated) = (self.ctx, self.reserved, self.validated);
        let declared = self.kind(&body.kind)?;
        let required = declared.and_then(|declared| declared.schema.as_ref());
        let required =
            required.map(|schema| validated.require(schema, &body.payload, &format!("{at}/payload")));
        let kind = declared.map(|declared| &declared.kind);
        let queue = body.queue.clone().or_else(|| kind?.queue.clone());
        reserved::check_program(reserved, queue.as_deref(), Some(&body.kind))?;
        let retry = body.retry.as_ref().or_else(|| kind?.retry.as_ref());
        let timeout_ms = body.timeout_ms.or_else(|| kind?.timeout_ms).unwrap_or(0);
        let mut job = NewJob::new(
            queue.unwrap_or_else(|| USUAL_QUEUE.to_owned()),
            body.kind.clone(),
            body.payload.to_string(),
        );
        job.priority = body.priority.or_else(|| kind?.priority).unwrap_or(job.priority);
        job.run_at = body.run_at.or_else(|| Some(ctx.now + ms(body.delay_ms?)));
        job.retry = retry.map_or(job.retry, RetryBody::policy);
        job.timeout = ms(timeout_ms);
        job.limit_key.clone_from(&body.limit_key);
        job.unique = body.unique.as_ref().map(UniqueBody::policy);
        job.after.clone_from(&body.after);
        job.on_failure = if body.on_failure == OnFailureBody::Run { OnFailure::Run } else { OnFailure::Die };
        job.source = Some(ctx.actor.to_string());
        job.check().map_err(|invalid| fault_at(at, &invalid))?;
        if let Some(Err(awaits)) = required {
            self.awaits_validation = Some(awaits);
        }
        Ok(job)
    }

    fn kind(&mut self, name: &str) -> Result<Option<&DeclaredKind>, Error> {
        if !self.kinds.contains_key(name) {
            let declared = rows::find_kind(self.tx, name)?.map(|kind| {
                let schema = kind.schema.as_ref().map(|schema| schema.as_str().to_owned().into());
                DeclaredKind { kind, schema }
            });
            self.kinds.insert(name.to_owned(), declared);
        }
        Ok(self.kinds.get(name).and_then(Option::as_ref))
    }
}

impl NewJobBody {
    /// What is wrong whatever its kind says.
    fn check(&self, at: &str) -> Result<(), FieldError> {
        check_ms(self.delay_ms, &format!("{at}/delay_ms"))?;
        check_ms(self.timeout_ms, &format!("{at}/timeout_ms"))?;
        if self.delay_ms.is_some() && self.run_at.is_some() {
            let detail = "Either this or `run_at`.";
            return Err(FieldError::new(format!("{at}/delay_ms"), "not_here", detail));
        }
        self.retry.as_ref().map_or(Ok(()), |retry| retry.check(&format!("{at}/retry")))?;
        let Some(unique) = &self.unique else { return Ok(()) };
        check_ms(unique.period_ms, &format!("{at}/unique/period_ms"))?;
        if unique.on_conflict == OnConflictBody::Throttle && unique.period_ms.is_none() {
            let detail = "Within which time there is only one.";
            return Err(FieldError::new(format!("{at}/unique/period_ms"), "missing", detail));
        }
        Ok(())
    }
}

impl UniqueBody {
    fn policy(&self) -> Unique {
        let unique = self.key.as_ref().map_or_else(Unique::arguments, Unique::key);
        unique.within(ms(self.period_ms.unwrap_or(0))).on_conflict(match self.on_conflict {
            OnConflictBody::Keep | OnConflictBody::Throttle => OnConflict::Keep,
            OnConflictBody::Replace => OnConflict::Replace,
            OnConflictBody::Debounce => OnConflict::Debounce,
        })
    }
}

/// Milliseconds that were checked.
pub fn ms(ms: i64) -> Duration {
    Duration::from_millis(ms.unsigned_abs())
}
