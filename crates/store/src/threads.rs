//! The store's threads: started with a name, and waited for when it closes; and since when those that write have been busy.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::Builder;
use std::time::{Duration, Instant};

use crate::Error;

/// How long closing waits for threads that were told to end. A closure or a disk that never returns must not keep the process alive.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// The threads of one store.
#[derive(Debug, Default)]
pub(crate) struct Threads(Arc<Living>);

#[derive(Debug, Default)]
struct Living {
    count: Mutex<usize>,
    ended: Condvar,
}

/// Counts a thread as ended when it is dropped, after a panic too.
struct Alive(Arc<Living>);

impl Drop for Alive {
    fn drop(&mut self) {
        *self.0.count.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.ended.notify_all();
        if std::thread::panicking() {
            tracing::error!("a thread of the store panicked");
        }
    }
}

impl Threads {
    /// Starts a thread.
    pub fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        *self.0.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        let alive = Alive(Arc::clone(&self.0));
        let thread = Builder::new().name(name.to_owned()).spawn(move || {
            let _alive = alive;
            run();
        });
        thread.map(|_| ()).map_err(Error::unavailable)
    }

    /// How many were started and have not ended.
    pub fn count(&self) -> usize {
        *self.0.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the end of all; they have been told to end. Returns whether all have ended.
    pub fn wait(&self) -> bool {
        self.wait_for(CLOSE_PATIENCE)
    }

    fn wait_for(&self, patience: Duration) -> bool {
        let living = self.0.count.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.0.ended.wait_timeout_while(living, patience, |living| *living > 0);
        let (living, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if *living > 0 {
            tracing::error!(threads = *living, "threads of the store did not end in time and are abandoned");
        }
        *living == 0
    }
}

/// Since when each thread that writes has been busy with one thing.
#[derive(Debug)]
pub(crate) struct WriteActivity {
    created: Instant,
    /// Milliseconds after `created`, one more; 0 when idle.
    busy_since: Vec<AtomicU64>,
}

impl WriteActivity {
    #[expect(clippy::disallowed_methods, reason = "measures real work")]
    pub fn new(threads: usize) -> Self {
        Self { created: Instant::now(), busy_since: (0..threads).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Notes that a thread begins something.
    pub fn begin(&self, thread: usize) {
        self.busy_since[thread].store(self.now() + 1, Ordering::Relaxed);
    }

    /// Notes that a thread has nothing to do.
    pub fn idle(&self, thread: usize) {
        self.busy_since[thread].store(0, Ordering::Relaxed);
    }

    /// For how long all threads have been busy without any of them beginning something else.
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
    fn thread_that_does_not_end_is_not_waited_for() {
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
    fn thread_that_panics_has_ended() {
        let threads = Threads::default();
        threads.spawn("panics", || panic!("as asked")).unwrap();
        assert!(threads.wait_for(Duration::from_secs(60)), "a panic may take seconds to print its backtrace");
    }

    #[test]
    fn writes_are_stalled_when_no_thread_has_begun_anything_for_a_while() {
        let activity = WriteActivity::new(2);
        activity.begin(0);
        activity.busy_since[0].store(1, Ordering::Relaxed);
        assert_eq!(activity.stalled(), Duration::ZERO, "one thread is idle");
        activity.busy_since[1].store(1, Ordering::Relaxed);
        let activity = WriteActivity { created: activity.created - Duration::from_secs(20), ..activity };
        assert!(activity.stalled() >= Duration::from_secs(20));
        activity.begin(1);
        assert!(activity.stalled() < Duration::from_secs(10), "a thread has begun something");
        activity.idle(1);
        assert_eq!(activity.stalled(), Duration::ZERO);
    }
}
