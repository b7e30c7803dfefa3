//! Claiming: selects the next jobs of a queue for a worker.
//!
//! Claims of one queue are serialized across all nodes, each in one short transaction. Therefore limits are
//! exact. Each process can also cache a watermark below which no job is ready, as long as the database loses
//! no commit.

mod keys;

use std::time::Duration;

use kith_kernel::{Timestamp, minutes, seconds};
use kith_store::{Error, Tx};

use crate::model::{ClaimedJob, JobId};
use crate::queues::{QueueSettings, remaining_starts};
use crate::rows;
use crate::rows::claims::Claimer;

use self::keys::{claim_by_keys, count_keys, key_room};

/// Minimum batch size for promoting due jobs to ready.
const MIN_PROMOTE_BATCH: i64 = 1_000;
/// Interval at which a busy queue is checked for due jobs.
const PROMOTE_INTERVAL: Duration = Duration::from_millis(100);
/// Maximum duration assumed for a transaction that schedules a job.
const MAX_COMMIT_DELAY: Duration = minutes(1);
/// Interval at which the whole schedule of a queue is scanned and its watermarks are verified.
const SWEEP_INTERVAL: Duration = minutes(5);
/// Interval at which a claim first selects a suspect. A suspect is a ready job whose worker died during its
/// last two attempts.
const SUSPECT_INTERVAL: Duration = seconds(1);
/// Maximum number of suspects examined per claim in a queue with limits per key.
const MAX_SUSPECTS: i64 = 50;
/// Total size of payloads, in bytes, at which a claim ends. The SQL statement of claims contains the same
/// limit.
const MAX_CLAIM_BYTES: usize = 2 << 20;

/// Claim state of a queue that this process caches between claims. It only affects performance, so it can be
/// lost.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClaimState {
    /// Watermark per priority: no job below this position is ready.
    pub watermarks: rows::claims::Watermarks,
    /// Time at which `watermarks` was last verified.
    pub checked_at: Timestamp,
    /// Number of the newest connection when the watermarks were recorded. The watermarks are valid only on
    /// connections that were open then: a newer connection may have been opened after a crash of the database
    /// that undid commits.
    recorded_on: u64,
    /// Lower bound of the due times of scheduled jobs: no job is scheduled for an earlier time.
    due: Timestamp,
    swept_at: Timestamp,
    promoted_at: Option<Timestamp>,
    /// True if the last promotion reached its limit, so that more jobs may be due.
    more_due: bool,
    next_due: Option<Timestamp>,
    suspects_at: Timestamp,
    /// Last suspect examined, in a queue with limits per key.
    last_suspect: JobId,
    /// Last key examined.
    last_key: String,
    /// True if jobs without a key get the larger half of the next claim.
    prefers_keyless: bool,
}

/// Result of a claim.
#[derive(Clone, Debug, Default)]
pub struct Claim {
    /// Claimed jobs, in the order in which they should run.
    pub jobs: Vec<ClaimedJob>,
    /// Time at which to claim again even without a notification.
    pub next_claim_at: Option<Timestamp>,
    /// True if the queue has limits. Workers should then not claim ahead, and should notify the queue when a
    /// job ends.
    pub is_limited: bool,
    /// True if the claim ended early because its payloads are large.
    pub is_full: bool,
}

impl ClaimState {
    /// Returns claim state without watermarks.
    pub fn none(now: Timestamp) -> Self {
        Self { checked_at: now, ..Self::default() }
    }

    /// Returns the state without the parts that depend on earlier commits. The last examined key and the last
    /// examined suspect are kept.
    fn without_watermarks(self, now: Timestamp) -> Self {
        let Self { suspects_at, last_suspect, last_key, prefers_keyless, .. } = self;
        Self { suspects_at, last_suspect, last_key, prefers_keyless, ..Self::none(now) }
    }

    /// Returns true if the watermarks must be verified now.
    pub fn is_check_due(&self, now: Timestamp) -> bool {
        let is_set = self.watermarks.iter().any(|position| *position > 0);
        is_set && (now < self.checked_at || now >= self.checked_at + SWEEP_INTERVAL)
    }
}

/// Jobs found and claimed in one step.
struct FoundJobs {
    jobs: Vec<ClaimedJob>,
    /// True if jobs were left or returned because the payloads are too large in total.
    is_truncated: bool,
    /// True if other transactions changed some of the jobs found, so that another read may find more jobs.
    may_have_more: bool,
    /// Time of the next claim; set if not all keys were examined.
    next_claim_at: Option<Timestamp>,
}

