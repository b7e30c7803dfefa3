//! A cache in front of the database that never outlives a change it has heard of, and never trusts a deaf node.
//!
//! A value is kept only if its key was not dropped since before it was read, and used only while the node hears what
//! happens on the others.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A node that has heard nothing for this long asks the database.
const DEAF_AFTER: Duration = Duration::from_secs(3);
/// Longest time an entry is kept, whatever is heard of it.
const TIME_TO_LIVE: Duration = Duration::from_secs(600);
/// Keys share their generations with others, which costs a needless read now and then.
const STRIPES: usize = 1_024;

/// Whether this node hears what happens elsewhere. Clones are the same.
#[derive(Clone, Debug)]
pub struct Hearing(Arc<Heard>);

#[derive(Debug)]
struct Heard {
    since: Instant,
    /// Milliseconds behind `since` at which the outbox was last known to be read to its end, and one; 0 is never.
    last_ms: AtomicU64,
    /// How often everything was forgotten.
    epoch: AtomicU64,
    alone: bool,
}

impl Hearing {
    /// Of a node that shares its database with others, which it does not hear yet, or with none.
    #[expect(clippy::disallowed_methods, reason = "hearing is about real time")]
    pub fn new(alone: bool) -> Self {
        Self(Arc::new(Heard {
            since: Instant::now(),
            last_ms: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            alone,
        }))
    }

    /// Whether no other node shares the database.
    pub fn is_alone(&self) -> bool {
        self.0.alone
    }

    /// Everything that was in the outbox at `asked` has been heard.
    pub fn heard_at(&self, asked: Instant) {
        let ms = u64::try_from(asked.saturating_duration_since(self.0.since).as_millis()).unwrap_or(0);
        self.0.last_ms.fetch_max(ms + 1, Ordering::Release);
    }

    /// Lets all caches forget what they keep, and what is being read.
    pub fn forget_all(&self) {
        self.0.epoch.fetch_add(1, Ordering::SeqCst);
    }

    fn epoch(&self) -> u64 {
        self.0.epoch.load(Ordering::SeqCst)
    }

    #[expect(clippy::disallowed_methods, reason = "hearing is about real time")]
    /// Whether what is kept can be believed: nothing is unheard for longer than is tolerated.
    pub fn is_good(&self) -> bool {
        if self.0.alone {
            return true;
        }
        let Some(last_ms) = self.0.last_ms.load(Ordering::Acquire).checked_sub(1) else { return false };
        Instant::now().saturating_duration_since(self.0.since + Duration::from_millis(last_ms)) < DEAF_AFTER
    }
}

/// A value, when it is too old, and how often everything had been forgotten when it was read.
#[derive(Clone)]
struct Kept<V> {
    value: V,
    until: Instant,
    epoch: u64,
}

/// Values by key.
pub struct Cache<K, V> {
    entries: quick_cache::sync::Cache<K, Kept<V>>,
    generations: Box<[Mutex<u64>]>,
    hasher: RandomState,
    hearing: Hearing,
}

