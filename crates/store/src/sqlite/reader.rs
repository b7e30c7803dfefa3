//! Reads run on the calling thread if they are short, and otherwise on two separate threads.
//!
//! Opening and closing a read transaction costs two file locks, as much as a short read. Therefore a
//! connection keeps its snapshot until the next commit, or until a checkpoint needs all readers to release
//! their snapshots.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Shared;
use super::connection::{ConnectionMode, SqliteConnection, SqliteSession, StopAt};
use crate::closures::{QueuedRead, catch_read, enqueue, shut_down};
use crate::stats::StoreStats;
use crate::tx::EngineSession;
use crate::{Error, Query};

pub(super) const SLOW_THREADS: usize = 2;

/// Pool of read connections that are not in use.
#[derive(Default)]
pub(crate) struct IdlePool(Mutex<IdleReaders>);

#[derive(Default)]
struct IdleReaders {
    readers: Vec<Reader>,
    /// Number of running checkpoints. They need all readers to release their snapshots.
    checkpoints: u32,
}

/// Runs reads: on the calling thread up to a time limit, and on threads for slow reads from a queue.
pub(super) struct Readers {
    in_place: Duration,
    slow: async_channel::Sender<QueuedRead>,
    slow_queue: async_channel::Receiver<QueuedRead>,
}

/// Read connection whose statements stop at a time limit.
struct Reader {
    connection: SqliteConnection,
    stop_at: Arc<StopAt>,
    /// Number of commits when the connection last started to read.
    commits: u64,
    /// True while the connection keeps the snapshot from that time.
    has_snapshot: bool,
}

impl Reader {
    fn open(shared: &Shared) -> Result<Self, Error> {
        let connection = SqliteConnection::open(&shared.file, shared.synchronous, ConnectionMode::Read)?;
        let mut connection = connection.measured_in(&shared.statements);
        let stop_at = connection.stoppable()?;
        Ok(Self { connection, stop_at, commits: 0, has_snapshot: false })
    }

    fn query(&self) -> Query<'_> {
        Query::new(EngineSession::Sqlite(SqliteSession::plain(&self.connection)))
    }

    /// Ensures that the next read sees the first `commits` commits.
    fn refresh_snapshot(&mut self, commits: u64) -> Result<(), Error> {
        if self.commits != commits {
            self.release_snapshot()?;
            self.commits = commits;
        } else if !self.has_snapshot {
            // The first read after a commit keeps no snapshot. Otherwise a connection that reads rarely,
            // while much is written, would open and close a transaction for each read.
            self.connection.command("BEGIN")?;
            self.has_snapshot = true;
        }
        Ok(())
    }

    fn release_snapshot(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.has_snapshot) { self.connection.command("ROLLBACK") } else { Ok(()) }
    }
}

impl IdlePool {
    fn lock(&self) -> MutexGuard<'_, IdleReaders> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a connection back into the pool.
    fn put(&self, mut reader: Reader) {
        let mut idle = self.lock();
        // A connection that cannot release its snapshot is dropped.
        if idle.checkpoints == 0 || reader.release_snapshot().is_ok() {
            idle.readers.push(reader);
        }
    }

    /// Runs `checkpoint` while no connection in the pool has a snapshot.
    pub fn without_snapshots<T>(&self, checkpoint: impl FnOnce() -> T) -> T {
        let mut idle = self.lock();
        idle.checkpoints += 1;
        idle.readers.retain_mut(|reader| reader.release_snapshot().is_ok());
        drop(idle);
        let done = checkpoint();
        self.lock().checkpoints -= 1;
        done
    }
}

impl Readers {
    pub fn new(in_place: Duration, queue: usize) -> Self {
        let (slow, slow_queue) = async_channel::bounded(queue);
        Self { in_place, slow, slow_queue }
    }

    #[expect(clippy::disallowed_methods, reason = "bounds real work")]
    pub fn in_place(&self, shared: &Shared, run: &mut dyn FnMut(&Query<'_>)) -> Option<Result<(), Error>> {
        if self.slow.is_closed() {
            return Some(Err(shut_down()));
        }
        let idle = shared.idle.lock().readers.pop();
        // The number is loaded before the read starts. A commit in between is visible to the read as well.
        let commits = shared.commits.load(Ordering::Acquire);
        let opened = idle.map_or_else(|| Reader::open(shared), Ok);
        let looking = opened.and_then(|mut reader| reader.refresh_snapshot(commits).map(|()| reader));
        let mut reader = match looking {
            Ok(reader) => reader,
            Err(error) => return Some(Err(error)),
        };
        StoreStats::one(&shared.stats.reads);
        reader.stop_at.set(Instant::now() + self.in_place);
        let query = reader.query();
        StoreStats::one(&shared.stats.running);
        let result = catch_read(run, &query);
        StoreStats::less(&shared.stats.running);
        let failure = query.failure();
        drop(query);
        reader.stop_at.never();
        // A connection that may be in a bad state is dropped. The next read opens a new connection.
        let is_sound = match &failure {
            None => true,
            Some(Error::Unavailable(_)) => false,
            Some(_) => reader.release_snapshot().is_ok(),
        };
        if is_sound && !self.slow.is_closed() {
            shared.idle.put(reader);
        }
        if matches!(failure, Some(Error::DeadlinePassed)) {
            StoreStats::one(&shared.stats.slow_reads);
            return None;
        }
        Some(result)
    }

    pub fn enqueue_slow(&self, shared: &Shared, closure: QueuedRead) -> Result<(), Error> {
        enqueue(&shared.stats, || Ok(self.slow.try_send(closure)?))
    }

    /// Returns the function that a thread for slow reads runs.
    pub fn slow_lane(&self, shared: Arc<Shared>) -> impl FnOnce() + Send + 'static {
        let queue = self.slow_queue.clone();
        move || {
            let mut reader = None;
            while let Ok(mut closure) = queue.recv_blocking() {
                StoreStats::less(&shared.stats.queued);
                StoreStats::one(&shared.stats.running);
                let outcome = slow_read(&shared, &mut reader, &mut closure);
                StoreStats::less(&shared.stats.running);
                closure.answer(outcome);
            }
        }
    }

