//! SQL for the tables `consumers` and `consumer_failures`. The store creates both tables, because its event
//! retention reads them.

use kith_kernel::Timestamp;
use kith_store::{Error, FromRow as _, Query, Tx, params, row_columns};

use crate::DeadLetteredEvent;

/// Row of `consumers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CursorRow {
    pub name: String,
    pub position: i64,
    /// Node that holds the lease; empty if no node holds it.
    pub owner: String,
    pub leased_until: Timestamp,
}

/// Row of `consumer_failures` that is not dead-lettered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PendingRow {
    pub position: i64,
    pub subject: String,
    pub attempts: i64,
    pub retry_at: Timestamp,
}

row_columns! {
    cursor_columns => CursorRow {
        name = "name",
        position = "position",
        owner = "owner",
        leased_until = "leased_until"
    }
}

row_columns! {
    pending_columns => PendingRow {
        position = "position",
        subject = "subject",
        attempts = "attempts",
        retry_at = "retry_at"
    }
}

row_columns! {
    dead_letter_columns => DeadLetteredEvent {
        position = "position",
        subject = "subject",
        error = "error",
        dead_lettered_at = "dead_lettered_at"
    }
}

/// Inserts a cursor if the consumer has none, and records the time of the declaration.
pub(crate) fn declare(tx: &Tx<'_>, name: &str, position: i64, now: Timestamp) -> Result<(), Error> {
    tx.exec(
        "INSERT INTO consumers (name, position, owner, leased_until, declared_at) VALUES ($1, $2, '', 0, $3)
         ON CONFLICT (name) DO UPDATE SET declared_at = excluded.declared_at",
        params![name, position, now],
    )?;
    Ok(())
}

/// Deletes cursors that no node has declared since `before`, and the failures of these consumers. Returns the
/// names of the consumers.
pub(crate) fn delete_undeclared(tx: &Tx<'_>, before: Timestamp) -> Result<Vec<String>, Error> {
    let names: Vec<String> =
        tx.all("SELECT name FROM consumers WHERE declared_at < $1", params![before], |row| row.get(0))?;
    for name in &names {
        tx.exec("DELETE FROM consumer_failures WHERE consumer = $1", params![name])?;
        tx.exec("DELETE FROM consumers WHERE name = $1 AND declared_at < $2", params![name, before])?;
    }
    Ok(names)
}

pub(crate) fn cursor(q: &Query<'_>, name: &str) -> Result<Option<CursorRow>, Error> {
    let sql = concat!("SELECT ", cursor_columns!(), " FROM consumers WHERE name = $1");
    q.one(sql, params![name], CursorRow::read_row)
}

pub(crate) fn cursors(q: &Query<'_>) -> Result<Vec<CursorRow>, Error> {
    q.all(concat!("SELECT ", cursor_columns!(), " FROM consumers ORDER BY name"), &[], CursorRow::read_row)
}

/// Acquires or renews the lease of a consumer until `until`. Returns false if another node holds it. A lease
/// that ends after `latest` is treated as expired.
pub(crate) fn lease(
    tx: &Tx<'_>,
    name: &str,
    owner: &str,
    now: Timestamp,
    until: Timestamp,
    latest: Timestamp,
) -> Result<bool, Error> {
    let leased = tx.exec(
        "UPDATE consumers SET owner = $2, leased_until = $4
         WHERE name = $1 AND (owner = $2 OR owner = '' OR leased_until <= $3 OR leased_until > $5)",
        params![name, owner, now, until, latest],
    )?;
    Ok(leased == 1)
}

/// Releases the lease of one consumer if `owner` holds it.
pub(crate) fn release(tx: &Tx<'_>, owner: &str, name: &str) -> Result<u64, Error> {
    let sql = "UPDATE consumers SET owner = '', leased_until = 0 WHERE owner = $1 AND name = $2";
    tx.exec(sql, params![owner, name])
}

/// Releases all leases of a node.
pub(crate) fn release_all(tx: &Tx<'_>, owner: &str) -> Result<u64, Error> {
    tx.exec("UPDATE consumers SET owner = '', leased_until = 0 WHERE owner = $1", params![owner])
}

/// Moves the cursor from `from` to `to`. Returns false if `owner` no longer holds the lease, or if the cursor
/// is not at `from`.
pub(crate) fn move_cursor(tx: &Tx<'_>, name: &str, owner: &str, from: i64, to: i64) -> Result<bool, Error> {
    let moved = tx.exec(
        "UPDATE consumers SET position = $4 WHERE name = $1 AND owner = $2 AND position = $3",
        params![name, owner, from, to],
    )?;
    Ok(moved == 1)
}

/// Sets the cursor unconditionally. Returns false if the consumer does not exist.
pub(crate) fn set_cursor(tx: &Tx<'_>, name: &str, to: i64) -> Result<bool, Error> {
    Ok(tx.exec("UPDATE consumers SET position = $2 WHERE name = $1", params![name, to])? == 1)
}

/// Returns up to `limit` pending failures, in order of position.
pub(crate) fn list_pending_failures(q: &Query<'_>, name: &str, limit: i64) -> Result<Vec<PendingRow>, Error> {
    q.all(
        concat!(
            "SELECT ",
            pending_columns!(),
            " FROM consumer_failures WHERE consumer = $1 AND dead_lettered_at IS NULL ORDER BY position LIMIT $2"
        ),
        params![name, limit],
        PendingRow::read_row,
    )
}

