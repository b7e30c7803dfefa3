//! Counters and gauges of the store, for metrics. They affect no behaviour.

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
    /// Transactions committed.
    commits,
    /// Transactions rolled back by their closure or by an error.
    rollbacks,
    /// Attempts repeated after a deadlock, a serialization failure or a lost connection.
    retries,
    /// Transactions and reads rejected because the queue was full.
    refused_busy,
    /// Transactions and reads dropped because their deadline passed before they started.
    dropped_late,
    /// Commits with an unknown outcome.
    outcomes_unknown,
    /// Groups committed (SQLite); each is one sync to disk.
    groups,
    /// Transactions and reads in the queues now.
    queued,
    /// Transactions and reads running now.
    running,
    /// Reads on the calling thread (SQLite) or on a read connection (PostgreSQL).
    reads,
    /// Reads that took too long on the calling thread (SQLite), and reads queued as slow (PostgreSQL).
    slow_reads,
    /// Connections reopened after one was lost.
    reconnects,
    /// Current size of SQLite's write-ahead log in bytes.
    wal_bytes,
    /// Checkpoints completed.
    checkpoints,
    /// Events that this process gave a position.
    sequenced,
    /// Last position known to this process.
    head,
    /// 1 while this process is the sequencer, else 0.
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
