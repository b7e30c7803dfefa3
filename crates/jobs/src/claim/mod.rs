//! Claiming: which jobs of a queue a worker gets next.
//!
//! Claims of one queue are serialized, across all nodes, for the length of one short transaction. So limits are exact,
//! and each process may remember below which place nothing ready is left, as long as the database loses no commit.

mod keys;

use std::time::Duration;

use kith_kernel::{Timestamp, minutes, seconds};
use kith_store::{Error, Tx};

use crate::model::{Claimed, JobId};
use crate::queues::{QueueSettings, room};
use crate::rows;
use crate::rows::live::Claimer;

use self::keys::{claim_by_keys, count_keys, key_room};

/// Jobs that become due are made ready at least so many at once.
const PROMOTED: i64 = 1_000;
/// How often a busy queue is looked through for what has become due.
const PROMOTE_EVERY: Duration = Duration::from_millis(100);
/// A transaction that schedules a job ends within this time.
const COMMITTED_WITHIN: Duration = minutes(1);
/// How often the whole of a queue's schedule is looked through, and how often its marks are checked.
const SWEEP_EVERY: Duration = minutes(5);
/// How often the first job of a claim is one whose workers have died, if there is one.
const SUSPECTS_EVERY: Duration = seconds(1);
/// Jobs whose workers have died that are looked at in one claim, in a queue that limits by key.
const SUSPECTS: i64 = 50;
/// Bytes of payloads in one claim, after which it takes no further job. The statement of claims says so too.
const MAX_CLAIM_BYTES: usize = 2 << 20;

/// What this process remembers of a queue between claims. Forgetting it costs time only.
#[derive(Clone, Debug, Default)]
pub(crate) struct Marks {
    /// By priority: nothing ready is left before this place.
    pub lanes: rows::live::Lanes,
    /// When `lanes` were last compared with all that is ready.
    pub checked_at: Timestamp,
    /// The newest connection when they were learned. They hold on connections that were open by then: those have seen
    /// no crash since, which could have undone what the marks rest on.
    learned_on: u64,
    /// Nothing scheduled is left before this.
    due: Timestamp,
    swept_at: Timestamp,
    promoted_at: Option<Timestamp>,
    /// Whether more was due than was made ready.
    more_due: bool,
    next_due: Option<Timestamp>,
    suspects_at: Timestamp,
    /// The last suspect that was looked at, in a queue that limits by key.
    last_suspect: JobId,
    /// The last key that was looked at.
    last_key: String,
    /// Set if jobs without a key get the larger half of the next claim.
    favours_keyless: bool,
}

/// What a claim came to.
#[derive(Clone, Debug, Default)]
pub struct Claim {
    /// The jobs, in order.
    pub jobs: Vec<Claimed>,
    /// When it makes sense to look again although nobody rings.
    pub look_again_at: Option<Timestamp>,
    /// Whether limits hold for the queue, so that nobody should claim ahead, and who ends a job should ring.
    pub is_limited: bool,
    /// Whether it ends early because its payloads are large.
    pub is_full: bool,
}

impl Marks {
    /// Nothing is remembered.
    pub fn none(now: Timestamp) -> Self {
        Self { checked_at: now, ..Self::default() }
    }

    /// The same without what rests on earlier commits: whose turn it is, is no such thing.
    fn without_places(self, now: Timestamp) -> Self {
        let Self { suspects_at, last_suspect, last_key, favours_keyless, .. } = self;
        Self { suspects_at, last_suspect, last_key, favours_keyless, ..Self::none(now) }
    }

    /// Whether it is time to compare them with all that is ready.
    pub fn is_check_due(&self, now: Timestamp) -> bool {
        let is_set = self.lanes.iter().any(|place| *place > 0);
        is_set && (now < self.checked_at || now >= self.checked_at + SWEEP_EVERY)
    }
}

/// Jobs that were found and claimed.
struct Found {
    jobs: Vec<Claimed>,
    /// Whether others were left or put back, because the payloads are too large together.
    is_cut: bool,
    /// Whether other transactions changed some of those that were found, so that there may be more.
    is_short: bool,
    /// When to look again, if not all was looked at.
    look_again_at: Option<Timestamp>,
}

