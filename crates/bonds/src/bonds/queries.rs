//! Reads about requests, bonds and invites.

use kith_kernel::uuid::Uuid;
use kith_kernel::{Cursor, InvalidCursor, Page, PageLimit, Timestamp, UserId};
use kith_store::{Error, Query};

use super::model::{
    Bond, BondError, BondId, History, Invite, PartnerRequest, PartnerRequestId, RequestDirection,
    RequestStatus, Settings,
};
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

/// A request that `user` sent or received.
///
/// # Errors
/// [`BondError::RequestNotFound`].
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

/// The bond that `user` has now.
///
/// # Errors
/// The database's.
pub fn find_current_bond(q: &Query<'_>, user: UserId) -> Result<Option<Bond>, BondError> {
    Ok(rows::find_current_bond(q, user)?)
}

/// The bonds of `user`, alive and over, the one that was formed last first.
///
/// # Errors
/// The database's.
pub fn list_history(
    q: &Query<'_>,
    user: UserId,
    before: Option<BondId>,
    limit: PageLimit,
    now: Timestamp,
) -> Result<Page<History>, BondError> {
    let before = before.unwrap_or(BondId(Uuid::max()));
    let bonds = rows::list_bonds(q, user, before, limit.rows(), now)?;
    let mut page = Page::from_rows(bonds, limit, |history| history.bond.id);
    add_breakups(q, user, &mut page.items)?;
    Ok(page)
}

/// One bond of `user`, alive or over.
///
/// # Errors
/// [`BondError::BondNotFound`] if it is not theirs.
pub fn get_history(q: &Query<'_>, user: UserId, bond: BondId, now: Timestamp) -> Result<History, BondError> {
    let mut history = rows::find_bond(q, user, bond, now)?.ok_or(BondError::BondNotFound)?;
    add_breakups(q, user, std::slice::from_mut(&mut history))?;
    Ok(history)
}

/// Tells of each of these bonds of `user` when it ended.
///
/// # Errors
/// The database's.
pub fn add_breakups(q: &Query<'_>, user: UserId, bonds: &mut [History]) -> Result<(), Error> {
    let ids = || bonds.iter().map(|history| history.bond.id);
    let Some((first, last)) = ids().min().zip(ids().max()) else { return Ok(()) };
    for (bond, breakup) in rows::list_breakups(q, user, first, last)? {
        let of_bond = bonds.iter_mut().filter(|history| history.bond.id == bond);
        of_bond.for_each(|history| history.breakups.push(breakup.clone()));
    }
    Ok(())
}

/// The live invites of `user`, the newest first.
///
/// # Errors
/// The database's.
pub fn list_invites(q: &Query<'_>, user: UserId, now: Timestamp) -> Result<Vec<Invite>, BondError> {
    Ok(rows::list_live_invites(q, user, now)?)
}

/// How `user` wants to be approached.
///
/// # Errors
/// The database's.
pub fn get_settings(q: &Query<'_>, user: UserId) -> Result<Settings, BondError> {
    Ok(rows::find_settings(q, user)?)
}
