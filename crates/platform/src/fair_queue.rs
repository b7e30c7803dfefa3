//! Bounded queue that is fair between keys. A key with many items delays its own items, but not those of
//! other keys.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Sending end of the queue. The queue returns one item of each key in turn; the items of a key stay in
/// order. Clones share the queue. When the last clone is dropped, [`FairQueueReceiver`] returns the remaining
/// items and then ends.
pub(crate) struct FairQueue<K, T>(Arc<QueueState<K, T>>);

/// Receiving end of the queue, from which threads take items. Clones share the queue.
pub(crate) struct FairQueueReceiver<K, T>(Arc<QueueState<K, T>>);

/// Error that the queue is full and the new item was dropped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct QueueFull;

struct QueueState<K, T> {
    state: Mutex<State<K, T>>,
    item_added: Condvar,
    capacity: usize,
}

struct State<K, T> {
    items: HashMap<K, VecDeque<T>>,
    /// Keys that have items, in the order in which their next items are returned.
    turns: VecDeque<K>,
    len: usize,
    senders: usize,
}

/// Creates a queue for at most `capacity` items.
pub(crate) fn fair_queue<K, T>(capacity: usize) -> (FairQueue<K, T>, FairQueueReceiver<K, T>) {
    let state = State { items: HashMap::new(), turns: VecDeque::new(), len: 0, senders: 1 };
    let shared = Arc::new(QueueState { state: Mutex::new(state), item_added: Condvar::new(), capacity });
    (FairQueue(Arc::clone(&shared)), FairQueueReceiver(shared))
}

impl<K, T> QueueState<K, T> {
    fn state(&self) -> MutexGuard<'_, State<K, T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash, T> FairQueue<K, T> {
    /// Adds an item. If the queue is full, drops the newest item of the key that has the most items.
    ///
    /// # Errors
    /// Returns [`QueueFull`] and drops the new item if the queue is full and no key has at least two items
    /// more than `key`.
    pub fn push(&self, key: K, item: T) -> Result<(), QueueFull> {
        let mut state = self.0.state();
        let dropped =
            if state.len >= self.0.capacity { Some(state.make_room(&key).ok_or(QueueFull)?) } else { None };
        let items = state.items.entry(key.clone()).or_default();
        let is_first = items.is_empty();
        items.push_back(item);
        state.len += 1;
        if is_first {
            state.turns.push_back(key);
        }
        drop(state);
        self.0.item_added.notify_one();
        // The item is dropped after the lock is released, because this wakes the task that waits for the
        // item.
        drop(dropped);
        Ok(())
    }

    /// Returns the number of waiting items.
    pub fn len(&self) -> usize {
        self.0.state().len
    }
}

impl<K: Clone + Eq + Hash, T> State<K, T> {
    fn make_room(&mut self, key: &K) -> Option<T> {
        let own = self.items.get(key).map_or(0, VecDeque::len);
        let (_, longest) = self.items.iter_mut().max_by_key(|(_, items)| items.len())?;
        // If a difference of one were enough, two keys would evict each other's items in turn.
        if longest.len() < own + 2 {
            return None;
        }
        self.len -= 1;
        longest.pop_back()
    }

    fn take(&mut self) -> Option<T> {
        let key = self.turns.pop_front()?;
        let items = self.items.get_mut(&key)?;
        let item = items.pop_front();
        self.len -= usize::from(item.is_some());
        if items.is_empty() {
            self.items.remove(&key);
        } else {
            self.turns.push_back(key);
        }
        item
    }
}

impl<K: Clone + Eq + Hash, T> FairQueueReceiver<K, T> {
    /// Returns the next item, or `None` if the queue is empty. Does not wait.
    pub fn try_take(&self) -> Option<T> {
        self.0.state().take()
    }

    /// Waits for the next item. Returns `None` if the queue is empty and all senders are dropped.
    pub fn take(&self) -> Option<T> {
        let mut state = self.0.state();
        loop {
            if let Some(item) = state.take() {
                return Some(item);
            }
            if state.senders == 0 {
                return None;
            }
            state = self.0.item_added.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<K, T> Clone for FairQueue<K, T> {
    fn clone(&self) -> Self {
        self.0.state().senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<K, T> Drop for FairQueue<K, T> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.senders -= 1;
        if state.senders == 0 {
            self.0.item_added.notify_all();
        }
    }
}

impl<K, T> Clone for FairQueueReceiver<K, T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K, T> std::fmt::Debug for FairQueue<K, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FairQueue").field("len", &self.0.state().len).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(waiting: &FairQueueReceiver<u8, u8>) -> Vec<u8> {
        std::iter::from_fn(|| waiting.try_take()).collect()
    }

    #[test]
    fn keys_are_served_in_turn() {
        let (queue, waiting) = fair_queue(10);
        for item in [11, 12, 13, 21, 31, 22] {
            queue.push(item / 10, item).unwrap();
        }
        assert_eq!(queue.len(), 6);
        assert_eq!(waiting.take(), Some(11));
        queue.push(4, 41).unwrap();
        assert_eq!(taken(&waiting), [21, 31, 12, 41, 22, 13]);
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn full_queue_evicts_newest_item_of_fullest_key() {
        let (queue, waiting) = fair_queue(4);
        for item in [11, 12, 13, 14] {
            queue.push(1, item).unwrap();
        }
        assert_eq!(queue.push(1, 15), Err(QueueFull));
        assert_eq!((queue.push(2, 21), queue.push(2, 22)), (Ok(()), Ok(())));
        assert_eq!(queue.push(2, 23), Err(QueueFull), "a key with an equal share cannot evict an item");
        assert_eq!(queue.push(3, 31), Ok(()), "a key with a smaller share evicts an item");
        assert_eq!(queue.len(), 4);
        let left = taken(&waiting);
        assert!(left.contains(&31) && left.contains(&11) && left.contains(&21), "{left:?}");
    }

    #[test]
    fn receiver_ends_with_last_sender() {
        let (queue, waiting) = fair_queue::<u8, u8>(4);
        let other = queue.clone();
        let thread = std::thread::spawn(move || std::iter::from_fn(|| waiting.take()).collect::<Vec<_>>());
        queue.push(1, 1).unwrap();
        drop(queue);
        other.push(1, 2).unwrap();
        drop(other);
        assert_eq!(thread.join().unwrap(), [1, 2]);
    }
}
