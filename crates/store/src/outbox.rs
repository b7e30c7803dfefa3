//! SQL for the outbox, the event positions and the links of the audit chain. Both databases use it.

use std::collections::BTreeMap;

use kith_kernel::uuid::Uuid;
use kith_kernel::{Timestamp, UserId};

use crate::events::{Event, SequencedEvent};
use crate::migrate::{Migration, ModuleMigrations};
use crate::sequencer::{Heads, Seal, SequencedBatch};
use crate::trace::Trace;
use crate::value::{Param, Row, check_all};
use crate::{Error, Query, Tx, audit, params};

/// Migrations of the store's own tables. They run before the migrations of the modules.
pub const STORE_MIGRATIONS: ModuleMigrations = ModuleMigrations {
    module: "store",
    migrations: &[Migration { version: 1, name: "store", sql: include_str!("../migrations/0001_store.sql") }],
};

pub(crate) const INSERT_EVENT: &str =
    "INSERT INTO outbox (id, at, kind, subject, recipients, payload, request_id, ordinal)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";

pub(crate) fn event_params<'e>(event: &'e Event, recipients: &'e str, ordinal: i64) -> [Param<'e>; 8] {
    [
        Param::Id(event.id),
        Param::Int(event.at.as_millis()),
        Param::Text(&event.kind),
        Param::Text(&event.subject),
        Param::Text(recipients),
        Param::Text(&event.payload),
        Param::Text(&event.request_id),
        Param::Int(ordinal),
    ]
}

/// Returns an error if one of the databases cannot store a value of the trace.
pub(crate) fn check_trace(trace: &Trace) -> Result<(), Error> {
    trace.audit.iter().try_for_each(|entry| check_all(&audit::entry_params(entry, 0)))?;
    trace.details.iter().try_for_each(|details| check_all(&audit::details_params(details)))?;
    trace.events.iter().try_for_each(|event| check_all(&event_params(event, "", 0)))
}

/// Inserts the audit entries, personal details and events of a transaction, with one statement per row.
pub(crate) fn write_trace(tx: &Tx<'_>, trace: &Trace) -> Result<(), Error> {
    for (ordinal, entry) in (0..).zip(&trace.audit) {
        tx.exec(audit::INSERT_ENTRY, &audit::entry_params(entry, ordinal))?;
    }
    for details in &trace.details {
        tx.exec(audit::INSERT_DETAILS, &audit::details_params(details))?;
    }
    for (ordinal, event) in (0..).zip(&trace.events) {
        tx.exec(INSERT_EVENT, &event_params(event, &event.recipients_text(), ordinal))?;
    }
    Ok(())
}

/// Returns the last event position and the last link of the audit chain.
pub(crate) fn heads(q: &Query<'_>) -> Result<Heads, Error> {
    let seal = q.one("SELECT n, hash FROM audit_seals ORDER BY n DESC LIMIT 1", &[], |row| {
        Ok(Seal { n: row.get(0)?, hash: audit::hash(row.get(1)?)? })
    })?;
    Ok(Heads { position: last_position(q)?, seal: seal.unwrap_or_default() })
}

/// Inserts positions, deliveries and links of the audit chain, with one statement per row. This is cheap on
/// SQLite, where a statement needs no round trip.
pub(crate) fn write_sequenced(tx: &Tx<'_>, batch: &SequencedBatch) -> Result<(), Error> {
    for (position, event) in &batch.positions {
        tx.exec(
            "INSERT INTO outbox_positions (position, event_id) VALUES ($1, $2)",
            params![*position, *event],
        )?;
    }
    for (user, position) in &batch.deliveries {
        tx.exec(
            "INSERT INTO user_logs (user_id, log_offset, position)
             SELECT $1, COALESCE(MAX(log_offset), 0) + 1, $2 FROM user_logs WHERE user_id = $1",
            params![*user, *position],
        )?;
    }
    for seal in &batch.seals {
        tx.exec(
            "INSERT INTO audit_seals (n, entry_id, prev, hash) VALUES ($1, $2, $3, $4)",
            params![seal.n, seal.entry, seal.prev, seal.hash],
        )?;
    }
    Ok(())
}

