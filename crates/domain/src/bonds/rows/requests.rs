//! All SQL about requests, a function a statement. No decisions.
//!
//! A request never leaves here but as one of its two sees it, with a status that its expiry has not overtaken.

use kith_kernel::{Timestamp, UserId};
use kith_store::{AsParam as _, Error, Param, Query, Row, Tx, params};

use super::super::model::{
    Asked, BondId, Draft, Pair, Parties, PartnerRequest, PartnerRequestId, Receiver, ReportReason,
    RequestDirection, RequestReport, RequestStatus, restorable_until,
};
use super::super::rules::status_at;
use crate::accounts::Person;

/// The columns of [`read_request_at`], of `r`; the last one is when the pair's former bond ended, if it may come back.
macro_rules! request_columns {
    () => {
        "r.id, r.from_user, r.from_name, r.to_user, r.to_name, r.to_email, r.status, r.told, r.message, r.created_at,
         r.expires_at,
         CASE WHEN r.status = 'pending' THEN
            (SELECT MAX(b.ended_at) FROM bonds b
             WHERE b.user_a = CASE WHEN r.from_user < r.to_user THEN r.from_user ELSE r.to_user END
               AND b.user_b = CASE WHEN r.from_user < r.to_user THEN r.to_user ELSE r.from_user END
               AND b.archived_at IS NULL)
         END"
    };
}
pub(super) use request_columns;

macro_rules! select_requests {
    ($($tail:literal),+) => {
        concat!("SELECT ", request_columns!(), " FROM partner_requests r ", $($tail),+)
    };
}

/// Who asked whom.
pub fn find_parties(q: &Query<'_>, id: PartnerRequestId) -> Result<Option<Parties>, Error> {
    q.one(
        "SELECT id, from_user, CASE WHEN delivered THEN to_user END, to_email IS NOT NULL
         FROM partner_requests WHERE id = $1",
        params![id],
        read_parties,
    )
}

/// A request, if `viewer` is one of its two and can see it.
pub fn find_request(
    q: &Query<'_>,
    id: PartnerRequestId,
    viewer: UserId,
    now: Timestamp,
) -> Result<Option<PartnerRequest>, Error> {
    q.one(
        select_requests!("WHERE r.id = $1 AND (r.from_user = $2 OR (r.to_user = $2 AND r.delivered))"),
        params![id, viewer],
        |row| read_request_at(row, 0, viewer, now),
    )
}

/// The last request of `sender` that led to the bond which they have now.
pub fn find_request_behind_bond(
    q: &Query<'_>,
    sender: UserId,
    now: Timestamp,
) -> Result<Option<(PartnerRequest, Option<String>)>, Error> {
    q.one(
        concat!(
            "SELECT ",
            request_columns!(),
            ", r.to_email_key FROM partner_requests r
             JOIN bond_slots s ON s.user_id = r.from_user AND s.bond_id = r.bond_id
             WHERE r.from_user = $1 AND r.status = 'accepted' ORDER BY r.id DESC LIMIT 1"
        ),
        params![sender],
        |row| Ok((read_request_at(row, 0, sender, now)?, row.get(12)?)),
    )
}

/// What `sender` asked of an address and is told to wait for. It may have expired meanwhile.
pub fn find_pending_by_address(
    q: &Query<'_>,
    sender: UserId,
    email_key: &str,
    now: Timestamp,
) -> Result<Option<PartnerRequest>, Error> {
    q.one(
        select_requests!("WHERE r.from_user = $1 AND r.told = 'pending' AND r.to_email_key = $2 LIMIT 1"),
        params![sender, email_key],
        |row| read_request_at(row, 0, sender, now),
    )
}

