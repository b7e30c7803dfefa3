//! Dedicated connection of a node. It listens for notifications and notifies other nodes. While it holds the
//! advisory lock, the node is the sequencer. If the connection is lost, the lock is lost too, so a former
//! sequencer cannot write.

mod lead;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_postgres::AsyncMessage;

use super::Shared;
use super::connection::PostgresConnection;
use super::session::{PostgresSession, TransactionMode};
use crate::stats::StoreStats;
use crate::threads::Threads;
use crate::tx::EngineSession;
use crate::{Error, Query, outbox};
use lead::LeaderState;

/// Maximum interval between two checks for work that was not announced, and between two attempts to acquire
/// the sequencer's lock.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Minimum interval between two sequencing passes, and between two announcements. Work that arrives in this
/// interval is processed in one batch.
const MIN_PASS_INTERVAL: Duration = Duration::from_millis(4);

/// Delay before the connection is opened again.
const RECONNECT_DELAY: Duration = Duration::from_millis(100);

/// Idle time after which the server ends the session. A running process sends a query every
/// [`POLL_INTERVAL`]. Without this limit, a frozen process would hold the lock forever. When the process
/// resumes, its session is closed, so it cannot assign positions.
const IDLE_SESSION_TIMEOUT: Duration = Duration::from_secs(5);

/// Statement timeout of this connection. It is long because after a restore a statement may have to scan a
/// long history.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(600);

/// SQL that tries to acquire the sequencer's advisory lock. Its two-part key cannot collide with the
/// single-number keys of transactions. The second column is true if the server has become read-only without
/// ending its sessions.
const TRY_LOCK: &str =
    "SELECT pg_try_advisory_lock(1262703720, 2), current_setting('default_transaction_read_only') = 'on'";

pub(super) fn thread(threads: &Threads, shared: &Arc<Shared>) -> Result<(), Error> {
    let shared = Arc::clone(shared);
    threads.spawn("kith-sequencer", move || run(&shared))
}

fn run(shared: &Arc<Shared>) {
    let waiting = match tokio::runtime::Builder::new_current_thread().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "cannot start the sequencer"),
    };
    while !*shared.stop.borrow() {
        let lost = Direct::open(shared).and_then(|mut direct| direct.work());
        shared.stats.sequencer.store(0, Ordering::Relaxed);
        let Err(error) = lost else { return };
        tracing::warn!(%error, "the sequencer's connection was lost; reconnecting");
        StoreStats::one(&shared.stats.reconnects);
        waiting.block_on(async {
            let mut stop = shared.stop.subscribe();
            // A timeout is the normal end of this wait.
            let _ = tokio::time::timeout(RECONNECT_DELAY, stop.wait_for(|stop| *stop)).await;
        });
    }
}

struct Direct<'s> {
    shared: &'s Shared,
    connection: PostgresConnection,
    /// Notified when another node has announced new work.
    wake_up: Arc<Notify>,
    lead: Option<LeaderState>,
    /// Time of the last attempt to become the sequencer.
    last_leadership_attempt: Instant,
}

impl<'s> Direct<'s> {
    #[expect(clippy::disallowed_methods, reason = "paces real work")]
    fn open(shared: &'s Arc<Shared>) -> Result<Self, Error> {
        let wake_up = Arc::new(Notify::new());
        let (waker, listener) = (Arc::clone(&wake_up), Arc::clone(shared));
        let mut settings = shared.settings.with_idle_limit(IDLE_SESSION_TIMEOUT);
        settings
            .session_setup
            .push_str(&format!("; SET statement_timeout = {}", CATCH_UP_TIMEOUT.as_millis()));
        let connection = PostgresConnection::connect(&settings, None, move |message| {
            if let AsyncMessage::Notification(notice) = message {
                if let Ok(position) = notice.payload().parse() {
                    advance(&listener, position);
                } else if !listener.channels.handle_payload(notice.payload()) {
                    waker.notify_one();
                }
            }
        })?;
        shared.connected(&connection);
        let mut direct =
            Self { shared, connection, wake_up, lead: None, last_leadership_attempt: Instant::now() };
        // The position is set before the connection listens, because notifications can only increase it.
        restart(shared, direct.position()?);
        direct.batch("LISTEN kith")?;
        direct.acquire_leadership()?;
        advance(shared, direct.position()?);
        Ok(direct)
    }

