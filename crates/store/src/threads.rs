//! Threads of the store, which have names and for which closing waits. Also records since when the write
//! threads have been busy.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::Builder;
use std::time::{Duration, Instant};

use crate::Error;

/// Maximum time that closing waits for threads. It is limited so that a blocked closure or disk cannot
/// prevent the process from ending.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Threads of one store.
#[derive(Debug, Default)]
pub(crate) struct Threads(Arc<ThreadCount>);

#[derive(Debug, Default)]
struct ThreadCount {
    count: Mutex<usize>,
    ended: Condvar,
}

/// Guard that counts a thread as ended when the guard is dropped, even after a panic.
struct ThreadGuard(Arc<ThreadCount>);

impl Drop for ThreadGuard {
    fn drop(&mut self) {
        *self.0.count.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.ended.notify_all();
        if std::thread::panicking() {
            tracing::error!("a thread of the store panicked");
        }
    }
}

impl Threads {
    /// Starts a thread with a name.
    pub fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        *self.0.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        let alive = ThreadGuard(Arc::clone(&self.0));
        let thread = Builder::new().name(name.to_owned()).spawn(move || {
            let _alive = alive;
            run();
        });
        thread.map(|_| ()).map_err(Error::unavailable)
    }

    /// Returns the number of threads that are running.
    pub fn count(&self) -> usize {
        *self.0.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until all threads have ended. The caller must have requested this before. Returns false if
    /// threads are still running after [`CLOSE_TIMEOUT`].
    pub fn wait(&self) -> bool {
        self.wait_for(CLOSE_TIMEOUT)
    }

    fn wait_for(&self, max_wait: Duration) -> bool {
        let living = self.0.count.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.0.ended.wait_timeout_while(living, max_wait, |living| *living > 0);
        let (living, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if *living > 0 {
            tracing::error!(threads = *living, "threads of the store did not end in time and are abandoned");
        }
        *living == 0
    }
}

/// Time at which each write thread started its current work.
#[derive(Debug)]
pub(crate) struct WriteActivity {
    created: Instant,
    /// Start of the work in milliseconds after `created`, plus one; 0 while the thread is idle. One element
    /// per thread.
    busy_since: Vec<AtomicU64>,
}

impl WriteActivity {
    #[expect(clippy::disallowed_methods, reason = "measures real work")]
    pub fn new(threads: usize) -> Self {
        Self { created: Instant::now(), busy_since: (0..threads).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Records that a thread starts new work.
    pub fn begin(&self, thread: usize) {
        self.busy_since[thread].store(self.now() + 1, Ordering::Relaxed);
    }

    /// Records that a thread is idle.
    pub fn idle(&self, thread: usize) {
        self.busy_since[thread].store(0, Ordering::Relaxed);
    }

    /// Returns for how long all threads have been busy while none of them started new work.
    pub fn stalled(&self) -> Duration {
        let latest = self
            .busy_since
            .iter()
            .map(|since| since.load(Ordering::Relaxed))
            .reduce(|one, other| if one == 0 || other == 0 { 0 } else { one.max(other) });
        let since = latest.and_then(|since| since.checked_sub(1));
        since.map_or(Duration::ZERO, |since| Duration::from_millis(self.now().saturating_sub(since)))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.created.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn closing_does_not_wait_for_stuck_thread() {
        let threads = Threads::default();
        let (end, ended) = mpsc::channel::<()>();
        threads.spawn("stuck", move || assert!(ended.recv().is_err())).unwrap();
        assert!(!threads.wait_for(Duration::from_millis(50)));
        assert_eq!(threads.count(), 1);
        drop(end);
        assert!(threads.wait_for(Duration::from_secs(60)));
        assert_eq!(threads.count(), 0);
    }

    #[test]
    fn panicked_thread_counts_as_ended() {
        let threads = Threads::default();
        threads.spawn("panics", || panic!("on purpose")).unwrap();
        assert!(threads.wait_for(Duration::from_secs(60)), "a panic may take seconds to print its backtrace");
    }

    #[test]
    fn writes_stall_when_all_threads_stay_busy() {
        let activity = WriteActivity::new(2);
        activity.begin(0);
        activity.busy_since[0].store(1, Ordering::Relaxed);
        assert_eq!(activity.stalled(), Duration::ZERO, "one thread is idle");
        activity.busy_since[1].store(1, Ordering::Relaxed);
        let activity = WriteActivity { created: activity.created - Duration::from_secs(20), ..activity };
        assert!(activity.stalled() >= Duration::from_secs(20));
        activity.begin(1);
        assert!(activity.stalled() < Duration::from_secs(10), "one thread has just started a task");
        activity.idle(1);
        assert_eq!(activity.stalled(), Duration::ZERO);
    }
}
