//! Typed UUIDv7 ids (RFC 9562, section 5.7). Ids created by one process are in ascending order.

use std::sync::Mutex;

use uuid::{Builder, Uuid};

use crate::{Random, SeededRandom, SystemRandom, Timestamp};

/// Declares id types as newtypes around a UUID, so that ids of different entities cannot be confused.
///
/// Use ids for paging through history only. To read new data, use event positions: ids from different
/// processes are not ordered by commit time.
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

/// Id generator.
pub trait Ids: Send + Sync {
    /// Returns a new id that is greater than every id this generator has returned before.
    fn next(&self, now: Timestamp) -> Uuid;
}

/// Number of random bytes in an id. They fill the field `rand_b`; its first two bits are overwritten by the
/// variant.
const RANDOM_BYTES: usize = 8;
/// Number of ids for which random bytes are read at once. One system call costs more than all other steps of
/// creating an id.
const RANDOM_BATCH_IDS: usize = 64;

/// Generator of UUIDv7 ids. The field `rand_a` counts the ids within a millisecond, so that the ids of one
/// process ascend.
pub struct TimeOrderedIds<R = SystemRandom> {
    random: R,
    state: Mutex<State>,
}

struct State {
    /// Milliseconds and the 12-bit counter within the millisecond, as one number that never decreases.
    last: u64,
    /// Random bytes that were read in advance. Each element is used for one id.
    random_batch: [[u8; RANDOM_BYTES]; RANDOM_BATCH_IDS],
    used: usize,
}

/// Id generator with a reproducible random part, for tests.
pub type SeededIds = TimeOrderedIds<SeededRandom>;

impl<R: Random> TimeOrderedIds<R> {
    /// Creates a generator that reads its random bytes from `random`.
    pub const fn new(random: R) -> Self {
        let state =
            State { last: 0, random_batch: [[0; RANDOM_BYTES]; RANDOM_BATCH_IDS], used: RANDOM_BATCH_IDS };
        Self { random, state: Mutex::new(state) }
    }
}

impl<R: Random> Ids for TimeOrderedIds<R> {
    fn next(&self, now: Timestamp) -> Uuid {
        let floor = u64::try_from(now.as_millis()).unwrap_or(0) << 12;
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let tick = floor.max(state.last + 1);
        state.last = tick;
        if state.used == RANDOM_BATCH_IDS {
            self.random.fill(state.random_batch.as_flattened_mut());
            state.used = 0;
        }
        let mut tail = [0; 2 + RANDOM_BYTES];
        tail[2..].copy_from_slice(&state.random_batch[state.used]);
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
    fn ids_ascend_beyond_4096_per_millisecond() {
        let ids = SeededIds::new(SeededRandom::new(7));
        let now = Timestamp::from_millis(1_763_716_151_007);
        let made: Vec<_> = (0..10_000).map(|_| ids.next(now)).collect();
        assert!(made.is_sorted());
        assert!(made.iter().all(|id| id.get_version_num() == 7));
    }

    #[test]
    fn ids_ascend_when_clock_goes_back() {
        let ids = SeededIds::new(SeededRandom::new(7));
        let first = ids.next(Timestamp::from_millis(2_000));
        assert!(ids.next(Timestamp::from_millis(1_000)) > first);
    }
}
