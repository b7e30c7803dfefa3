//! SQL statements that change the status of requests, one function per statement. Contains no business rules.

use kith_kernel::{Timestamp, UserId};
use kith_store::{Error, FromRow as _, Query, Row, Tx, params, row_columns};

use super::super::model::{BondId, Pair, PartnerRequestId, RequestParties};
use super::requests::parties_columns;

/// Request whose expiry was recorded.
pub struct ExpiredRequest {
    /// Time at which the request expired.
    pub at: Timestamp,
    /// `true` if the request was pending for both users; `false` if only its sender still saw it as pending.
    pub was_pending: bool,
}

/// Records that a request has expired. Returns `None` if it is no longer pending for either user.
pub fn expire_request(tx: &Tx<'_>, id: PartnerRequestId) -> Result<Option<ExpiredRequest>, Error> {
    let expired = |was_pending| move |row: &Row<'_>| Ok(ExpiredRequest { at: row.get(0)?, was_pending });
    let pending = tx.one(
        "UPDATE partner_requests SET status = 'expired', sender_visible_status = 'expired', decided_at = expires_at
         WHERE id = $1 AND status = 'pending' RETURNING expires_at",
        params![id],
        expired(true),
    )?;
    if pending.is_some() {
        return Ok(pending);
    }
    tx.one(
        "UPDATE partner_requests SET sender_visible_status = 'expired'
         WHERE id = $1 AND sender_visible_status = 'pending' RETURNING expires_at",
        params![id],
        expired(false),
    )
}

/// Request that is old enough to have expired. It may already have been decided.
pub struct ExpirableRequest {
    pub id: PartnerRequestId,
    pub from: UserId,
    /// `true` if the sender sees the request as pending.
    pub is_pending: bool,
}

row_columns! {
    expirable_request_columns => ExpirableRequest {
        id = "id",
        from = "from_user",
        is_pending = "sender_visible_status = 'pending'"
    }
}

/// Returns up to `limit` requests with an ID above `after` and at most `until`, ordered by ID.
pub fn list_expired(
    q: &Query<'_>,
    after: PartnerRequestId,
    until: PartnerRequestId,
    limit: i64,
) -> Result<Vec<ExpirableRequest>, Error> {
    q.all(
        concat!(
            "SELECT ",
            expirable_request_columns!(),
            " FROM partner_requests WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3"
        ),
        params![after, until, limit],
        ExpirableRequest::read_row,
    )
}

/// Returns the ID of the last request whose expiry has been processed.
pub fn find_expiry_progress(q: &Query<'_>) -> Result<Option<PartnerRequestId>, Error> {
    q.one("SELECT up_to FROM expiry_progress WHERE name = 'partner_requests'", &[], |row| row.get(0))
}

pub fn set_expiry_progress(tx: &Tx<'_>, up_to: PartnerRequestId) -> Result<(), Error> {
    tx.exec_deferred(
        "INSERT INTO expiry_progress (name, up_to) VALUES ('partner_requests', $1)
         ON CONFLICT (name) DO UPDATE SET up_to = $1 WHERE expiry_progress.up_to < $1",
        params![up_to],
    )?;
    Ok(())
}

/// Rejects a request. If it was sent by e-mail address, its sender still sees it as pending.
pub fn reject_request(tx: &Tx<'_>, id: PartnerRequestId, now: Timestamp) -> Result<(), Error> {
    tx.exec_deferred(
        "UPDATE partner_requests
         SET status = 'rejected', decided_at = $2,
             sender_visible_status = CASE WHEN to_email IS NULL THEN 'rejected' ELSE sender_visible_status END
         WHERE id = $1",
        params![id, now],
    )?;
    Ok(())
}

/// Cancels a request. Returns `true` if it was pending for both users. Returns `false` if the recipient had
/// already decided it while its sender still saw it as pending.
pub fn cancel_request(tx: &Tx<'_>, id: PartnerRequestId, now: Timestamp) -> Result<bool, Error> {
    let was_pending = tx.exec(
        "UPDATE partner_requests SET status = 'cancelled', sender_visible_status = 'cancelled', decided_at = $2
         WHERE id = $1 AND status = 'pending'",
        params![id, now],
    )?;
    if was_pending == 0 {
        tx.exec_deferred(
            "UPDATE partner_requests SET sender_visible_status = 'cancelled' WHERE id = $1",
            params![id],
        )?;
    }
    Ok(was_pending == 1)
}

