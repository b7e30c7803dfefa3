//! Enqueueing in the caller's transaction: the job exists if and only if the transaction commits.

use std::borrow::Borrow;

use kith_kernel::{Ctx, Timestamp};
use kith_store::{Error, Tx};
use sha2::{Digest, Sha256};

use crate::dependents::DependentUpdateBudget;
use crate::model::{Enqueued, Invalid, JobId, JobState};
use crate::new_job::{NewJob, OnConflict, OnFailure, Unique};
use crate::{queue_channel, rows};

/// Reason why a job was not enqueued.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EnqueueError {
    /// The job is invalid.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// A job in `after` does not exist.
    #[error("job {0} in `after` does not exist")]
    Unknown(JobId),
    /// The database returned an error.
    #[error(transparent)]
    Store(#[from] Error),
}

/// Enqueues a job as part of this transaction.
///
/// # Errors
/// Returns [`EnqueueError::Invalid`] if the job is invalid, [`EnqueueError::Unknown`] if a job that it waits
/// for does not exist, and [`EnqueueError::Store`] if the database fails. After an error no job is enqueued.
pub fn enqueue(tx: &Tx<'_>, ctx: &Ctx, job: &NewJob) -> Result<Enqueued, EnqueueError> {
    job.check()?;
    if let Some(unique) = &job.unique {
        tx.lock("job key", [unique_key(job, unique)])?;
    }
    enqueue_locked(tx, ctx.now, job)
}

/// Enqueues all jobs or none. It is faster than enqueueing them one by one.
///
/// # Errors
/// Returns the same errors as [`enqueue`].
pub fn enqueue_all<J: Borrow<NewJob>>(
    tx: &Tx<'_>,
    now: Timestamp,
    jobs: &[J],
) -> Result<Vec<Enqueued>, EnqueueError> {
    let jobs: Vec<&NewJob> = jobs.iter().map(Borrow::borrow).collect();
    jobs.iter().try_for_each(|job| job.check())?;
    let keys: Vec<_> =
        jobs.iter().filter_map(|job| job.unique.as_ref().map(|unique| unique_key(job, unique))).collect();
    if !keys.is_empty() {
        tx.lock("job key", keys)?;
    }
    let plain: Vec<_> = jobs.iter().copied().filter(|job| job.enqueues_without_waiting()).collect();
    let mut ids = rows::inserts::insert_many(tx, &plain, now)?.into_iter();
    let mut enqueued = Vec::with_capacity(jobs.len());
    let mut notified_queue: Option<&str> = None;
    for job in jobs {
        if !job.enqueues_without_waiting() {
            enqueued.push(enqueue_locked(tx, now, job)?);
            continue;
        }
        let id = ids.next().ok_or_else(|| Error::fault("fewer jobs were inserted than requested"))?;
        enqueued.push(Enqueued { id, is_existing: false });
        if notified_queue != Some(&job.queue) {
            tx.notify(queue_channel(&job.queue));
            notified_queue = Some(&job.queue);
        }
    }
    Ok(enqueued)
}

/// Job and the jobs that it waits for. They run first, and the job can read their results.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Job that runs last.
    pub job: NewJob,
    /// Jobs that must end before `job` runs.
    pub children: Vec<Self>,
}

/// Enqueues a flow. Returns the id of its last job, and the ids of its direct children in order.
///
/// # Errors
/// Returns the same errors as [`enqueue`].
pub fn enqueue_flow(tx: &Tx<'_>, ctx: &Ctx, flow: &Flow) -> Result<(Enqueued, Vec<Enqueued>), EnqueueError> {
    let mut children = Vec::with_capacity(flow.children.len());
    for child in &flow.children {
        children.push(enqueue_flow(tx, ctx, child)?.0);
    }
    let last = flow.job.clone().after(children.iter().map(|child| child.id));
    Ok((enqueue(tx, ctx, &last)?, children))
}