pub(crate) fn events_after(q: &Query<'_>, position: i64, limit: i64) -> Result<Vec<SequencedEvent>, Error> {
    q.all(
        "SELECT p.position, o.id, o.at, o.kind, o.subject, o.recipients, o.payload, o.request_id
         FROM outbox_positions p JOIN outbox o ON o.id = p.event_id
         WHERE p.position > $1 ORDER BY p.position LIMIT $2",
        params![position, limit],
        read_sequenced,
    )
}

/// Section of the event log, as read by a consumer.
#[derive(Debug)]
pub struct EventScan {
    /// Events of the requested kinds, in order of position.
    pub events: Vec<SequencedEvent>,
    /// Position and id of the last event read, of any kind; `None` if no event was read.
    pub last: Option<(i64, Uuid)>,
    /// True if more events may follow.
    pub has_more: bool,
}

/// Reads up to `limit` events after `position`. Returns the events for whose kind `wants` returns true.
///
/// # Errors
/// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
pub fn scan_events(
    q: &Query<'_>,
    position: i64,
    limit: i64,
    wants: impl Fn(&str) -> bool,
) -> Result<EventScan, Error> {
    let rows = q.all(
        "SELECT p.position, o.id, o.at, o.kind, o.subject, o.recipients, o.payload, o.request_id
         FROM outbox_positions p JOIN outbox o ON o.id = p.event_id
         WHERE p.position > $1 ORDER BY p.position LIMIT $2",
        params![position, limit],
        |row| {
            let (kind, place) = (row.get::<String>(3)?, (row.get::<i64>(0)?, row.get::<Uuid>(1)?));
            Ok((place, if wants(&kind) { Some(read_sequenced(row)?) } else { None }))
        },
    )?;
    let last = rows.last().map(|(place, _)| *place);
    let has_more = i64::try_from(rows.len()).unwrap_or(i64::MAX) == limit;
    Ok(EventScan { events: rows.into_iter().filter_map(|(_, event)| event).collect(), last, has_more })
}

/// Returns the event at `position`, or `None` if the log has no such position or retention has removed the
/// event.
///
/// # Errors
/// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
pub fn event_at(q: &Query<'_>, position: i64) -> Result<Option<SequencedEvent>, Error> {
    q.one(
        "SELECT p.position, o.id, o.at, o.kind, o.subject, o.recipients, o.payload, o.request_id
         FROM outbox_positions p JOIN outbox o ON o.id = p.event_id WHERE p.position = $1",
        params![position],
        read_sequenced,
    )
}

/// Returns the id of the event at `position`, or `None` if there is none. After a failover, a position can
/// belong to a different event than before.
///
/// # Errors
/// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
pub fn event_id_at(q: &Query<'_>, position: i64) -> Result<Option<Uuid>, Error> {
    let sql = "SELECT event_id FROM outbox_positions WHERE position = $1";
    q.one(sql, params![position], |row| row.get(0))
}

/// Returns the last position assigned to an event, or 0 if there is none.
///
/// # Errors
/// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
pub fn last_position(q: &Query<'_>) -> Result<i64, Error> {
    let sql = "SELECT COALESCE(MAX(position), 0) FROM outbox_positions";
    Ok(q.one(sql, &[], |row| row.get(0))?.unwrap_or(0))
}

pub(crate) fn events_before(q: &Query<'_>, position: i64, limit: i64) -> Result<Vec<SequencedEvent>, Error> {
    q.all(
        "SELECT p.position, o.id, o.at, o.kind, o.subject, o.recipients, o.payload, o.request_id
         FROM outbox_positions p JOIN outbox o ON o.id = p.event_id
         WHERE p.position < $1 ORDER BY p.position DESC LIMIT $2",
        params![position, limit],
        read_sequenced,
    )
}

fn read_sequenced(row: &Row<'_>) -> Result<SequencedEvent, Error> {
    Ok(SequencedEvent {
        position: row.get(0)?,
        event: Event {
            id: row.get(1)?,
            at: row.get(2)?,
            kind: row.get(3)?,
            subject: row.get(4)?,
            recipients: parse_recipients(&row.get::<String>(5)?)?,
            payload: row.get(6)?,
            request_id: row.get(7)?,
        },
    })
}

