//! Read-through cache of database values, invalidated by events.
//!
//! A value is stored only if its key was not invalidated while it was read. Cached values are used only while
//! the node receives the events of other nodes.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time without news from the event log after which the cache is not used.
const STALE_AFTER: Duration = Duration::from_secs(3);
/// Maximum age of an entry.
const TIME_TO_LIVE: Duration = Duration::from_secs(600);
/// Number of generation counters. Several keys share one counter, so a read is sometimes repeated
/// unnecessarily.
const STRIPES: usize = 1_024;

/// Records whether this node receives the events of other nodes. Clones share the state.
#[derive(Clone, Debug)]
pub struct InvalidationFeed(Arc<FeedState>);

#[derive(Debug)]
struct FeedState {
    since: Instant,
    /// Milliseconds from `since` to the last time the event log was read to its end, plus 1. 0 if it was
    /// never read.
    last_ms: AtomicU64,
    /// Number of times that all entries were invalidated.
    epoch: AtomicU64,
    is_single_node: bool,
}

impl InvalidationFeed {
    /// Creates the state of a node that has not read the event log yet. `alone` is true if no other node
    /// shares the database.
    #[expect(clippy::disallowed_methods, reason = "the age of events is measured in real time")]
    pub fn new(alone: bool) -> Self {
        Self(Arc::new(FeedState {
            since: Instant::now(),
            last_ms: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            is_single_node: alone,
        }))
    }

    /// Returns true if no other node shares the database.
    pub fn is_single_node(&self) -> bool {
        self.0.is_single_node
    }

    /// Records that all events emitted before `checked_at` have been received.
    pub fn mark_current_at(&self, checked_at: Instant) {
        let ms = u64::try_from(checked_at.saturating_duration_since(self.0.since).as_millis()).unwrap_or(0);
        self.0.last_ms.fetch_max(ms + 1, Ordering::Release);
    }

    /// Invalidates all entries of all caches, including values that are being read now.
    pub fn invalidate_all(&self) {
        self.0.epoch.fetch_add(1, Ordering::SeqCst);
    }

    fn epoch(&self) -> u64 {
        self.0.epoch.load(Ordering::SeqCst)
    }

    #[expect(clippy::disallowed_methods, reason = "the age of events is measured in real time")]
    /// Returns true if cached values may be used: there is only one node, or the event log was read recently
    /// enough.
    pub fn is_good(&self) -> bool {
        if self.0.is_single_node {
            return true;
        }
        let Some(last_ms) = self.0.last_ms.load(Ordering::Acquire).checked_sub(1) else { return false };
        Instant::now().saturating_duration_since(self.0.since + Duration::from_millis(last_ms)) < STALE_AFTER
    }
}

/// Cached value, with the time at which it expires and the epoch in which it was read.
#[derive(Clone)]
struct CacheEntry<V> {
    value: V,
    until: Instant,
    epoch: u64,
}

/// Cache that reads missing values with a function of the caller.
pub struct Cache<K, V> {
    entries: quick_cache::sync::Cache<K, CacheEntry<V>>,
    generations: Box<[Mutex<u64>]>,
    hasher: RandomState,
    invalidation_feed: InvalidationFeed,
}

