//! Notification channels: a transaction notifies a channel, and listeners on all nodes wake up after the
//! commit. A notification can be lost with a connection, so listeners must also poll regularly. Several
//! notifications can arrive as one.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

/// Listener on one channel. It wakes up when the channel is notified on this or another node.
#[derive(Clone, Debug)]
pub struct ChannelListener(watch::Receiver<u64>);

impl ChannelListener {
    /// Waits until the channel was notified after the previous call. Never returns after the store has shut
    /// down.
    pub async fn notified(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Discards pending notifications.
    pub fn discard_pending(&mut self) {
        self.0.mark_unchanged();
    }
}

/// Notification channels of one open database.
#[derive(Debug)]
pub(crate) struct Channels {
    /// Random id that distinguishes this node's announcements from those of other nodes.
    node: u64,
    listeners: Mutex<Listeners>,
    unannounced: Mutex<BTreeSet<String>>,
}

/// Channels that have or had listeners.
#[derive(Debug, Default)]
struct Listeners {
    all: HashMap<String, watch::Sender<u64>>,
    /// Number of channels at which the channels without listeners are removed.
    limit: usize,
}

/// Maximum number of channel names waiting to be announced to other nodes. Further names are dropped, which
/// is allowed because notifications may be lost.
const MAX_UNANNOUNCED: usize = 10_000;
/// Minimum number of channels before channels without listeners are removed.
const MIN_CLEANUP_CHANNELS: usize = 100;

impl Default for Channels {
    fn default() -> Self {
        Self {
            node: RandomState::new().hash_one(0),
            listeners: Mutex::default(),
            unannounced: Mutex::default(),
        }
    }
}

impl Channels {
    pub fn listen(&self, name: &str) -> ChannelListener {
        let mut listened = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        if listened.all.len() >= listened.limit {
            listened.all.retain(|_, sender| sender.receiver_count() > 0);
            listened.limit = (listened.all.len() * 2).max(MIN_CLEANUP_CHANNELS);
        }
        ChannelListener(listened.all.entry(name.to_owned()).or_default().subscribe())
    }

    /// Wakes the listeners on this node.
    pub fn notify(&self, name: &str) {
        let listened = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = listened.all.get(name) {
            sender.send_modify(|version| *version = version.wrapping_add(1));
        }
    }

    /// Wakes the listeners on this node, and queues the names to be announced to other nodes. Returns true if
    /// names were added to the queue.
    pub fn notify_all_nodes(&self, names: &BTreeSet<String>) -> bool {
        names.iter().for_each(|name| self.notify(name));
        let mut unannounced = self.unannounced.lock().unwrap_or_else(PoisonError::into_inner);
        let before = unannounced.len();
        let room = MAX_UNANNOUNCED.saturating_sub(before);
        unannounced.extend(names.iter().take(room).cloned());
        unannounced.len() > before
    }

    /// Removes the queued names from the queue and returns them as `NOTIFY` statements.
    pub fn announcement(&self) -> String {
        let names = std::mem::take(&mut *self.unannounced.lock().unwrap_or_else(PoisonError::into_inner));
        let notify =
            |name: &String| format!("NOTIFY kith, 'channel {:x} {}';", self.node, name.replace('\'', "''"));
        names.iter().map(notify).collect()
    }

    /// Handles the payload of a notification from the server. Returns false if it is not about a channel.
    pub fn handle_payload(&self, payload: &str) -> bool {
        let Some((node, name)) = payload.strip_prefix("channel ").and_then(|rest| rest.split_once(' '))
        else {
            return false;
        };
        if node != format!("{:x}", self.node) {
            self.notify(name);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_without_listeners_are_removed() {
        let channels = Channels::default();
        let listeners: Vec<_> = (0..10).map(|n| channels.listen(&format!("kept/{n}"))).collect();
        for n in 0..10_000 {
            drop(channels.listen(&format!("jobs/progress/{n}")));
        }
        assert!(channels.listeners.lock().unwrap().all.len() < 1_000);
        channels.notify("kept/3");
        let changed: Vec<_> = listeners.iter().map(|listener| listener.0.has_changed().unwrap()).collect();
        assert_eq!(changed.iter().filter(|changed| **changed).count(), 1, "the listener is still notified");
    }

    #[test]
    fn unsent_announcements_are_bounded() {
        let channels = Channels::default();
        for n in 0..100_000 {
            channels.notify_all_nodes(&BTreeSet::from([format!("jobs/progress/{n}")]));
        }
        let announced = channels.announcement().matches("NOTIFY").count();
        assert!((1_000..=10_000).contains(&announced), "{announced}");
    }
}