impl FoundJobs {
    /// Loads missing payloads. Jobs beyond the size limit of a claim are put back into the queue.
    fn complete(tx: &Tx<'_>, mut jobs: Vec<ClaimedJob>) -> Result<Self, Error> {
        let mut bytes = 0;
        for n in 0..jobs.len() {
            let job = &mut jobs[n];
            if job.payload.is_empty() {
                job.payload = rows::claims::find_payload(tx, job.id)?.unwrap_or_default();
            }
            bytes += job.payload.len();
            if bytes >= MAX_CLAIM_BYTES {
                jobs.split_off(n + 1).iter().try_for_each(|job| rows::claims::unclaim(tx, job.id))?;
                return Ok(Self { jobs, is_truncated: true, may_have_more: false, next_claim_at: None });
            }
        }
        Ok(Self { jobs, is_truncated: false, may_have_more: false, next_claim_at: None })
    }
}

pub(crate) fn claim(
    tx: &Tx<'_>,
    now: Timestamp,
    claimer: Claimer,
    queue: &str,
    limit: i64,
    mut marks: ClaimState,
) -> Result<(Claim, ClaimState), Error> {
    tx.lock("job queue", [queue])?;
    // A worker that was evicted must not claim jobs, because these jobs would never be recovered. It
    // registers again and gets a new id.
    tx.lock("job worker", [claimer.worker])?;
    if !rows::workers::is_known(tx, claimer.worker)? {
        return Ok((Claim::default(), marks));
    }
    let connection = tx.connection();
    if connection.number > marks.recorded_on {
        marks = marks.without_watermarks(now);
    }
    marks.recorded_on = connection.newest;
    // If a crash of the database undoes the claim, the jobs are ready again, and the old claim token is no
    // longer valid.
    tx.allow_async_commit();
    let settings = rows::queues::find(tx, queue)?.unwrap_or_default();
    let mut claim = Claim { is_limited: settings.is_limited(), ..Claim::default() };
    if settings.paused {
        return Ok((claim, marks));
    }
    let rested = marks.promoted_at.is_none_or(|at| now < at || now >= at + PROMOTE_INTERVAL);
    let is_due = marks.next_due.is_some_and(|at| at <= now);
    let mut looked_for_due = rested || is_due || marks.more_due;
    if looked_for_due {
        promote(tx, now, queue, limit, &mut marks)?;
    }
    let (mut left, window) = queue_room(tx, now, queue, limit, &settings, &mut claim)?;
    // A suspect is also claimed regularly while the queue is busy.
    let is_suspects_turn = now < marks.suspects_at || now >= marks.suspects_at + SUSPECT_INTERVAL;
    if left > 0 && is_suspects_turn {
        marks.suspects_at = now;
        claim.jobs = claim_suspect(tx, now, claimer, queue, &settings, &mut marks)?;
        left -= claim.jobs.len() as i64;
    }
    while left > 0 && !claim.is_full {
        let found = if settings.limits_keys() {
            claim_by_keys(tx, now, claimer, queue, left, &settings, &mut marks)?
        } else {
            claim_by_priority(tx, now, claimer, queue, left, &mut marks)?
        };
        left -= found.jobs.len() as i64;
        claim.jobs.extend(found.jobs);
        claim.is_full = found.is_truncated;
        claim.next_claim_at = earlier(claim.next_claim_at, found.next_claim_at);
        if found.may_have_more {
            continue;
        }
        if looked_for_due {
            break;
        }
        // The queue is not busy, so newly due jobs can be promoted immediately.
        looked_for_due = true;
        if left > 0 && promote(tx, now, queue, limit, &mut marks)? == 0 {
            break;
        }
    }
    claim.next_claim_at = earlier(claim.next_claim_at, marks.next_due);
    if left > 0 && claim.jobs.is_empty() && !is_suspects_turn {
        claim.jobs = claim_suspect(tx, now, claimer, queue, &settings, &mut marks)?;
    }
    if let Some((since, used)) = window
        && !claim.jobs.is_empty()
    {
        rows::queues::save_rate_window(tx, queue, "", since, used + claim.jobs.len() as i64)?;
    }
    Ok((claim, marks))
}

fn earlier(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    one.into_iter().chain(other).min()
}

/// Promotes due jobs to ready, and returns the number of promoted jobs.
fn promote(
    tx: &Tx<'_>,
    now: Timestamp,
    queue: &str,
    limit: i64,
    marks: &mut ClaimState,
) -> Result<u64, Error> {
    // The clock was set back. Jobs may have been scheduled before `marks.due` in the meantime.
    let went_back = marks.promoted_at.is_some_and(|at| now < at);
    if went_back || now >= marks.swept_at + SWEEP_INTERVAL {
        marks.due = Timestamp::EPOCH;
        marks.swept_at = now;
    }
    let at_once = MIN_PROMOTE_BATCH.max(limit * 2);
    let promoted = rows::claims::promote(tx, queue, now, marks.due, at_once)?;
    marks.promoted_at = Some(now);
    marks.more_due = promoted as i64 >= at_once;
    if !marks.more_due {
        // A due job that is locked by another transaction was skipped. `marks.due` must not exceed its time.
        let next = rows::claims::next_due(tx, queue, marks.due)?;
        let settled = now - MAX_COMMIT_DELAY;
        marks.due = marks.due.max(next.map_or(settled, |due| due.min(settled)));
        marks.next_due = next.map(|due| if due <= now { now + PROMOTE_INTERVAL } else { due });
    }
    Ok(promoted)
}

