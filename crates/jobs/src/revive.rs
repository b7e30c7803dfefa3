//! Bringing jobs back: those that wait at once, dead letters under their own ids, others anew.

use kith_kernel::Ctx;
use kith_store::{Error, Tx};

use crate::model::JobId;
use crate::{bell_of, rows};

/// What trying a job again came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryOutcome {
    /// It waited for its time, and runs now.
    Hurried,
    /// It was a dead letter, and lives again under its own id.
    Revived,
    /// It had ended otherwise; this is a job of the same kind and payload.
    Anew(JobId),
    /// It is ready, running or blocked: there is nothing to do.
    Live,
    /// Nobody knows such a job.
    Unknown,
}

/// Runs a job now, whatever became of it before.
///
/// # Errors
/// The database's.
pub fn retry(tx: &Tx<'_>, ctx: &Ctx, job: JobId) -> Result<RetryOutcome, Error> {
    if let Some(live) = rows::live::find(tx, job)? {
        if rows::live::hurry(tx, job, ctx.now)? {
            tx.ring(bell_of(&live.queue));
            return Ok(RetryOutcome::Hurried);
        }
        return Ok(RetryOutcome::Live);
    }
    tx.lock("dead job", [job])?;
    if let Some(queue) = rows::ended::revive_dead(tx, job, ctx.now)? {
        rows::ended::delete_dead(tx, job)?;
        tx.ring(bell_of(&queue));
        return Ok(RetryOutcome::Revived);
    }
    match rows::ended::run_again(tx, job, ctx.now)? {
        Some((id, queue)) => {
            tx.ring(bell_of(&queue));
            Ok(RetryOutcome::Anew(id))
        }
        None => Ok(RetryOutcome::Unknown),
    }
}

/// Brings dead letters back to life, of a queue and of a kind if they are named: at most `most`. Says how many.
///
/// # Errors
/// The database's.
pub fn redrive(
    tx: &Tx<'_>,
    ctx: &Ctx,
    queue: Option<&str>,
    kind: Option<&str>,
    most: i64,
) -> Result<u64, Error> {
    let dead = rows::ended::list_dead(tx, queue, kind, 0, most)?;
    tx.lock("dead job", dead.iter().copied())?;
    let mut revived = 0;
    for job in dead {
        if let Some(queue) = rows::ended::revive_dead(tx, job, ctx.now)? {
            rows::ended::delete_dead(tx, job)?;
            tx.ring(bell_of(&queue));
            revived += 1;
        }
    }
    Ok(revived)
}

/// Forgets dead letters, of a queue and of a kind if they are named: at most `most`. Says how many.
///
/// # Errors
/// The database's.
pub fn discard_dead(tx: &Tx<'_>, queue: Option<&str>, kind: Option<&str>, most: i64) -> Result<u64, Error> {
    let mut gone = 0;
    for job in rows::ended::list_dead(tx, queue, kind, 0, most)? {
        gone += u64::from(rows::ended::delete_dead(tx, job)?);
    }
    Ok(gone)
}
