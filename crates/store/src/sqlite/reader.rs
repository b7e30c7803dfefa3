//! Reads: in place on the caller's thread while they take microseconds, on two threads of their own when not.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Shared;
use super::link::{Link, Session, Use, sqlite_error};
use crate::job::{ReadJob, catch_read};
use crate::stats::StoreStats;
use crate::tx::Session as AnySession;
use crate::{Error, Query};

pub(super) const SLOW_THREADS: usize = 2;

/// Steps of SQLite's virtual machine between two looks at the clock: some ten microseconds of work.
const STEPS_BETWEEN_LOOKS: i32 = 1_000;

/// Connections for reads, and the way to the slow lane.
pub(super) struct Readers {
    idle: Mutex<Vec<Reader>>,
    in_place: Duration,
    slow: async_channel::Sender<Box<dyn ReadJob>>,
    slow_queue: async_channel::Receiver<Box<dyn ReadJob>>,
}

/// A connection whose statements stop when their time is up.
struct Reader {
    link: Link,
    stop_at: Arc<StopAt>,
}

/// A moment as nanoseconds since `base`, so that it can be shared without a lock.
struct StopAt {
    base: Instant,
    ns: AtomicU64,
}

impl StopAt {
    fn set(&self, at: Instant) {
        let ns = u64::try_from(at.saturating_duration_since(self.base).as_nanos()).unwrap_or(u64::MAX);
        self.ns.store(ns, Ordering::Relaxed);
    }

    fn has_come(&self) -> bool {
        self.base.elapsed().as_nanos() > u128::from(self.ns.load(Ordering::Relaxed))
    }
}

impl Reader {
    #[expect(clippy::disallowed_methods, reason = "bounds real work")]
    fn open(shared: &Shared) -> Result<Self, Error> {
        let mut link = Link::open(&shared.file, shared.synchronous, Use::Read)?;
        let stop_at = Arc::new(StopAt { base: Instant::now(), ns: AtomicU64::new(u64::MAX) });
        let watch = Arc::clone(&stop_at);
        link.connection
            .progress_handler(STEPS_BETWEEN_LOOKS, Some(move || watch.has_come()))
            .map_err(sqlite_error)?;
        Ok(Self { link, stop_at })
    }

    fn query(&self) -> Query<'_> {
        Query::new(AnySession::Sqlite(Session::plain(&self.link)))
    }
}

impl Readers {
    pub fn new(_shared: &Shared, in_place: Duration, queue: usize) -> Self {
        let (slow, slow_queue) = async_channel::bounded(queue);
        Self { idle: Mutex::default(), in_place, slow, slow_queue }
    }

    #[expect(clippy::disallowed_methods, reason = "bounds real work")]
    pub fn in_place<T, E: From<Error>>(
        &self,
        shared: &Shared,
        run: &impl Fn(&Query<'_>) -> Result<T, E>,
    ) -> Option<Result<T, E>> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let reader = match idle.map_or_else(|| Reader::open(shared), Ok) {
            Ok(reader) => reader,
            Err(error) => return Some(Err(error.into())),
        };
        StoreStats::one(&shared.stats.reads);
        reader.stop_at.set(Instant::now() + self.in_place);
        let query = reader.query();
        let result = catch_read(run, &query);
        let failure = query.failure();
        drop(query);
        // A connection on which something failed is not kept: the next read opens a sound one.
        if failure.is_none() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(reader);
        } else if matches!(failure, Some(Error::DeadlinePassed)) {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(reader);
            StoreStats::one(&shared.stats.slow_reads);
            return None;
        }
        Some(result)
    }

    pub fn enqueue_slow(&self, shared: &Shared, job: Box<dyn ReadJob>) -> Result<(), Error> {
        StoreStats::one(&shared.stats.queued);
        self.slow.try_send(job).map_err(|refused| {
            StoreStats::less(&shared.stats.queued);
            if refused.is_closed() {
                return Error::unavailable("the store has shut down");
            }
            StoreStats::one(&shared.stats.refused_busy);
            Error::Busy
        })
    }

    /// What a thread of the slow lane runs.
    pub fn slow_lane(&self, shared: Arc<Shared>) -> impl FnOnce() + Send + 'static {
        let queue = self.slow_queue.clone();
        move || {
            let mut reader = None;
            while let Ok(mut job) = queue.recv_blocking() {
                StoreStats::less(&shared.stats.queued);
                let fate = slow_read(&shared, &mut reader, &mut *job);
                job.answer(fate);
            }
        }
    }

    pub fn close(&self) {
        self.slow.close();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[expect(clippy::disallowed_methods, reason = "deadlines are about real waiting")]
fn slow_read(shared: &Shared, kept: &mut Option<Reader>, job: &mut dyn ReadJob) -> Result<(), Error> {
    if job.deadline() <= Instant::now() {
        StoreStats::one(&shared.stats.dropped_late);
        return Err(Error::DeadlinePassed);
    }
    let reader = kept.take().map_or_else(|| Reader::open(shared), Ok)?;
    reader.stop_at.set(job.deadline());
    reader.link.command("BEGIN")?;
    let failure = job.run(&reader.query());
    reader.stop_at.ns.store(u64::MAX, Ordering::Relaxed);
    reader.link.command("COMMIT")?;
    match failure {
        // Out of time here too: the closure's own result says no more than that.
        Some(Error::DeadlinePassed) => {
            *kept = Some(reader);
            Err(Error::DeadlinePassed)
        }
        Some(_) => Ok(()),
        None => {
            *kept = Some(reader);
            Ok(())
        }
    }
}
