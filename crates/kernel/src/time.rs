//! Timestamps in milliseconds, and the trait with which all code reads the current time.

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Point in time: milliseconds since 1970-01-01T00:00:00Z. Formatted as RFC 3339 in UTC with three decimals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Creates the time `ms` milliseconds after the epoch.
    pub const fn from_millis(ms: i64) -> Self {
        Self(ms)
    }

    /// Returns the milliseconds since the epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Returns the duration from `earlier` to this time, or zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;
    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;
    fn sub(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(at) => write!(f, "{at:.3}"),
            Err(_) => write!(f, "{}ms", self.0),
        }
    }
}

impl FromStr for Timestamp {
    type Err = jiff::Error;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.parse::<jiff::Timestamp>()?.as_millisecond()))
    }
}

crate::scalar_schema! { Timestamp => "Timestamp", String, DateTime }

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

/// Returns `n` seconds.
pub const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Returns `n` minutes.
pub const fn minutes(n: u64) -> Duration {
    Duration::from_secs(n * 60)
}

/// Returns `n` hours.
pub const fn hours(n: u64) -> Duration {
    Duration::from_secs(n * 3_600)
}

/// Returns `n` days of 24 hours each, regardless of calendars and daylight saving time.
pub const fn days(n: u64) -> Duration {
    Duration::from_secs(n * 86_400)
}

/// Source of the current time. A lint forbids reading the time in any other way outside this crate.
pub trait Clock: Send + Sync {
    /// Returns the current time. All rules of Kith use this time.
    fn now(&self) -> Timestamp;

    /// Returns the current real time, for values that other systems compare with their own clocks. Differs
    /// from [`Self::now`] only in development mode, after `/dev/clock` has moved the clock.
    fn real_now(&self) -> Timestamp {
        self.now()
    }

    /// Returns the time elapsed since a fixed moment of this process. Jumps of the wall clock do not affect
    /// it. Time by which `/dev/clock` advances the clock counts as elapsed.
    fn monotonic(&self) -> Duration;
}

/// Clock of the machine. Used with SQLite.
#[derive(Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the seam the ban points to")]
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::EPOCH + since_epoch
    }

    #[expect(clippy::disallowed_methods, reason = "this is the seam the ban points to")]
    fn monotonic(&self) -> Duration {
        static FIRST: OnceLock<Instant> = OnceLock::new();
        FIRST.get_or_init(Instant::now).elapsed()
    }
}

impl Timestamp {
    /// 1970-01-01T00:00:00Z.
    pub const EPOCH: Self = Self(0);
}

/// Clock that adds an offset to monotonic time. The offset is measured against a reference clock, such as
/// that of the database that several nodes use.
///
/// Jumps of the machine's wall clock do not affect it. Each call of [`OffsetClock::set`] corrects the offset.
#[derive(Debug)]
pub struct OffsetClock {
    started: Instant,
    offset_ms: AtomicI64,
}

impl OffsetClock {
    /// Creates a clock that starts at `now`, which is used until the first measurement.
    #[expect(clippy::disallowed_methods, reason = "this is the seam the ban points to")]
    pub fn starting_at(now: Timestamp) -> Self {
        Self { started: Instant::now(), offset_ms: AtomicI64::new(now.as_millis()) }
    }

    /// Sets the clock to `measured`. Returns the number of milliseconds by which the clock was behind;
    /// negative if it was ahead.
    pub fn set(&self, measured: Timestamp) -> i64 {
        let behind_ms = measured.as_millis() - self.now().as_millis();
        self.offset_ms.fetch_add(behind_ms, Ordering::Relaxed);
        behind_ms
    }
}

impl Clock for OffsetClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.offset_ms.load(Ordering::Relaxed)) + self.started.elapsed()
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}

/// Clock that moves only when it is set, for tests.
#[derive(Debug)]
pub struct ManualClock {
    now_ms: AtomicI64,
    /// Sum of all jumps in milliseconds. Jumps do not count as elapsed time.
    jumped_ms: AtomicI64,
}

impl ManualClock {
    /// Creates a clock that shows `now`.
    pub const fn at(now: Timestamp) -> Self {
        Self { now_ms: AtomicI64::new(now.as_millis()), jumped_ms: AtomicI64::new(0) }
    }

    /// Sets the current time.
    pub fn set(&self, now: Timestamp) {
        self.now_ms.store(now.as_millis(), Ordering::SeqCst);
    }

    /// Advances the clock by `by`. This time counts as elapsed.
    pub fn advance(&self, by: Duration) {
        self.now_ms.fetch_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::SeqCst);
    }

    /// Moves the wall clock by `ms` milliseconds, forward or backward. Elapsed time does not change.
    pub fn jump(&self, ms: i64) {
        self.jumped_ms.fetch_add(ms, Ordering::SeqCst);
        self.now_ms.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.now_ms.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        let passed_ms = self.now_ms.load(Ordering::SeqCst) - self.jumped_ms.load(Ordering::SeqCst);
        Duration::from_millis(u64::try_from(passed_ms).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamp_round_trips_in_utc_with_milliseconds() {
        let at = Timestamp::from_millis(1_763_716_151_007);
        assert_eq!(at.to_string(), "2025-11-21T09:09:11.007Z");
        assert_eq!(at.to_string().parse::<Timestamp>().unwrap(), at);
        assert_eq!(Timestamp::from_millis(0).to_string(), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn offset_clock_follows_measured_time() {
        let clock = OffsetClock::starting_at(Timestamp::from_millis(1_000_000));
        let behind_ms = clock.set(Timestamp::from_millis(1_005_000));
        assert!((4_900..=5_000).contains(&behind_ms));
        assert!(clock.now() >= Timestamp::from_millis(1_005_000));
    }

    #[test]
    fn manual_clock_jump_is_not_elapsed_time() {
        let clock = ManualClock::at(Timestamp::from_millis(5_000));
        let before = clock.monotonic();
        clock.jump(1_000);
        clock.advance(seconds(2));
        clock.jump(-4_000);
        assert_eq!((clock.now().as_millis(), clock.monotonic() - before), (4_000, seconds(2)));
    }
}
