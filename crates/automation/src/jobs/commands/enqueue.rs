//! Commands that enqueue jobs of callers: they apply the defaults of the job kinds, check the jobs, and pass
//! them to the engine.

use std::collections::HashMap;

use kith_jobs::{Flow, NewJob, OnFailure, check_name};
use kith_json_schema::{NotValidated, SchemaText, ValidationCache};
use kith_kernel::{Ctx, FieldError};
use kith_platform::ReservedJobs;
use kith_store::{Error, Tx};

use super::super::model::{
    EnqueuedJob, EnqueuedJobs, JobKind, JobsError, NewJobBody, NewJobsBody, OnFailureBody, RetryBody,
    UniqueBody, duration_ms, field_error,
};
use super::super::{rows, rules};

/// Queue of a job if neither the job nor its kind specifies one.
const DEFAULT_QUEUE: &str = "default";
/// Maximum number of jobs in one request.
pub const MAX_JOBS_PER_REQUEST: usize = 1_000;
/// Maximum number of levels of jobs and their children in one request.
const MAX_FLOW_DEPTH: usize = 10;

/// Enqueues a job together with all its children.
///
/// # Errors
/// Returns [`JobsError::Invalid`] for invalid input, [`JobsError::Unvalidated`] if payloads must be validated
/// first, [`JobsError::Reserved`] for a reserved queue or kind, [`JobsError::Store`] if a statement fails.
pub fn enqueue(
    tx: &Tx<'_>,
    ctx: &Ctx,
    reserved: ReservedJobs,
    body: &NewJobBody,
    validated: &ValidationCache,
) -> Result<EnqueuedJob, JobsError> {
    let mut builder = JobBuilder::new(tx, ctx, reserved, validated);
    let flow = builder.flow(body, "", 0)?;
    builder.finish()?;
    let (enqueued, children) = kith_jobs::enqueue_flow(tx, ctx, &flow)?;
    Ok(EnqueuedJob::of(enqueued, &children))
}

/// Enqueues several jobs in the transaction `tx`. If one job is invalid, none is enqueued.
///
/// # Errors
/// Returns the errors of [`enqueue`].
pub fn enqueue_all(
    tx: &Tx<'_>,
    ctx: &Ctx,
    reserved: ReservedJobs,
    body: &NewJobsBody,
    validated: &ValidationCache,
) -> Result<EnqueuedJobs, JobsError> {
    if body.jobs.is_empty() || body.jobs.len() > MAX_JOBS_PER_REQUEST {
        return Err(FieldError::new(
            "/jobs",
            "out_of_range",
            format!("Expected 1 to {MAX_JOBS_PER_REQUEST} jobs."),
        )
        .into());
    }
    let mut builder = JobBuilder::new(tx, ctx, reserved, validated);
    let mut jobs = Vec::with_capacity(body.jobs.len());
    for (n, job) in body.jobs.iter().enumerate() {
        if !job.children.is_empty() {
            let detail = "A job with children cannot be part of a bulk request. Use POST /api/v1/jobs.";
            return Err(FieldError::new(format!("/jobs/{n}/children"), "not_here", detail).into());
        }
        jobs.push(builder.job(job, &format!("/jobs/{n}"))?);
    }
    builder.finish()?;
    let enqueued = kith_jobs::enqueue_all(tx, ctx.now, &jobs)?;
    Ok(EnqueuedJobs { jobs: enqueued.into_iter().map(|one| EnqueuedJob::of(one, &[])).collect() })
}

/// Converter of request bodies into jobs. It reads the declaration of each kind only once.
struct JobBuilder<'t> {
    tx: &'t Tx<'t>,
    ctx: &'t Ctx,
    reserved: ReservedJobs,
    validated: &'t ValidationCache,
    kinds: HashMap<String, Option<DeclaredKind>>,
    count: usize,
    awaits_validation: Option<NotValidated>,
}

struct DeclaredKind {
    kind: JobKind,
    schema: Option<SchemaText>,
}

impl<'t> JobBuilder<'t> {
    fn new(tx: &'t Tx<'_>, ctx: &'t Ctx, reserved: ReservedJobs, validated: &'t ValidationCache) -> Self {
        Self { tx, ctx, reserved, validated, kinds: HashMap::new(), count: 0, awaits_validation: None }
    }

    /// Returns an error if some payloads must be validated before the jobs can be enqueued. Call it after
    /// all jobs are converted, so that all these payloads are validated together.
    fn finish(self) -> Result<(), NotValidated> {
        self.awaits_validation.map_or(Ok(()), Err)
    }

    fn flow(&mut self, body: &NewJobBody, at: &str, depth: usize) -> Result<Flow, JobsError> {
        if depth > MAX_FLOW_DEPTH {
            return Err(FieldError::new(
                at.to_owned(),
                "too_deep",
                format!("Expected at most {MAX_FLOW_DEPTH} levels of children."),
            )
            .into());
        }
        if body.unique.is_some() && !body.children.is_empty() {
            let detail = "A job with children cannot be unique.";
            return Err(FieldError::new(format!("{at}/unique"), "not_here", detail).into());
        }
        let job = self.job(body, at)?;
        let children = body.children.iter().enumerate();
        let children = children.map(|(n, child)| self.flow(child, &format!("{at}/children/{n}"), depth + 1));
        Ok(Flow { job, children: children.collect::<Result<_, _>>()? })
    }

    /// Converts a request body into the engine's job type. `at` is the JSON Pointer of the job.
    fn job(&mut self, body: &NewJobBody, at: &str) -> Result<NewJob, JobsError> {
        self.count += 1;
        if self.count > MAX_JOBS_PER_REQUEST {
            return Err(FieldError::new(
                at.to_owned(),
                "too_many",
                format!("Expected at most {MAX_JOBS_PER_REQUEST} jobs."),
            )
            .into());
        }
        check_name("kind", &body.kind).map_err(|invalid| field_error(at, &invalid))?;
        body.check(at)?;
        let (ctx, reserved, validated) = (self.ctx, self.reserved, self.validated);
        let declared = self.kind(&body.kind)?;
        let required = declared.and_then(|declared| declared.schema.as_ref());
        let required =
            required.map(|schema| validated.require(schema, &body.payload, &format!("{at}/payload")));
        let kind = declared.map(|declared| &declared.kind);
        let queue = body.queue.clone().or_else(|| kind?.queue.clone());
        rules::reject_reserved(reserved, queue.as_deref(), Some(&body.kind))?;
        let retry = body.retry.as_ref().or_else(|| kind?.retry.as_ref());
        let timeout_ms = body.timeout_ms.or_else(|| kind?.timeout_ms).unwrap_or(0);
        let mut job = NewJob::new(
            queue.unwrap_or_else(|| DEFAULT_QUEUE.to_owned()),
            body.kind.clone(),
            body.payload.to_string(),
        );
        job.priority = body.priority.or_else(|| kind?.priority).unwrap_or(job.priority);
        job.run_at = body.run_at.or_else(|| Some(ctx.now + duration_ms(body.delay_ms?)));
        job.retry = retry.map_or(job.retry, RetryBody::policy);
        job.timeout = duration_ms(timeout_ms);
        job.limit_key.clone_from(&body.limit_key);
        job.unique = body.unique.as_ref().map(UniqueBody::policy);
        job.after.clone_from(&body.after);
        job.on_failure = if body.on_failure == OnFailureBody::Run { OnFailure::Run } else { OnFailure::Die };
        job.source = Some(ctx.actor.to_string());
        job.check().map_err(|invalid| field_error(at, &invalid))?;
        if let Some(Err(error)) = required {
            self.awaits_validation = Some(error);
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
