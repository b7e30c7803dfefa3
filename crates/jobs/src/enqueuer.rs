//! Enqueueing for callers without a transaction. Requests of many callers are written in one transaction.
//! Requests that may wait for another transaction, because of a unique key or a dependency, are batched
//! separately from other requests.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kith_kernel::{Clock, Sources};
use kith_store::{Error, Store, Tx};
use tokio::sync::{mpsc, oneshot};

use crate::batch::write_batch;
use crate::enqueue::{EnqueueError, enqueue_all};
use crate::model::Enqueued;
use crate::new_job::NewJob;

/// Maximum number of requests per batch.
const MAX_BATCH: usize = 512;
/// Maximum number of requests per retried batch.
const MAX_RETRY_BATCH: usize = 128;
/// Number of scheduler turns without a new request after which a batch is written.
const IDLE_TURNS: usize = 2;
/// Capacity of the queue of requests. Callers wait while it is full.
const QUEUE_CAPACITY: usize = 8_192;
/// Lock timeout of a batch.
const LOCK_TIMEOUT: Duration = Duration::from_millis(50);
/// Delay before a request that was blocked by another transaction is retried.
const BLOCKED_RETRY_DELAY: Duration = Duration::from_millis(100);
/// Maximum time that a caller waits because of other transactions.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// Queue of requests, written in batches by background tasks.
pub(crate) struct Enqueuer {
    plain: mpsc::Sender<QueuedRequest>,
    /// Requests for jobs that have a unique key or wait for other jobs.
    keyed: mpsc::Sender<QueuedRequest>,
}

/// Request of a caller that waits to be written.
struct QueuedRequest {
    jobs: Vec<NewJob>,
    answer: oneshot::Sender<Result<Vec<Enqueued>, EnqueueError>>,
    since: Instant,
}

impl QueuedRequest {
    /// Returns true if the caller still waits, and has waited for less than [`MAX_WAIT`].
    fn can_wait(&self) -> bool {
        self.since.elapsed() < MAX_WAIT && !self.answer.is_closed()
    }
}

impl Enqueuer {
    /// Starts the tasks, which end when the enqueuer is dropped.
    pub fn start(db: &Store, sources: &Sources) -> Self {
        let lane = || {
            let (lane, arrivals) = mpsc::channel(QUEUE_CAPACITY);
            tokio::spawn(write_lane(db.clone(), Arc::clone(&sources.clock), arrivals));
            lane
        };
        Self { plain: lane(), keyed: lane() }
    }

    /// Enqueues all jobs or none.
    ///
    /// # Errors
    /// Returns the same errors as [`enqueue_all`]. Returns [`Error::DeadlinePassed`] if other transactions
    /// block the request for more than five seconds.
    #[expect(clippy::disallowed_methods, reason = "the timeout is measured in real time")]
    pub async fn enqueue(&self, jobs: Vec<NewJob>) -> Result<Vec<Enqueued>, EnqueueError> {
        let gone = || Error::unavailable("the job engine has stopped");
        let (answer, answered) = oneshot::channel();
        let lane = if jobs.iter().all(NewJob::enqueues_without_waiting) { &self.plain } else { &self.keyed };
        let waiting = QueuedRequest { jobs, answer, since: Instant::now() };
        lane.send(waiting).await.map_err(|_| gone())?;
        answered.await.unwrap_or_else(|_| Err(gone().into()))
    }
}

async fn write_lane(db: Store, clock: Arc<dyn Clock>, arrivals: mpsc::Receiver<QueuedRequest>) {
    let (postpone, postponed) = mpsc::unbounded_channel();
    tokio::join!(write_arriving(&db, &clock, arrivals, postpone), write_postponed(&db, &clock, postponed));
}

/// Writes requests in batches. The requests that arrive while a batch is written form the next batch.
async fn write_arriving(
    db: &Store,
    clock: &Arc<dyn Clock>,
    mut arrivals: mpsc::Receiver<QueuedRequest>,
    postpone: mpsc::UnboundedSender<QueuedRequest>,
) {
    let mut arrived = Vec::new();
    while arrivals.recv_many(&mut arrived, MAX_BATCH).await > 0 {
        gather(&mut arrivals, &mut arrived).await;
        for held in write(db, clock, std::mem::take(&mut arrived)).await {
            // The receiver cannot be closed, because the retrying task runs until this task ends.
            let _ = postpone.send(held);
        }
    }
}

