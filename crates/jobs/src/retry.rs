//! Retry policy: delays between attempts, and the maximum number of failures.

use std::time::Duration;

use kith_kernel::{Random, Timestamp};
use serde::{Deserialize, Serialize};

/// Exponential backoff with jitter: after the n-th failure the delay is a random value between 50 % and 100 %
/// of `base · 2^(n-1)`, limited to `cap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Number of failures after which the job goes to the dead letters, at least 1.
    pub max_attempts: i64,
    /// Delay after the first failure, before jitter.
    pub base: Duration,
    /// Maximum delay.
    pub cap: Duration,
}

/// Delays as stored in the database, if they are not the default delays.
#[derive(Serialize, Deserialize)]
struct StoredDelays {
    base_ms: u64,
    cap_ms: u64,
}

impl RetryPolicy {
    /// Default policy: 10 failures within about eight hours.
    pub const DEFAULT: Self =
        Self { max_attempts: 10, base: Duration::from_secs(10), cap: Duration::from_secs(3 * 3_600) };

    /// Policy without a retry.
    pub const NEVER: Self = Self { max_attempts: 1, ..Self::DEFAULT };

    /// Returns a policy with the default delays and the given maximum number of failures.
    pub const fn times(max_attempts: i64) -> Self {
        Self { max_attempts, ..Self::DEFAULT }
    }

    /// Sets the delay after the first failure and the maximum delay.
    #[must_use]
    pub const fn waiting(mut self, base: Duration, cap: Duration) -> Self {
        (self.base, self.cap) = (base, cap);
        self
    }

    /// Returns the time of the next attempt after `failures` failures, or `None` if the job goes to the dead
    /// letters.
    pub fn next(&self, failures: i64, now: Timestamp, random: &dyn Random) -> Option<Timestamp> {
        (failures < self.max_attempts).then(|| now + self.wait(failures, random))
    }

    fn wait(&self, failures: i64, random: &dyn Random) -> Duration {
        let doublings = u32::try_from(failures - 1).unwrap_or(0).min(40);
        let full_ms = millis(self.base).saturating_mul(1 << doublings).min(millis(self.cap));
        Duration::from_millis(full_ms / 2 + below(random, full_ms - full_ms / 2 + 1))
    }

    /// Returns the delays as stored in the database, or `None` for the default delays.
    pub(crate) fn to_stored(self) -> Option<String> {
        let usual = (Self::DEFAULT.base, Self::DEFAULT.cap);
        let written = StoredDelays { base_ms: millis(self.base), cap_ms: millis(self.cap) };
        ((self.base, self.cap) != usual).then(|| serde_json::to_string(&written).unwrap_or_default())
    }

    /// Creates a policy from the output of [`RetryPolicy::to_stored`]. If the text cannot be parsed, the
    /// default delays are used.
    pub(crate) fn read(max_attempts: i64, text: Option<&str>) -> Self {
        let written = text.and_then(|text| serde_json::from_str::<StoredDelays>(text).ok());
        let policy = Self::times(max_attempts);
        match written {
            None => policy,
            Some(StoredDelays { base_ms, cap_ms }) => {
                policy.waiting(Duration::from_millis(base_ms), Duration::from_millis(cap_ms))
            }
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Returns a random number less than `bound`, which must not be 0.
pub(crate) fn below(random: &dyn Random, bound: u64) -> u64 {
    let mut bytes = [0; 8];
    random.fill(&mut bytes);
    u64::from_le_bytes(bytes) % bound
}

#[cfg(test)]
mod tests {
    use kith_kernel::SeededRandom;

    use super::*;

    /// Covers row REL-07 of the readiness catalogue.
    #[test]
    fn backoff_doubles_with_jitter_up_to_cap() {
        let random = SeededRandom::new(7);
        let policy = RetryPolicy::times(6).waiting(Duration::from_secs(10), Duration::from_secs(60));
        for (failures, full_s) in [(1, 10), (2, 20), (3, 40), (4, 60), (5, 60)] {
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..200 {
                let next = policy.next(failures, Timestamp::EPOCH, &random).unwrap().as_millis();
                assert!((full_s * 500..=full_s * 1_000).contains(&next), "failure {failures}: {next} ms");
                seen.insert(next);
            }
            assert!(seen.len() > 100, "jitter yields {} different delays", seen.len());
        }
        assert_eq!(policy.next(6, Timestamp::EPOCH, &random), None, "the last failure is not retried");
    }

    #[test]
    fn retry_policy_round_trips() {
        for policy in [
            RetryPolicy::DEFAULT,
            RetryPolicy::NEVER,
            RetryPolicy::times(3).waiting(Duration::ZERO, Duration::from_millis(1)),
        ] {
            assert_eq!(RetryPolicy::read(policy.max_attempts, policy.to_stored().as_deref()), policy);
        }
        assert_eq!(RetryPolicy::read(2, Some("not ours")), RetryPolicy::times(2));
    }
}