/// Cancels a request as a consequence of another action of its sender. If it was sent by e-mail address, the
/// sender still sees it as pending, because the change would reveal who has the address.
pub fn withdraw_request(tx: &Tx<'_>, id: PartnerRequestId, now: Timestamp) -> Result<(), Error> {
    tx.exec_deferred(
        "UPDATE partner_requests
         SET status = 'cancelled', decided_at = $2,
             sender_visible_status = CASE WHEN to_email IS NULL THEN 'cancelled' ELSE sender_visible_status END
         WHERE id = $1",
        params![id, now],
    )?;
    Ok(())
}

/// Withholds a request: hides it from its recipient and releases the key of the pair, so that a new request
/// is possible. Its sender still sees it as pending until it expires.
pub fn withhold_request(tx: &Tx<'_>, parties: RequestParties) -> Result<(), Error> {
    let own_key = format!("{}>{}", parties.from, parties.request);
    tx.exec_deferred(
        "UPDATE partner_requests SET delivered = FALSE, pair_key = $2 WHERE id = $1",
        params![parties.request, own_key],
    )?;
    Ok(())
}

/// Decides all pending requests of both users of a pair. Sets `accepted` to accepted, with `bond`, and all
/// others to superseded. Returns the decided requests.
pub fn decide_pending(
    tx: &Tx<'_>,
    accepted: PartnerRequestId,
    bond: BondId,
    pair: Pair,
    now: Timestamp,
) -> Result<Vec<RequestParties>, Error> {
    let [a, b] = pair.users();
    tx.all(
        "UPDATE partner_requests
         SET status = CASE WHEN id = $1 THEN 'accepted' WHEN status = 'pending' THEN 'superseded' ELSE status END,
             sender_visible_status = CASE WHEN id = $1 THEN 'accepted'
                         WHEN to_email IS NULL OR from_user IN ($4, $5) THEN 'superseded'
                         ELSE sender_visible_status END,
             bond_id = CASE WHEN id = $1 THEN $2 END,
             decided_at = CASE WHEN status = 'pending' THEN $3 ELSE decided_at END
         WHERE (from_user IN ($4, $5) AND sender_visible_status = 'pending' AND expires_at > $3)
            OR (to_user IN ($4, $5) AND delivered AND status = 'pending' AND expires_at > $3)
         RETURNING id, from_user, CASE WHEN delivered AND decided_at = $3 THEN to_user END, to_email IS NOT NULL",
        params![accepted, bond, now, a, b],
        RequestParties::read_row,
    )
}

/// Ends all pending requests of `user`. Cancels the sent ones and supersedes the received ones. Returns
/// them.
pub fn end_pending(tx: &Tx<'_>, user: UserId, now: Timestamp) -> Result<Vec<RequestParties>, Error> {
    tx.all(
        "UPDATE partner_requests
         SET status = CASE WHEN status <> 'pending' THEN status
                           WHEN from_user = $1 THEN 'cancelled' ELSE 'superseded' END,
             sender_visible_status = CASE WHEN from_user = $1 THEN 'cancelled'
                                          WHEN to_email IS NULL THEN 'superseded' ELSE sender_visible_status END,
             decided_at = CASE WHEN status = 'pending' THEN $2 ELSE decided_at END
         WHERE (from_user = $1 AND sender_visible_status = 'pending' AND expires_at > $2)
            OR (to_user = $1 AND delivered AND status = 'pending' AND expires_at > $2)
         RETURNING id, from_user, CASE WHEN delivered AND decided_at = $2 THEN to_user END, to_email IS NOT NULL",
        params![user, now],
        RequestParties::read_row,
    )
}

/// Returns the pending request between two users, in either direction.
pub fn find_pending_between(
    q: &Query<'_>,
    pair: Pair,
    now: Timestamp,
) -> Result<Option<RequestParties>, Error> {
    q.one(
        concat!(
            "SELECT ",
            parties_columns!(),
            " FROM partner_requests WHERE pair_key = $1 AND status = 'pending' AND expires_at > $2"
        ),
        params![pair.key(), now],
        RequestParties::read_row,
    )
}