impl Found {
    /// Completes the payloads, and puts back the jobs for which there is no room.
    fn complete(tx: &Tx<'_>, mut jobs: Vec<Claimed>) -> Result<Self, Error> {
        let mut bytes = 0;
        for n in 0..jobs.len() {
            let job = &mut jobs[n];
            if job.payload.is_empty() {
                job.payload = rows::live::find_payload(tx, job.id)?.unwrap_or_default();
            }
            bytes += job.payload.len();
            if bytes >= MAX_CLAIM_BYTES {
                jobs.split_off(n + 1).iter().try_for_each(|job| rows::live::unclaim(tx, job.id))?;
                return Ok(Self { jobs, is_cut: true, is_short: false, look_again_at: None });
            }
        }
        Ok(Self { jobs, is_cut: false, is_short: false, look_again_at: None })
    }
}

pub(crate) fn claim(
    tx: &Tx<'_>,
    now: Timestamp,
    claimer: Claimer,
    queue: &str,
    most: i64,
    mut marks: Marks,
) -> Result<(Claim, Marks), Error> {
    tx.lock("job queue", [queue])?;
    // Whoever was given up would have jobs that nobody rescues: it is known under another number, or soon will be.
    tx.lock("job worker", [claimer.worker])?;
    if !rows::workers::is_known(tx, claimer.worker)? {
        return Ok((Claim::default(), marks));
    }
    let connection = tx.connection();
    if connection.number > marks.learned_on {
        marks = marks.without_places(now);
    }
    marks.learned_on = connection.newest;
    // What is claimed when the power goes is found ready again, and its claimer is no longer its owner.
    tx.may_be_lost();
    let settings = rows::queues::find(tx, queue)?.unwrap_or_default();
    let mut claim = Claim { is_limited: settings.is_limited(), ..Claim::default() };
    if settings.paused {
        return Ok((claim, marks));
    }
    let rested = marks.promoted_at.is_none_or(|at| now < at || now >= at + PROMOTE_EVERY);
    let is_due = marks.next_due.is_some_and(|at| at <= now);
    let mut looked_for_due = rested || is_due || marks.more_due;
    if looked_for_due {
        promote(tx, now, queue, most, &mut marks)?;
    }
    let (mut left, window) = queue_room(tx, now, queue, most, &settings, &mut claim)?;
    // However busy the queue is, they have their turn.
    let is_suspects_turn = now < marks.suspects_at || now >= marks.suspects_at + SUSPECTS_EVERY;
    if left > 0 && is_suspects_turn {
        marks.suspects_at = now;
        claim.jobs = claim_suspect(tx, now, claimer, queue, &settings, &mut marks)?;
        left -= claim.jobs.len() as i64;
    }
    while left > 0 && !claim.is_full {
        let found = if settings.limits_keys() {
            claim_by_keys(tx, now, claimer, queue, left, &settings, &mut marks)?
        } else {
            claim_by_lanes(tx, now, claimer, queue, left, &mut marks)?
        };
        left -= found.jobs.len() as i64;
        claim.jobs.extend(found.jobs);
        claim.is_full = found.is_cut;
        claim.look_again_at = earlier(claim.look_again_at, found.look_again_at);
        if found.is_short {
            continue;
        }
        if looked_for_due {
            break;
        }
        // It is not so busy that what has just become due could wait.
        looked_for_due = true;
        if left > 0 && promote(tx, now, queue, most, &mut marks)? == 0 {
            break;
        }
    }
    claim.look_again_at = earlier(claim.look_again_at, marks.next_due);
    if left > 0 && claim.jobs.is_empty() && !is_suspects_turn {
        claim.jobs = claim_suspect(tx, now, claimer, queue, &settings, &mut marks)?;
    }
    if let Some((since, used)) = window
        && !claim.jobs.is_empty()
    {
        rows::queues::save_window(tx, queue, "", since, used + claim.jobs.len() as i64)?;
    }
    Ok((claim, marks))
}

fn earlier(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    one.into_iter().chain(other).min()
}

/// Makes ready what is due, and says how many that were.
fn promote(tx: &Tx<'_>, now: Timestamp, queue: &str, most: i64, marks: &mut Marks) -> Result<u64, Error> {
    // A clock that went back may have let jobs be scheduled before the mark.
    let went_back = marks.promoted_at.is_some_and(|at| now < at);
    if went_back || now >= marks.swept_at + SWEEP_EVERY {
        marks.due = Timestamp::EPOCH;
        marks.swept_at = now;
    }
    let at_once = PROMOTED.max(most * 2);
    let promoted = rows::live::promote(tx, queue, now, marks.due, at_once)?;
    marks.promoted_at = Some(now);
    marks.more_due = promoted as i64 >= at_once;
    if !marks.more_due {
        // A job that another transaction holds was passed over, and is still due: the mark stays before it.
        let next = rows::live::next_due(tx, queue, marks.due)?;
        let settled = now - COMMITTED_WITHIN;
        marks.due = marks.due.max(next.map_or(settled, |due| due.min(settled)));
        marks.next_due = next.map(|due| if due <= now { now + PROMOTE_EVERY } else { due });
    }
    Ok(promoted)
}

