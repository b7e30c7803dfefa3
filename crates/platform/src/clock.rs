//! Clock of a node: the system clock on SQLite, and the database's clock on PostgreSQL, where several nodes
//! share it.
//!
//! Requests never wait for the database's clock. A task measures the offset periodically.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use kith_kernel::{Clock, OffsetClock, Sources, SystemClock, SystemRandom, TimeOrderedIds, Timestamp};
use kith_store::{ClockReading, Error, Store};

use crate::http::Stop;

/// Interval at which the offset is measured.
const MEASURE_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum uncertainty of a measurement. Less accurate measurements are ignored.
const MAX_UNCERTAINTY: Duration = Duration::from_millis(50);
/// Maximum skew of the system clock in milliseconds. If the skew is larger, the node is not ready.
const MAX_SKEW_MS: i64 = 500;

/// Clock that follows the database's clock, if the database has one.
#[derive(Debug)]
pub struct NodeClock {
    /// `None` on SQLite.
    shared: Option<OffsetClock>,
    skew_ms: AtomicI64,
}

impl NodeClock {
    /// Creates the clock and measures the offset for the first time.
    ///
    /// # Errors
    /// Returns the store's error if the database does not respond.
    pub async fn start(db: &Store) -> Result<Self, Error> {
        let clock = Self {
            shared: db.health().await?.clock.map(|read| OffsetClock::starting_at(read.now)),
            skew_ms: AtomicI64::new(0),
        };
        clock.measure(db).await?;
        Ok(clock)
    }

    /// Measures the offset to the database's clock.
    ///
    /// # Errors
    /// Returns the store's error if the database does not respond. The offset then stays unchanged.
    pub async fn measure(&self, db: &Store) -> Result<(), Error> {
        let Some(shared) = &self.shared else { return Ok(()) };
        let read = db.health().await?.clock.filter(|read| read.uncertainty <= MAX_UNCERTAINTY);
        if let Some(ClockReading { now, .. }) = read {
            shared.set(now);
            self.skew_ms.store(SystemClock.now().as_millis() - now.as_millis(), Ordering::Relaxed);
        }
        Ok(())
    }

    /// Returns the number of milliseconds by which the system clock is ahead of the database's clock.
    pub fn skew_ms(&self) -> i64 {
        self.skew_ms.load(Ordering::Relaxed)
    }

    /// Returns true if the system clock differs from the database's clock by at most 500 ms.
    pub fn is_tolerable(&self) -> bool {
        self.skew_ms().abs() <= MAX_SKEW_MS
    }

    /// Combines this clock with the system's id and random generators.
    pub fn sources(self: Arc<Self>) -> Sources {
        let ids = Arc::new(TimeOrderedIds::new(SystemRandom));
        Sources { clock: self, ids, random: Arc::new(SystemRandom) }
    }

    /// Measures the offset periodically until the server stops.
    pub async fn run(self: Arc<Self>, db: Store, stop: Stop) {
        let mut ticks = tokio::time::interval(MEASURE_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.or(ticks.tick()).await.is_some() {
            if let Err(error) = self.measure(&db).await {
                tracing::warn!(%error, "cannot read the database's clock");
            } else if !self.is_tolerable() {
                tracing::warn!(
                    skew_ms = self.skew_ms(),
                    "the system clock deviates from the database's clock; the node is not ready"
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
    fn skew_up_to_500_ms_is_tolerated() {
        for (skew_ms, tolerable) in [(0, true), (500, true), (501, false), (-500, true), (-501, false)] {
            let clock = NodeClock { shared: None, skew_ms: AtomicI64::new(skew_ms) };
            assert_eq!(clock.is_tolerable(), tolerable, "{skew_ms}");
        }
    }
}
