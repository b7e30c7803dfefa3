//! The clock of a node: the machine's own beside SQLite, the database's beside PostgreSQL, where several nodes share it.
//!
//! It never asks the database while a request waits: a task measures now and then.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use kith_kernel::{Clock, OffsetClock, Sources, SystemClock, SystemRandom, TimeOrderedIds, Timestamp};
use kith_store::{ClockReading, Error, Store};

use crate::http::Stop;

/// How often the clock is set by the database's.
const MEASURE_EVERY: Duration = Duration::from_secs(10);
/// A reading that may be wrong by more than this is not used: the next will be better.
const USABLE_UNCERTAINTY: Duration = Duration::from_millis(50);
/// A node whose machine's clock is further off than this is not ready.
const TOLERATED_SKEW_MS: i64 = 500;

/// Follows the database's clock, where it has one.
#[derive(Debug)]
pub struct NodeClock {
    /// None beside SQLite.
    shared: Option<OffsetClock>,
    skew_ms: AtomicI64,
}

impl NodeClock {
    /// Asks the database once and starts from there.
    ///
    /// # Errors
    /// The database's, if it does not answer.
    pub async fn start(db: &Store) -> Result<Self, Error> {
        let clock = Self {
            shared: db.health().await?.clock.map(|read| OffsetClock::starting_at(read.now)),
            skew_ms: AtomicI64::new(0),
        };
        clock.measure(db).await?;
        Ok(clock)
    }

    /// Sets the clock by the database's.
    ///
    /// # Errors
    /// The database's, if it does not answer; the clock then runs on.
    pub async fn measure(&self, db: &Store) -> Result<(), Error> {
        let Some(shared) = &self.shared else { return Ok(()) };
        let read = db.health().await?.clock.filter(|read| read.uncertainty <= USABLE_UNCERTAINTY);
        if let Some(ClockReading { now, .. }) = read {
            shared.set(now);
            self.skew_ms.store(SystemClock.now().as_millis() - now.as_millis(), Ordering::Relaxed);
        }
        Ok(())
    }

    /// By how many milliseconds the machine's own clock is ahead of the database's.
    pub fn skew_ms(&self) -> i64 {
        self.skew_ms.load(Ordering::Relaxed)
    }

    /// Whether the machine's clock is close enough to the database's.
    pub fn is_tolerable(&self) -> bool {
        self.skew_ms().abs() <= TOLERATED_SKEW_MS
    }

    /// This clock, with the system's ids and randomness.
    pub fn sources(self: Arc<Self>) -> Sources {
        let ids = Arc::new(TimeOrderedIds::new(SystemRandom));
        Sources { clock: self, ids, random: Arc::new(SystemRandom) }
    }

    /// Measures again and again until the server stops.
    pub async fn keep(self: Arc<Self>, db: Store, stop: Stop) {
        let mut ticks = tokio::time::interval(MEASURE_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.or(ticks.tick()).await.is_some() {
            if let Err(error) = self.measure(&db).await {
                tracing::warn!(%error, "the database's clock could not be read");
            } else if !self.is_tolerable() {
                tracing::warn!(
                    skew_ms = self.skew_ms(),
                    "this machine's clock is off; the node is not ready"
                );
            }
        }
    }
}

impl Clock for NodeClock {
    fn now(&self) -> Timestamp {
        self.shared.as_ref().map_or_else(|| SystemClock.now(), Clock::now)
    }

    fn monotonic(&self) -> Duration {
        SystemClock.monotonic()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skew_is_tolerated_up_to_half_a_second_either_way() {
        for (skew_ms, tolerable) in [(0, true), (500, true), (501, false), (-500, true), (-501, false)] {
            let clock = NodeClock { shared: None, skew_ms: AtomicI64::new(skew_ms) };
            assert_eq!(clock.is_tolerable(), tolerable, "{skew_ms}");
        }
    }
}
