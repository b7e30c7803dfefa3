//! Supervision of tasks: restarts a task that panics.

use std::time::{Duration, Instant};

use kith_kernel::seconds;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Pause after the first panic. The pause doubles with each further panic.
const MIN_RESTART_PAUSE: Duration = Duration::from_millis(100);
/// Maximum pause. A task that has run for longer than this time counts as healthy again.
const MAX_RESTART_PAUSE: Duration = seconds(60);

/// Runs the task `start` until it returns. If it panics, runs `panicked`, waits for a pause and starts it
/// again.
#[expect(clippy::disallowed_methods, reason = "pauses are measured in real time")]
pub(crate) async fn supervise<F, P>(
    mut stopped: watch::Receiver<bool>,
    start: impl Fn() -> F,
    panicked: impl Fn() -> P,
) where
    F: Future<Output = ()> + Send + 'static,
    P: Future<Output = ()>,
{
    let mut panics = 0;
    while !*stopped.borrow_and_update() {
        let started = Instant::now();
        // A `JoinSet` aborts the task when this function is dropped.
        let mut task = JoinSet::new();
        task.spawn(start());
        match task.join_next().await {
            Some(Err(error)) if error.is_panic() => {}
            _ => return,
        }
        if started.elapsed() > MAX_RESTART_PAUSE {
            panics = 0;
        }
        panicked().await;
        tokio::select! {
            () = tokio::time::sleep(restart_pause(panics)) => {}
            _ = stopped.changed() => {}
        }
        panics += 1;
    }
}

/// Returns the pause before the next start, after `panics` earlier panics in a row.
fn restart_pause(panics: u32) -> Duration {
    (MIN_RESTART_PAUSE * 2_u32.pow(panics.min(16))).min(MAX_RESTART_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restart_pause_doubles_up_to_its_bound() {
        let pauses: Vec<_> = (0..12).map(|panics| restart_pause(panics).as_millis()).collect();
        assert_eq!(pauses[..4], [100, 200, 400, 800]);
        assert_eq!((pauses[11], restart_pause(u32::MAX)), (60_000, MAX_RESTART_PAUSE));
    }
}
