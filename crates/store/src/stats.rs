//! Counters and gauges of the store, for metrics. They have no effect on its behaviour.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// Counters and gauges, shared by all threads of a store.
        #[derive(Debug, Default)]
        pub struct StoreStats { $($(#[$doc])* pub(crate) $name: AtomicU64,)+ }

        /// Snapshot of the counters and gauges.
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
    /// Number of transactions committed.
    commits,
    /// Number of transactions rolled back by their closure or because of an error.
    rollbacks,
    /// Number of attempts repeated after a deadlock, a serialization failure or a lost connection.
    retries,
    /// Number of transactions and reads rejected because the queue was full.
    refused_busy,
    /// Number of transactions and reads dropped because their deadline passed before they started.
    dropped_late,
    /// Number of commits whose outcome is unknown.
    outcomes_unknown,
    /// Number of groups committed (SQLite). Each group takes one sync to disk.
    groups,
    /// Number of transactions and reads that are in the queues now.
    queued,
    /// Number of transactions and reads that are running now.
    running,
    /// Number of reads on the calling thread (SQLite) or on a read connection (PostgreSQL).
    reads,
    /// Number of reads that took too long on the calling thread (SQLite) or were queued as slow (PostgreSQL).
    slow_reads,
    /// Number of connections opened again after one was lost.
    reconnects,
    /// Current size of SQLite's write-ahead log in bytes.
    wal_bytes,
    /// Number of checkpoints completed.
    checkpoints,
    /// Number of events to which this process assigned a position.
    sequenced,
    /// Last event position known to this process.
    head,
    /// 1 while this process is the sequencer (PostgreSQL), otherwise 0.
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
