//! What is kept of jobs that have ended: a ring of segments that are emptied as a whole, never row by row.

use std::time::Duration;

use kith_kernel::{Ctx, Timestamp, days};
use kith_store::{Error, Store};

use crate::rows::{self, statements};

/// What is kept, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Ended jobs are kept for at least so long, unless there are too many.
    pub keep: Duration,
    /// Ended jobs kept at most, the latest.
    pub most: u64,
    /// Dead letters are kept for so long.
    pub dead: Duration,
}

impl Retention {
    /// A week, at most 2,000,000; dead letters for 90 days.
    pub const DEFAULT: Self = Self { keep: days(7), most: 2_000_000, dead: days(90) };

    /// Segments that hold something beside the one that is emptied next.
    const FULL: u32 = statements::SEGMENTS as u32 - 2;
}

/// Lock timeout for emptying a segment while it is read. Later readers queue behind this lock request.
const LOCK_WAIT: Duration = Duration::from_millis(100);

/// Goes on to the next segment where the present one is old or full enough, and empties the one ahead. Says whether it did:
/// not while another transaction, such as a dump, reads that one.
///
/// # Errors
/// The database's.
pub(crate) async fn turn(db: &Store, ctx: &Ctx, retention: Retention) -> Result<bool, Error> {
    let now = ctx.now;
    let (current, since) = db.read(rows::ended::ring).await?;
    if since == Timestamp::EPOCH {
        db.write(move |tx| rows::ended::start_ring(tx, now)).await?;
        return Ok(false);
    }
    let place = usize::try_from(current).unwrap_or(0) % statements::SEGMENTS;
    let is_old = now >= since + retention.keep / Retention::FULL;
    if !is_old {
        let size = db.export(move |q| q.one(statements::SIZE[place], &[], |row| row.get::<i64>(0))).await?;
        if size.unwrap_or(0).unsigned_abs() < retention.most / u64::from(Retention::FULL) {
            return Ok(false);
        }
    }
    let next = (place + 1) % statements::SEGMENTS;
    let turned = db.write(move |tx| {
        rows::limit_lock_waits(tx, LOCK_WAIT)?;
        tx.lock("job ring", ["turn"])?;
        if !rows::ended::turn_ring(tx, current, next as i64, now)? {
            return Ok(false);
        }
        // The one ahead of the new one, so that what is about to be written stands in an empty one.
        let ahead = (next + 1) % statements::SEGMENTS;
        tx.exec_by(&statements::EMPTY_HISTORY[ahead], &[])?;
        tx.exec_by(&statements::EMPTY_LOG[ahead], &[])?;
        Ok(true)
    });
    match turned.await {
        Err(Error::DeadlinePassed) => {
            tracing::info!("the oldest ended jobs are being read; they are removed later");
            Ok(false)
        }
        turned => turned,
    }
}
