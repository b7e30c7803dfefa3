//! Bells: a transaction rings one, and whoever listens to it on any node wakes once it is committed. A ring may be lost
//! with a connection, so who listens also looks now and then; many rings may be heard as one.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

/// Wakes when somebody has rung, here or on another node.
#[derive(Clone, Debug)]
pub struct Bell(watch::Receiver<u64>);

impl Bell {
    /// Returns once it was rung since this was last asked; never, once the store has shut down.
    pub async fn rung(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Forgets what was rung so far.
    pub fn hush(&mut self) {
        self.0.mark_unchanged();
    }
}

/// All bells of one open database.
#[derive(Debug)]
pub(crate) struct Bells {
    /// Tells this node's own announcements from others'.
    node: u64,
    listened_to: Mutex<Listened>,
    unannounced: Mutex<BTreeSet<String>>,
}

/// Bells that have listeners, or had some.
#[derive(Debug, Default)]
struct Listened {
    all: HashMap<String, watch::Sender<u64>>,
    /// Number of bells at which those without listeners are removed.
    limit: usize,
}

/// Names that may wait to be announced. Others are not: a ring may be lost.
const MAX_UNANNOUNCED: usize = 10_000;
/// Bells below which none is forgotten.
const MIN_LIMIT: usize = 100;

impl Default for Bells {
    fn default() -> Self {
        Self {
            node: RandomState::new().hash_one(0),
            listened_to: Mutex::default(),
            unannounced: Mutex::default(),
        }
    }
}

impl Bells {
    pub fn listen(&self, name: &str) -> Bell {
        let mut listened = self.listened_to.lock().unwrap_or_else(PoisonError::into_inner);
        if listened.all.len() >= listened.limit {
            listened.all.retain(|_, bell| bell.receiver_count() > 0);
            listened.limit = (listened.all.len() * 2).max(MIN_LIMIT);
        }
        Bell(listened.all.entry(name.to_owned()).or_default().subscribe())
    }

    /// Wakes those who listen here.
    pub fn ring(&self, name: &str) {
        let listened = self.listened_to.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bell) = listened.all.get(name) {
            bell.send_modify(|rings| *rings = rings.wrapping_add(1));
        }
    }

    /// Wakes those who listen here, and says whether something is to be announced that was not already.
    pub fn ring_everywhere(&self, names: &BTreeSet<String>) -> bool {
        names.iter().for_each(|name| self.ring(name));
        let mut unannounced = self.unannounced.lock().unwrap_or_else(PoisonError::into_inner);
        let before = unannounced.len();
        let room = MAX_UNANNOUNCED.saturating_sub(before);
        unannounced.extend(names.iter().take(room).cloned());
        unannounced.len() > before
    }

    /// What other nodes are to be told, as statements.
    pub fn announcement(&self) -> String {
        let names = std::mem::take(&mut *self.unannounced.lock().unwrap_or_else(PoisonError::into_inner));
        let notify =
            |name: &String| format!("NOTIFY kith, 'bell {:x} {}';", self.node, name.replace('\'', "''"));
        names.iter().map(notify).collect()
    }

    /// Heeds what another node has announced; says whether it was about a bell at all.
    pub fn heed(&self, payload: &str) -> bool {
        let Some((node, name)) = payload.strip_prefix("bell ").and_then(|rest| rest.split_once(' ')) else {
            return false;
        };
        if node != format!("{:x}", self.node) {
            self.ring(name);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_nobody_listens_to_are_forgotten() {
        let bells = Bells::default();
        let kept: Vec<_> = (0..10).map(|n| bells.listen(&format!("kept/{n}"))).collect();
        for n in 0..10_000 {
            drop(bells.listen(&format!("jobs/progress/{n}")));
        }
        assert!(bells.listened_to.lock().unwrap().all.len() < 1_000);
        bells.ring("kept/3");
        let heard: Vec<_> = kept.iter().map(|bell| bell.0.has_changed().unwrap()).collect();
        assert_eq!(heard.iter().filter(|heard| **heard).count(), 1, "whoever listens still does");
    }

    #[test]
    fn announcements_that_nobody_takes_are_bounded() {
        let bells = Bells::default();
        for n in 0..100_000 {
            bells.ring_everywhere(&BTreeSet::from([format!("jobs/progress/{n}")]));
        }
        let announced = bells.announcement().matches("NOTIFY").count();
        assert!((1_000..=10_000).contains(&announced), "{announced}");
    }
}