    fn work(&mut self) -> Result<(), Error> {
        while !*self.shared.stop.borrow() {
            if !self.shared.is_on_server(&self.connection) {
                return Err(Error::unavailable("another server accepts writes"));
            }
            let announcement = self.shared.channels.announcement();
            if !announcement.is_empty() {
                self.batch(&announcement)?;
            }
            if self.lead.is_none() && self.last_leadership_attempt.elapsed() >= POLL_INTERVAL {
                self.acquire_leadership()?;
            }
            if self.lead.is_some() {
                let more = self.pass()?;
                self.pause();
                if !more {
                    self.wait();
                }
            } else if self.wait() {
                self.batch("NOTIFY kith, 'committed'")?;
                self.pause();
            }
        }
        Ok(())
    }

    /// Waits until this node commits a transaction, another node announces work, [`POLL_INTERVAL`] passes, or
    /// the store stops. Returns true if this node committed a transaction.
    fn wait(&self) -> bool {
        let mut stop = self.shared.stop.subscribe();
        self.connection.runtime.block_on(async {
            tokio::select! {
                () = self.shared.committed.notified() => true,
                () = self.wake_up.notified() => false,
                () = tokio::time::sleep(POLL_INTERVAL) => false,
                _ = stop.wait_for(|stop| *stop) => false,
            }
        })
    }

    fn pause(&self) {
        self.connection.runtime.block_on(async { tokio::time::sleep(MIN_PASS_INTERVAL).await });
    }

    fn batch(&self, sql: &str) -> Result<(), Error> {
        self.connection.batch(sql).map_err(Error::unavailable)
    }

    fn query(&self, frame: TransactionMode) -> Query<'_> {
        Query::new(EngineSession::Postgres(PostgresSession::new(&self.connection, frame)))
    }

    /// Returns the last assigned position.
    fn position(&self) -> Result<i64, Error> {
        outbox::heads(&self.query(TransactionMode::Plain)).map(|heads| heads.position)
    }

    /// Tries to acquire the lock of the sequencer.
    #[expect(clippy::disallowed_methods, reason = "paces real work")]
    fn acquire_leadership(&mut self) -> Result<(), Error> {
        self.last_leadership_attempt = Instant::now();
        let q = self.query(TransactionMode::Plain);
        let tried = q.one(TRY_LOCK, &[], |row| Ok((row.get::<bool>(0)?, row.get::<bool>(1)?)))?;
        let (is_leader, read_only) = tried.unwrap_or_default();
        refuse_if(read_only)?;
        if !is_leader {
            return Ok(());
        }
        drop(q);
        self.lead()
    }
}

/// Returns an error if the server has become read-only, so that the node connects to another server.
fn refuse_if(read_only: bool) -> Result<(), Error> {
    if read_only { Err(Error::unavailable("the server has become read-only")) } else { Ok(()) }
}

/// Sets the last known position to that of the newly connected server. It can be lower than before, because a
/// failover may have lost commits.
fn restart(shared: &Shared, position: i64) {
    shared.head.send_if_modified(|head| std::mem::replace(head, position) != position);
    shared.stats.head.store(position.cast_unsigned(), Ordering::Relaxed);
}

/// Raises the last known position to `position`.
fn advance(shared: &Shared, position: i64) {
    shared.head.send_if_modified(|head| {
        let grown = position > *head;
        *head = (*head).max(position);
        grown
    });
    shared.stats.head.fetch_max(position.cast_unsigned(), Ordering::Relaxed);
}
