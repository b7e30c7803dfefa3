//! Sequencing passes: find committed rows that have no position or link yet, and assign one to each.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::future::try_join5;

use super::super::failure::Failure;
use super::super::session::{PostgresSession, TransactionMode};
use super::{CATCH_UP_TIMEOUT, Direct, advance, refuse_if};
use crate::audit::AuditEntry;
use crate::audit_keys::AuditKeys;
use crate::sequencer::{Heads, SequencedBatch, UnsequencedEvent};
use crate::stats::StoreStats;
use crate::tx::{EngineSession, record};
use crate::value::Param;
use crate::{Error, Row, Tx, outbox};

/// Maximum number of events, and of audit entries, per pass.
const MAX_ROWS_PER_PASS: i64 = 2_000;

/// Lowest normal transaction id of PostgreSQL. Lower ids are special; 2 marks a frozen row.
const FIRST_TX: i64 = 3;

/// Maximum time between two saves of the watermark while it moves.
const WATERMARK_SAVE_INTERVAL: Duration = Duration::from_secs(1);

/// Number of rows with a position after which the watermark is saved earlier. A node that looks for rows without
/// a position reads those above the saved watermark. Each save leaves a dead version of the row, which PostgreSQL
/// cannot remove while an older snapshot is open, so not every pass saves.
const WATERMARK_SAVE_ROWS: usize = 500;

/// State of the node that is the sequencer.
pub(super) struct LeaderState {
    heads: Heads,
    audit_keys: AuditKeys,
    /// Lower bound, in transaction ids of the original server, of rows from a restored dump that have no
    /// position yet. `None` when all of these rows have a position. They get positions before the rows of
    /// this server.
    restored: Option<i64>,
    /// Watermark: every committed row of this server with a lower transaction id has a position.
    low_tx: i64,
    /// True until all rows have been scanned once. Set if no watermark was saved.
    catching_up: bool,
    watermark_saved_at: Instant,
    saved_low_tx: i64,
    /// Number of rows that were given a position or a link since the watermark was saved.
    rows_since_save: usize,
}

/// Saved watermark, and the id of the transaction of this server that saved it.
#[derive(Clone, Copy)]
struct SavedWatermark {
    low_tx: i64,
    written_by: i64,
}

impl LeaderState {
    /// Returns the watermark to save for the next sequencer after a pass. Returns `None` while restored rows
    /// get positions.
    fn watermark_after(&self, reached: Option<i64>, oldest: i64) -> Option<i64> {
        self.restored.is_none().then(|| reached.map_or(oldest, |reached| reached.min(oldest)))
    }

    /// Updates the watermark after a pass. `reached` is the id of the transaction in which a full page ended.
    /// Returns true if there may be more rows.
    fn advance(&mut self, reached: Option<i64>, oldest: i64) -> bool {
        match (&mut self.restored, reached) {
            (Some(restored), Some(reached)) => *restored = reached,
            // The next pass continues with the rows of this server.
            (restored @ Some(_), None) => *restored = None,
            (None, Some(reached)) => self.low_tx = reached.min(oldest),
            (None, None) => {
                self.low_tx = oldest;
                self.catching_up = false;
                return false;
            }
        }
        true
    }
}

