//! Retries jobs: scheduled jobs run immediately, dead letters become live jobs with the same id, and other
//! ended jobs are enqueued as new jobs.

use kith_kernel::Ctx;
use kith_store::{Error, Tx};

use crate::model::JobId;
use crate::{queue_channel, rows};

/// Result of retrying a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryOutcome {
    /// The job was scheduled for later and is due now.
    MadeDue,
    /// The job was a dead letter. It is a live job again, with the same id.
    Revived,
    /// The job had completed or been cancelled; a new job with the same kind and payload was enqueued.
    Reenqueued(JobId),
    /// The job is ready, running or blocked. Nothing was changed.
    Live,
    /// Another job holds the unique key of this job. Nothing was changed.
    KeyHeld(JobId),
    /// The job does not exist.
    Unknown,
}

/// Makes a job run as soon as possible, whether it is scheduled or has ended.
///
/// # Errors
/// Returns the error of the failed statement, such as [`Error::Unavailable`]. The transaction cannot be used
/// afterwards.
pub fn retry(tx: &Tx<'_>, ctx: &Ctx, job: JobId) -> Result<RetryOutcome, Error> {
    if let Some(live) = rows::live::find(tx, job)? {
        if rows::live::make_due(tx, job, ctx.now)? {
            tx.notify(queue_channel(&live.queue));
            return Ok(RetryOutcome::MadeDue);
        }
        return Ok(RetryOutcome::Live);
    }
    tx.lock("dead job", [job])?;
    lock_keys(tx, &[job])?;
    match revive(tx, ctx, job)? {
        Revival::Revived => return Ok(RetryOutcome::Revived),
        Revival::KeyHeld(holder) => return Ok(RetryOutcome::KeyHeld(holder)),
        Revival::NotDead => {}
    }
    match rows::ended::run_again(tx, job, ctx.now)? {
        Some((id, queue)) => {
            tx.notify(queue_channel(&queue));
            Ok(RetryOutcome::Reenqueued(id))
        }
        None => Ok(RetryOutcome::Unknown),
    }
}

/// Result of moving a dead letter back to the live jobs.
enum Revival {
    Revived,
    KeyHeld(JobId),
    NotDead,
}

/// Locks the unique keys of dead letters. Enqueueing uses the same locks.
fn lock_keys(tx: &Tx<'_>, jobs: &[JobId]) -> Result<(), Error> {
    let keys: Vec<_> =
        jobs.iter().map(|job| rows::ended::find_dead_key(tx, *job)).collect::<Result<_, _>>()?;
    tx.lock("job key", keys.into_iter().flatten())
}

/// Moves a dead letter back to the live jobs, with its id and unique key, unless another job holds the key.
/// The key must be locked.
fn revive(tx: &Tx<'_>, ctx: &Ctx, job: JobId) -> Result<Revival, Error> {
    let key = rows::ended::find_dead_key(tx, job)?;
    if let Some(key) = &key
        && let Some((holder, until, lives)) = rows::dependencies::find_key(tx, key)?
        && holder != job
        && (lives || until.is_some_and(|until| until > ctx.now))
    {
        return Ok(Revival::KeyHeld(holder));
    }
    let Some(queue) = rows::ended::revive_dead(tx, job, ctx.now)? else { return Ok(Revival::NotDead) };
    rows::ended::delete_dead(tx, job)?;
    if let Some(key) = &key {
        rows::dependencies::retake_key(tx, key, job)?;
    }
    tx.notify(queue_channel(&queue));
    Ok(Revival::Revived)
}

/// Moves up to `limit` dead letters back to the live jobs, optionally only those of a queue and a kind, and
/// returns their number. Skips a dead letter whose unique key is held by another job.
///
/// # Errors
/// Returns the error of the failed statement, such as [`Error::Unavailable`]. The transaction cannot be used
/// afterwards.
pub fn redrive(
    tx: &Tx<'_>,
    ctx: &Ctx,
    queue: Option<&str>,
    kind: Option<&str>,
    limit: i64,
) -> Result<u64, Error> {
    let (mut revived, mut after) = (0, 0);
    // The statement excludes dead letters whose key is held. If several have the same key, the first one is
    // moved, and the statement for the next page excludes the others.
    while revived < limit {
        let dead = rows::ended::list_revivable(tx, queue, kind, after, ctx.now, limit - revived)?;
        let Some(last) = dead.last() else { break };
        after = *last;
        tx.lock("dead job", dead.iter().copied())?;
        lock_keys(tx, &dead)?;
        for job in dead {
            revived += i64::from(matches!(revive(tx, ctx, job)?, Revival::Revived));
        }
    }
    Ok(revived.unsigned_abs())
}

/// Deletes up to `limit` dead letters, optionally only those of a queue and a kind. Returns the number of
/// deleted dead letters.
///
/// # Errors
/// Returns the error of the failed statement, such as [`Error::Unavailable`]. The transaction cannot be used
/// afterwards.
pub fn discard_dead(tx: &Tx<'_>, queue: Option<&str>, kind: Option<&str>, limit: i64) -> Result<u64, Error> {
    let mut gone = 0;
    for job in rows::ended::list_dead(tx, queue, kind, 0, limit)? {
        gone += u64::from(rows::ended::delete_dead(tx, job)?);
    }
    Ok(gone)
}