/// Retries requests that were blocked by another transaction, separately from new ones.
async fn write_postponed(
    db: &Store,
    clock: &Arc<dyn Clock>,
    mut postponed: mpsc::UnboundedReceiver<QueuedRequest>,
) {
    let mut held = VecDeque::new();
    loop {
        if held.is_empty() {
            let Some(first) = postponed.recv().await else { return };
            held.push_back(first);
        }
        tokio::time::sleep(BLOCKED_RETRY_DELAY).await;
        while let Ok(one) = postponed.try_recv() {
            held.push_back(one);
        }
        held = fail_expired(held);
        let round = held.drain(..held.len().min(MAX_RETRY_BATCH)).collect();
        held.extend(write(db, clock, round).await);
    }
}

/// Answers requests that have waited for [`MAX_WAIT`] with an error, and returns the others.
fn fail_expired(held: VecDeque<QueuedRequest>) -> VecDeque<QueuedRequest> {
    let (patient, others): (VecDeque<_>, VecDeque<_>) = held.into_iter().partition(QueuedRequest::can_wait);
    for one in others {
        // The caller may have dropped its request.
        let _ = one.answer.send(Err(Error::DeadlinePassed.into()));
    }
    patient
}

/// Collects further requests before a batch is written. It lets other tasks run first, because callers whose
/// request was just answered often send another one. All collected requests then share one sync to disk.
async fn gather(arrivals: &mut mpsc::Receiver<QueuedRequest>, arrived: &mut Vec<QueuedRequest>) {
    let mut quiet = 0;
    while quiet < IDLE_TURNS && arrived.len() < MAX_BATCH {
        tokio::task::yield_now().await;
        let before = arrived.len();
        while arrived.len() < MAX_BATCH
            && let Ok(one) = arrivals.try_recv()
        {
            arrived.push(one);
        }
        quiet = if arrived.len() > before { 0 } else { quiet + 1 };
    }
}

/// Writes a batch and answers its callers. Returns the requests that are blocked by another transaction.
async fn write(db: &Store, clock: &Arc<dyn Clock>, batch: Vec<QueuedRequest>) -> Vec<QueuedRequest> {
    let (jobs, callers): (Vec<_>, Vec<_>) =
        batch.into_iter().map(|one| (one.jobs, (one.answer, one.since))).unzip();
    let (jobs, clock) = (Arc::new(jobs), Arc::clone(clock));
    let enqueue = move |tx: &Tx<'_>, part: &[Vec<NewJob>]| enqueue_each(tx, &*clock, part);
    let outcomes = write_batch(db, &jobs, LOCK_TIMEOUT, cause, enqueue).await;
    let mut held = Vec::new();
    for ((at, outcome), (answer, since)) in outcomes.into_iter().enumerate().zip(callers) {
        let is_held = matches!(outcome, Err(EnqueueError::Store(Error::DeadlinePassed)));
        if is_held {
            held.push(QueuedRequest { jobs: jobs[at].clone(), answer, since });
            continue;
        }
        // The caller may have dropped its request; the job is enqueued nevertheless.
        let _ = answer.send(outcome);
    }
    held
}

/// Enqueues the jobs of several callers, all or none, and returns the results of each caller.
fn enqueue_each(
    tx: &Tx<'_>,
    clock: &dyn Clock,
    callers: &[Vec<NewJob>],
) -> Result<Vec<Vec<Enqueued>>, EnqueueError> {
    let all: Vec<_> = callers.iter().flatten().collect();
    let mut enqueued = enqueue_all(tx, clock.now(), &all)?.into_iter();
    Ok(callers.iter().map(|jobs| enqueued.by_ref().take(jobs.len()).collect()).collect())
}

const fn cause(error: &EnqueueError) -> Option<&Error> {
    match error {
        EnqueueError::Store(error) => Some(error),
        EnqueueError::Invalid(_) | EnqueueError::Unknown(_) => None,
    }
}
