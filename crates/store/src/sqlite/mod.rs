//! SQLite engine: reads on the calling thread, one writer thread that commits in groups, and checkpoints on a
//! separate connection.

mod checkpoint;
mod connection;
mod reader;
mod writer;

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::audit_keys::AuditKeyring;
use crate::channels::Channels;
use crate::closures::{QueueRejection, QueuedRead, QueuedWrite, enqueue};
use crate::folder::DataFolder;
use crate::options::{SqliteOptions, StoreOptions, Synchronous};
use crate::statements::Statements;
use crate::stats::{StatsSnapshot, StoreStats};
use crate::threads::{Threads, WriteActivity};
use crate::{Error, OpenError, Query};

pub(crate) use connection::{ConnectionMode, SqliteConnection, SqliteSession};

pub(crate) const FILE: &str = "kith.db";

/// State shared by all threads of one database.
pub(crate) struct Shared {
    pub file: PathBuf,
    pub synchronous: Synchronous,
    pub stats: StoreStats,
    pub statements: Arc<Statements>,
    pub head: watch::Sender<i64>,
    pub channels: Channels,
    /// Number of commits. It is incremented before a commit is acknowledged.
    pub commits: AtomicU64,
    pub idle: reader::IdlePool,
    /// Locked during a checkpoint.
    pub checkpointing: Mutex<()>,
    pub runs_twice: bool,
    pub deadline: Duration,
    pub activity: WriteActivity,
    pub audit_keyring: Arc<AuditKeyring>,
    #[cfg(feature = "testing")]
    pub faults: crate::testing::Faults,
}

/// Open SQLite database.
pub(crate) struct Engine {
    shared: Arc<Shared>,
    writes: Mutex<Option<std::sync::mpsc::SyncSender<QueuedWrite>>>,
    readers: reader::Readers,
    threads: Threads,
    stop_checkpoints: watch::Sender<bool>,
    folder: Mutex<Option<DataFolder>>,
}

impl Engine {
    pub fn open(
        options: &StoreOptions,
        own: &SqliteOptions,
        audit_keyring: &Arc<AuditKeyring>,
    ) -> Result<Self, OpenError> {
        let folder = DataFolder::claim(&own.folder)?;
        let shared = Arc::new(Shared {
            file: own.folder.join(FILE),
            synchronous: own.synchronous,
            stats: StoreStats::default(),
            statements: Arc::default(),
            head: watch::Sender::new(0),
            channels: Channels::default(),
            commits: AtomicU64::new(0),
            idle: reader::IdlePool::default(),
            checkpointing: Mutex::default(),
            runs_twice: options.runs_twice,
            audit_keyring: Arc::clone(audit_keyring),
            deadline: options.deadline,
            activity: WriteActivity::new(1),
            #[cfg(feature = "testing")]
            faults: crate::testing::Faults::default(),
        });
        let writer = writer::Writer::open(Arc::clone(&shared))?;
        let (writes, queue) = std::sync::mpsc::sync_channel(options.write_queue);
        let readers = reader::Readers::new(own.read_in_place, options.read_queue);
        let stop_checkpoints = watch::Sender::new(false);
        let threads = Threads::default();
        threads.spawn("kith-writer", move || writer.run(&queue))?;
        for _ in 0..reader::SLOW_THREADS {
            threads.spawn("kith-slow-read", readers.slow_lane(Arc::clone(&shared)))?;
        }
        let checkpoints = checkpoint::Checkpoints::open(Arc::clone(&shared), stop_checkpoints.subscribe())?;
        threads.spawn("kith-checkpoint", move || checkpoints.run())?;
        let engine = Self {
            shared,
            writes: Mutex::new(Some(writes)),
            readers,
            threads,
            stop_checkpoints,
            folder: Mutex::new(Some(folder)),
        };
        Ok(engine)
    }

    pub fn enqueue_write(&self, closure: QueuedWrite) -> Result<(), Error> {
        let writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        enqueue(&self.shared.stats, || match &*writes {
            Some(queue) => Ok(queue.try_send(closure)?),
            None => Err(QueueRejection::Closed),
        })
    }

    /// Runs a read on the calling thread. Returns `None` if the read took too long and must be queued as a
    /// slow read.
    pub fn read_in_place(&self, run: &mut dyn FnMut(&Query<'_>)) -> Option<Result<(), Error>> {
        self.readers.in_place(&self.shared, run)
    }

    pub fn enqueue_slow_read(&self, closure: QueuedRead) -> Result<(), Error> {
        self.readers.enqueue_slow(&self.shared, closure)
    }

    pub fn stats(&self) -> StatsSnapshot {
        self.shared.stats.snapshot()
    }

    /// Returns for how long the writer has been busy with one closure or commit.
    pub fn write_stall(&self) -> Duration {
        self.shared.activity.stalled()
    }

    pub fn statements(&self) -> &Statements {
        &self.shared.statements
    }

    pub fn watch_last_position(&self) -> watch::Receiver<i64> {
        self.shared.head.subscribe()
    }

    pub fn channels(&self) -> &Channels {
        &self.shared.channels
    }

    #[cfg(feature = "testing")]
    pub fn faults(&self) -> &crate::testing::Faults {
        &self.shared.faults
    }

    pub fn close(&self) {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.readers.close(&self.shared);
        self.stop_checkpoints.send_replace(true);
        let has_ended = self.threads.wait();
        let folder = self.folder.lock().unwrap_or_else(PoisonError::into_inner).take();
        if !has_ended {
            // An abandoned writer thread may still commit, so the folder remains locked until the process
            // ends.
            std::mem::forget(folder);
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}