    pub fn close(&self, shared: &Shared) {
        self.slow.close();
        shared.idle.lock().readers.clear();
    }
}

#[expect(clippy::disallowed_methods, reason = "deadlines are measured in real time")]
fn slow_read(shared: &Shared, kept: &mut Option<Reader>, closure: &mut QueuedRead) -> Result<(), Error> {
    if closure.deadline() <= Instant::now() {
        StoreStats::one(&shared.stats.dropped_late);
        return Err(Error::DeadlinePassed);
    }
    let reader = kept.take().map_or_else(|| Reader::open(shared), Ok)?;
    reader.stop_at.set(closure.deadline());
    reader.connection.command("BEGIN")?;
    let failure = closure.run(&reader.query());
    reader.stop_at.never();
    reader.connection.command("COMMIT")?;
    match failure {
        // The result of the closure would only report the same timeout.
        Some(Error::DeadlinePassed) => {
            *kept = Some(reader);
            Err(Error::DeadlinePassed)
        }
        Some(_) => Ok(()),
        None => {
            *kept = Some(reader);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use kith_kernel::Timestamp;
    use tokio::sync::watch;

    use super::super::checkpoint::Checkpoints;
    use super::super::{Engine, FILE};
    use super::*;
    use crate::audit_keys::AuditKeyring;
    use crate::closures::{QueuedWrite, Transaction};
    use crate::options::{EngineOptions, SqliteOptions, StoreOptions};
    use crate::test_vault::TestVault;
    use crate::{STORE_MIGRATIONS, Tx, migrate, params};

    fn read(engine: &Engine) -> i64 {
        let sql = "SELECT COALESCE(MAX(position), 0) FROM consumers";
        let mut position = None;
        let mut read = |q: &Query<'_>| position = q.one(sql, &[], |row| row.get(0)).unwrap();
        engine.read_in_place(&mut read).expect("the read finishes on the calling thread").unwrap();
        position.unwrap()
    }

    #[expect(clippy::disallowed_methods, reason = "deadlines are measured in real time")]
    fn write(engine: &Engine, position: i64) {
        let insert = move |tx: &Tx<'_>| {
            tx.exec(
                "INSERT INTO consumers (name, position, owner, leased_until, declared_at) VALUES ($1, $2, '', 0, 0)",
                params![position.to_string(), position],
            )
        };
        let (transaction, result) = Transaction::new(insert);
        let (closure, outcome) = QueuedWrite::new(transaction.0, Instant::now() + Duration::from_secs(5));
        engine.enqueue_write(closure).unwrap();
        outcome.blocking_recv().unwrap().unwrap();
        assert_eq!(result.take().unwrap(), 1);
    }

    fn idle_snapshots(engine: &Engine) -> Vec<bool> {
        engine.shared.idle.lock().readers.iter().map(|reader| reader.has_snapshot).collect()
    }

    #[test]
    fn reader_keeps_snapshot_until_commit_or_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let own = SqliteOptions::in_folder(folder.path());
        let options = StoreOptions::new(EngineOptions::Sqlite(own.clone()), TestVault::with_secret(1));
        migrate::up(&options, &[STORE_MIGRATIONS], Timestamp::EPOCH).unwrap();
        let engine =
            Engine::open(&options, &own, &Arc::new(AuditKeyring::new(TestVault::with_secret(1)))).unwrap();
        for position in 1..=100 {
            write(&engine, position);
            assert_eq!(read(&engine), position);
            assert_eq!(idle_snapshots(&engine), [false], "the first read after a write keeps no snapshot");
            assert_eq!([read(&engine), read(&engine)], [position; 2]);
        }
        assert_eq!(idle_snapshots(&engine), [true]);
        let log = folder.path().join(format!("{FILE}-wal"));
        assert!(log.metadata().unwrap().len() > 0);
        let (_stop, stopped) = watch::channel(false);
        let checkpoints = Checkpoints::open(Arc::clone(&engine.shared), stopped).unwrap();
        // A checkpoint of the engine may be running, so this one is repeated.
        for _ in 0..1_000 {
            checkpoints.checkpoint("TRUNCATE");
            if log.metadata().unwrap().len() == 0 {
                break;
            }
            std::thread::yield_now();
        }
        assert_eq!(log.metadata().unwrap().len(), 0, "a reader blocked the checkpoint");
        assert_eq!((idle_snapshots(&engine), read(&engine)), (vec![false], 100));
        engine.close();
    }
}
