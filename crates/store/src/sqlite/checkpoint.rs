//! Moves the write-ahead log into the database file, on a connection of its own, so that no commit pays for it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;

use super::Shared;
use super::link::{Link, Use};
use crate::Error;
use crate::stats::StoreStats;

const INTERVAL: Duration = Duration::from_secs(1);

/// Past this the log is made to start over, which waits for readers and holds the writer for a moment.
const RESTART_BYTES: u64 = 64 * 1024 * 1024;

pub(super) struct Checkpoints {
    shared: Arc<Shared>,
    link: Link,
    wal: PathBuf,
    stop: watch::Receiver<bool>,
}

impl Checkpoints {
    pub fn open(shared: Arc<Shared>, stop: watch::Receiver<bool>) -> Result<Self, Error> {
        let link = Link::open(&shared.file, shared.synchronous, Use::Write)?;
        let mut wal = shared.file.clone().into_os_string();
        wal.push("-wal");
        Ok(Self { shared, link, wal: wal.into(), stop })
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
            let bytes = self.wal_bytes();
            self.checkpoint(if bytes > RESTART_BYTES { "RESTART" } else { "PASSIVE" });
            self.shared.stats.wal_bytes.store(self.wal_bytes(), Ordering::Relaxed);
        }
    }

    fn wal_bytes(&self) -> u64 {
        std::fs::metadata(&self.wal).map_or(0, |file| file.len())
    }

    fn checkpoint(&self, mode: &'static str) {
        match self.link.connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(())) {
            Ok(()) => StoreStats::one(&self.shared.stats.checkpoints),
            Err(error) => {
                tracing::warn!(%error, mode, "a checkpoint failed; the log keeps growing until one succeeds")
            }
        }
    }
}
