//! All SQL about requests and bonds, a function a statement. No decisions.
//!
//! A request never leaves here with a status that its expiry has overtaken.

use kith_kernel::{Timestamp, UserId, uuid::Uuid};
use kith_store::{AsParam as _, Error, Param, Query, Row, Tx, id_columns, params};

use super::events::Parties;
use super::model::{
    Bond, BondId, Pair, PartnerRequest, PartnerRequestId, RequestDirection, RequestStatus, Standing,
};
use super::rules::status_at;
use crate::accounts::Person;

id_columns!(PartnerRequestId, BondId);

/// Selects requests with both names, in the columns of [`read_request`].
macro_rules! select_requests {
    ($($tail:literal),+) => {
        concat!(
            "SELECT r.id, f.id, f.display_name, t.id, t.display_name, r.status, r.message, r.created_at, r.expires_at
             FROM partner_requests r JOIN users f ON f.id = r.from_user JOIN users t ON t.id = r.to_user ",
            $($tail),+
        )
    };
}

/// How the two stand to each other; `None` if one of them does not exist.
pub fn find_standing(
    q: &Query<'_>,
    sender: UserId,
    receiver: UserId,
    pair: Pair,
    now: Timestamp,
) -> Result<Option<Standing>, Error> {
    q.one(
        "SELECT s.display_name, t.display_name, slot.bond_id IS NOT NULL,
                p.id, p.from_user, p.status, p.message, p.created_at, p.expires_at
         FROM users s
         JOIN users t ON t.id = $2 AND t.deleted_at IS NULL
         LEFT JOIN bond_slots slot ON slot.user_id = s.id
         LEFT JOIN partner_requests p ON p.pair_key = $3 AND p.status = 'pending'
         WHERE s.id = $1",
        params![sender, receiver, pair.key()],
        |row| {
            let sender = Person { id: sender, display_name: row.get(0)? };
            let receiver = Person { id: receiver, display_name: row.get(1)? };
            let pending = read_pending(row, &sender, &receiver, now)?;
            Ok(Standing { sender, receiver, sender_bonded: row.get(2)?, pending })
        },
    )
}

/// Who asked whom; that never changes.
pub fn find_parties(q: &Query<'_>, id: PartnerRequestId) -> Result<Option<[UserId; 2]>, Error> {
    q.one("SELECT from_user, to_user FROM partner_requests WHERE id = $1", params![id], |row| {
        Ok([row.get(0)?, row.get(1)?])
    })
}

pub fn find_request(
    q: &Query<'_>,
    id: PartnerRequestId,
    now: Timestamp,
) -> Result<Option<PartnerRequest>, Error> {
    q.one(select_requests!("WHERE r.id = $1"), params![id], |row| read_request(row, now))
}

/// The last request of `sender` to `receiver` that led to the bond which they have now.
pub fn find_request_behind_bond(
    q: &Query<'_>,
    sender: UserId,
    receiver: UserId,
    now: Timestamp,
) -> Result<Option<PartnerRequest>, Error> {
    q.one(
        select_requests!(
            "JOIN bond_slots s ON s.user_id = r.from_user AND s.bond_id = r.bond_id
             WHERE r.from_user = $1 AND r.to_user = $2 AND r.status = 'accepted'
             ORDER BY r.id DESC LIMIT 1"
        ),
        params![sender, receiver],
        |row| read_request(row, now),
    )
}

/// The requests that `user` sent or received, newest first, from behind `before` on, at most `limit`.
pub fn list_requests(
    q: &Query<'_>,
    user: UserId,
    direction: RequestDirection,
    status: Option<RequestStatus>,
    before: PartnerRequestId,
    limit: i64,
    now: Timestamp,
) -> Result<Vec<PartnerRequest>, Error> {
    let filter = match status {
        None => None,
        Some(RequestStatus::Pending | RequestStatus::Expired) => Some(now.as_param()),
        Some(decided) => Some(Param::Text(decided.as_str())),
    };
    let params: Vec<_> =
        [user.as_param(), before.as_param(), limit.as_param()].into_iter().chain(filter).collect();
    q.all(list_statement(direction, status), &params, |row| read_request(row, now))
}