impl<K, V> Cache<K, V>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// An empty one for at most `capacity` values.
    pub fn new(capacity: usize, hearing: Hearing) -> Self {
        Self {
            entries: quick_cache::sync::Cache::new(capacity),
            generations: (0..STRIPES).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            hearing,
        }
    }

    /// The value for `key`: the one that is kept, or else what `read` gives, which is then kept.
    ///
    /// # Errors
    /// Those of `read`; nothing is kept then.
    #[expect(clippy::disallowed_methods, reason = "what is kept ages in real time")]
    pub async fn get_or_read<E>(&self, key: K, read: impl AsyncFnOnce() -> Result<V, E>) -> Result<V, E> {
        let usable = self.hearing.is_good();
        if let Some(value) = usable.then(|| self.find(&key)).flatten() {
            return Ok(value);
        }
        let before = *self.generation(&key).lock().unwrap_or_else(PoisonError::into_inner);
        let epoch = self.hearing.epoch();
        let value = read().await?;
        let now = self.generation(&key).lock().unwrap_or_else(PoisonError::into_inner);
        // What a deaf node read may have changed unheard.
        if usable && *now == before {
            // Under the lock, so that no drop comes between the look and the entry.
            let until = Instant::now() + TIME_TO_LIVE;
            self.entries.insert(key, Kept { value: value.clone(), until, epoch });
        }
        drop(now);
        Ok(value)
    }

    /// Forgets the value of `key`, and keeps none whose reading began before now.
    pub fn forget(&self, key: &K) {
        let mut generation = self.generation(key).lock().unwrap_or_else(PoisonError::into_inner);
        *generation += 1;
        self.entries.remove(key);
    }

    #[expect(clippy::disallowed_methods, reason = "what is kept ages in real time")]
    fn find(&self, key: &K) -> Option<V> {
        let kept = self.entries.get(key)?;
        (Instant::now() < kept.until && kept.epoch == self.hearing.epoch()).then_some(kept.value)
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
    async fn a_value_is_read_once_until_it_is_forgotten() {
        let cache = Cache::new(10, Hearing::new(true));
        assert_eq!((get(&cache, 1).await, get(&cache, 2).await), (1, 1));
        cache.forget(&1);
        assert_eq!((get(&cache, 3).await, get(&cache, 4).await), (3, 3));
    }

    #[tokio::test]
    async fn nothing_read_before_everything_was_forgotten_is_kept() {
        let hearing = Hearing::new(true);
        let cache = Cache::new(10, hearing.clone());
        assert_eq!(get(&cache, 1).await, 1);
        hearing.forget_all();
        let forgotten_meanwhile = async || {
            hearing.forget_all();
            Ok::<_, Infallible>(2)
        };
        assert_eq!(cache.get_or_read(1, forgotten_meanwhile).await.unwrap(), 2);
        assert_eq!((get(&cache, 3).await, get(&cache, 4).await), (3, 3));
    }

    #[tokio::test]
    async fn what_was_read_before_a_change_is_not_kept_behind_it() {
        let cache = Cache::new(10, Hearing::new(true));
        let read = async || {
            let value = 1;
            cache.forget(&1);
            Ok::<_, Infallible>(value)
        };
        assert_eq!(cache.get_or_read(1, read).await.unwrap(), 1);
        assert_eq!(get(&cache, 2).await, 2, "the reader of the old value kept it");
    }

    /// CAC-03: refills race with changes; whoever asks after a change sees it.
    #[test]
    fn refills_race_with_changes_and_lose() {
        use std::sync::atomic::AtomicU64;
        let cache = Cache::<u8, u64>::new(10, Hearing::new(true));
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
                        // The change is made before it is told; what was told before one asked must be seen.
                        assert!(seen + 1 >= least, "saw {seen} after {least}");
                    }
                });
            }
            for _ in 0..20_000 {
                truth.fetch_add(1, Ordering::SeqCst);
                cache.forget(&1);
            }
        });
    }

    /// CAC-03: a node keeps nothing before it hears, and trusts nothing once it no longer does.
    #[tokio::test]
    async fn a_deaf_node_asks_each_time() {
        let hearing = Hearing::new(false);
        let cache = Cache::new(10, hearing.clone());
        assert_eq!((get(&cache, 1).await, get(&cache, 2).await), (1, 2));
        hearing.heard_at(hearing.0.since);
        assert_eq!((get(&cache, 3).await, get(&cache, 4).await), (3, 3));
        let since = hearing.0.since.checked_sub(DEAF_AFTER).unwrap();
        let long_ago = Heard { since, last_ms: AtomicU64::new(1), epoch: AtomicU64::new(0), alone: false };
        assert!(hearing.is_good() && !Hearing(Arc::new(long_ago)).is_good());
    }
}
