//! All SQL that moves requests on, a function a statement. No decisions.

use kith_kernel::{Timestamp, UserId};
use kith_store::{Error, Query, Row, Tx, params};

use super::super::model::{BondId, Pair, Parties, PartnerRequestId};
use super::requests::read_parties;

/// Request whose expiry was written down.
pub struct ExpiredRequest {
    /// When it expired.
    pub at: Timestamp,
    /// Set if it was still pending; otherwise only its sender was told that it is.
    pub was_pending: bool,
}

/// Records that a request expired. Returns `None` if neither user sees it as pending.
pub fn expire_request(tx: &Tx<'_>, id: PartnerRequestId) -> Result<Option<ExpiredRequest>, Error> {
    let expired = |was_pending| move |row: &Row<'_>| Ok(ExpiredRequest { at: row.get(0)?, was_pending });
    let pending = tx.one(
        "UPDATE partner_requests SET status = 'expired', told = 'expired', decided_at = expires_at
         WHERE id = $1 AND status = 'pending' RETURNING expires_at",
        params![id],
        expired(true),
    )?;
    if pending.is_some() {
        return Ok(pending);
    }
    tx.one(
        "UPDATE partner_requests SET told = 'expired' WHERE id = $1 AND told = 'pending' RETURNING expires_at",
        params![id],
        expired(false),
    )
}

/// Request that is old enough to have expired.
pub struct OldRequest {
    pub id: PartnerRequestId,
    pub from: UserId,
    /// Set if its sender is still told that it is pending.
    pub is_pending: bool,
}

/// Requests behind `after` in the order of their ids, made at `until` or earlier.
pub fn list_expired(
    q: &Query<'_>,
    after: PartnerRequestId,
    until: PartnerRequestId,
    limit: i64,
) -> Result<Vec<OldRequest>, Error> {
    q.all(
        "SELECT id, from_user, told = 'pending' FROM partner_requests
         WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3",
        params![after, until, limit],
        |row| Ok(OldRequest { id: row.get(0)?, from: row.get(1)?, is_pending: row.get(2)? }),
    )
}

/// How far expiry has been written down.
pub fn find_expiry_mark(q: &Query<'_>) -> Result<Option<PartnerRequestId>, Error> {
    q.one("SELECT up_to FROM expiry_marks WHERE name = 'partner_requests'", &[], |row| row.get(0))
}

pub fn set_expiry_mark(tx: &Tx<'_>, up_to: PartnerRequestId) -> Result<(), Error> {
    tx.exec(
        "INSERT INTO expiry_marks (name, up_to) VALUES ('partner_requests', $1)
         ON CONFLICT (name) DO UPDATE SET up_to = $1 WHERE expiry_marks.up_to < $1",
        params![up_to],
    )?;
    Ok(())
}

/// The receiver said no. Who asked by address is not told.
pub fn reject_request(tx: &Tx<'_>, id: PartnerRequestId, now: Timestamp) -> Result<(), Error> {
    tx.exec(
        "UPDATE partner_requests
         SET status = 'rejected', told = CASE WHEN to_email IS NULL THEN 'rejected' ELSE told END, decided_at = $2
         WHERE id = $1",
        params![id, now],
    )?;
    Ok(())
}

/// The sender took it back. Says whether it waited until then: its receiver may have decided it without their being told.
pub fn cancel_request(tx: &Tx<'_>, id: PartnerRequestId, now: Timestamp) -> Result<bool, Error> {
    let waited = tx.exec(
        "UPDATE partner_requests SET status = 'cancelled', told = 'cancelled', decided_at = $2
         WHERE id = $1 AND status = 'pending'",
        params![id, now],
    )?;
    if waited == 0 {
        tx.exec("UPDATE partner_requests SET told = 'cancelled' WHERE id = $1", params![id])?;
    }
    Ok(waited == 1)
}

/// Cancels a request because of what its sender did otherwise. Who asked by address is not told: it would say whose the
/// address is.
pub fn withdraw_request(tx: &Tx<'_>, id: PartnerRequestId, now: Timestamp) -> Result<(), Error> {
    tx.exec(
        "UPDATE partner_requests
         SET status = 'cancelled', told = CASE WHEN to_email IS NULL THEN 'cancelled' ELSE told END, decided_at = $2
         WHERE id = $1",
        params![id, now],
    )?;
    Ok(())
}

/// Takes a request out of its receiver's sight, and out of the pair's way. Its sender is told to wait until it expires.
pub fn withhold_request(tx: &Tx<'_>, parties: Parties) -> Result<(), Error> {
    let own_key = format!("{}>{}", parties.from, parties.request);
    tx.exec(
        "UPDATE partner_requests SET delivered = FALSE, pair_key = $2 WHERE id = $1",
        params![parties.request, own_key],
    )?;
    Ok(())
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
         SET status = CASE WHEN id = $1 THEN 'accepted' WHEN status = 'pending' THEN 'superseded' ELSE status END,
             told = CASE WHEN id = $1 THEN 'accepted'
                         WHEN to_email IS NULL OR from_user IN ($4, $5) THEN 'superseded' ELSE told END,
             bond_id = CASE WHEN id = $1 THEN $2 END,
             decided_at = CASE WHEN status = 'pending' THEN $3 ELSE decided_at END
         WHERE (from_user IN ($4, $5) AND told = 'pending' AND expires_at > $3)
            OR (to_user IN ($4, $5) AND delivered AND status = 'pending' AND expires_at > $3)
         RETURNING id, from_user, CASE WHEN delivered AND decided_at = $3 THEN to_user END, to_email IS NOT NULL",
        params![accepted, bond, now, a, b],
        read_parties,
    )
}

/// Ends whatever `user` asked or was asked and is pending: their own is cancelled, others' make way.
pub fn end_pending(tx: &Tx<'_>, user: UserId, now: Timestamp) -> Result<Vec<Parties>, Error> {
    tx.all(
        "UPDATE partner_requests
         SET status = CASE WHEN status <> 'pending' THEN status WHEN from_user = $1 THEN 'cancelled' ELSE 'superseded' END,
             told = CASE WHEN from_user = $1 THEN 'cancelled' WHEN to_email IS NULL THEN 'superseded' ELSE told END,
             decided_at = CASE WHEN status = 'pending' THEN $2 ELSE decided_at END
         WHERE (from_user = $1 AND told = 'pending' AND expires_at > $2)
            OR (to_user = $1 AND delivered AND status = 'pending' AND expires_at > $2)
         RETURNING id, from_user, CASE WHEN delivered AND decided_at = $2 THEN to_user END, to_email IS NOT NULL",
        params![user, now],
        read_parties,
    )
}

/// The request that waits between the two, whichever of them sent it.
pub fn find_pending_between(q: &Query<'_>, pair: Pair, now: Timestamp) -> Result<Option<Parties>, Error> {
    q.one(
        "SELECT id, from_user, CASE WHEN delivered THEN to_user END, to_email IS NOT NULL FROM partner_requests
         WHERE pair_key = $1 AND status = 'pending' AND expires_at > $2",
        params![pair.key(), now],
        read_parties,
    )
}
