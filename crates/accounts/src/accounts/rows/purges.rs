//! SQL statements for purging deleted accounts, one function per statement. Contains no business rules.
//! Observed time is time during which a server ran; it does not follow jumps of the wall clock.

use kith_kernel::{Timestamp, UserId};
use kith_platform::purge::PurgeRun;
use kith_store::{Error, Query, Tx, params};

use super::super::rules;

/// Stores the end of the grace period in observed time for accounts deleted since the previous run.
/// Wall-clock time since the deletion counts only if it was also observed: a clock that jumps forward does
/// not shorten the period.
pub fn start_holds(tx: &Tx<'_>, run: &PurgeRun) -> Result<(), Error> {
    tx.exec_deferred(
        "UPDATE users SET purge_elapsed_ms = $2 + (purge_at - deleted_at)
            - CASE WHEN deleted_at > $1 THEN 0 WHEN deleted_at < CAST($1 AS BIGINT) - CAST($3 AS BIGINT) THEN $3 ELSE $1 - deleted_at END
         WHERE purge_at IS NOT NULL AND purged_at IS NULL AND purge_elapsed_ms IS NULL",
        params![run.now, run.elapsed_ms, run.elapsed_ms - run.previous_ms],
    )?;
    Ok(())
}

/// Account that is due to be purged.
#[derive(Clone, Copy, Debug)]
pub struct DueAccount {
    /// User ID.
    pub user: UserId,
    /// End of the grace period. Together with the ID, it is the position in the list.
    pub purge_at: Timestamp,
}

macro_rules! due {
    ($columns:literal, $and:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM users WHERE purge_at IS NOT NULL AND purged_at IS NULL AND purge_at <= $1
               AND (purge_elapsed_ms <= $2 OR purge_at <= deleted_at)",
            $and
        )
    };
}

/// Returns up to `limit` accounts after `after` whose grace period has ended, longest overdue first.
/// Accounts that were at least [`rules::ESTABLISHED_AGE`] old when they were deleted are included only if
/// `with_established`.
pub fn list_due(
    q: &Query<'_>,
    run: &PurgeRun,
    after: DueAccount,
    with_established: bool,
    limit: i64,
) -> Result<Vec<DueAccount>, Error> {
    q.all(
        due!(
            "id, purge_at",
            " AND (purge_at > $3 OR (purge_at = $3 AND id > $4))
               AND ($5 OR deleted_at - created_at < $6)
             ORDER BY purge_at, id LIMIT $7"
        ),
        params![
            run.now,
            run.elapsed_ms,
            after.purge_at,
            after.user,
            with_established,
            established_ms(),
            limit
        ],
        |row| Ok(DueAccount { user: row.get(0)?, purge_at: row.get(1)? }),
    )
}

/// Returns the number of accounts due to be purged, and how many of them are established.
pub fn count_due(q: &Query<'_>, run: &PurgeRun) -> Result<(i64, i64), Error> {
    let counted = q.one(
        due!("COUNT(*), COALESCE(SUM(CASE WHEN deleted_at - created_at >= $3 THEN 1 ELSE 0 END), 0)", ""),
        params![run.now, run.elapsed_ms, established_ms()],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    Ok(counted.unwrap_or_default())
}

/// Counts the accounts that are at least [`rules::ESTABLISHED_AGE`] old at `now`, including those that are
/// due.
pub fn count_established(q: &Query<'_>, now: Timestamp) -> Result<i64, Error> {
    let sql = "SELECT COUNT(*) FROM users WHERE purged_at IS NULL AND created_at <= $1";
    Ok(q.one(sql, params![now - rules::ESTABLISHED_AGE], |row| row.get(0))?.unwrap_or(0))
}

fn established_ms() -> i64 {
    i64::try_from(rules::ESTABLISHED_AGE.as_millis()).unwrap_or(i64::MAX)
}

/// Returns `true` if the account is still due to be purged, both at the wall-clock time `now` and in
/// observed time.
pub fn is_due(q: &Query<'_>, user: UserId, now: Timestamp, elapsed_ms: i64) -> Result<bool, Error> {
    let sql = due!("1", " AND id = $3");
    Ok(q.one(sql, params![now, elapsed_ms, user], |_| Ok(()))?.is_some())
}

/// Clears all personal data of an account. Its ID stays, because data of other users refers to it.
pub fn clear_user(tx: &Tx<'_>, user: UserId, name: &str) -> Result<(), Error> {
    tx.exec_deferred(
        "UPDATE users SET email = '', email_key = 'purged:' || id, display_name = $2, password_hash = '',
                role = 'user', email_verified_at = NULL, nickname = NULL, theme = NULL, locale = NULL, time_zone = NULL,
                pronouns = NULL
         WHERE id = $1",
        params![user, name],
    )?;
    Ok(())
}

pub fn insert_purge(tx: &Tx<'_>, user: UserId, now: Timestamp, manifest: &str) -> Result<(), Error> {
    tx.exec_deferred("UPDATE users SET purged_at = $2 WHERE id = $1", params![user, now])?;
    tx.exec_deferred(
        "INSERT INTO purges (user_id, purged_at, manifest) VALUES ($1, $2, $3)",
        params![user, now, manifest],
    )?;
    Ok(())
}
