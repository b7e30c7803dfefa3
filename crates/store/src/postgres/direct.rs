//! The one connection per node that is bound to its session: it listens, wakes other nodes, and is the sequencer
//! while it holds the advisory lock. Losing the connection loses the lock, so a deposed sequencer cannot write.

mod lead;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_postgres::AsyncMessage;

use super::Shared;
use super::link::{Frame, Link, Session};
use crate::stats::StoreStats;
use crate::threads::Threads;
use crate::tx::Session as AnySession;
use crate::{Error, Query, outbox};
use lead::Lead;

/// How long to wait at most before looking for work nobody announced, and for the lock of a dead sequencer.
const LOOK: Duration = Duration::from_millis(200);

/// The least time between two passes, and between two announcements: what arrives meanwhile travels together.
const PACE: Duration = Duration::from_millis(4);

/// Wait before a lost connection is made anew.
const RECONNECT: Duration = Duration::from_millis(100);

/// How long the server hears nothing before it ends the session. A process that runs asks every [`LOOK`]; a frozen one would
/// hold the lock for ever. Once it thaws it finds the session gone, on which alone it can place anything.
const FROZEN: Duration = Duration::from_secs(5);

/// How long a statement may take here: after a restore there may be a long history to look through.
const CATCH_UP: Duration = Duration::from_secs(600);

/// The lock's key is in the space of two numbers, apart from the keys of transactions. Beside it: whether the server has
/// turned read-only without ending its sessions.
const TRY_LOCK: &str =
    "SELECT pg_try_advisory_lock(1262703720, 2), current_setting('default_transaction_read_only') = 'on'";

pub(super) fn thread(threads: &Threads, shared: &Arc<Shared>) -> Result<(), Error> {
    let shared = Arc::clone(shared);
    threads.spawn("kith-sequencer", move || run(&shared))
}

fn run(shared: &Arc<Shared>) {
    let waiting = match tokio::runtime::Builder::new_current_thread().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "no sequencer: its timer cannot be made"),
    };
    while !*shared.stop.borrow() {
        let lost = Direct::open(shared).and_then(|mut direct| direct.work());
        shared.stats.sequencer.store(0, Ordering::Relaxed);
        let Err(error) = lost else { return };
        tracing::warn!(%error, "the sequencer's connection was lost; it is made anew");
        StoreStats::one(&shared.stats.reconnects);
        waiting.block_on(async {
            let mut stop = shared.stop.subscribe();
            // Running out of time is the ordinary end of the wait.
            let _ = tokio::time::timeout(RECONNECT, stop.wait_for(|stop| *stop)).await;
        });
    }
}

struct Direct<'s> {
    shared: &'s Shared,
    link: Link,
    /// Rung when another node says something.
    heard: Arc<Notify>,
    lead: Option<Lead>,
    /// When it last tried to lead.
    campaigned: Instant,
}

impl<'s> Direct<'s> {
    #[expect(clippy::disallowed_methods, reason = "paces real work")]
    fn open(shared: &'s Arc<Shared>) -> Result<Self, Error> {
        let heard = Arc::new(Notify::new());
        let (bell, listener) = (Arc::clone(&heard), Arc::clone(shared));
        let mut settings = shared.settings.with_idle_limit(FROZEN);
        settings.greeting.push_str(&format!("; SET statement_timeout = {}", CATCH_UP.as_millis()));
        let link = Link::connect(&settings, None, move |message| {
            if let AsyncMessage::Notification(notice) = message {
                if let Ok(position) = notice.payload().parse() {
                    advance(&listener, position);
                } else if !listener.bells.heed(notice.payload()) {
                    bell.notify_one();
                }
            }
        })?;
        shared.connected(&link);
        let mut direct = Self { shared, link, heard, lead: None, campaigned: Instant::now() };
        // Before anything is heard here: what is heard only advances it.
        restart(shared, direct.position()?);
        direct.batch("LISTEN kith")?;
        direct.campaign()?;
        advance(shared, direct.position()?);
        Ok(direct)
    }

    fn work(&mut self) -> Result<(), Error> {
        while !*self.shared.stop.borrow() {
            if !self.shared.is_on_server(&self.link) {
                return Err(Error::unavailable("another server accepts writes"));
            }
            let announcement = self.shared.bells.announcement();
            if !announcement.is_empty() {
                self.batch(&announcement)?;
            }
            if self.lead.is_none() && self.campaigned.elapsed() >= LOOK {
                self.campaign()?;
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

    /// Waits until something was committed here or announced by another node; says whether it was here.
    fn wait(&self) -> bool {
        let mut stop = self.shared.stop.subscribe();
        self.link.runtime.block_on(async {
            tokio::select! {
                () = self.shared.committed.notified() => true,
                () = self.heard.notified() => false,
                () = tokio::time::sleep(LOOK) => false,
                _ = stop.wait_for(|stop| *stop) => false,
            }
        })
    }

    fn pause(&self) {
        self.link.runtime.block_on(async { tokio::time::sleep(PACE).await });
    }

    fn batch(&self, sql: &str) -> Result<(), Error> {
        self.link.batch(sql).map_err(Error::unavailable)
    }

    fn query(&self, frame: Frame) -> Query<'_> {
        Query::new(AnySession::Postgres(Session::new(&self.link, frame)))
    }

    /// The last position that was given.
    fn position(&self) -> Result<i64, Error> {
        outbox::heads(&self.query(Frame::Plain)).map(|heads| heads.position)
    }

    /// Becomes the sequencer if nobody is.
    #[expect(clippy::disallowed_methods, reason = "paces real work")]
    fn campaign(&mut self) -> Result<(), Error> {
        self.campaigned = Instant::now();
        let q = self.query(Frame::Plain);
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

/// A server that has turned read-only is left: another one may accept writes.
fn refuse_if(read_only: bool) -> Result<(), Error> {
    if read_only { Err(Error::unavailable("the server has turned read-only")) } else { Ok(()) }
}

/// Tells this process how far positions go on the server that it is connected to now: a failover may have undone some.
fn restart(shared: &Shared, position: i64) {
    shared.head.send_if_modified(|head| std::mem::replace(head, position) != position);
    shared.stats.head.store(position.cast_unsigned(), Ordering::Relaxed);
}

/// Tells this process how far positions go.
fn advance(shared: &Shared, position: i64) {
    shared.head.send_if_modified(|head| {
        let grown = position > *head;
        *head = (*head).max(position);
        grown
    });
    shared.stats.head.fetch_max(position.cast_unsigned(), Ordering::Relaxed);
}