impl Direct<'_> {
    /// Starts to act as the sequencer. The caller must hold the sequencer's lock (see
    /// [`Self::acquire_leadership`]).
    #[expect(clippy::disallowed_methods, reason = "paces real work")]
    pub(super) fn lead(&mut self) -> Result<(), Error> {
        let q = self.query(TransactionMode::Plain);
        let heads = outbox::heads(&q)?;
        let mark = q.one(SELECT_WATERMARK, &[], |row| {
            let written_by = full_tx(row.get(1)?, row.get(2)?);
            Ok(SavedWatermark { low_tx: row.get(0)?, written_by })
        })?;
        let oldest = q.one(OLDEST_RUNNING, &[], |row| row.get::<i64>(0))?.unwrap_or(0);
        let audit_keys = self.shared.audit_keyring.load(&q)?;
        drop(q);
        let restored = mark.filter(|mark| mark.low_tx > oldest);
        let low_tx = restored.map(|mark| mark.written_by).or(mark.map(|mark| mark.low_tx));
        tracing::info!(position = heads.position, "this node is the sequencer");
        self.shared.stats.sequencer.store(1, Ordering::Relaxed);
        self.lead = Some(LeaderState {
            heads,
            audit_keys,
            restored: restored.map(|mark| mark.low_tx),
            low_tx: low_tx.unwrap_or(0),
            catching_up: low_tx.is_none(),
            watermark_saved_at: Instant::now(),
            saved_low_tx: mark.map_or(0, |mark| mark.low_tx),
            rows_since_save: 0,
        });
        Ok(())
    }

    /// Assigns positions to committed rows. Returns true if there may be more rows.
    pub(super) fn pass(&mut self) -> Result<bool, Error> {
        let Some(lead) = &self.lead else { return Ok(false) };
        self.connection.set_response_timeout(if lead.catching_up {
            CATCH_UP_TIMEOUT
        } else {
            self.shared.settings.response_timeout
        });
        let found = self.find(lead).map_err(Error::unavailable)?;
        let oldest: i64 = Row::Postgres(&found.oldest).get(0)?;
        refuse_if(Row::Postgres(&found.oldest).get(1)?)?;
        let events: Vec<_> =
            found.events.iter().map(|row| read_unsequenced(&Row::Postgres(row))).collect::<Result<_, _>>()?;
        let entries: Vec<_> = found
            .entries
            .iter()
            .map(|row| AuditEntry::read(&Row::Postgres(row), 0))
            .collect::<Result<_, _>>()?;
        let reached = found.reached()?;
        if !entries.is_empty() {
            self.ensure_audit_key()?;
        }
        let Some(lead) = &self.lead else { return Ok(false) };
        let batch = lead.heads.assign(events.into_iter(), entries.iter(), &lead.audit_keys)?;
        if !batch.is_empty() {
            let rows = lead.rows_since_save + batch.positions.len() + batch.seals.len();
            let watermark = lead.watermark_after(reached, oldest).filter(|_| rows >= WATERMARK_SAVE_ROWS);
            self.write(&batch, watermark).map_err(Error::unavailable)?;
            if let Some(lead) = &mut self.lead {
                lead.rows_since_save = rows;
            }
            self.note_saved(watermark);
            StoreStats::add(&self.shared.stats.sequenced, batch.positions.len() as u64);
            advance(self.shared, batch.heads.position);
        }
        let more = self.lead.as_mut().is_some_and(|lead| {
            lead.heads = batch.heads;
            lead.advance(reached, oldest)
        });
        self.save_watermark()?;
        Ok(more)
    }

    /// Creates a key for the next audit link if there is none. The sequencer's lock prevents other processes
    /// from creating a key at the same time.
    fn ensure_audit_key(&mut self) -> Result<(), Error> {
        let Some(lead) = &self.lead else { return Ok(()) };
        let (next, keys) = (lead.heads.seal.n + 1, lead.audit_keys.clone());
        let tx =
            Tx::new(EngineSession::Postgres(PostgresSession::new(&self.connection, TransactionMode::Plain)));
        let keys = self.shared.audit_keyring.with_key_for(&tx, keys, next)?;
        drop(tx);
        if let Some(lead) = &mut self.lead {
            lead.audit_keys = keys;
        }
        Ok(())
    }

    /// Reads the rows that have no position or link, in one snapshot and one round trip.
    fn find(&self, lead: &LeaderState) -> Result<UnsequencedRows, Failure> {
        let oldest = self.connection.prepare(OLDEST_RUNNING)?;
        let (events, entries, from) = match lead.restored {
            Some(restored) => (RESTORED_EVENTS, RESTORED_ENTRIES, restored),
            None => (UNSEQUENCED_EVENTS, UNSEALED_ENTRIES, lead.low_tx),
        };
        for sql in [events, entries] {
            record(true, sql, &[Param::Int(from), Param::Int(MAX_ROWS_PER_PASS)]);
        }
        let (events, entries) = (self.connection.prepare(events)?, self.connection.prepare(entries)?);
        let client = &self.connection.client;
        let ((), oldest, events, entries, ()) = self.connection.wait(try_join5(
            client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"),
            client.query_one(&oldest, &[]),
            client.query(&events, &[&from, &MAX_ROWS_PER_PASS]),
            client.query(&entries, &[&from, &MAX_ROWS_PER_PASS]),
            client.batch_execute("COMMIT"),
        ))?;
        Ok(UnsequencedRows { oldest, events, entries })
    }

    /// Inserts positions, deliveries and audit links with a fixed number of statements, in one round trip.
    /// Unique keys reject a position that is already assigned. A watermark is saved in the same
    /// transaction, so that a later search for rows without a position reads few other rows.
    fn write(&self, batch: &SequencedBatch, watermark: Option<i64>) -> Result<(), Failure> {
        let (positions, events): (Vec<_>, Vec<_>) =
            batch.positions.iter().map(|(position, id)| (*position, id.to_string())).unzip();
        let (users, delivered): (Vec<_>, Vec<_>) =
            batch.deliveries.iter().map(|(user, position)| (user.to_string(), *position)).unzip();
        let ns: Vec<_> = batch.seals.iter().map(|seal| seal.n).collect();
        let entries: Vec<_> = batch.seals.iter().map(|seal| seal.entry.to_string()).collect();
        let prevs: Vec<_> = batch.seals.iter().map(|seal| seal.prev.as_slice()).collect();
        let hashes: Vec<_> = batch.seals.iter().map(|seal| seal.hash.as_slice()).collect();
        let insert_positions = self.connection.prepare(INSERT_POSITIONS)?;
        let insert_deliveries = self.connection.prepare(INSERT_DELIVERIES)?;
        let insert_seals = self.connection.prepare(INSERT_SEALS)?;
        // The notification is part of the transaction, so it is only sent if the positions are committed.
        let save = watermark.map(save_watermark_sql).unwrap_or_default();
        let end = format!("{save}; NOTIFY kith, '{}'; COMMIT", batch.heads.position);
        let client = &self.connection.client;
        let written = self.connection.wait(try_join5(
            client.batch_execute("BEGIN"),
            client.execute(&insert_positions, &[&positions, &events]),
            client.execute(&insert_deliveries, &[&users, &delivered]),
            client.execute(&insert_seals, &[&ns, &entries, &prevs, &hashes]),
            client.batch_execute(&end),
        ));
        written.map(drop)
    }

    /// Saves the watermark if it has moved and was not saved for [`WATERMARK_SAVE_INTERVAL`].
    fn save_watermark(&mut self) -> Result<(), Error> {
        let Some(lead) = &self.lead else { return Ok(()) };
        let is_kept = lead.saved_low_tx == lead.low_tx || lead.restored.is_some();
        if is_kept || lead.watermark_saved_at.elapsed() < WATERMARK_SAVE_INTERVAL {
            return Ok(());
        }
        let low_tx = lead.low_tx;
        self.note_saved(Some(low_tx));
        self.batch(&save_watermark_sql(low_tx))
    }

    #[expect(clippy::disallowed_methods, reason = "paces real work")]
    fn note_saved(&mut self, watermark: Option<i64>) {
        if let (Some(lead), Some(low_tx)) = (&mut self.lead, watermark) {
            lead.watermark_saved_at = Instant::now();
            lead.saved_low_tx = low_tx;
            lead.rows_since_save = 0;
        }
    }
}

