//! Reads about requests and bonds.

use kith_kernel::uuid::Uuid;
use kith_kernel::{Cursor, InvalidCursor, Page, PageLimit, Timestamp, UserId};
use kith_store::Query;

use super::model::{Bond, BondError, PartnerRequest, PartnerRequestId, RequestDirection, RequestStatus};
use super::rows;

/// Which requests somebody wants to see, and from where on.
#[derive(Clone, Copy, Debug)]
pub struct RequestList {
    direction: Option<RequestDirection>,
    status: Option<RequestStatus>,
    before: PartnerRequestId,
    limit: PageLimit,
}

impl RequestList {
    /// Those in `direction` and `status`, of either and any unless given, from `cursor` on.
    ///
    /// # Errors
    /// [`InvalidCursor`] if the cursor is not one that such a list handed out.
    pub fn new(
        direction: Option<RequestDirection>,
        status: Option<RequestStatus>,
        cursor: Option<&Cursor>,
        limit: PageLimit,
    ) -> Result<Self, InvalidCursor> {
        let before = cursor.map(Cursor::key).transpose()?.unwrap_or(PartnerRequestId(Uuid::max()));
        Ok(Self { direction, status, before, limit })
    }
}

/// The requests of `user`, newest first.
///
/// # Errors
/// The database's.
pub fn list_requests(
    q: &Query<'_>,
    user: UserId,
    list: &RequestList,
    now: Timestamp,
) -> Result<Page<PartnerRequest>, BondError> {
    let side =
        |direction| rows::list_requests(q, user, direction, list.status, list.before, list.limit.rows(), now);
    let requests = match list.direction {
        Some(direction) => side(direction)?,
        // Each side comes by its own index; together they hold the page.
        None => {
            let mut both = side(RequestDirection::Incoming)?;
            both.append(&mut side(RequestDirection::Outgoing)?);
            both.sort_unstable_by_key(|request| std::cmp::Reverse(request.id));
            both
        }
    };
    Ok(Page::from_rows(requests, list.limit, |request| request.id))
}

/// The bond that `user` has now.
///
/// # Errors
/// The database's.
pub fn find_current_bond(q: &Query<'_>, user: UserId) -> Result<Option<Bond>, BondError> {
    Ok(rows::find_current_bond(q, user)?)
}