fn list_statement(direction: RequestDirection, status: Option<RequestStatus>) -> &'static str {
    macro_rules! list {
        ($whose:literal, $filter:literal) => {
            select_requests!("WHERE ", $whose, " = $1 AND r.id < $2", $filter, " ORDER BY r.id DESC LIMIT $3")
        };
    }
    macro_rules! list_by_status {
        ($whose:literal) => {
            match status {
                None => list!($whose, ""),
                Some(RequestStatus::Pending) => {
                    list!($whose, " AND r.status = 'pending' AND r.expires_at > $4")
                }
                Some(RequestStatus::Expired) => list!(
                    $whose,
                    " AND (r.status = 'expired' OR (r.status = 'pending' AND r.expires_at <= $4))"
                ),
                Some(_) => list!($whose, " AND r.status = $4"),
            }
        };
    }
    match direction {
        RequestDirection::Incoming => list_by_status!("r.to_user"),
        RequestDirection::Outgoing => list_by_status!("r.from_user"),
    }
}

/// When `user` made their last requests since `since`, the newest first, at most `limit`.
pub fn list_recently_sent(
    q: &Query<'_>,
    user: UserId,
    since: Timestamp,
    limit: i64,
) -> Result<Vec<Timestamp>, Error> {
    let newest = q.all(
        "SELECT created_at FROM partner_requests WHERE from_user = $1 ORDER BY id DESC LIMIT $2",
        params![user, limit],
        |row| row.get::<Timestamp>(0),
    )?;
    Ok(newest.into_iter().filter(|made| *made > since).collect())
}

