//! Reads: in place on the caller's thread while they take microseconds, on two threads of their own when not.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Shared;
use super::link::{Link, Session, StopAt, Use};
use crate::job::{ReadJob, catch_read, enqueue};
use crate::stats::StoreStats;
use crate::tx::Session as AnySession;
use crate::{Error, Query};

pub(super) const SLOW_THREADS: usize = 2;

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

impl Reader {
    fn open(shared: &Shared) -> Result<Self, Error> {
        let mut link = Link::open(&shared.file, shared.synchronous, Use::Read)?;
        let stop_at = link.stoppable()?;
        Ok(Self { link, stop_at })
    }

    fn query(&self) -> Query<'_> {
        Query::new(AnySession::Sqlite(Session::plain(&self.link)))
    }
}

impl Readers {
    pub fn new(in_place: Duration, queue: usize) -> Self {
        let (slow, slow_queue) = async_channel::bounded(queue);
        Self { idle: Mutex::default(), in_place, slow, slow_queue }
    }

    #[expect(clippy::disallowed_methods, reason = "bounds real work")]
    pub fn in_place<T, E: From<Error>>(
        &self,
        shared: &Shared,
        run: &impl Fn(&Query<'_>) -> Result<T, E>,
    ) -> Option<Result<T, E>> {
        if self.slow.is_closed() {
            return Some(Err(Error::unavailable("the store has shut down").into()));
        }
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
        // A connection that may be unsound is not kept: the next read opens another.
        if !matches!(failure, Some(Error::Unavailable(_))) && !self.slow.is_closed() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(reader);
        }
        if matches!(failure, Some(Error::DeadlinePassed)) {
            StoreStats::one(&shared.stats.slow_reads);
            return None;
        }
        Some(result)
    }

    pub fn enqueue_slow(&self, shared: &Shared, job: Box<dyn ReadJob>) -> Result<(), Error> {
        enqueue(&shared.stats, || Ok(self.slow.try_send(job)?))
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
    reader.stop_at.never();
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
