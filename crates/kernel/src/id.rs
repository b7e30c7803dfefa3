//! UUIDv7 ids (RFC 9562, section 5.7): typed per thing, ordered by the time of their making within a process.

use std::sync::Mutex;

use uuid::{Builder, Uuid};

use crate::{Random, SeededRandom, SystemRandom, Timestamp};

/// Declares id types: a UUID that cannot be mixed up with another thing's.
///
/// They page history only. "What is new" is asked by position, never by id.
#[macro_export]
macro_rules! id_type {
    ($($(#[$doc:meta])* $name:ident)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, $crate::__serde::Serialize, $crate::__serde::Deserialize)]
        #[serde(crate = "kith_kernel::__serde")]
        pub struct $name(pub $crate::uuid::Uuid);

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        $crate::scalar_schema! { $name => "Uuid", String, Uuid }

        impl ::std::str::FromStr for $name {
            type Err = $crate::uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                ::std::str::FromStr::from_str(text).map(Self)
            }
        }
    )+};
}

/// Makes ids.
pub trait Ids: Send + Sync {
    /// A new id, greater than each made before it by the same source.
    fn next(&self, now: Timestamp) -> Uuid;
}

/// Random bytes in an id: its `rand_b` field, whose first two bits are the variant's.
const RANDOM_BYTES: usize = 8;
/// Ids whose random bytes are asked for at once: asking the system costs more than all else about an id.
const AT_ONCE: usize = 64;

/// UUIDv7 whose `rand_a` field counts within a millisecond, so that one process makes them in ascending order.
pub struct TimeOrderedIds<R = SystemRandom> {
    random: R,
    state: Mutex<State>,
}

struct State {
    /// Milliseconds and the 12-bit count within them, as one number that only grows.
    last: u64,
    /// Random bytes, each for one id only.
    ahead: [[u8; RANDOM_BYTES]; AT_ONCE],
    used: usize,
}

/// Ids that repeat from run to run.
pub type SeededIds = TimeOrderedIds<SeededRandom>;

impl<R: Random> TimeOrderedIds<R> {
    /// Ids whose random part comes from `random`.
    pub const fn new(random: R) -> Self {
        let state = State { last: 0, ahead: [[0; RANDOM_BYTES]; AT_ONCE], used: AT_ONCE };
        Self { random, state: Mutex::new(state) }
    }
}

impl<R: Random> Ids for TimeOrderedIds<R> {
    fn next(&self, now: Timestamp) -> Uuid {
        let floor = u64::try_from(now.as_millis()).unwrap_or(0) << 12;
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let tick = floor.max(state.last + 1);
        state.last = tick;
        if state.used == AT_ONCE {
            self.random.fill(state.ahead.as_flattened_mut());
            state.used = 0;
        }
        let mut tail = [0; 2 + RANDOM_BYTES];
        tail[2..].copy_from_slice(&state.ahead[state.used]);
        state.used += 1;
        drop(state);
        tail[..2].copy_from_slice(&u16::to_be_bytes((tick & 0xfff) as u16));
        Builder::from_unix_timestamp_millis(tick >> 12, &tail).into_uuid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_ascend_within_a_millisecond_and_past_its_4096() {
        let ids = SeededIds::new(SeededRandom::new(7));
        let now = Timestamp::from_millis(1_763_716_151_007);
        let made: Vec<_> = (0..10_000).map(|_| ids.next(now)).collect();
        assert!(made.is_sorted());
        assert!(made.iter().all(|id| id.get_version_num() == 7));
    }

    #[test]
    fn a_clock_that_steps_back_does_not_make_ids_descend() {
        let ids = SeededIds::new(SeededRandom::new(7));
        let first = ids.next(Timestamp::from_millis(2_000));
        assert!(ids.next(Timestamp::from_millis(1_000)) > first);
    }
}
