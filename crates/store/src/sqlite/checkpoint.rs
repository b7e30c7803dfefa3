//! Checkpoints of SQLite's write-ahead log: copy it into the database file on a separate connection, so that
//! commits are not delayed, and restart the log before it becomes too long.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::watch;

use super::Shared;
use super::connection::{BUSY_TIMEOUT, ConnectionMode, SqliteConnection, sqlite_error};
use crate::Error;
use crate::stats::StoreStats;

const INTERVAL: Duration = Duration::from_secs(1);

/// Length of the log in bytes at which it is restarted. A restart blocks the writer for a moment.
const RESTART_BYTES: u64 = 64 * 1024 * 1024;

/// Growth of the log in bytes before the next attempt, if a reader prevented a restart.
const RETRY_BYTES: u64 = 16 * 1024 * 1024;

/// Maximum time that a restart waits for readers. Writes are blocked during this time.
const RESTART_LOCK_TIMEOUT: Duration = Duration::from_millis(50);

/// Size of a frame header in the log (section 2.2 of SQLite's WAL file format).
const FRAME_HEADER_BYTES: u64 = 24;

pub(super) struct Checkpoints {
    shared: Arc<Shared>,
    connection: SqliteConnection,
    stop: watch::Receiver<bool>,
}

impl Checkpoints {
    pub fn open(shared: Arc<Shared>, stop: watch::Receiver<bool>) -> Result<Self, Error> {
        let connection = SqliteConnection::open(&shared.file, shared.synchronous, ConnectionMode::Write)?;
        Ok(Self { shared, connection, stop })
    }

    pub fn run(mut self) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_time().build() {
            Ok(runtime) => runtime,
            Err(error) => return tracing::error!(%error, "checkpoints are disabled: cannot create a timer"),
        };
        loop {
            let stop = &mut self.stop;
            let stopped = runtime.block_on(async {
                tokio::time::timeout(INTERVAL, stop.wait_for(|stop| *stop)).await.is_ok()
            });
            if stopped {
                // Afterwards the database is a single file. If a reader prevents this, the log file remains
                // and no data is lost.
                self.checkpoint("TRUNCATE");
                return;
            }
            self.checkpoint("PASSIVE");
        }
    }

    pub fn checkpoint(&self, mode: &'static str) {
        let _alone = self.shared.checkpointing.lock().unwrap_or_else(PoisonError::into_inner);
        checkpoint(&self.shared, &self.connection.raw, mode);
    }
}

/// Restarts of the write-ahead log. The writer restarts the log between two groups, because only then nothing
/// is being written.
pub(super) struct LogRestarts {
    shared: Arc<Shared>,
    /// Length of the log in bytes at which a restart is attempted.
    at_bytes: u64,
}

impl LogRestarts {
    pub const fn new(shared: Arc<Shared>) -> Self {
        Self { shared, at_bytes: RESTART_BYTES }
    }

    /// Makes `connection` record the length of the log after each commit.
    pub fn measure(&self, connection: &mut SqliteConnection) -> Result<(), Error> {
        let page: i64 =
            connection.raw.query_row("PRAGMA page_size", [], |row| row.get(0)).map_err(sqlite_error)?;
        let (shared, frame_bytes) = (Arc::clone(&self.shared), page.cast_unsigned() + FRAME_HEADER_BYTES);
        let hook = move |_: &mut rusqlite::hooks::Wal, frames: i32| {
            let bytes = u64::try_from(frames).unwrap_or(0) * frame_bytes;
            shared.stats.wal_bytes.store(bytes, Ordering::Relaxed);
            Ok(())
        };
        connection.raw.wal_hook(Some(hook)).map_err(sqlite_error)
    }

    /// Restarts the log if it is too long. Only pages that were written since the last checkpoint have to be
    /// copied.
    pub fn restart_if_long(&mut self, connection: &SqliteConnection) {
        let bytes = self.shared.stats.wal_bytes.load(Ordering::Relaxed);
        if bytes <= self.at_bytes {
            return;
        }
        // SQLite rejects concurrent checkpoints. If one is running, the restart is tried again after the next
        // group.
        let Ok(_alone) = self.shared.checkpointing.try_lock() else { return };
        let restarted = set_busy_timeout(connection, RESTART_LOCK_TIMEOUT)
            .is_ok_and(|()| checkpoint(&self.shared, &connection.raw, "RESTART"));
        if let Err(error) = set_busy_timeout(connection, BUSY_TIMEOUT) {
            tracing::warn!(%error, "the writer's lock timeout could not be restored");
        }
        self.at_bytes = if restarted { RESTART_BYTES } else { bytes + RETRY_BYTES };
        if restarted {
            self.shared.stats.wal_bytes.store(0, Ordering::Relaxed);
        }
    }
}

fn set_busy_timeout(connection: &SqliteConnection, timeout: Duration) -> Result<(), Error> {
    connection.raw.busy_timeout(timeout).map_err(sqlite_error)
}

/// Runs a checkpoint. Returns true if no reader or writer blocked it.
fn checkpoint(shared: &Shared, raw: &Connection, mode: &'static str) -> bool {
    let pragma = format!("PRAGMA wal_checkpoint({mode})");
    let run = || raw.query_row(&pragma, [], |row| row.get::<_, i64>(0));
    match shared.idle.without_snapshots(run) {
        Ok(busy) => {
            if busy == 0 {
                StoreStats::one(&shared.stats.checkpoints);
            }
            busy == 0
        }
        Err(error) => {
            tracing::warn!(%error, mode, "a checkpoint failed; the write-ahead log grows until one succeeds");
            false
        }
    }
}