/// How many jobs the queue's own limits admit, and its window if it has a rate.
fn queue_room(
    tx: &Tx<'_>,
    now: Timestamp,
    queue: &str,
    most: i64,
    settings: &QueueSettings,
    claim: &mut Claim,
) -> Result<(i64, Option<(Timestamp, i64)>), Error> {
    let mut left = most;
    if let Some(concurrency) = settings.concurrency {
        left = left.min(concurrency - rows::live::running(tx, queue)?);
    }
    let Some(rate) = settings.rate else { return Ok((left, None)) };
    let (admitted, since, used) = room(rate, rows::queues::find_window(tx, queue, "")?, now);
    if admitted == 0 {
        let opens = since + Duration::from_millis(rate.period_ms.unsigned_abs());
        claim.look_again_at = Some(opens);
    }
    Ok((left.min(admitted), Some((since, used))))
}

fn claim_by_lanes(
    tx: &Tx<'_>,
    now: Timestamp,
    claimer: Claimer,
    queue: &str,
    most: i64,
    marks: &mut Marks,
) -> Result<Found, Error> {
    let page = rows::live::claim(tx, now, claimer, queue, most, &marks.lanes)?;
    let (claimed, oldest) = (page.jobs.len() as i64, page.oldest);
    let mut found = Found::complete(tx, page.jobs)?;
    found.is_cut |= page.picked < page.found;
    found.is_short = claimed < page.picked && !found.is_cut;
    if oldest > 0 {
        // What was left or put back is behind the last that was picked, also where another transaction took that one.
        let put_back = found.jobs.last().filter(|_| (found.jobs.len() as i64) < claimed);
        let last = put_back.map(|job| (job.priority, job.place)).or(page.last);
        let last = last.filter(|_| page.found == most || found.is_cut);
        for (priority, mark) in (0..).zip(&mut marks.lanes) {
            *mark = match last {
                Some((lane, _)) if priority > lane => *mark,
                Some((lane, place)) if priority == lane => place.min(oldest).max(*mark),
                _ => oldest.max(*mark),
            };
        }
    }
    Ok(found)
}

/// A job that was there whenever its worker died is run beside no other such job, so that it takes no innocent ones
/// along.
fn claim_suspect(
    tx: &Tx<'_>,
    now: Timestamp,
    claimer: Claimer,
    queue: &str,
    settings: &QueueSettings,
    marks: &mut Marks,
) -> Result<Vec<Claimed>, Error> {
    let limits_keys = settings.limits_keys();
    let suspects = if limits_keys {
        next_suspects(tx, queue, marks.last_suspect)?
    } else {
        rows::live::suspects_behind(tx, queue, 0, 1)?
    };
    if suspects.is_empty() || rows::live::has_suspect(tx, queue, claimer.worker)? {
        return Ok(Vec::new());
    }
    for (id, key) in suspects {
        marks.last_suspect = id;
        if let Some(key) = key.filter(|_| limits_keys) {
            let running = rows::live::running_of_key(tx, queue, &key)?;
            if key_room(tx, now, queue, &key, running, settings)? <= 0 {
                continue;
            }
        }
        let claimed = rows::live::claim_these(tx, now, claimer, queue, &[id])?;
        count_keys(tx, now, queue, settings, &claimed)?;
        return Ok(Found::complete(tx, claimed)?.jobs);
    }
    Ok(Vec::new())
}

/// The suspects behind `last`, and those up to it once there are no more.
fn next_suspects(tx: &Tx<'_>, queue: &str, last: JobId) -> Result<Vec<(JobId, Option<String>)>, Error> {
    let mut suspects = rows::live::suspects_behind(tx, queue, last, SUSPECTS)?;
    let room = SUSPECTS - suspects.len() as i64;
    if room > 0 && last > 0 {
        let from_the_start = rows::live::suspects_behind(tx, queue, 0, room)?;
        suspects.extend(from_the_start.into_iter().take_while(|(id, _)| *id <= last));
    }
    Ok(suspects)
}
