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
    /// Another job holds its unique key. Nothing was changed.
    KeyHeld(JobId),
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
    lock_keys(tx, &[job])?;
    match revive(tx, ctx, job)? {
        Revival::Revived => return Ok(RetryOutcome::Revived),
        Revival::KeyHeld(holder) => return Ok(RetryOutcome::KeyHeld(holder)),
        Revival::NotDead => {}
    }
    match rows::ended::run_again(tx, job, ctx.now)? {
        Some((id, queue)) => {
            tx.ring(bell_of(&queue));
            Ok(RetryOutcome::Anew(id))
        }
        None => Ok(RetryOutcome::Unknown),
    }
}

/// Outcome of reviving a dead letter.
enum Revival {
    Revived,
    KeyHeld(JobId),
    NotDead,
}

/// Locks the unique keys of dead letters, as an enqueue does.
fn lock_keys(tx: &Tx<'_>, jobs: &[JobId]) -> Result<(), Error> {
    let keys: Vec<_> =
        jobs.iter().map(|job| rows::ended::find_dead_key(tx, *job)).collect::<Result<_, _>>()?;
    tx.lock("job key", keys.into_iter().flatten())
}

/// Makes a dead letter, whose key is locked, a live job under its own id and unique key, unless another job holds that.
fn revive(tx: &Tx<'_>, ctx: &Ctx, job: JobId) -> Result<Revival, Error> {
    let key = rows::ended::find_dead_key(tx, job)?;
    if let Some(key) = &key
        && let Some((holder, until, lives)) = rows::waits::find_key(tx, key)?
        && holder != job
        && (lives || until.is_some_and(|until| until > ctx.now))
    {
        return Ok(Revival::KeyHeld(holder));
    }
    let Some(queue) = rows::ended::revive_dead(tx, job, ctx.now)? else { return Ok(Revival::NotDead) };
    rows::ended::delete_dead(tx, job)?;
    if let Some(key) = &key {
        rows::waits::retake_key(tx, key, job)?;
    }
    tx.ring(bell_of(&queue));
    Ok(Revival::Revived)
}

/// Brings dead letters back to life, of a queue and of a kind if they are named: at most `most`. Says how many. One whose
/// unique key another job holds stays dead.
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
    let (mut revived, mut after) = (0, 0);
    // Those whose keys are held are left out by the statement, however many there are. Of several with one key the first
    // is revived, and the next page leaves out the others.
    while revived < most {
        let dead = rows::ended::list_revivable(tx, queue, kind, after, ctx.now, most - revived)?;
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
