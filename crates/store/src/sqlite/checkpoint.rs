//! Moves the write-ahead log into the database file, on a connection of its own, so that no commit pays for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;

use super::Shared;
use super::link::{Link, Use, sqlite_error};
use crate::Error;
use crate::stats::StoreStats;

const INTERVAL: Duration = Duration::from_secs(1);

/// Past this the log is made to start over, which holds the writer for a moment.
const RESTART_BYTES: u64 = 64 * 1024 * 1024;

/// How long such a restart waits for readers, with the writer waiting behind it; then it is left for the next time.
const RESTART_PATIENCE: Duration = Duration::from_millis(50);

/// Bytes of a page's frame in the log beside the page (section 2.2 of SQLite's WAL file format).
const FRAME_HEADER_BYTES: u64 = 24;

pub(super) struct Checkpoints {
    shared: Arc<Shared>,
    link: Link,
    frame_bytes: u64,
    stop: watch::Receiver<bool>,
}

impl Checkpoints {
    pub fn open(shared: Arc<Shared>, stop: watch::Receiver<bool>) -> Result<Self, Error> {
        let link = Link::open(&shared.file, shared.synchronous, Use::Write)?;
        link.connection.busy_timeout(RESTART_PATIENCE).map_err(sqlite_error)?;
        let page: i64 =
            link.connection.query_row("PRAGMA page_size", [], |row| row.get(0)).map_err(sqlite_error)?;
        Ok(Self { shared, link, frame_bytes: page.cast_unsigned() + FRAME_HEADER_BYTES, stop })
    }

    pub fn run(mut self) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_time().build() {
            Ok(runtime) => runtime,
            Err(error) => return tracing::error!(%error, "no checkpoints: the timer cannot be made"),
        };
        loop {
            let stop = &mut self.stop;
            let stopped = runtime.block_on(async {
                tokio::time::timeout(INTERVAL, stop.wait_for(|stop| *stop)).await.is_ok()
            });
            if stopped {
                // Leaves one plain file behind; if a reader is in the way, the log stays and nothing is lost.
                return self.checkpoint("TRUNCATE");
            }
            self.checkpoint("PASSIVE");
            if self.shared.stats.wal_bytes.load(Ordering::Relaxed) > RESTART_BYTES {
                self.checkpoint("RESTART");
            }
        }
    }

    pub fn checkpoint(&self, mode: &'static str) {
        match self.shared.idle.without_views(|| self.run_one(mode)) {
            Ok((busy, frames)) => {
                let bytes = u64::try_from(frames).unwrap_or(0) * self.frame_bytes;
                self.shared.stats.wal_bytes.store(bytes, Ordering::Relaxed);
                if !busy {
                    StoreStats::one(&self.shared.stats.checkpoints);
                }
            }
            Err(error) => {
                tracing::warn!(%error, mode, "a checkpoint failed; the log keeps growing until one succeeds");
            }
        }
    }

    /// Whether somebody was in the way, and how many frames are in the log.
    fn run_one(&self, mode: &'static str) -> rusqlite::Result<(bool, i64)> {
        let pragma = format!("PRAGMA wal_checkpoint({mode})");
        self.link.connection.query_row(&pragma, [], |row| Ok((row.get::<_, i64>(0)? != 0, row.get(1)?)))
    }
}