/// Makes the request unless another one holds the pair's key, and says whether it did.
pub fn insert_request(
    tx: &Tx<'_>,
    request: &PartnerRequest,
    pair: Pair,
    bond: Option<BondId>,
) -> Result<bool, Error> {
    let inserted = tx.exec(
        "INSERT INTO partner_requests
            (id, from_user, to_user, pair_key, status, message, created_at, expires_at, bond_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING",
        params![
            request.id,
            request.from.id,
            request.to.id,
            pair.key(),
            request.status.as_str(),
            request.message,
            request.created_at,
            request.expires_at,
            bond
        ],
    )?;
    Ok(inserted == 1)
}

/// Writes down that a request expired, when it did.
pub fn expire_request(tx: &Tx<'_>, id: PartnerRequestId) -> Result<bool, Error> {
    let expired = tx.exec(
        "UPDATE partner_requests SET status = 'expired', decided_at = expires_at
         WHERE id = $1 AND status = 'pending'",
        params![id],
    )?;
    Ok(expired == 1)
}

/// Decides all that waits for or comes from either of the pair: `accepted` leads to the bond, the others make way.
/// Returns what was decided.
pub fn decide_pending(
    tx: &Tx<'_>,
    accepted: PartnerRequestId,
    bond: BondId,
    pair: Pair,
    now: Timestamp,
) -> Result<Vec<Parties>, Error> {
    let [a, b] = pair.users();
    tx.all(
        "UPDATE partner_requests
         SET status = CASE WHEN id = $1 THEN 'accepted' ELSE 'superseded' END,
             bond_id = CASE WHEN id = $1 THEN $2 END,
             decided_at = $3
         WHERE status = 'pending' AND expires_at > $3 AND (from_user IN ($4, $5) OR to_user IN ($4, $5))
         RETURNING id, from_user, to_user",
        params![accepted, bond, now, a, b],
        |row| Ok(Parties { request: row.get(0)?, from: row.get(1)?, to: row.get(2)? }),
    )
}

pub fn insert_bond(tx: &Tx<'_>, bond: BondId, pair: Pair, since: Timestamp) -> Result<(), Error> {
    let [a, b] = pair.users();
    tx.exec(
        "INSERT INTO bonds (id, user_a, user_b, since) VALUES ($1, $2, $3, $4)",
        params![bond, a, b, since],
    )?;
    Ok(())
}

/// Fills the slots of both, in the order of their ids, and says whether both were free.
pub fn fill_slots(tx: &Tx<'_>, bond: BondId, pair: Pair) -> Result<bool, Error> {
    let [a, b] = pair.users();
    let filled = tx.exec(
        "INSERT INTO bond_slots (user_id, bond_id) VALUES ($1, $3), ($2, $3) ON CONFLICT DO NOTHING",
        params![a, b, bond],
    )?;
    Ok(filled == 2)
}

/// The bond that `user` has now.
pub fn find_current_bond(q: &Query<'_>, user: UserId) -> Result<Option<Bond>, Error> {
    q.one(
        "SELECT b.id, p.id, p.display_name, b.since, b.restored_at, b.restorations
         FROM bond_slots s
         JOIN bonds b ON b.id = s.bond_id
         JOIN users p ON p.id = CASE WHEN b.user_a = s.user_id THEN b.user_b ELSE b.user_a END
         WHERE s.user_id = $1",
        params![user],
        read_bond,
    )
}

/// The bond that came of a request, as `user` sees it, while it lasts.
pub fn find_bond_of_request(
    q: &Query<'_>,
    request: PartnerRequestId,
    user: UserId,
) -> Result<Option<Bond>, Error> {
    q.one(
        "SELECT b.id, p.id, p.display_name, b.since, b.restored_at, b.restorations
         FROM partner_requests r
         JOIN bonds b ON b.id = r.bond_id AND b.ended_at IS NULL
         JOIN users p ON p.id = CASE WHEN b.user_a = $2 THEN b.user_b ELSE b.user_a END
         WHERE r.id = $1",
        params![request, user],
        read_bond,
    )
}

/// The bond of `user` that has not ended, and whose it is.
pub fn find_bond_to_end(q: &Query<'_>, user: UserId) -> Result<Option<(BondId, [UserId; 2])>, Error> {
    q.one(
        "SELECT b.id, b.user_a, b.user_b FROM bond_slots s JOIN bonds b ON b.id = s.bond_id WHERE s.user_id = $1",
        params![user],
        |row| Ok((row.get(0)?, [row.get(1)?, row.get(2)?])),
    )
}

/// Ends the bond and vacates both slots.
pub fn end_bond(tx: &Tx<'_>, bond: BondId, now: Timestamp) -> Result<(), Error> {
    tx.exec("UPDATE bonds SET ended_at = $2 WHERE id = $1", params![bond, now])?;
    tx.exec("DELETE FROM bond_slots WHERE bond_id = $1", params![bond])?;
    Ok(())
}

/// Ends whatever `user` asked or was asked and is pending: their own is cancelled, others' make way.
pub fn end_pending(tx: &Tx<'_>, user: UserId, now: Timestamp) -> Result<Vec<Parties>, Error> {
    tx.all(
        "UPDATE partner_requests
         SET status = CASE WHEN from_user = $1 THEN 'cancelled' ELSE 'superseded' END, decided_at = $2
         WHERE status = 'pending' AND expires_at > $2 AND (from_user = $1 OR to_user = $1)
         RETURNING id, from_user, to_user",
        params![user, now],
        |row| Ok(Parties { request: row.get(0)?, from: row.get(1)?, to: row.get(2)? }),
    )
}

/// Every bond that `user` ever had, the newest first: with whom, from when, until when.
pub fn list_bonds_of(q: &Query<'_>, user: UserId) -> Result<Vec<(Bond, Option<Timestamp>)>, Error> {
    q.all(
        "SELECT b.id, p.id, p.display_name, b.since, b.restored_at, b.restorations, b.ended_at
         FROM bonds b JOIN users p ON p.id = CASE WHEN b.user_a = $1 THEN b.user_b ELSE b.user_a END
         WHERE b.user_a = $1 OR b.user_b = $1 ORDER BY b.id DESC",
        params![user],
        |row| Ok((read_bond(row)?, row.get(6)?)),
    )
}

/// How many requests of `user` carry words of theirs.
pub fn count_messages(q: &Query<'_>, user: UserId) -> Result<i64, Error> {
    let sql = "SELECT COUNT(*) FROM partner_requests WHERE from_user = $1 AND message IS NOT NULL";
    Ok(q.one(sql, params![user], |row| row.get(0))?.unwrap_or(0))
}

/// Takes the words out of the requests that `user` sent.
pub fn forget_messages(tx: &Tx<'_>, user: UserId) -> Result<(), Error> {
    let sql = "UPDATE partner_requests SET message = NULL WHERE from_user = $1 AND message IS NOT NULL";
    tx.exec(sql, params![user])?;
    Ok(())
}

fn read_request(row: &Row<'_>, now: Timestamp) -> Result<PartnerRequest, Error> {
    let from = Person { id: row.get(1)?, display_name: row.get(2)? };
    let to = Person { id: row.get(3)?, display_name: row.get(4)? };
    read_request_of(row, PartnerRequestId(row.get(0)?), from, to, now)
}

/// The pending request in the last columns of [`find_standing`], if there is one.
fn read_pending(
    row: &Row<'_>,
    sender: &Person,
    receiver: &Person,
    now: Timestamp,
) -> Result<Option<PartnerRequest>, Error> {
    let Some(id) = row.get::<Option<Uuid>>(3)? else { return Ok(None) };
    let (from, to) = if row.get::<UserId>(4)? == sender.id { (sender, receiver) } else { (receiver, sender) };
    read_request_of(row, PartnerRequestId(id), from.clone(), to.clone(), now).map(Some)
}

/// A request whose own columns begin at 5, as [`find_standing`] and [`select_requests`] select them.
fn read_request_of(
    row: &Row<'_>,
    id: PartnerRequestId,
    from: Person,
    to: Person,
    now: Timestamp,
) -> Result<PartnerRequest, Error> {
    let stored =
        RequestStatus::parse(&row.get::<String>(5)?).expect("the table's CHECK admits only statuses");
    let expires_at = row.get(8)?;
    Ok(PartnerRequest {
        id,
        from,
        to,
        status: status_at(stored, expires_at, now),
        message: row.get(6)?,
        created_at: row.get(7)?,
        expires_at,
        restorable_until: None,
        bond: None,
    })
}

fn read_bond(row: &Row<'_>) -> Result<Bond, Error> {
    Ok(Bond {
        id: row.get(0)?,
        partner: Person { id: row.get(1)?, display_name: row.get(2)? },
        since: row.get(3)?,
        restored_at: row.get(4)?,
        restorations: row.get(5)?,
    })
}

#[cfg(test)]
mod tests {
    use kith_store::testing::TestDatabase;
    use kith_store::{ModuleMigrations, STORE_MIGRATIONS, Store};

    use super::*;

    /// What SQLite does for `statement`, a line a step.
    async fn plan(db: &Store, statement: &str) -> Vec<String> {
        let explained: &'static str = format!("EXPLAIN QUERY PLAN {statement}").leak();
        let nothing = vec![Param::Null; (1..=5).filter(|n| statement.contains(&format!("${n}"))).count()];
        let steps = db.read(move |q| q.all(explained, &nothing, |row| row.get::<String>(3)));
        steps.await.unwrap_or_else(|error: Error| panic!("{explained}: {error}"))
    }

    /// A list costs what its page holds, not what a person ever got.
    #[tokio::test]
    async fn lists_come_in_the_order_of_an_index() {
        let database = TestDatabase::sqlite();
        let modules = [&crate::accounts::MODULE, &crate::bonds::MODULE];
        let own = modules.map(|one| ModuleMigrations { module: one.name, migrations: one.migrations });
        database.migrate([STORE_MIGRATIONS].into_iter().chain(own).collect()).await.unwrap();
        let db = Store::open(database.options()).await.unwrap();
        for direction in [RequestDirection::Incoming, RequestDirection::Outgoing] {
            for (status, index) in [
                (None, ""),
                (Some(RequestStatus::Pending), "_pending"),
                (Some(RequestStatus::Expired), ""),
                (Some(RequestStatus::Rejected), ""),
            ] {
                let (side, column) = match direction {
                    RequestDirection::Incoming => ("incoming", "to_user"),
                    RequestDirection::Outgoing => ("outgoing", "from_user"),
                };
                let steps = plan(&db, list_statement(direction, status)).await;
                let wanted =
                    format!("SEARCH r USING INDEX partner_requests_{side}{index} ({column}=? AND id<?)");
                assert!(steps.contains(&wanted), "{status:?}: {wanted} is not in {steps:#?}");
                assert!(!steps.iter().any(|step| step.contains("B-TREE")), "{status:?}: {steps:#?}");
            }
        }
        db.close().await;
    }
}
