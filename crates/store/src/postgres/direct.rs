//! The one connection per node that is bound to its session: it listens, wakes other nodes, and is the sequencer
//! while it holds the advisory lock. Losing the connection loses the lock, so a deposed sequencer cannot write.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::future::try_join5;
use tokio::sync::Notify;
use tokio_postgres::AsyncMessage;

use super::Shared;
use super::failure::Failure;
use super::link::{Frame, Link, Session};
use super::settings::Settings;
use crate::audit::AuditEntry;
use crate::audit_keys::AuditKeys;
use crate::sequencer::{Heads, Placed, Unplaced};
use crate::stats::StoreStats;
use crate::threads::Threads;
use crate::tx::{Session as AnySession, record};
use crate::value::Param;
use crate::{Error, Query, Row, Tx, outbox};

/// How long to wait at most before looking for work nobody announced, and for the lock of a dead sequencer.
const LOOK: Duration = Duration::from_millis(200);

/// The least time between two passes, and between two announcements: what arrives meanwhile travels together.
const PACE: Duration = Duration::from_millis(4);

/// Wait before a lost connection is made anew.
const RECONNECT: Duration = Duration::from_millis(100);

/// How long a statement may take here: after a restore there may be a long history to look through.
const CATCH_UP: Duration = Duration::from_secs(600);

/// Rows placed in one pass.
const PASS: i64 = 2_000;

/// How often the low-water mark is kept for the next sequencer.
const KEEP_MARK: Duration = Duration::from_secs(1);

/// The lock's key is in the space of two numbers, apart from the keys of transactions.
const TRY_LOCK: &str = "SELECT pg_try_advisory_lock(1262703720, 2)";

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
    /// What this node places from, while it is the sequencer.
    lead: Option<Lead>,
    /// When it last tried to lead.
    campaigned: Instant,
}

struct Lead {
    heads: Heads,
    audit_keys: AuditKeys,
    /// Every committed row below this transaction has its place.
    low_tx: i64,
    /// Until everything that is there has been looked at once.
    catching_up: bool,
    mark_kept: Instant,
    kept_tx: i64,
}

impl<'s> Direct<'s> {
    #[expect(clippy::disallowed_methods, reason = "paces real work")]
    fn open(shared: &'s Arc<Shared>) -> Result<Self, Error> {
        let heard = Arc::new(Notify::new());
        let (bell, listener) = (Arc::clone(&heard), Arc::clone(shared));
        let settings = Settings {
            greeting: format!(
                "{}; SET statement_timeout = {}",
                shared.settings.greeting,
                CATCH_UP.as_millis()
            ),
            ..shared.settings.clone()
        };
        let link = Link::connect(&settings, move |message| {
            if let AsyncMessage::Notification(notice) = message {
                if let Ok(position) = notice.payload().parse() {
                    advance(&listener, position);
                } else if !listener.bells.heed(notice.payload()) {
                    bell.notify_one();
                }
            }
        })?;
        let mut direct = Self { shared, link, heard, lead: None, campaigned: Instant::now() };
        direct.batch("LISTEN kith")?;
        direct.campaign()?;
        let heads = outbox::heads(&direct.query(Frame::Plain))?;
        advance(shared, heads.position);
        Ok(direct)
    }