/// Returns up to `limit` dead letters, in order of position.
pub(crate) fn list_dead_letters(
    q: &Query<'_>,
    name: &str,
    limit: i64,
) -> Result<Vec<DeadLetteredEvent>, Error> {
    q.all(
        concat!(
            "SELECT ",
            dead_letter_columns!(),
            " FROM consumer_failures WHERE consumer = $1 AND dead_lettered_at IS NOT NULL ORDER BY position LIMIT $2"
        ),
        params![name, limit],
        DeadLetteredEvent::read_row,
    )
}

/// Inserts a failure to be retried at `retry_at`.
pub(crate) fn insert_failure(tx: &Tx<'_>, name: &str, row: &PendingRow, error: &str) -> Result<(), Error> {
    tx.exec(
        "INSERT INTO consumer_failures (consumer, position, subject, attempts, retry_at, error)
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (consumer, position) DO NOTHING",
        params![name, row.position, row.subject, row.attempts, row.retry_at, error],
    )?;
    Ok(())
}

/// Records another failed attempt, and dead-letters the event if `dead_lettered_at` is given. Returns false
/// if the row has changed since it was read.
pub(crate) fn update_failure(
    tx: &Tx<'_>,
    name: &str,
    row: &PendingRow,
    retry_at: Timestamp,
    error: &str,
    dead_lettered_at: Option<Timestamp>,
) -> Result<bool, Error> {
    let updated = tx.exec(
        "UPDATE consumer_failures SET attempts = $4, retry_at = $5, error = $6, dead_lettered_at = $7
         WHERE consumer = $1 AND position = $2 AND attempts = $3 AND dead_lettered_at IS NULL",
        params![name, row.position, row.attempts, row.attempts + 1, retry_at, error, dead_lettered_at],
    )?;
    Ok(updated == 1)
}

/// Raises the attempt count of a subject's pending events to at least `attempts`. It is called after an event
/// of the subject was dead-lettered, so that each later event has only one attempt left.
pub(crate) fn limit_attempts(tx: &Tx<'_>, name: &str, subject: &str, attempts: i64) -> Result<(), Error> {
    tx.exec(
        "UPDATE consumer_failures SET attempts = $3
         WHERE consumer = $1 AND subject = $2 AND dead_lettered_at IS NULL AND attempts < $3",
        params![name, subject, attempts],
    )?;
    Ok(())
}

/// Deletes a failure after its event was handled. Returns false if the row has changed since it was read.
pub(crate) fn delete_failure(tx: &Tx<'_>, name: &str, row: &PendingRow) -> Result<bool, Error> {
    let deleted = tx.exec(
        "DELETE FROM consumer_failures WHERE consumer = $1 AND position = $2 AND attempts = $3
           AND dead_lettered_at IS NULL",
        params![name, row.position, row.attempts],
    )?;
    Ok(deleted == 1)
}

/// Deletes all failures after `position`. A replay delivers these events again.
pub(crate) fn delete_failures_after(tx: &Tx<'_>, name: &str, position: i64) -> Result<u64, Error> {
    tx.exec("DELETE FROM consumer_failures WHERE consumer = $1 AND position > $2", params![name, position])
}

/// Makes up to `limit` dead letters pending again, and returns the number of dead letters changed.
pub(crate) fn retry_dead_letters(tx: &Tx<'_>, name: &str, limit: i64) -> Result<u64, Error> {
    tx.exec(
        "UPDATE consumer_failures SET dead_lettered_at = NULL, attempts = 0, retry_at = 0
         WHERE consumer = $1 AND position IN (
           SELECT position FROM consumer_failures
           WHERE consumer = $1 AND dead_lettered_at IS NOT NULL ORDER BY position LIMIT $2)",
        params![name, limit],
    )
}

/// Returns the number of pending failures and the number of dead letters, each counted up to `limit`.
pub(crate) fn count_failures(q: &Query<'_>, name: &str, limit: i64) -> Result<(i64, i64), Error> {
    let pending = "SELECT COUNT(*) FROM (SELECT position FROM consumer_failures
                   WHERE consumer = $1 AND dead_lettered_at IS NULL LIMIT $2) AS counted";
    let dead_letters = "SELECT COUNT(*) FROM (SELECT position FROM consumer_failures
                     WHERE consumer = $1 AND dead_lettered_at IS NOT NULL LIMIT $2) AS counted";
    let count = |sql| q.one(sql, params![name, limit], |row| row.get(0)).map(|count| count.unwrap_or(0));
    Ok((count(pending)?, count(dead_letters)?))
}

/// Returns the time at which the first event after `position` was emitted; `None` if there is none.
pub(crate) fn first_emitted_after(q: &Query<'_>, position: i64) -> Result<Option<Timestamp>, Error> {
    q.one(
        "SELECT o.at FROM outbox_positions p JOIN outbox o ON o.id = p.event_id
         WHERE p.position > $1 ORDER BY p.position LIMIT 1",
        params![position],
        |row| row.get(0),
    )
}

/// Returns the position before the oldest event that retention has not removed; 0 if the log is empty.
pub(crate) fn position_before_first(q: &Query<'_>) -> Result<i64, Error> {
    let first: Option<Option<i64>> =
        q.one("SELECT MIN(position) FROM outbox_positions", &[], |row| row.get(0))?;
    Ok(first.flatten().map_or(0, |position| position - 1))
}