/// What `sender` asked of `receiver`, who does not see it. It is told as long as it has not expired.
pub fn find_withheld(
    q: &Query<'_>,
    sender: UserId,
    receiver: UserId,
    now: Timestamp,
) -> Result<Option<PartnerRequest>, Error> {
    q.one(
        select_requests!(
            "WHERE r.from_user = $1 AND r.told = 'pending' AND r.to_user = $2 AND NOT r.delivered AND r.expires_at > $3
             ORDER BY r.id DESC LIMIT 1"
        ),
        params![sender, receiver, now],
        |row| read_request_at(row, 0, sender, now),
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
    q.all(list_statement(direction, status), &params, |row| read_request_at(row, 0, user, now))
}

pub(super) fn list_statement(direction: RequestDirection, status: Option<RequestStatus>) -> &'static str {
    macro_rules! list {
        ($whose:literal, $filter:expr) => {
            concat!(
                "SELECT ",
                request_columns!(),
                " FROM partner_requests r WHERE ",
                $whose,
                " = $1 AND r.id < $2",
                $filter,
                " ORDER BY r.id DESC LIMIT $3"
            )
        };
    }
    macro_rules! list_by_status {
        ($whose:literal, $seen:literal, $status:literal) => {
            match status {
                None => list!($whose, $seen),
                Some(RequestStatus::Pending) => {
                    list!($whose, concat!($seen, " AND ", $status, " = 'pending' AND r.expires_at > $4"))
                }
                Some(RequestStatus::Expired) => list!(
                    $whose,
                    concat!(
                        $seen,
                        " AND (",
                        $status,
                        " = 'expired' OR (",
                        $status,
                        " = 'pending' AND r.expires_at <= $4))"
                    )
                ),
                Some(_) => list!($whose, concat!($seen, " AND ", $status, " = $4")),
            }
        };
    }
    match direction {
        RequestDirection::Incoming => list_by_status!("r.to_user", " AND r.delivered", "r.status"),
        RequestDirection::Outgoing => list_by_status!("r.from_user", "", "r.told"),
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

/// A request that is about to be made.
pub struct NewRequest<'r> {
    /// As its sender sees it.
    pub request: &'r PartnerRequest,
    /// What it was made from.
    pub draft: &'r Draft,
    /// Who is asked, if anybody.
    pub receiver: Option<&'r Person>,
    /// The pair that it holds the key of; none if its receiver shall never see it.
    pub pair: Option<Pair>,
    /// The bond that it led to at once.
    pub bond: Option<BondId>,
}

/// Makes the request unless another one holds the pair's key, and says whether it did.
pub fn insert_request(tx: &Tx<'_>, new: &NewRequest<'_>) -> Result<bool, Error> {
    let NewRequest { request, draft, receiver, pair, bond } = *new;
    let email = match &draft.to {
        Receiver::Email(email) => Some(email),
        Receiver::User(_) | Receiver::Invite(_) => None,
    };
    let own_key = || match email {
        Some(email) => format!("{}>{}", request.from.id, email.key),
        None => format!("{}>{}", request.from.id, request.id),
    };
    let inserted = tx.exec(
        "INSERT INTO partner_requests
            (id, from_user, from_name, to_user, to_name, to_email, to_email_key, delivered, pair_key, status, told,
             message, created_at, expires_at, bond_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10, $11, $12, $13, $14) ON CONFLICT DO NOTHING",
        params![
            request.id,
            request.from.id,
            request.from.display_name,
            receiver.map(|person| person.id),
            receiver.map(|person| &*person.display_name),
            email.map(|email| &*email.typed),
            email.map(|email| &*email.key),
            pair.is_some(),
            pair.map_or_else(own_key, Pair::key),
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
        "UPDATE partner_requests
         SET status = CASE WHEN status = 'pending' THEN 'expired' ELSE status END, told = 'expired',
             decided_at = CASE WHEN status = 'pending' THEN expires_at ELSE decided_at END
         WHERE id = $1 AND told = 'pending'",
        params![id],
    )?;
    Ok(expired == 1)
}

/// Requests behind `after` in the order of their ids, made at `until` or earlier, whose senders are told to wait though
/// they have expired; and the last id that was looked at.
pub fn list_expired(
    q: &Query<'_>,
    after: PartnerRequestId,
    until: PartnerRequestId,
    limit: i64,
) -> Result<Vec<(PartnerRequestId, bool)>, Error> {
    q.all(
        "SELECT id, told = 'pending' FROM partner_requests WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3",
        params![after, until, limit],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

/// How far expiry has been written down.
pub fn find_expiry_mark(q: &Query<'_>) -> Result<Option<PartnerRequestId>, Error> {
    q.one("SELECT up_to FROM expiry_marks WHERE name = 'partner_requests'", &[], |row| row.get(0))
}

pub fn set_expiry_mark(tx: &Tx<'_>, up_to: PartnerRequestId) -> Result<(), Error> {
    tx.exec(
        "INSERT INTO expiry_marks (name, up_to) VALUES ('partner_requests', $1)
         ON CONFLICT (name) DO UPDATE SET up_to = $1",
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

/// The sender took it back.
pub fn cancel_request(tx: &Tx<'_>, id: PartnerRequestId, now: Timestamp) -> Result<(), Error> {
    tx.exec(
        "UPDATE partner_requests SET status = 'cancelled', told = 'cancelled', decided_at = $2 WHERE id = $1",
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
            OR (to_user IN ($4, $5) AND status = 'pending' AND expires_at > $3)
         RETURNING id, from_user, CASE WHEN delivered THEN to_user END, to_email IS NOT NULL",
        params![accepted, bond, now, a, b],
        read_parties,
    )
}

/// Ends whatever `user` asked or was asked and is pending: their own is cancelled, others' make way.
pub fn end_pending(tx: &Tx<'_>, user: UserId, now: Timestamp) -> Result<Vec<Parties>, Error> {
    tx.all(
        "UPDATE partner_requests
         SET status = CASE WHEN from_user = $1 THEN 'cancelled' ELSE 'superseded' END,
             told = CASE WHEN from_user = $1 THEN 'cancelled' WHEN to_email IS NULL THEN 'superseded' ELSE told END,
             decided_at = $2
         WHERE (from_user = $1 AND told = 'pending' AND expires_at > $2)
            OR (to_user = $1 AND status = 'pending' AND expires_at > $2)
         RETURNING id, from_user, CASE WHEN delivered THEN to_user END, to_email IS NOT NULL",
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

/// Keeps the report unless this person has reported this request before, and says whether it did.
pub fn insert_report(
    tx: &Tx<'_>,
    report: &RequestReport,
    parties: Parties,
    reporter: UserId,
    reason: ReportReason,
    note: Option<&str>,
) -> Result<bool, Error> {
    let inserted = tx.exec(
        "INSERT INTO request_reports (id, request_id, reporter, reported, message, reason, note, created_at)
         VALUES ($1, $2, $3, $4, (SELECT message FROM partner_requests WHERE id = $2), $5, $6, $7)
         ON CONFLICT DO NOTHING",
        params![report.id, parties.request, reporter, parties.from, reason.as_str(), note, report.created_at],
    )?;
    Ok(inserted == 1)
}

pub fn find_report(
    q: &Query<'_>,
    request: PartnerRequestId,
    reporter: UserId,
) -> Result<Option<RequestReport>, Error> {
    q.one(
        "SELECT id, created_at FROM request_reports WHERE request_id = $1 AND reporter = $2",
        params![request, reporter],
        |row| Ok(RequestReport { id: row.get(0)?, created_at: row.get(1)? }),
    )
}

/// How many requests of `user` carry words of theirs.
pub fn count_messages(q: &Query<'_>, user: UserId) -> Result<i64, Error> {
    let sql = "SELECT COUNT(*) FROM partner_requests WHERE from_user = $1 AND message IS NOT NULL";
    Ok(q.one(sql, params![user], |row| row.get(0))?.unwrap_or(0))
}

/// Takes the words out of the requests that `user` sent, addresses too, and the name out of all; and what they wrote in
/// reports. What others reported of them is kept for the moderators, without their words.
pub fn forget_words(tx: &Tx<'_>, user: UserId, name: &str) -> Result<(), Error> {
    tx.exec(
        "UPDATE partner_requests
         SET message = NULL, from_name = $2, to_email = CASE WHEN to_email IS NULL THEN NULL ELSE '' END,
             to_email_key = NULL
         WHERE from_user = $1",
        params![user, name],
    )?;
    // Others wrote this person's address down.
    tx.exec(
        "UPDATE partner_requests
         SET to_name = $2, to_email = CASE WHEN to_email IS NULL THEN NULL ELSE '' END, to_email_key = NULL
         WHERE to_user = $1",
        params![user, name],
    )?;
    tx.exec("UPDATE request_reports SET note = NULL WHERE reporter = $1", params![user])?;
    tx.exec("UPDATE request_reports SET message = NULL WHERE reported = $1", params![user])?;
    Ok(())
}

/// A request whose columns begin at `at`, as `viewer` sees it.
pub(super) fn read_request_at(
    row: &Row<'_>,
    at: usize,
    viewer: UserId,
    now: Timestamp,
) -> Result<PartnerRequest, Error> {
    let from = Person { id: row.get(at + 1)?, display_name: row.get(at + 2)? };
    let email: Option<String> = row.get(at + 5)?;
    let is_sender = viewer == from.id;
    let stored: String = row.get(at + if is_sender { 7 } else { 6 })?;
    let stored = RequestStatus::parse(&stored).expect("the table's CHECK admits only statuses");
    let expires_at = row.get(at + 10)?;
    let status = status_at(stored, expires_at, now);
    let hidden = email.is_some() && is_sender && status != RequestStatus::Accepted;
    let to = match email {
        Some(email) if hidden => Asked::Address { email },
        _ => Asked::Person(Person { id: row.get(at + 3)?, display_name: row.get(at + 4)? }),
    };
    let former_ended_at: Option<Timestamp> = row.get(at + 11)?;
    let restorable = former_ended_at.filter(|_| !hidden).map(restorable_until);
    Ok(PartnerRequest {
        id: row.get(at)?,
        from,
        to,
        status,
        message: row.get(at + 8)?,
        created_at: row.get(at + 9)?,
        expires_at,
        restorable_until: restorable.filter(|until| status == RequestStatus::Pending && *until >= now),
        bond: None,
    })
}

fn read_parties(row: &Row<'_>) -> Result<Parties, Error> {
    Ok(Parties { request: row.get(0)?, from: row.get(1)?, to: row.get(2)?, by_email: row.get(3)? })
}