/// Returns how many jobs the limits of the queue admit, and its rate window if it has a rate limit.
fn queue_room(
    tx: &Tx<'_>,
    now: Timestamp,
    queue: &str,
    limit: i64,
    settings: &QueueSettings,
    claim: &mut Claim,
) -> Result<(i64, Option<(Timestamp, i64)>), Error> {
    let mut left = limit;
    if let Some(concurrency) = settings.concurrency {
        left = left.min(concurrency - rows::claims::running(tx, queue)?);
    }
    let Some(rate) = settings.rate else { return Ok((left, None)) };
    let (admitted, since, used) = remaining_starts(rate, rows::queues::find_window(tx, queue, "")?, now);
    if admitted == 0 {
        let opens = since + Duration::from_millis(rate.period_ms.unsigned_abs());
        claim.next_claim_at = Some(opens);
    }
    Ok((left.min(admitted), Some((since, used))))
}

fn claim_by_priority(
    tx: &Tx<'_>,
    now: Timestamp,
    claimer: Claimer,
    queue: &str,
    limit: i64,
    marks: &mut ClaimState,
) -> Result<FoundJobs, Error> {
    let page = rows::claims::claim(tx, now, claimer, queue, limit, &marks.watermarks)?;
    let (claimed, oldest) = (page.jobs.len() as i64, page.oldest);
    let mut found = FoundJobs::complete(tx, page.jobs)?;
    found.is_truncated |= page.picked < page.found;
    found.may_have_more = claimed < page.picked && !found.is_truncated;
    if oldest > 0 {
        // The next claim continues after the last job that was picked, even if another transaction took that
        // job.
        let put_back = found.jobs.last().filter(|_| (found.jobs.len() as i64) < claimed);
        let last = put_back.map(|job| (job.priority, job.position)).or(page.last);
        let last = last.filter(|_| page.found == limit || found.is_truncated);
        for (priority, mark) in (0..).zip(&mut marks.watermarks) {
            *mark = match last {
                Some((lane, _)) if priority > lane => *mark,
                Some((lane, position)) if priority == lane => position.min(oldest).max(*mark),
                _ => oldest.max(*mark),
            };
        }
    }
    Ok(found)
}

/// Claims a suspect: a job whose worker died during its last two attempts. A worker runs at most one suspect
/// at a time, so that a job that crashes its worker does not affect other suspects.
fn claim_suspect(
    tx: &Tx<'_>,
    now: Timestamp,
    claimer: Claimer,
    queue: &str,
    settings: &QueueSettings,
    marks: &mut ClaimState,
) -> Result<Vec<ClaimedJob>, Error> {
    let limits_keys = settings.limits_keys();
    let suspects = if limits_keys {
        next_suspects(tx, queue, marks.last_suspect)?
    } else {
        rows::claims::suspects_after(tx, queue, 0, 1)?
    };
    if suspects.is_empty() || rows::claims::has_suspect(tx, queue, claimer.worker)? {
        return Ok(Vec::new());
    }
    for (id, key) in suspects {
        marks.last_suspect = id;
        if let Some(key) = key.filter(|_| limits_keys) {
            let running = rows::claims::running_of_key(tx, queue, &key)?;
            if key_room(tx, now, queue, &key, running, settings)? <= 0 {
                continue;
            }
        }
        let claimed = rows::claims::claim_these(tx, now, claimer, queue, &[id])?;
        count_keys(tx, now, queue, settings, &claimed)?;
        return Ok(FoundJobs::complete(tx, claimed)?.jobs);
    }
    Ok(Vec::new())
}

/// Returns the suspects after `last`, and then the suspects from the first one up to `last`.
fn next_suspects(tx: &Tx<'_>, queue: &str, last: JobId) -> Result<Vec<(JobId, Option<String>)>, Error> {
    let mut suspects = rows::claims::suspects_after(tx, queue, last, MAX_SUSPECTS)?;
    let room = MAX_SUSPECTS - suspects.len() as i64;
    if room > 0 && last > 0 {
        let from_the_start = rows::claims::suspects_after(tx, queue, 0, room)?;
        suspects.extend(from_the_start.into_iter().take_while(|(id, _)| *id <= last));
    }
    Ok(suspects)
}
