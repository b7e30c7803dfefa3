//! How two people stand to each other, in one statement: the hot path of asking.

use kith_kernel::uuid::Uuid;
use kith_kernel::{Timestamp, UserId};
use kith_store::{Error, Query, Tx, params};

use super::super::model::{Pair, WhoMayAsk};
use super::super::rules::{Refusals, Standing};
use super::requests::{read_request_at, request_columns};
use crate::accounts::Person;

/// How `sender` stands to `receiver`; `None` if there is no such sender. A receiver who is not there, or on either side
/// of whose door a block stands, is none.
pub fn find_standing(
    q: &Query<'_>,
    sender: UserId,
    receiver: UserId,
    pair: Pair,
    now: Timestamp,
) -> Result<Option<Standing>, Error> {
    let [a, b] = pair.users();
    q.one(
        concat!(
            "SELECT s.display_name, t.display_name, slot.bond_id IS NOT NULL, w.who_may_ask,
                    COALESCE(w.found_by_email, FALSE), n.steps, n.wait_until, n.cancelled_at,
                    (SELECT MAX(f.ended_at) FROM bonds f
                     WHERE f.user_a = $4 AND f.user_b = $5 AND f.archived_at IS NULL),
                    EXISTS (SELECT 1 FROM partner_requests v
                     WHERE v.from_user = $1 AND v.told = 'pending' AND v.to_user = $2 AND NOT v.delivered
                       AND v.to_email IS NULL AND v.expires_at > $6), ",
            request_columns!(),
            " FROM users s
              LEFT JOIN users t ON t.id = $2 AND t.deleted_at IS NULL AND NOT EXISTS
                (SELECT 1 FROM blocks k
                 WHERE (k.blocker = $1 AND k.blocked = $2) OR (k.blocker = $2 AND k.blocked = $1))
              LEFT JOIN bond_slots slot ON slot.user_id = s.id
              LEFT JOIN partner_settings w ON w.user_id = $2
              LEFT JOIN partner_refusals n ON n.from_user = $1 AND n.to_user = $2
              LEFT JOIN partner_requests r ON r.pair_key = $3 AND r.status = 'pending'
              WHERE s.id = $1"
        ),
        params![sender, receiver, pair.key(), a, b, now],
        |row| {
            let person = |id, name: Option<String>| name.map(|display_name| Person { id, display_name });
            let who_may_ask: Option<String> = row.get(3)?;
            let steps: Option<i64> = row.get(5)?;
            let pending: Option<Uuid> = row.get(10)?;
            Ok(Standing {
                sender: Person { id: sender, display_name: row.get(0)? },
                receiver: person(receiver, row.get(1)?),
                sender_bonded: row.get(2)?,
                who_may_ask: who_may_ask.and_then(|text| WhoMayAsk::parse(&text)).unwrap_or_default(),
                found_by_email: row.get(4)?,
                refusals: Refusals {
                    steps: steps.unwrap_or(0),
                    wait_until: row.get(6)?,
                    cancelled_at: row.get(7)?,
                },
                former_ended_at: row.get(8)?,
                withheld: row.get(9)?,
                pending: pending.map(|_| read_request_at(row, 10, sender, now)).transpose()?,
            })
        },
    )
}

/// How often `from` was refused by `to`.
pub fn find_refusals(q: &Query<'_>, from: UserId, to: UserId) -> Result<Refusals, Error> {
    let found = q.one(
        "SELECT steps, wait_until, cancelled_at FROM partner_refusals WHERE from_user = $1 AND to_user = $2",
        params![from, to],
        |row| Ok(Refusals { steps: row.get(0)?, wait_until: row.get(1)?, cancelled_at: row.get(2)? }),
    )?;
    Ok(found.unwrap_or_default())
}

pub fn upsert_refusals(tx: &Tx<'_>, from: UserId, to: UserId, refusals: Refusals) -> Result<(), Error> {
    tx.exec(
        "INSERT INTO partner_refusals (from_user, to_user, steps, wait_until, cancelled_at)
         VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (from_user, to_user) DO UPDATE SET steps = $3, wait_until = $4, cancelled_at = $5",
        params![from, to, refusals.steps, refusals.wait_until, refusals.cancelled_at],
    )?;
    Ok(())
}

/// Forgets how often `to` was refused by `from`, who asks now, or whether either was by the other, who are partners now.
pub fn forget_refusals(tx: &Tx<'_>, from: UserId, to: UserId, both: bool) -> Result<(), Error> {
    tx.exec(
        "DELETE FROM partner_refusals
         WHERE (from_user = $2 AND to_user = $1) OR ($3 AND from_user = $1 AND to_user = $2)",
        params![from, to, both],
    )?;
    Ok(())
}