fn save_watermark_sql(low_tx: i64) -> String {
    format!(
        "INSERT INTO sequencer (id, low_tx) VALUES (1, {low_tx})
         ON CONFLICT (id) DO UPDATE SET low_tx = excluded.low_tx"
    )
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

/// SQL that reads the watermark, and the values that [`full_tx`] needs.
const SELECT_WATERMARK: &str = "SELECT low_tx, CAST(CAST(xmin AS TEXT) AS BIGINT),
     CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS TEXT) AS BIGINT) FROM sequencer WHERE id = 1";

/// SQL that returns the id of the oldest transaction that can still commit. All rows of older transactions
/// are already visible. The second column is true if the server has become read-only.
const OLDEST_RUNNING: &str = "SELECT CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS TEXT) AS BIGINT),
     current_setting('default_transaction_read_only') = 'on'";

/// Restricts rows to transaction ids that this server can already have assigned.
macro_rules! of_this_server {
    ($tx:literal) => {
        concat!(" AND ", $tx, " < CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS TEXT) AS BIGINT)")
    };
}

/// Selects events without a position, in order of transaction id. For one subject this is the commit order,
/// because a command locks its subject before its first write, which assigns the transaction id. The scalar
/// subquery is evaluated per row; `NOT EXISTS` would hash all existing positions.
macro_rules! events {
    ($until:expr) => {
        concat!(
            "SELECT o.id, o.recipients, o.tx FROM outbox o WHERE o.tx >= $1 AND o.tx > 0",
            $until,
            " AND (SELECT p.position FROM outbox_positions p WHERE p.event_id = o.id) IS NULL
             ORDER BY o.tx, o.ordinal LIMIT $2"
        )
    };
}

