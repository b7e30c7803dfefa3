//! Points in time in milliseconds, and the one trait through which anything may ask for "now".

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A point in time: milliseconds since 1970-01-01T00:00:00Z. Written as RFC 3339 in UTC with three decimals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The time `ms` milliseconds after the epoch.
    pub const fn from_millis(ms: i64) -> Self {
        Self(ms)
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// How long ago `earlier` was, zero if it is not earlier.
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

/// `n` seconds.
pub const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// `n` minutes.
pub const fn minutes(n: u64) -> Duration {
    Duration::from_secs(n * 60)
}

/// `n` hours.
pub const fn hours(n: u64) -> Duration {
    Duration::from_secs(n * 3_600)
}

/// `n` days of 24 hours each; calendars do not enter the rules.
pub const fn days(n: u64) -> Duration {
    Duration::from_secs(n * 86_400)
}

/// The only source of "now" outside this crate; a lint bans the direct ones.
pub trait Clock: Send + Sync {
    /// The present moment, by which every rule of Kith goes.
    fn now(&self) -> Timestamp;

    /// The present moment of the world outside, which others compare their own clocks with: what `/dev/clock` has put
    /// forward in development mode is not in it.
    fn real_now(&self) -> Timestamp {
        self.now()
    }

    /// Monotonic time since some moment of this process: the wall clock may jump, this does not. Time that was put forward
    /// on purpose counts as having passed.
    fn monotonic(&self) -> Duration;
}

/// The machine's own clock: what a node on SQLite goes by.
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

/// Monotonic time plus an offset that is measured against a shared authority, the database of several nodes.
///
/// A jump of the machine's wall clock does not move it; [`OffsetClock::set`] does, with each new measurement.
#[derive(Debug)]
pub struct OffsetClock {
    started: Instant,
    offset_ms: AtomicI64,
}

impl OffsetClock {
    /// Starts at `now`, which stays authoritative until the first measurement.
    #[expect(clippy::disallowed_methods, reason = "this is the seam the ban points to")]
    pub fn starting_at(now: Timestamp) -> Self {
        Self { started: Instant::now(), offset_ms: AtomicI64::new(now.as_millis()) }
    }

    /// Takes `measured` as the present moment and returns by how many milliseconds the clock was behind it.
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

/// A clock that moves only when told to; for tests.
#[derive(Debug)]
pub struct ManualClock {
    now_ms: AtomicI64,
    /// How far it jumped, which is not time that passed.
    jumped_ms: AtomicI64,
}

impl ManualClock {
    /// A clock that stands at `now`.
    pub const fn at(now: Timestamp) -> Self {
        Self { now_ms: AtomicI64::new(now.as_millis()), jumped_ms: AtomicI64::new(0) }
    }

    /// Sets the clock.
    pub fn set(&self, now: Timestamp) {
        self.now_ms.store(now.as_millis(), Ordering::SeqCst);
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        self.now_ms.fetch_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::SeqCst);
    }

    /// Lets the wall clock jump by `ms` milliseconds, forward or back, while no time passes.
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
    fn is_written_in_utc_with_three_decimals_and_read_back() {
        let at = Timestamp::from_millis(1_763_716_151_007);
        assert_eq!(at.to_string(), "2025-11-21T09:09:11.007Z");
        assert_eq!(at.to_string().parse::<Timestamp>().unwrap(), at);
        assert_eq!(Timestamp::from_millis(0).to_string(), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn an_offset_clock_follows_its_authority() {
        let clock = OffsetClock::starting_at(Timestamp::from_millis(1_000_000));
        let behind_ms = clock.set(Timestamp::from_millis(1_005_000));
        assert!((4_900..=5_000).contains(&behind_ms));
        assert!(clock.now() >= Timestamp::from_millis(1_005_000));
    }

    #[test]
    fn jump_of_a_manual_clock_is_no_time_that_passed() {
        let clock = ManualClock::at(Timestamp::from_millis(5_000));
        let before = clock.monotonic();
        clock.jump(1_000);
        clock.advance(seconds(2));
        clock.jump(-4_000);
        assert_eq!((clock.now().as_millis(), clock.monotonic() - before), (4_000, seconds(2)));
    }
}
