//! Read operations of jobs, job kinds and queues.

use std::collections::BTreeMap;
use std::time::Duration;

use kith_jobs::JobRecord;
use kith_kernel::{Ctx, MAX_PAGE_BYTES, Timestamp, days, hours, minutes};
use kith_store::Query;

use super::model::{
    JobDependency, JobDetails, JobKind, JobLogLine, JobsError, Queue, QueueDepth, QueueDetails, QueueMinute,
    QueueSample, QueueThroughput, Queues, read_json,
};
use super::rows;

/// Period over which the recent throughput of a queue is counted.
const RECENT_PERIOD: Duration = minutes(5);
/// Default length of a queue's history.
const DEFAULT_HISTORY: Duration = hours(1);
/// Maximum length of a queue's history, equal to the engine's retention.
const MAX_HISTORY: Duration = days(2);
/// Maximum number of rows read for a history.
const MAX_HISTORY_ROWS: i64 = 20_000;
/// Maximum number of depth samples in a response.
const MAX_SAMPLES: usize = 500;

/// Returns a job with its payload, result, log and dependencies.
///
/// # Errors
/// Returns [`JobsError::NotFound`] if the job does not exist.
pub fn get_details(q: &Query<'_>, id: i64) -> Result<JobDetails, JobsError> {
    let mut job = find_job(q, id)?;
    let (payload, result) = (std::mem::take(&mut job.payload), job.result.take());
    Ok(JobDetails {
        job: job.into(),
        payload: read_json(Some(payload)).unwrap_or_default(),
        result: read_json(result),
        log: kith_jobs::list_log(q, id)?.into_iter().map(JobLogLine::from).collect(),
        dependencies: kith_jobs::list_results(q, id, MAX_PAGE_BYTES as i64)?
            .into_iter()
            .map(JobDependency::from)
            .collect(),
    })
}

/// Returns a job in any state.
///
/// # Errors
/// Returns [`JobsError::NotFound`] if the job does not exist.
pub fn find_job(q: &Query<'_>, id: i64) -> Result<JobRecord, JobsError> {
    kith_jobs::find_job(q, id)?.ok_or(JobsError::NotFound)
}

/// Returns the declaration of a job kind.
///
/// # Errors
/// Returns [`JobsError::NotFound`] if the kind is not declared.
pub fn get_kind(q: &Query<'_>, kind: &str) -> Result<JobKind, JobsError> {
    rows::find_kind(q, kind)?.ok_or(JobsError::NotFound)
}

/// Returns all queues, ordered by name.
///
/// # Errors
/// Returns [`JobsError::Store`] if a query fails.
pub fn list_queues(q: &Query<'_>, ctx: &Ctx) -> Result<Queues, JobsError> {
    let settings: BTreeMap<_, _> = kith_jobs::list_settings(q)?.into_iter().collect();
    let depths = kith_jobs::sample_queues(q, ctx.now)?;
    let depths: BTreeMap<_, _> = depths.iter().map(|sample| (sample.queue.clone(), sample.into())).collect();
    let mut recent: BTreeMap<String, QueueThroughput> = BTreeMap::new();
    for minute in kith_jobs::list_minutes(q, None, ctx.now - RECENT_PERIOD, MAX_HISTORY_ROWS)? {
        recent.entry(minute.queue.clone()).or_default().add(&minute);
    }
    let mut names: Vec<_> = settings.keys().chain(depths.keys()).chain(recent.keys()).cloned().collect();
    names.sort_unstable();
    names.dedup();
    let items = names.into_iter().map(|name| Queue {
        limits: settings.get(&name).cloned().unwrap_or_default().into(),
        depth: depths.get(&name).cloned().unwrap_or_default(),
        recent: recent.get(&name).copied().unwrap_or_default(),
        name,
    });
    Ok(Queues { items: items.collect() })
}

/// Returns a queue with its history since `since`. An unknown queue has no jobs and an empty history.
///
/// # Errors
/// Returns [`JobsError::Store`] if a query fails.
pub fn get_queue(
    q: &Query<'_>,
    ctx: &Ctx,
    name: &str,
    since: Option<Timestamp>,
) -> Result<QueueDetails, JobsError> {
    let since = since.unwrap_or(ctx.now - DEFAULT_HISTORY).max(ctx.now - MAX_HISTORY);
    let depths = kith_jobs::sample_queues(q, ctx.now)?;
    let depth = depths.iter().find(|sample| sample.queue == name).map(QueueDepth::from);
    let mut by_minute: BTreeMap<Timestamp, QueueThroughput> = BTreeMap::new();
    let mut recent = QueueThroughput::default();
    for minute in
        kith_jobs::list_minutes(q, Some(name), since.min(ctx.now - RECENT_PERIOD), MAX_HISTORY_ROWS)?
    {
        if minute.minute >= since {
            by_minute.entry(minute.minute).or_default().add(&minute);
        }
        if minute.minute >= ctx.now - RECENT_PERIOD {
            recent.add(&minute);
        }
    }
    let samples = kith_jobs::list_samples(q, name, since, MAX_HISTORY_ROWS)?;
    let step = samples.len().div_ceil(MAX_SAMPLES).max(1);
    Ok(QueueDetails {
        queue: Queue {
            name: name.to_owned(),
            limits: kith_jobs::find_settings(q, name)?.into(),
            depth: depth.unwrap_or_default(),
            recent,
        },
        minutes: by_minute
            .into_iter()
            .map(|(minute, throughput)| QueueMinute { minute, throughput })
            .collect(),
        samples: samples
            .iter()
            .step_by(step)
            .map(|sample| QueueSample { at: sample.at, depth: sample.into() })
            .collect(),
    })
}
