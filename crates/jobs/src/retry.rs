//! When a job that has failed is tried again, and when it is given up.

use std::time::Duration;

use kith_kernel::{Random, Timestamp};
use serde::{Deserialize, Serialize};

/// Exponential backoff with jitter: after the n-th failure a job waits for `base · 2^(n-1)`, at most `cap`, and of that
/// wait a random part between half and all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Failures after which it is given up, from 1.
    pub max_attempts: i64,
    /// Wait after the first failure.
    pub base: Duration,
    /// Longest wait.
    pub cap: Duration,
}

/// As it is kept, where it is not the default.
#[derive(Serialize, Deserialize)]
struct Written {
    base_ms: u64,
    cap_ms: u64,
}

impl Retry {
    /// 10 failures, over about eight hours.
    pub const DEFAULT: Self =
        Self { max_attempts: 10, base: Duration::from_secs(10), cap: Duration::from_secs(3 * 3_600) };

    /// Never tried again.
    pub const NEVER: Self = Self { max_attempts: 1, ..Self::DEFAULT };

    /// The default's waits, given up after as many failures.
    pub const fn times(max_attempts: i64) -> Self {
        Self { max_attempts, ..Self::DEFAULT }
    }

    /// Other waits.
    #[must_use]
    pub const fn waiting(mut self, base: Duration, cap: Duration) -> Self {
        (self.base, self.cap) = (base, cap);
        self
    }

    /// When it is tried again after its n-th failure, or `None` if it is given up.
    pub fn next(&self, failures: i64, now: Timestamp, random: &dyn Random) -> Option<Timestamp> {
        (failures < self.max_attempts).then(|| now + self.wait(failures, random))
    }

    fn wait(&self, failures: i64, random: &dyn Random) -> Duration {
        let doublings = u32::try_from(failures - 1).unwrap_or(0).min(40);
        let full_ms = millis(self.base).saturating_mul(1 << doublings).min(millis(self.cap));
        Duration::from_millis(full_ms / 2 + below(random, full_ms - full_ms / 2 + 1))
    }

    /// The text it is kept as; none for the default's waits.
    pub(crate) fn written(&self) -> Option<String> {
        let usual = (Self::DEFAULT.base, Self::DEFAULT.cap);
        let written = Written { base_ms: millis(self.base), cap_ms: millis(self.cap) };
        ((self.base, self.cap) != usual).then(|| serde_json::to_string(&written).unwrap_or_default())
    }

    /// Reads what [`Retry::written`] wrote. A text that nobody here wrote counts as the default.
    pub(crate) fn read(max_attempts: i64, text: Option<&str>) -> Self {
        let written = text.and_then(|text| serde_json::from_str::<Written>(text).ok());
        let policy = Self::times(max_attempts);
        match written {
            None => policy,
            Some(Written { base_ms, cap_ms }) => {
                policy.waiting(Duration::from_millis(base_ms), Duration::from_millis(cap_ms))
            }
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A random number below `bound`, which is not 0.
pub(crate) fn below(random: &dyn Random, bound: u64) -> u64 {
    let mut bytes = [0; 8];
    random.fill(&mut bytes);
    u64::from_le_bytes(bytes) % bound
}

#[cfg(test)]
mod tests {
    use kith_kernel::SeededRandom;

    use super::*;

    /// REL-07.
    #[test]
    fn waits_double_with_jitter_up_to_the_cap_and_end() {
        let random = SeededRandom::new(7);
        let policy = Retry::times(6).waiting(Duration::from_secs(10), Duration::from_secs(60));
        for (failures, full_s) in [(1, 10), (2, 20), (3, 40), (4, 60), (5, 60)] {
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..200 {
                let next = policy.next(failures, Timestamp::EPOCH, &random).unwrap().as_millis();
                assert!((full_s * 500..=full_s * 1_000).contains(&next), "failure {failures}: {next} ms");
                seen.insert(next);
            }
            assert!(seen.len() > 100, "jitter: {} different waits", seen.len());
        }
        assert_eq!(policy.next(6, Timestamp::EPOCH, &random), None, "given up");
    }

    #[test]
    fn a_policy_reads_back() {
        for policy in
            [Retry::DEFAULT, Retry::NEVER, Retry::times(3).waiting(Duration::ZERO, Duration::from_millis(1))]
        {
            assert_eq!(Retry::read(policy.max_attempts, policy.written().as_deref()), policy);
        }
        assert_eq!(Retry::read(2, Some("not ours")), Retry::times(2));
    }
}
