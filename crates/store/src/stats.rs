//! Counters of what the store did. Whoever exports metrics reads them; nothing is decided by them.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// Counters and gauges, shared by all threads of a store.
        #[derive(Debug, Default)]
        pub struct StoreStats { $($(#[$doc])* pub(crate) $name: AtomicU64,)+ }

        /// The counters at one moment.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct StatsSnapshot { $($(#[$doc])* pub $name: u64,)+ }

        impl StoreStats {
            pub(crate) fn snapshot(&self) -> StatsSnapshot {
                StatsSnapshot { $($name: self.$name.load(Ordering::Relaxed),)+ }
            }
        }
    };
}

stats! {
    /// Transactions committed.
    commits,
    /// Transactions rolled back by their closure's decision or an error.
    rollbacks,
    /// Runs repeated after a deadlock, a serialization failure or a lost connection.
    retries,
    /// Transactions and reads refused because the queue was full.
    refused_busy,
    /// Transactions dropped because their deadline had passed before they started.
    dropped_late,
    /// Commits whose outcome is unknown.
    outcomes_unknown,
    /// Groups committed (SQLite): each is one wait for the disk.
    groups,
    /// Transactions and reads that are waiting now.
    queued,
    /// Transactions and reads that are being done now.
    running,
    /// Reads done in place (SQLite) or on a read connection (PostgreSQL).
    reads,
    /// Reads that took too long in place and moved to the slow lane.
    slow_reads,
    /// Connections made anew after one was lost.
    reconnects,
    /// Bytes in SQLite's write-ahead log now.
    wal_bytes,
    /// Checkpoints run.
    checkpoints,
    /// Events given a position by this process.
    sequenced,
    /// The last position known to this process.
    head,
    /// 1 while this process is the sequencer.
    sequencer,
}

impl StoreStats {
    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn less(counter: &AtomicU64) {
        counter.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn one(counter: &AtomicU64) {
        Self::add(counter, 1);
    }
}