macro_rules! entries {
    ($until:expr) => {
        concat!(
            "SELECT a.id, a.at, a.actor, a.action, a.object, a.request_id, a.details_hash, a.tx
             FROM audit_entries a WHERE a.tx >= $1 AND a.tx > 0",
            $until,
            " AND (SELECT s.n FROM audit_seals s WHERE s.entry_id = a.id) IS NULL
             ORDER BY a.tx, a.ordinal LIMIT $2"
        )
    };
}

/// The transaction ids have an upper bound, because rows restored from another server have transaction ids of
/// that server, which can be higher.
const UNSEQUENCED_EVENTS: &str = events!(of_this_server!("o.tx"));
const UNSEALED_ENTRIES: &str = entries!(of_this_server!("a.tx"));
const RESTORED_EVENTS: &str = events!("");
const RESTORED_ENTRIES: &str = entries!("");

/// Rows without a position or link, read in one snapshot.
struct UnsequencedRows {
    oldest: tokio_postgres::Row,
    events: Vec<tokio_postgres::Row>,
    entries: Vec<tokio_postgres::Row>,
}

impl UnsequencedRows {
    /// Returns the id of the transaction in which a full page ended. The next pass continues there. Returns
    /// `None` if all rows were read.
    fn reached(&self) -> Result<Option<i64>, Error> {
        let last = |rows: &[tokio_postgres::Row], column| match rows.last() {
            Some(last) if rows.len() as i64 == MAX_ROWS_PER_PASS => Row::Postgres(last).get(column).map(Some),
            _ => Ok(None),
        };
        let ends = [last(&self.events, 2)?, last(&self.entries, 7)?];
        Ok(ends.into_iter().flatten().min())
    }
}

fn read_unsequenced(row: &Row<'_>) -> Result<UnsequencedEvent, Error> {
    Ok(UnsequencedEvent { id: row.get(0)?, recipients: outbox::parse_recipients(&row.get::<String>(1)?)? })
}

/// Returns the 64-bit transaction id whose lower half is `tx` and that is lower than `next`. Returns 0 if
/// `tx` is a special id.
fn full_tx(tx: i64, next: i64) -> i64 {
    let (epoch, lower) = (next >> 32, next & 0xffff_ffff);
    let epoch = if tx < lower { epoch } else { epoch - 1 };
    if tx < FIRST_TX { 0 } else { ((epoch << 32) | tx).max(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transaction_ids_before_wraparound_belong_to_previous_epoch() {
        assert_eq!(full_tx(700, 1_000), 700);
        assert_eq!(full_tx(700, (3 << 32) + 1_000), (3 << 32) + 700);
        assert_eq!(full_tx(4_000_000_000, (3 << 32) + 1_000), (2 << 32) + 4_000_000_000);
        assert_eq!(full_tx(700, 600), 0, "no transaction with this id has started yet");
        assert_eq!(full_tx(2, (3 << 32) + 1_000), 0, "a frozen id is older than all others");
    }
}