fn enqueue_locked(tx: &Tx<'_>, now: Timestamp, job: &NewJob) -> Result<Enqueued, EnqueueError> {
    let key = job.unique.as_ref().map(|unique| unique_key(job, unique));
    let mut predecessor = None;
    if let (Some(key), Some(unique)) = (&key, &job.unique) {
        match holder(tx, now, job, key, unique)? {
            Holder::None => {}
            Holder::Stays(id) => return Ok(Enqueued { id, is_existing: true }),
            // If that job ends in this moment, the new job does not have to wait for it.
            Holder::Runs(id) => predecessor = rows::dependencies::set_has_dependents(tx, id)?.then_some(id),
        }
    }
    let (mut dependencies, failed) = mark_dependencies(tx, job)?;
    dependencies.retain(|other| predecessor != Some(*other));
    let pending_dependencies = dependencies.len() as i64 + i64::from(predecessor.is_some());
    let state = if pending_dependencies > 0 { JobState::Blocked } else { rows::inserts::state_at(job, now) };
    let id = rows::inserts::insert(tx, job, state, key.as_deref(), pending_dependencies, now)?;
    for other in dependencies {
        rows::dependencies::insert_dependency(tx, other, id, i64::from(job.on_failure == OnFailure::Run))?;
    }
    if let Some(predecessor) = predecessor {
        // The new job runs regardless of how its predecessor ends.
        rows::dependencies::insert_dependency(tx, predecessor, id, 1)?;
    }
    if let (Some(key), Some(unique)) = (&key, &job.unique) {
        let until = (!unique.period.is_zero()).then(|| now + unique.period);
        rows::dependencies::take_key(tx, key, id, until)?;
    }
    if let Some(other) = failed.filter(|_| job.on_failure == OnFailure::Die) {
        let why = format!("dependency {other} has failed");
        if let Some(left) = crate::dependents::move_waiting_to_dead_letters(tx, id, &why, now)? {
            crate::dependents::release_dependents(
                tx,
                &left,
                JobState::Dead,
                None,
                now,
                &mut DependentUpdateBudget::default(),
            )?;
        }
    }
    tx.notify(queue_channel(&job.queue));
    Ok(Enqueued { id, is_existing: false })
}

/// Marks the unfinished jobs of `after` as dependencies and returns them. The second value is one job of
/// `after` that has failed or was cancelled, if there is one.
fn mark_dependencies(tx: &Tx<'_>, job: &NewJob) -> Result<(Vec<JobId>, Option<JobId>), EnqueueError> {
    let (mut dependencies, mut failed) = (Vec::new(), None);
    let mut after = job.after.clone();
    after.sort_unstable();
    after.dedup();
    for id in after {
        if rows::dependencies::set_has_dependents(tx, id)? {
            dependencies.push(id);
        } else if rows::ended::find_dead(tx, id)?.is_some() {
            failed = Some(id);
        } else {
            match rows::ended::find_in_history(tx, id)?.map(|job| job.state) {
                None => return Err(EnqueueError::Unknown(id)),
                Some(JobState::Completed) => {}
                Some(_) => failed = Some(id),
            }
        }
    }
    Ok((dependencies, failed))
}

/// Holder of a unique key.
enum Holder {
    /// The key is free.
    None,
    /// An existing job, which is returned to the caller. Its content may have been replaced with that of the
    /// new job.
    Stays(JobId),
    /// A running job that the new job must wait for, because it can no longer be replaced.
    Runs(JobId),
}

/// Finds the job that holds the key. Replaces its content with that of the new job if the policy of the new
/// job requires that.
fn holder(
    tx: &Tx<'_>,
    now: Timestamp,
    job: &NewJob,
    key: &str,
    unique: &Unique,
) -> Result<Holder, EnqueueError> {
    let Some((id, until, lives)) = rows::dependencies::find_key(tx, key)? else { return Ok(Holder::None) };
    if !lives && until.is_none_or(|until| until <= now) {
        return Ok(Holder::None);
    }
    if !lives || unique.on_conflict == OnConflict::Keep {
        return Ok(Holder::Stays(id));
    }
    if rows::inserts::replace(tx, id, job, now)? {
        tx.notify(queue_channel(&job.queue));
        return Ok(Holder::Stays(id));
    }
    let succeeds = unique.on_conflict == OnConflict::Debounce;
    Ok(if succeeds { Holder::Runs(id) } else { Holder::Stays(id) })
}

/// Returns the unique key: `KIND:k:KEY`, or `KIND:a:` and a digest of the payload if no key is given.
fn unique_key(job: &NewJob, unique: &Unique) -> String {
    match &unique.key {
        Some(key) => format!("{}:k:{key}", job.kind),
        None => {
            let digest = Sha256::digest(job.payload.as_bytes());
            let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
            format!("{}:a:{hex}", job.kind)
        }
    }
}