    fn work(&mut self) -> Result<(), Error> {
        while !*self.shared.stop.borrow() {
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

    /// Becomes the sequencer if nobody is.
    #[expect(clippy::disallowed_methods, reason = "paces real work")]
    fn campaign(&mut self) -> Result<(), Error> {
        self.campaigned = Instant::now();
        let q = self.query(Frame::Plain);
        if !q.one(TRY_LOCK, &[], |row| row.get::<bool>(0))?.unwrap_or(false) {
            return Ok(());
        }
        let heads = outbox::heads(&q)?;
        let kept: Option<i64> = q.one("SELECT low_tx FROM sequencer WHERE id = 1", &[], |row| row.get(0))?;
        let oldest = q.one(OLDEST_RUNNING, &[], |row| row.get::<i64>(0))?.unwrap_or(0);
        let audit_keys = self.shared.audit_keyring.load(&q)?;
        drop(q);
        // A mark ahead of the server's own count was restored from another server and says nothing about this one.
        let kept = kept.filter(|kept| *kept <= oldest);
        let low_tx = kept.unwrap_or(0);
        tracing::info!(position = heads.position, "this node is the sequencer");
        self.shared.stats.sequencer.store(1, Ordering::Relaxed);
        self.lead = Some(Lead {
            heads,
            audit_keys,
            low_tx,
            catching_up: kept.is_none(),
            mark_kept: Instant::now(),
            kept_tx: low_tx,
        });
        Ok(())
    }

    /// Gives what was committed its place; says whether there may be more.
    fn pass(&mut self) -> Result<bool, Error> {
        let Some(lead) = &self.lead else { return Ok(false) };
        self.link.set_silence(if lead.catching_up { CATCH_UP } else { self.shared.settings.silence });
        let found = self.find(lead).map_err(Error::unavailable)?;
        let oldest: i64 = Row::Postgres(&found.oldest).get(0)?;
        let events: Vec<_> =
            found.events.iter().map(|row| read_unplaced(&Row::Postgres(row))).collect::<Result<_, _>>()?;
        let entries: Vec<_> = found
            .entries
            .iter()
            .map(|row| AuditEntry::read(&Row::Postgres(row), 0))
            .collect::<Result<_, _>>()?;
        let more = events.len() as i64 == PASS || entries.len() as i64 == PASS;
        if !entries.is_empty() {
            self.ready_audit_key()?;
        }
        let Some(lead) = &self.lead else { return Ok(false) };
        let placed = lead.heads.place(events.into_iter(), entries.iter(), &lead.audit_keys)?;
        if !placed.is_empty() {
            self.write(&placed).map_err(Error::unavailable)?;
            StoreStats::add(&self.shared.stats.sequenced, placed.positions.len() as u64);
            advance(self.shared, placed.heads.position);
        }
        if let Some(lead) = &mut self.lead {
            lead.heads = placed.heads;
            if !more {
                lead.low_tx = oldest;
                lead.catching_up = false;
            }
        }
        self.keep_mark()?;
        Ok(more)
    }

    /// Makes a key for the next link if there is none for it. The lock keeps every other process from it.
    fn ready_audit_key(&mut self) -> Result<(), Error> {
        let Some(lead) = &self.lead else { return Ok(()) };
        let (next, keys) = (lead.heads.seal.n + 1, lead.audit_keys.clone());
        let tx = Tx::new(AnySession::Postgres(Session::new(&self.link, Frame::Plain)));
        let keys = self.shared.audit_keyring.ready_for(&tx, keys, next)?;
        drop(tx);
        if let Some(lead) = &mut self.lead {
            lead.audit_keys = keys;
        }
        Ok(())
    }

    /// Looks for what has no place yet, all in one state and one round trip.
    fn find(&self, lead: &Lead) -> Result<Found, Failure> {
        let oldest = self.link.prepare(OLDEST_RUNNING)?;
        let events = self.link.prepare(UNPLACED_EVENTS)?;
        let entries = self.link.prepare(UNSEALED_ENTRIES)?;
        for sql in [UNPLACED_EVENTS, UNSEALED_ENTRIES] {
            record(true, sql, &[Param::Int(lead.low_tx), Param::Int(PASS), Param::Bool(lead.catching_up)]);
        }
        let client = &self.link.client;
        let ((), oldest, events, entries, ()) = self.link.wait(try_join5(
            client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"),
            client.query_one(&oldest, &[]),
            client.query(&events, &[&lead.low_tx, &PASS, &lead.catching_up]),
            client.query(&entries, &[&lead.low_tx, &PASS, &lead.catching_up]),
            client.batch_execute("COMMIT"),
        ))?;
        Ok(Found { oldest, events, entries })
    }

    /// A few statements whatever the number of rows, in one round trip; the keys refuse a place that is taken.
    fn write(&self, placed: &Placed) -> Result<(), Failure> {
        let (positions, events): (Vec<_>, Vec<_>) =
            placed.positions.iter().map(|(position, id)| (*position, id.to_string())).unzip();
        let (users, delivered): (Vec<_>, Vec<_>) =
            placed.deliveries.iter().map(|(user, position)| (user.to_string(), *position)).unzip();
        let ns: Vec<_> = placed.seals.iter().map(|seal| seal.n).collect();
        let entries: Vec<_> = placed.seals.iter().map(|seal| seal.entry.to_string()).collect();
        let prevs: Vec<_> = placed.seals.iter().map(|seal| seal.prev.as_slice()).collect();
        let hashes: Vec<_> = placed.seals.iter().map(|seal| seal.hash.as_slice()).collect();
        let insert_positions = self.link.prepare(INSERT_POSITIONS)?;
        let insert_deliveries = self.link.prepare(INSERT_DELIVERIES)?;
        let insert_seals = self.link.prepare(INSERT_SEALS)?;
        // Announced with the commit itself: nobody hears of a place that is not there.
        let end = format!("NOTIFY kith, '{}'; COMMIT", placed.heads.position);
        let client = &self.link.client;
        let written = self.link.wait(try_join5(
            client.batch_execute("BEGIN"),
            client.execute(&insert_positions, &[&positions, &events]),
            client.execute(&insert_deliveries, &[&users, &delivered]),
            client.execute(&insert_seals, &[&ns, &entries, &prevs, &hashes]),
            client.batch_execute(&end),
        ));
        written.map(drop)
    }

    #[expect(clippy::disallowed_methods, reason = "paces real work")]
    fn keep_mark(&mut self) -> Result<(), Error> {
        let Some(lead) = &mut self.lead else { return Ok(()) };
        if lead.mark_kept.elapsed() < KEEP_MARK || lead.kept_tx == lead.low_tx {
            return Ok(());
        }
        lead.mark_kept = Instant::now();
        lead.kept_tx = lead.low_tx;
        let low_tx = lead.low_tx;
        self.batch(&format!(
            "INSERT INTO sequencer (id, low_tx) VALUES (1, {low_tx})
             ON CONFLICT (id) DO UPDATE SET low_tx = excluded.low_tx"
        ))
    }
}

const INSERT_POSITIONS: &str =
    "INSERT INTO outbox_positions (position, event_id) SELECT * FROM unnest($1::bigint[], $2::text[])";

const INSERT_DELIVERIES: &str = "INSERT INTO user_logs (user_id, log_offset, position)
     SELECT d.user_id,
            COALESCE((SELECT MAX(l.log_offset) FROM user_logs l WHERE l.user_id = d.user_id COLLATE \"C\"), 0)
              + row_number() OVER (PARTITION BY d.user_id ORDER BY d.position),
            d.position
     FROM unnest($1::text[], $2::bigint[]) AS d (user_id, position)";

const INSERT_SEALS: &str = "INSERT INTO audit_seals (n, entry_id, prev, hash)
     SELECT * FROM unnest($1::bigint[], $2::text[], $3::bytea[], $4::bytea[])";

/// The oldest transaction that may still commit: whatever is older and visible now is all there will ever be.
const OLDEST_RUNNING: &str = "SELECT CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS TEXT) AS BIGINT)";

/// Found by the absence of a position, in the order of transactions: for one subject that is commit order, because a
/// command locks its subject before it writes, and a transaction gets its number with its first write.
///
/// A subquery that gives a value is run for each row; `NOT EXISTS` would hash all places that were ever given.
///
/// Rows that were restored from another server carry its numbers, which may lie ahead of this one's: those are placed
/// once, while catching up, and left out afterwards.
const UNPLACED_EVENTS: &str = "SELECT o.id, o.recipients FROM outbox o
     WHERE o.tx >= $1 AND o.tx > 0
       AND ($3 OR o.tx < CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS TEXT) AS BIGINT))
       AND (SELECT p.position FROM outbox_positions p WHERE p.event_id = o.id) IS NULL
     ORDER BY o.tx, o.ordinal LIMIT $2";

const UNSEALED_ENTRIES: &str =
    "SELECT a.id, a.at, a.actor, a.action, a.object, a.request_id, a.details_hash FROM audit_entries a
     WHERE a.tx >= $1 AND a.tx > 0
       AND ($3 OR a.tx < CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS TEXT) AS BIGINT))
       AND (SELECT s.n FROM audit_seals s WHERE s.entry_id = a.id) IS NULL
     ORDER BY a.tx, a.ordinal LIMIT $2";

/// What has no place yet, as one state of the database shows it.
struct Found {
    oldest: tokio_postgres::Row,
    events: Vec<tokio_postgres::Row>,
    entries: Vec<tokio_postgres::Row>,
}

fn read_unplaced(row: &Row<'_>) -> Result<Unplaced, Error> {
    Ok(Unplaced { id: row.get(0)?, recipients: outbox::parse_recipients(&row.get::<String>(1)?)? })
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