/// Returns the time of the oldest event that has no position yet. It is used only on PostgreSQL, by every
/// node several times a second.
pub(crate) fn oldest_unsequenced(q: &Query<'_>) -> Result<Option<Timestamp>, Error> {
    // `low_tx` is a parameter, and a subquery is compared with NULL instead of using `NOT EXISTS`. Otherwise
    // PostgreSQL expects to read a third of the table and hashes all positions.
    let low_tx: Option<i64> = q.one("SELECT low_tx FROM sequencer WHERE id = 1", &[], |row| row.get(0))?;
    let oldest = q.one(
        "SELECT MIN(o.at) FROM outbox o
         WHERE o.tx >= $1 AND o.tx > 0
           AND o.tx < CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS TEXT) AS BIGINT)
           AND (SELECT p.position FROM outbox_positions p WHERE p.event_id = o.id) IS NULL",
        params![low_tx.unwrap_or(0)],
        |row| row.get(0),
    )?;
    Ok(oldest.flatten())
}

pub(crate) fn parse_recipients(text: &str) -> Result<Vec<UserId>, Error> {
    text.split_whitespace().map(|id| Uuid::parse_str(id).map(UserId).map_err(Error::fault)).collect()
}

/// Removes up to `limit` of the oldest events, with their positions, and returns the number of events
/// removed. Only events that are older than `before` and that every consumer has passed are removed. Events
/// that a consumer will retry are not removed; dead letters are removed with their failures. The last
/// position and the last entry of each user's log are not removed, because numbering continues from them.
pub(crate) fn remove_events(tx: &Tx<'_>, before: Timestamp, limit: i64) -> Result<u64, Error> {
    tx.lock("outbox", ["oldest"])?;
    let oldest = tx.all(
        "SELECT p.position, o.id, o.at, o.recipients
         FROM outbox_positions p JOIN outbox o ON o.id = p.event_id
         WHERE p.position <= (SELECT COALESCE(MIN(position), 9223372036854775807) FROM consumers)
           AND p.position < (SELECT COALESCE(MIN(position), 9223372036854775807)
                             FROM consumer_failures WHERE dead_lettered_at IS NULL)
           AND p.position < (SELECT MAX(position) FROM outbox_positions)
         ORDER BY p.position LIMIT $1",
        params![limit],
        |row| {
            let recipients = parse_recipients(&row.get::<String>(3)?)?;
            Ok((row.get::<i64>(0)?, row.get::<Uuid>(1)?, row.get::<Timestamp>(2)?, recipients))
        },
    )?;
    let old = oldest.iter().take_while(|(_, _, at, _)| *at < before);
    let mut entries = BTreeMap::<UserId, i64>::new();
    let (mut removed, mut last) = (0, 0);
    for (position, event, _, recipients) in old {
        tx.exec("DELETE FROM outbox WHERE id = $1", params![*event])?;
        for user in recipients {
            *entries.entry(*user).or_default() += 1;
        }
        (removed, last) = (removed + 1, *position);
    }
    for (user, count) in entries {
        // The limit is one more than `count`, because an earlier run may have left an entry that was the last
        // of its log.
        tx.exec(
            "DELETE FROM user_logs WHERE user_id = $1
               AND log_offset < (SELECT MAX(log_offset) FROM user_logs WHERE user_id = $1)
               AND log_offset IN (SELECT log_offset FROM user_logs WHERE user_id = $1 AND position <= $2
                                  ORDER BY log_offset LIMIT $3)",
            params![user, last, count + 1],
        )?;
    }
    tx.exec("DELETE FROM outbox_positions WHERE position <= $1", params![last])?;
    let dropped = tx.exec(
        "DELETE FROM consumer_failures WHERE position <= $1 AND dead_lettered_at IS NOT NULL",
        params![last],
    )?;
    if dropped > 0 {
        tracing::warn!(dropped, "dead letters of consumers were removed with the log");
    }
    Ok(removed)
}
