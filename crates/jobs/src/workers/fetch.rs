//! Fetching: claims as much of a queue as this process can run, and a little ahead where jobs are short.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kith_store::{Bell, Error};
use tokio::sync::Semaphore;

use super::{Phase, QueueShare, Shared, run};
use crate::bell_of;
use crate::claim::Claim;

/// Jobs claimed at once.
const MOST: usize = 500;
/// Jobs claimed ahead of those that run, at most.
const AHEAD: usize = 1_000;
/// Jobs are claimed ahead as many as were done in this time.
const AHEAD_FOR: Duration = Duration::from_millis(50);
/// Wait after the database did not answer.
const AFTER_FAILURE: Duration = Duration::from_millis(500);

/// One queue's share of this process.
pub(super) struct Lane {
    pub shared: Arc<Shared>,
    pub share: QueueShare,
    pub may_run: Arc<Semaphore>,
    /// Claimed and not reported, of this queue.
    pub outstanding: AtomicUsize,
    /// Attempts that have ended since the pace was last looked at.
    pub ended: AtomicUsize,
}

pub(super) async fn fetch(shared: Arc<Shared>, share: QueueShare) {
    let mut phase = shared.phase.subscribe();
    let mut bell = shared.jobs.db().bell(&bell_of(&share.queue));
    let lane = Arc::new(Lane {
        may_run: Arc::new(Semaphore::new(share.concurrency)),
        share,
        shared,
        outstanding: AtomicUsize::new(0),
        ended: AtomicUsize::new(0),
    });
    let mut pace = Pace::default();
    while *phase.borrow() == Phase::Working {
        let room = pace.room(&lane);
        if room == 0 {
            tokio::select! {
                () = lane.shared.freed.notified() => {}
                () = tokio::time::sleep(AHEAD_FOR) => {}
                _ = phase.changed() => {}
            }
            continue;
        }
        bell.hush();
        let worker = lane.shared.worker.load(Ordering::Relaxed);
        match lane.shared.jobs.claim(&lane.share.queue, worker, room as i64).await {
            Ok(claim) => {
                let (found, look_again_at) = (claim.jobs.len(), claim.look_again_at);
                pace.is_limited = claim.is_limited;
                start(&lane, claim);
                if found == 0 {
                    let wait = wait(&lane, look_again_at);
                    tokio::select! {
                        () = rest(&mut bell, wait) => {}
                        _ = phase.changed() => {}
                    }
                }
            }
            Err(error) => {
                complain(&error);
                tokio::select! {
                    () = tokio::time::sleep(AFTER_FAILURE) => {}
                    _ = phase.changed() => {}
                }
            }
        }
    }
    // Whoever has not begun gives its job back at once.
    lane.may_run.close();
}

fn complain(error: &Error) {
    tracing::warn!(%error, "jobs could not be claimed; tried again");
}

async fn rest(bell: &mut Bell, wait: Duration) {
    // Running out of time is the ordinary end of the wait.
    let _ = tokio::time::timeout(wait, bell.rung()).await;
}

/// Until the next look: the poll, or less if something is due before.
fn wait(lane: &Lane, look_again_at: Option<kith_kernel::Timestamp>) -> Duration {
    let now = lane.shared.jobs.inner().sources.clock.now();
    let until = look_again_at.map_or(lane.shared.options.poll, |at| at.since(now));
    until.clamp(Duration::from_millis(1), lane.shared.options.poll)
}

fn start(lane: &Arc<Lane>, claim: Claim) {
    let found = claim.jobs.len();
    lane.outstanding.fetch_add(found, Ordering::Relaxed);
    lane.shared.outstanding.fetch_add(found, Ordering::Relaxed);
    for job in claim.jobs {
        tokio::spawn(run::run(Arc::clone(lane), job, claim.is_limited));
    }
}

/// How many jobs are claimed ahead.
#[derive(Default)]
struct Pace {
    ahead: usize,
    looked_at: Option<Instant>,
    is_limited: bool,
}

impl Pace {
    /// How many jobs to claim now.
    #[expect(clippy::disallowed_methods, reason = "paces real work")]
    fn room(&mut self, lane: &Lane) -> usize {
        let now = Instant::now();
        let since = self.looked_at.map(|at| now - at);
        if since.is_none_or(|since| since >= AHEAD_FOR) {
            let ended = lane.ended.swap(0, Ordering::Relaxed);
            // Pace is per time: a long pause says that little was done.
            let spans = since.map_or(1, |since| since.as_millis() / AHEAD_FOR.as_millis()).max(1);
            self.ahead = (ended / usize::try_from(spans).unwrap_or(usize::MAX)).min(AHEAD);
            self.looked_at = Some(now);
        }
        let ahead = if self.is_limited { 0 } else { self.ahead };
        let capacity = lane.share.concurrency + ahead;
        let room = capacity.saturating_sub(lane.outstanding.load(Ordering::Relaxed));
        // Small claims cost as much as large ones.
        if room < (capacity / 4).min(MOST / 2) { 0 } else { room.min(MOST) }
    }
}
