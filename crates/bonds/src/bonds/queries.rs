//! Read operations of requests, bonds and invites.

use kith_kernel::uuid::Uuid;
use kith_kernel::{Cursor, InvalidCursor, Page, PageLimit, Timestamp, UserId};
use kith_store::{Error, Query};

use super::model::{
    Bond, BondError, BondHistoryEntry, BondId, Invite, PartnerRequest, PartnerRequestId, PartnerSettings,
    RequestDirection, RequestStatus,
};
use super::rows;

/// Filter and page parameters of a list of requests.
#[derive(Clone, Copy, Debug)]
pub struct PartnerRequestFilter {
    direction: Option<RequestDirection>,
    status: Option<RequestStatus>,
    before: PartnerRequestId,
    limit: PageLimit,
}

impl PartnerRequestFilter {
    /// Creates a filter for requests that match all given conditions, starting after `cursor`.
    ///
    /// # Errors
    /// Returns [`InvalidCursor`] if the cursor does not come from this list.
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

/// Returns a page of the requests of `user`, newest first.
///
/// # Errors
/// Returns [`BondError::Store`] if the query fails.
pub fn list_requests(
    q: &Query<'_>,
    user: UserId,
    filter: &PartnerRequestFilter,
    now: Timestamp,
) -> Result<Page<PartnerRequest>, BondError> {
    let side = |direction| {
        rows::list_requests(q, user, direction, filter.status, filter.before, filter.limit.rows(), now)
    };
    let requests = match filter.direction {
        Some(direction) => side(direction)?,
        // Reads incoming and outgoing requests separately, each by its own index, and merges them. Together
        // they contain the page.
        None => {
            let mut both = side(RequestDirection::Incoming)?;
            both.append(&mut side(RequestDirection::Outgoing)?);
            both.sort_unstable_by_key(|request| std::cmp::Reverse(request.id));
            both
        }
    };
    Ok(Page::from_rows(requests, filter.limit, |request| request.id))
}

/// Returns a request that `user` sent or received.
///
/// # Errors
/// Returns [`BondError::RequestNotFound`] if the request does not exist or the user cannot see it.
pub fn get_request(
    q: &Query<'_>,
    user: UserId,
    id: PartnerRequestId,
    now: Timestamp,
) -> Result<PartnerRequest, BondError> {
    let mut request = rows::find_request(q, id, user, now)?.ok_or(BondError::RequestNotFound)?;
    if request.status == RequestStatus::Accepted {
        request.bond = rows::find_bond_of_request(q, id, user)?;
    }
    Ok(request)
}

/// Returns the active bond of `user`.
///
/// # Errors
/// Returns [`BondError::Store`] if the query fails.
pub fn find_current_bond(q: &Query<'_>, user: UserId) -> Result<Option<Bond>, BondError> {
    Ok(rows::find_current_bond(q, user)?)
}

/// Returns a page of the active and ended bonds of `user`, most recently formed first.
///
/// # Errors
/// Returns [`BondError::Store`] if a query fails.
pub fn list_history(
    q: &Query<'_>,
    user: UserId,
    before: Option<BondId>,
    limit: PageLimit,
    now: Timestamp,
) -> Result<Page<BondHistoryEntry>, BondError> {
    let before = before.unwrap_or(BondId(Uuid::max()));
    let bonds = rows::list_bonds(q, user, before, limit.rows(), now)?;
    let mut page = Page::from_rows(bonds, limit, |history| history.bond.id);
    add_breakups(q, user, &mut page.items)?;
    Ok(page)
}

/// Returns one active or ended bond of `user`.
///
/// # Errors
/// Returns [`BondError::BondNotFound`] if the user never had this bond.
pub fn get_history(
    q: &Query<'_>,
    user: UserId,
    bond: BondId,
    now: Timestamp,
) -> Result<BondHistoryEntry, BondError> {
    let mut history = rows::find_bond(q, user, bond, now)?.ok_or(BondError::BondNotFound)?;
    add_breakups(q, user, std::slice::from_mut(&mut history))?;
    Ok(history)
}

/// Fills in the breakups of the given bonds of `user`.
///
/// # Errors
/// Returns the store's error if the query fails.
pub fn add_breakups(q: &Query<'_>, user: UserId, bonds: &mut [BondHistoryEntry]) -> Result<(), Error> {
    let ids = || bonds.iter().map(|history| history.bond.id);
    let Some((first, last)) = ids().min().zip(ids().max()) else { return Ok(()) };
    for (bond, breakup) in rows::list_breakups(q, user, first, last)? {
        let of_bond = bonds.iter_mut().filter(|history| history.bond.id == bond);
        of_bond.for_each(|history| history.breakups.push(breakup.clone()));
    }
    Ok(())
}

/// Returns the usable invites of `user`, newest first.
///
/// # Errors
/// Returns [`BondError::Store`] if the query fails.
pub fn list_invites(q: &Query<'_>, user: UserId, now: Timestamp) -> Result<Vec<Invite>, BondError> {
    Ok(rows::list_usable_invites(q, user, now)?)
}

/// Returns the partner settings of `user`.
///
/// # Errors
/// Returns [`BondError::Store`] if the query fails.
pub fn get_settings(q: &Query<'_>, user: UserId) -> Result<PartnerSettings, BondError> {
    Ok(rows::find_settings(q, user)?)
}
