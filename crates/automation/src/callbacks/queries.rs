//! Read operations of callbacks and endpoints.

use kith_kernel::uuid::Uuid;
use kith_kernel::{Page, PageLimit, Timestamp};
use kith_platform::auth::Keyring;
use kith_store::{Error, Query};

use super::model::{
    Callback, CallbackDetails, CallbackEndpoint, CallbackError, CallbackId, CallbackState, EndpointId,
    RecurringId,
};
use super::{rows, sealed};

/// Maximum number of attempts in the details of a callback.
const MAX_LISTED_ATTEMPTS: i64 = 50;

/// Filter and page parameters of a list of callbacks.
#[derive(Clone, Debug)]
pub struct CallbackFilter {
    /// State of the callbacks.
    pub state: Option<CallbackState>,
    /// Endpoint of the callbacks.
    pub endpoint: Option<EndpointId>,
    /// Recurring callback that created the callbacks.
    pub recurring: Option<RecurringId>,
    /// ID of the last callback of the previous page. The page begins below it.
    pub before: Option<CallbackId>,
    /// Maximum number of callbacks.
    pub limit: PageLimit,
}

/// Returns a page of callbacks, newest first.
///
/// # Errors
/// Returns the store's error if the query fails.
pub fn list(q: &Query<'_>, filter: &CallbackFilter) -> Result<Page<Callback>, Error> {
    let before = filter.before.unwrap_or(CallbackId(Uuid::max()));
    let found = rows::list(q, filter.state, filter.endpoint, filter.recurring, before, filter.limit.rows())?;
    Ok(Page::from_rows(found, filter.limit, |last| last.id))
}

/// Returns a callback with its attempts.
///
/// # Errors
/// Returns [`CallbackError::CallbackNotFound`] if the callback does not exist.
pub fn get(q: &Query<'_>, keyring: &Keyring, id: CallbackId) -> Result<CallbackDetails, CallbackError> {
    let stored = rows::find(q, id)?.ok_or(CallbackError::CallbackNotFound)?;
    let headers = sealed::open_headers(keyring, &sealed::headers_name(id), stored.headers.as_deref());
    Ok(CallbackDetails {
        callback: stored.callback,
        header_names: headers.unwrap_or_default().into_iter().map(|(name, _)| name).collect(),
        body: stored.body,
        timeout_ms: stored.timeout_ms,
        attempts: rows::list_attempts(q, id, MAX_LISTED_ATTEMPTS)?,
    })
}

/// Returns a page of endpoints, newest first.
///
/// # Errors
/// Returns the store's error if the query fails.
pub fn list_endpoints(
    q: &Query<'_>,
    before: Option<EndpointId>,
    limit: PageLimit,
    now: Timestamp,
) -> Result<Page<CallbackEndpoint>, Error> {
    let found = rows::list_endpoints(q, before.unwrap_or(EndpointId(Uuid::max())), limit.rows())?;
    Ok(Page::from_rows(found, limit, |last| last.id).map(|endpoint| endpoint.to_response(now)))
}

/// Returns an endpoint with its delivery state.
///
/// # Errors
/// Returns [`CallbackError::EndpointNotFound`] if the endpoint does not exist.
pub fn get_endpoint(
    q: &Query<'_>,
    id: EndpointId,
    now: Timestamp,
) -> Result<CallbackEndpoint, CallbackError> {
    rows::find_endpoint(q, id)?.map(|stored| stored.to_response(now)).ok_or(CallbackError::EndpointNotFound)
}
