//! SQL statements for requests, one function per statement. Contains no business rules.
//!
//! Each function reads a request as one of its two users sees it. A pending request after its expiry time is
//! returned as expired.

use kith_kernel::{Timestamp, UserId};
use kith_store::{AsParam as _, Error, FromRow as _, Param, Query, Row, Tx, params, row_columns};

use super::super::model::{
    BondId, Pair, PartnerRequest, PartnerRequestId, Recipient, RequestDirection, RequestDraft,
    RequestParties, RequestRecipient, RequestStatus, restorable_until,
};
use super::super::rules::status_at;
use kith_accounts::accounts::UserSummary;

/// Columns for [`read_request_at`], from the table alias `r`. The last column is the end time of the pair's
/// former bond; NULL if no bond can be restored.
macro_rules! request_columns {
    () => {
        "r.id, r.from_user, r.from_name, r.to_user, r.to_name, r.to_email, r.status, r.sender_visible_status,
         r.message, r.created_at, r.expires_at,
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

row_columns! {
    parties_columns => RequestParties {
        request = "id",
        from = "from_user",
        to = "CASE WHEN delivered THEN to_user END",
        is_by_email = "to_email IS NOT NULL"
    }
}

/// Returns the sender and the recipient of a request.
pub fn find_parties(q: &Query<'_>, id: PartnerRequestId) -> Result<Option<RequestParties>, Error> {
    q.one(
        concat!("SELECT ", parties_columns!(), " FROM partner_requests WHERE id = $1"),
        params![id],
        RequestParties::read_row,
    )
}

static REQUEST: &str =
    select_requests!("WHERE r.id = $1 AND (r.from_user = $2 OR (r.to_user = $2 AND r.delivered))");

/// Prefetches the row that [`find_request`] reads.
pub fn prefetch_request(tx: &Tx<'_>, id: PartnerRequestId, viewer: UserId) -> Result<(), Error> {
    tx.prefetch(REQUEST, params![id, viewer])
}

/// Returns a request if `viewer` is its sender, or is its recipient and can see it.
pub fn find_request(
    q: &Query<'_>,
    id: PartnerRequestId,
    viewer: UserId,
    now: Timestamp,
) -> Result<Option<PartnerRequest>, Error> {
    q.one(REQUEST, params![id, viewer], |row| read_request_at(row, 0, viewer, now))
}

/// Returns the last request of `sender` that led to their active bond, with the e-mail key of the request.
pub fn find_request_of_bond(
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

/// Returns the request of `sender` to this e-mail address whose stored status for the sender is pending. It
/// may have expired.
pub fn find_pending_by_address(
    q: &Query<'_>,
    sender: UserId,
    email_key: &str,
    now: Timestamp,
) -> Result<Option<PartnerRequest>, Error> {
    q.one(
        select_requests!(
            "WHERE r.from_user = $1 AND r.sender_visible_status = 'pending' AND r.to_email_key = $2 LIMIT 1"
        ),
        params![sender, email_key],
        |row| read_request_at(row, 0, sender, now),
    )
}

/// Returns the request of `sender` that is withheld from `recipient`, if it has not expired.
pub fn find_withheld(
    q: &Query<'_>,
    sender: UserId,
    recipient: UserId,
    now: Timestamp,
) -> Result<Option<PartnerRequest>, Error> {
    q.one(
        select_requests!(
            "WHERE r.from_user = $1 AND r.sender_visible_status = 'pending' AND r.to_user = $2 AND NOT r.delivered
               AND r.to_email IS NULL AND r.expires_at > $3
             ORDER BY r.id DESC LIMIT 1"
        ),
        params![sender, recipient, now],
        |row| read_request_at(row, 0, sender, now),
    )
}

/// Returns up to `limit` requests of `user` in one direction with an ID below `before`, newest first.
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
        RequestDirection::Outgoing => list_by_status!("r.from_user", "", "r.sender_visible_status"),
    }
}

static RECENTLY_SENT: &str =
    "SELECT created_at FROM partner_requests WHERE from_user = $1 ORDER BY id DESC LIMIT $2";

/// Prefetches the rows that [`list_recently_sent`] reads.
pub fn prefetch_recently_sent(tx: &Tx<'_>, user: UserId, limit: i64) -> Result<(), Error> {
    tx.prefetch(RECENTLY_SENT, params![user, limit])
}

/// Returns the times of the last `limit` requests that `user` sent since `since`, newest first.
pub fn list_recently_sent(
    q: &Query<'_>,
    user: UserId,
    since: Timestamp,
    limit: i64,
) -> Result<Vec<Timestamp>, Error> {
    let newest = q.all(RECENTLY_SENT, params![user, limit], |row| row.get::<Timestamp>(0))?;
    Ok(newest.into_iter().filter(|inserted| *inserted > since).collect())
}

/// Request to insert.
pub struct NewRequest<'r> {
    /// Request as its sender sees it.
    pub request: &'r PartnerRequest,
    /// Draft from which the request was made.
    pub draft: &'r RequestDraft,
    /// Recipient; `None` if no user receives the request.
    pub recipient: Option<&'r UserSummary>,
    /// Pair whose key the request gets, so that no second request can be pending; `None` if no user receives
    /// the request.
    pub pair: Option<Pair>,
    /// Bond formed by sending the request; `None` if no bond was formed.
    pub bond: Option<BondId>,
}

/// Inserts a request unless another request has the same key. Returns `true` if it was inserted.
pub fn insert_request(tx: &Tx<'_>, new: &NewRequest<'_>) -> Result<bool, Error> {
    let NewRequest { request, draft, recipient, pair, bond } = *new;
    let email = match &draft.to {
        Recipient::Email(email) => Some(email),
        Recipient::User(_) | Recipient::Invite(_) => None,
    };
    let own_key = || match email {
        Some(email) => format!("{}>{}", request.from.id, email.key),
        None => format!("{}>{}", request.from.id, request.id),
    };
    let inserted = tx.exec(
        "INSERT INTO partner_requests
            (id, from_user, from_name, to_user, to_name, to_email, to_email_key, delivered, pair_key, status,
             sender_visible_status,
             message, created_at, expires_at, bond_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10, $11, $12, $13, $14) ON CONFLICT DO NOTHING",
        params![
            request.id,
            request.from.id,
            request.from.display_name,
            recipient.map(|person| person.id),
            recipient.map(|person| &*person.display_name),
            email.map(|email| &*email.address),
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

/// Reads a request whose columns begin at `at`, as `viewer` sees it.
pub(super) fn read_request_at(
    row: &Row<'_>,
    at: usize,
    viewer: UserId,
    now: Timestamp,
) -> Result<PartnerRequest, Error> {
    let from = UserSummary { id: row.get(at + 1)?, display_name: row.get(at + 2)? };
    let email: Option<String> = row.get(at + 5)?;
    let is_sender = viewer == from.id;
    let stored: String = row.get(at + if is_sender { 7 } else { 6 })?;
    let stored = RequestStatus::parse(&stored).expect("the table's CHECK admits only statuses");
    let expires_at = row.get(at + 10)?;
    let status = status_at(stored, expires_at, now);
    let hidden = email.is_some() && is_sender && status != RequestStatus::Accepted;
    let to = match email {
        Some(email) if hidden => RequestRecipient::Address { email },
        _ => RequestRecipient::User(UserSummary { id: row.get(at + 3)?, display_name: row.get(at + 4)? }),
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
