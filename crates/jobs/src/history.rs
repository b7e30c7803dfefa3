//! History of ended jobs. It is a ring of segment tables; old segments are truncated as a whole and not
//! deleted row by row.

use std::time::Duration;

use kith_kernel::{Ctx, Timestamp, days};
use kith_store::{Error, Store};

use crate::rows::{self, statements};

/// Time for which ended jobs and dead letters are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Minimum time that ended jobs are kept, unless there are more than `max_ended`.
    pub ended_age: Duration,
    /// Maximum number of ended jobs. The oldest ended jobs are deleted first.
    pub max_ended: u64,
    /// Time that dead letters are kept.
    pub dead: Duration,
}

impl Retention {
    /// Default: ended jobs for seven days, at most 2,000,000 of them; dead letters for 90 days.
    pub const DEFAULT: Self = Self { ended_age: days(7), max_ended: 2_000_000, dead: days(90) };

    /// Number of segments that contain data. The current segment and the segment that is truncated next are
    /// not counted.
    const FULL_SEGMENTS: u32 = statements::SEGMENTS as u32 - 2;
}

/// Lock timeout for truncating a segment that is being read. It is short because later readers wait behind
/// this lock request.
const LOCK_TIMEOUT: Duration = Duration::from_millis(100);

/// Advances to the next segment if the current one is old enough or full, and truncates the segment after the
/// new one. Returns true if it advanced. It does not advance while another transaction, such as a dump, reads
/// the segment to be truncated.
///
/// # Errors
/// Returns the error of the database, except [`Error::DeadlinePassed`] if the segment is locked.
pub(crate) async fn advance(db: &Store, ctx: &Ctx, retention: Retention) -> Result<bool, Error> {
    let now = ctx.now;
    let (current, since) = db.read(rows::ended::current_segment).await?;
    if since == Timestamp::EPOCH {
        db.write(move |tx| rows::ended::start_segments(tx, now)).await?;
        return Ok(false);
    }
    let place = usize::try_from(current).unwrap_or(0) % statements::SEGMENTS;
    let is_old = now >= since + retention.ended_age / Retention::FULL_SEGMENTS;
    if !is_old {
        let size = db.export(move |q| q.one(statements::SIZE[place], &[], |row| row.get::<i64>(0))).await?;
        if size.unwrap_or(0).unsigned_abs() < retention.max_ended / u64::from(Retention::FULL_SEGMENTS) {
            return Ok(false);
        }
    }
    let next = (place + 1) % statements::SEGMENTS;
    let turned = db.write(move |tx| {
        rows::set_lock_timeout(tx, LOCK_TIMEOUT)?;
        tx.lock("job ring", ["turn"])?;
        if !rows::ended::advance_segment(tx, current, next as i64, now)? {
            return Ok(false);
        }
        // The segment after the new one is truncated, so that the next advance finds an empty segment.
        let after_next = (next + 1) % statements::SEGMENTS;
        tx.exec_for_engine(&statements::EMPTY_HISTORY[after_next], &[])?;
        tx.exec_for_engine(&statements::EMPTY_LOG[after_next], &[])?;
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
