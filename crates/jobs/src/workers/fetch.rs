//! Claiming loop of one queue: claims as many jobs as this process can run, and more jobs in advance if jobs
//! are short.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kith_store::{ChannelListener, Error};
use tokio::sync::Semaphore;

use super::lane::QueueRunner;
use super::{Phase, QueueConcurrency, Shared, run};
use crate::claim::Claim;
use crate::queue_channel;

/// Maximum number of jobs per claim.
const MAX_CLAIM: usize = 500;
/// Maximum number of jobs claimed in advance.
const MAX_PREFETCH: usize = 1_000;
/// Period in which ended jobs are counted, to determine how many jobs are claimed in advance.
const PACE_INTERVAL: Duration = Duration::from_millis(50);
/// Delay before the next claim after a claim has failed.
const FAILURE_DELAY: Duration = Duration::from_millis(500);

pub(super) async fn fetch(shared: Arc<Shared>, share: QueueConcurrency) {
    let mut phase = shared.phase.subscribe();
    let mut listener = shared.jobs.db().listen(&queue_channel(&share.queue));
    let lane = Arc::new(QueueRunner {
        may_run: Arc::new(Semaphore::new(share.concurrency)),
        share,
        shared,
        outstanding: AtomicUsize::new(0),
        ended: AtomicUsize::new(0),
    });
    let mut pace = FetchPace::default();
    while *phase.borrow() == Phase::Working {
        let claim_size = pace.claim_size(&lane);
        if claim_size == 0 {
            tokio::select! {
                () = lane.shared.freed.notified() => {}
                () = tokio::time::sleep(PACE_INTERVAL) => {}
                _ = phase.changed() => {}
            }
            continue;
        }
        listener.discard_pending();
        let worker = lane.shared.worker.load(Ordering::Relaxed);
        match lane.shared.jobs.claim(&lane.share.queue, worker, claim_size as i64).await {
            Ok(claim) => {
                let (found, look_again_at) = (claim.jobs.len(), claim.next_claim_at);
                pace.is_limited = claim.is_limited;
                start(&lane, claim);
                if found == 0 {
                    let wait = wait(&lane, look_again_at);
                    tokio::select! {
                        () = wait_for_notification(&mut listener, wait) => {}
                        _ = phase.changed() => {}
                    }
                }
            }
            Err(error) => {
                log_claim_error(&error);
                tokio::select! {
                    () = tokio::time::sleep(FAILURE_DELAY) => {}
                    _ = phase.changed() => {}
                }
            }
        }
    }
    // Tasks that wait for a permit fail to get one, and return their jobs to the queue.
    lane.may_run.close();
}

fn log_claim_error(error: &Error) {
    tracing::warn!(%error, "cannot claim jobs; retrying");
}

async fn wait_for_notification(listener: &mut ChannelListener, wait: Duration) {
    // A timeout is the normal end of this wait.
    let _ = tokio::time::timeout(wait, listener.notified()).await;
}

/// Returns the time until the next claim: the poll interval, or less if the queue can be claimed earlier.
fn wait(lane: &QueueRunner, look_again_at: Option<kith_kernel::Timestamp>) -> Duration {
    let now = lane.shared.jobs.inner().sources.clock.now();
    let until = look_again_at.map_or(lane.shared.options.poll, |at| at.since(now));
    until.clamp(Duration::from_millis(1), lane.shared.options.poll)
}

fn start(lane: &Arc<QueueRunner>, claim: Claim) {
    let found = claim.jobs.len();
    lane.outstanding.fetch_add(found, Ordering::Relaxed);
    lane.shared.outstanding.fetch_add(found, Ordering::Relaxed);
    for job in claim.jobs {
        tokio::spawn(run::run(Arc::clone(lane), job, claim.is_limited));
    }
}

/// Calculation of the size of the next claim: the free capacity, plus the jobs to be claimed in advance.
#[derive(Default)]
struct FetchPace {
    prefetch: usize,
    measured_at: Option<Instant>,
    is_limited: bool,
}

impl FetchPace {
    /// Returns the number of jobs to claim now; 0 if it is better to wait.
    #[expect(clippy::disallowed_methods, reason = "paces real work")]
    fn claim_size(&mut self, lane: &QueueRunner) -> usize {
        let now = Instant::now();
        let since = self.measured_at.map(|at| now - at);
        if since.is_none_or(|since| since >= PACE_INTERVAL) {
            let ended = lane.ended.swap(0, Ordering::Relaxed);
            // The number is an average per period, so that few jobs are claimed in advance after a long
            // pause.
            let spans = since.map_or(1, |since| since.as_millis() / PACE_INTERVAL.as_millis()).max(1);
            self.prefetch = (ended / usize::try_from(spans).unwrap_or(usize::MAX)).min(MAX_PREFETCH);
            self.measured_at = Some(now);
        }
        let prefetch = if self.is_limited { 0 } else { self.prefetch };
        let capacity = lane.share.concurrency + prefetch;
        let claim_size = capacity.saturating_sub(lane.outstanding.load(Ordering::Relaxed));
        // A small claim costs as much as a large one, so the next claim waits until more capacity is free.
        if claim_size < (capacity / 4).min(MAX_CLAIM / 2) { 0 } else { claim_size.min(MAX_CLAIM) }
    }
}
