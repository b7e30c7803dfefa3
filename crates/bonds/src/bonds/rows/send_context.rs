//! SQL statements for sending requests. One statement reads everything that a decision needs, because
//! sending is frequent.

use kith_kernel::uuid::Uuid;
use kith_kernel::{Timestamp, UserId};
use kith_store::{Error, Query, Row, Tx, params};

use super::super::model::{Pair, RequestPolicy};
use super::super::rules::{RefusalHistory, SendContext};
use super::requests::{read_request_at, request_columns};
use kith_accounts::accounts::UserSummary;

/// Reads the data that decides on a request of `sender` to `recipient`. Returns `None` if the sender does
/// not exist. The recipient in the result is `None` if they do not exist or one of the two users has blocked
/// the other.
pub fn find_send_context(
    q: &Query<'_>,
    sender: UserId,
    recipient: UserId,
    pair: Pair,
    now: Timestamp,
) -> Result<Option<SendContext>, Error> {
    let [a, b] = pair.users();
    q.one(
        concat!(
            "SELECT s.display_name, t.display_name, slot.bond_id IS NOT NULL, w.accepts_requests_from,
                    COALESCE(w.discoverable_by_email, FALSE), n.steps, n.last_step_at, n.wait_until, n.cancelled_at,
                    m.steps, m.last_step_at, m.wait_until, m.cancelled_at,
                    (SELECT MAX(f.ended_at) FROM bonds f
                     WHERE f.user_a = $4 AND f.user_b = $5 AND f.archived_at IS NULL),
                    EXISTS (SELECT 1 FROM partner_requests v
                     WHERE v.from_user = $1 AND v.sender_visible_status = 'pending' AND v.to_user = $2
                       AND NOT v.delivered AND v.to_email IS NULL AND v.expires_at > $6), ",
            request_columns!(),
            " FROM users s
              LEFT JOIN users t ON t.id = $2 AND t.deleted_at IS NULL AND NOT EXISTS
                (SELECT 1 FROM blocks k
                 WHERE (k.blocker = $1 AND k.blocked = $2) OR (k.blocker = $2 AND k.blocked = $1))
              LEFT JOIN bond_slots slot ON slot.user_id = s.id
              LEFT JOIN partner_settings w ON w.user_id = $2
              LEFT JOIN partner_refusals n ON n.from_user = $1 AND n.to_user = $2 AND n.by_email = FALSE
              LEFT JOIN partner_refusals m ON m.from_user = $1 AND m.to_user = $2 AND m.by_email = TRUE
              LEFT JOIN partner_requests r ON r.pair_key = $3 AND r.status = 'pending'
              WHERE s.id = $1 AND s.deleted_at IS NULL"
        ),
        params![sender, recipient, pair.key(), a, b, now],
        |row| {
            let user_summary =
                |id, name: Option<String>| name.map(|display_name| UserSummary { id, display_name });
            let policy: Option<String> = row.get(3)?;
            let pending: Option<Uuid> = row.get(15)?;
            Ok(SendContext {
                sender: UserSummary { id: sender, display_name: row.get(0)? },
                recipient: user_summary(recipient, row.get(1)?),
                is_sender_bonded: row.get(2)?,
                accepts_requests_from: policy.and_then(|text| RequestPolicy::parse(&text)).unwrap_or_default(),
                discoverable_by_email: row.get(4)?,
                refusals: read_refusals(row, 5)?,
                email_refusals: read_refusals(row, 9)?,
                former_ended_at: row.get(13)?,
                has_withheld_request: row.get(14)?,
                pending: pending.map(|_| read_request_at(row, 15, sender, now)).transpose()?,
            })
        },
    )
}

/// Returns the refusals of requests from `from` by `to`: either of those by e-mail address, or of all
/// others.
pub fn find_refusals(
    q: &Query<'_>,
    from: UserId,
    to: UserId,
    by_email: bool,
) -> Result<RefusalHistory, Error> {
    let found = q.one(
        "SELECT steps, last_step_at, wait_until, cancelled_at FROM partner_refusals
         WHERE from_user = $1 AND to_user = $2 AND by_email = $3",
        params![from, to, by_email],
        |row| read_refusals(row, 0),
    )?;
    Ok(found.unwrap_or_default())
}

pub fn upsert_refusals(
    tx: &Tx<'_>,
    from: UserId,
    to: UserId,
    by_email: bool,
    refusals: RefusalHistory,
) -> Result<(), Error> {
    tx.exec_deferred(
        "INSERT INTO partner_refusals (from_user, to_user, by_email, steps, last_step_at, wait_until, cancelled_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (from_user, to_user, by_email)
         DO UPDATE SET steps = $4, last_step_at = $5, wait_until = $6, cancelled_at = $7",
        params![
            from,
            to,
            by_email,
            refusals.steps,
            refusals.last_step_at,
            refusals.wait_until,
            refusals.cancelled_at
        ],
    )?;
    Ok(())
}

/// Reads the refusals whose columns begin at index `at`. NULL columns mean no refusals.
fn read_refusals(row: &Row<'_>, at: usize) -> Result<RefusalHistory, Error> {
    let steps: Option<i64> = row.get(at)?;
    Ok(RefusalHistory {
        steps: steps.unwrap_or(0),
        last_step_at: row.get(at + 1)?,
        wait_until: row.get(at + 2)?,
        cancelled_at: row.get(at + 3)?,
    })
}

/// Deletes the refusals of requests from `to` to `from`, because `from` now sends a request to `to`. If
/// `both` is `true`, also deletes the refusals in the opposite direction, because the users form a bond.
pub fn delete_refusals(tx: &Tx<'_>, from: UserId, to: UserId, both: bool) -> Result<(), Error> {
    tx.exec_deferred(
        "DELETE FROM partner_refusals
         WHERE (from_user = $2 AND to_user = $1) OR ($3 AND from_user = $1 AND to_user = $2)",
        params![from, to, both],
    )?;
    Ok(())
}