impl<K, V> Cache<K, V>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Creates an empty cache for at most `capacity` values.
    pub fn new(capacity: usize, invalidation_feed: InvalidationFeed) -> Self {
        Self {
            entries: quick_cache::sync::Cache::new(capacity),
            generations: (0..STRIPES).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            invalidation_feed,
        }
    }

    /// Returns the cached value of `key`. If there is none, calls `read` and caches the result.
    ///
    /// # Errors
    /// Returns the error of `read`. In this case nothing is cached.
    #[expect(clippy::disallowed_methods, reason = "cached values age in real time")]
    pub async fn get_or_read<E>(&self, key: K, read: impl AsyncFnOnce() -> Result<V, E>) -> Result<V, E> {
        let usable = self.invalidation_feed.is_good();
        if let Some(value) = usable.then(|| self.find(&key)).flatten() {
            return Ok(value);
        }
        let before = *self.generation(&key).lock().unwrap_or_else(PoisonError::into_inner);
        let epoch = self.invalidation_feed.epoch();
        let value = read().await?;
        let now = self.generation(&key).lock().unwrap_or_else(PoisonError::into_inner);
        // A value that was read while events were missing may be outdated, so it is not cached.
        if usable && *now == before {
            // The entry is inserted while the lock is held, so that the key cannot be invalidated at the same
            // time.
            let until = Instant::now() + TIME_TO_LIVE;
            self.entries.insert(key, CacheEntry { value: value.clone(), until, epoch });
        }
        drop(now);
        Ok(value)
    }

    /// Invalidates `key`, including values of the key that are being read now.
    pub fn invalidate(&self, key: &K) {
        let mut generation = self.generation(key).lock().unwrap_or_else(PoisonError::into_inner);
        *generation += 1;
        self.entries.remove(key);
    }

    #[expect(clippy::disallowed_methods, reason = "cached values age in real time")]
    fn find(&self, key: &K) -> Option<V> {
        let kept = self.entries.get(key)?;
        (Instant::now() < kept.until && kept.epoch == self.invalidation_feed.epoch()).then_some(kept.value)
    }

    fn generation(&self, key: &K) -> &Mutex<u64> {
        let hash = self.hasher.hash_one(key);
        &self.generations[usize::try_from(hash % STRIPES as u64).unwrap_or(0)]
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    async fn get(cache: &Cache<u8, u8>, fresh: u8) -> u8 {
        cache.get_or_read(1, async || Ok::<_, Infallible>(fresh)).await.unwrap()
    }

    #[tokio::test]
    async fn cached_value_is_used_until_invalidated() {
        let cache = Cache::new(10, InvalidationFeed::new(true));
        assert_eq!((get(&cache, 1).await, get(&cache, 2).await), (1, 1));
        cache.invalidate(&1);
        assert_eq!((get(&cache, 3).await, get(&cache, 4).await), (3, 3));
    }

    #[tokio::test]
    async fn invalidate_all_discards_values_being_read() {
        let invalidation_feed = InvalidationFeed::new(true);
        let cache = Cache::new(10, invalidation_feed.clone());
        assert_eq!(get(&cache, 1).await, 1);
        invalidation_feed.invalidate_all();
        let forgotten_meanwhile = async || {
            invalidation_feed.invalidate_all();
            Ok::<_, Infallible>(2)
        };
        assert_eq!(cache.get_or_read(1, forgotten_meanwhile).await.unwrap(), 2);
        assert_eq!((get(&cache, 3).await, get(&cache, 4).await), (3, 3));
    }

    #[tokio::test]
    async fn value_read_before_invalidation_is_not_cached() {
        let cache = Cache::new(10, InvalidationFeed::new(true));
        let read = async || {
            let value = 1;
            cache.invalidate(&1);
            Ok::<_, Infallible>(value)
        };
        assert_eq!(cache.get_or_read(1, read).await.unwrap(), 1);
        assert_eq!(get(&cache, 2).await, 2, "the old value was cached");
    }

    /// CAC-03: reads run concurrently with invalidations. A read that starts after a change returns the new
    /// value.
    #[test]
    fn concurrent_reads_never_return_invalidated_values() {
        use std::sync::atomic::AtomicU64;
        let cache = Cache::<u8, u64>::new(10, InvalidationFeed::new(true));
        let truth = AtomicU64::new(0);
        let (cache, truth) = (&cache, &truth);
        std::thread::scope(|threads| {
            for _ in 0..3 {
                threads.spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                    let read = async || Ok::<_, Infallible>(truth.load(Ordering::SeqCst));
                    while truth.load(Ordering::SeqCst) < 20_000 {
                        let least = truth.load(Ordering::SeqCst);
                        let seen = runtime.block_on(cache.get_or_read(1, read)).unwrap();
                        // Each change is made before its invalidation. A read after the invalidation must see
                        // the change.
                        assert!(seen + 1 >= least, "read {seen} after an invalidation at {least}");
                    }
                });
            }
            for _ in 0..20_000 {
                truth.fetch_add(1, Ordering::SeqCst);
                cache.invalidate(&1);
            }
        });
    }

    /// CAC-03: a node does not cache before it receives events, and does not use the cache after events stop.
    #[tokio::test]
    async fn node_without_events_does_not_cache() {
        let invalidation_feed = InvalidationFeed::new(false);
        let cache = Cache::new(10, invalidation_feed.clone());
        assert_eq!((get(&cache, 1).await, get(&cache, 2).await), (1, 2));
        invalidation_feed.mark_current_at(invalidation_feed.0.since);
        assert_eq!((get(&cache, 3).await, get(&cache, 4).await), (3, 3));
        let since = invalidation_feed.0.since.checked_sub(STALE_AFTER).unwrap();
        let long_ago =
            FeedState { since, last_ms: AtomicU64::new(1), epoch: AtomicU64::new(0), is_single_node: false };
        assert!(invalidation_feed.is_good() && !InvalidationFeed(Arc::new(long_ago)).is_good());
    }
}
