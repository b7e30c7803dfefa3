//! Reads about callbacks and endpoints.

use kith_kernel::uuid::Uuid;
use kith_kernel::{Page, PageLimit, Timestamp};
use kith_platform::auth::Keyring;
use kith_store::{Error, Query};

use super::model::{
    Callback, CallbackDetails, CallbackError, CallbackId, CallbackState, Endpoint, EndpointId, RecurringId,
};
use super::{rows, sealed};

/// Attempts that are told with a callback.
const ATTEMPTS: i64 = 50;

/// Which callbacks are asked for.
#[derive(Clone, Debug)]
pub struct CallbackList {
    /// Only those that stand so.
    pub state: Option<CallbackState>,
    /// Only those to this endpoint.
    pub endpoint: Option<EndpointId>,
    /// Only those that came of this recurring one.
    pub recurring: Option<RecurringId>,
    /// Only older ones.
    pub before: Option<CallbackId>,
    /// How many.
    pub limit: PageLimit,
}

/// Callbacks, the newest first.
///
/// # Errors
/// The database's.
pub fn list(q: &Query<'_>, list: &CallbackList) -> Result<Page<Callback>, Error> {
    let before = list.before.unwrap_or(CallbackId(Uuid::max()));
    let found = rows::list(q, list.state, list.endpoint, list.recurring, before, list.limit.rows())?;
    Ok(Page::from_rows(found, list.limit, |last| last.id))
}

/// A callback with its attempts.
///
/// # Errors
/// [`CallbackError::CallbackNotFound`].
pub fn get(q: &Query<'_>, keyring: &Keyring, id: CallbackId) -> Result<CallbackDetails, CallbackError> {
    let kept = rows::find(q, id)?.ok_or(CallbackError::CallbackNotFound)?;
    let headers = sealed::open_headers(keyring, &sealed::headers_name(id), kept.headers.as_deref());
    Ok(CallbackDetails {
        callback: kept.shown,
        header_names: headers.unwrap_or_default().into_iter().map(|(name, _)| name).collect(),
        body: kept.body,
        timeout_ms: kept.timeout_ms,
        attempts: rows::list_attempts(q, id, ATTEMPTS)?,
    })
}

/// Endpoints, the newest first.
///
/// # Errors
/// The database's.
pub fn list_endpoints(
    q: &Query<'_>,
    before: Option<EndpointId>,
    limit: PageLimit,
    now: Timestamp,
) -> Result<Page<Endpoint>, Error> {
    let found = rows::list_endpoints(q, before.unwrap_or(EndpointId(Uuid::max())), limit.rows())?;
    Ok(Page::from_rows(found, limit, |last| last.id).map(|endpoint| endpoint.shown(now)))
}

/// An endpoint.
///
/// # Errors
/// [`CallbackError::EndpointNotFound`].
pub fn get_endpoint(q: &Query<'_>, id: EndpointId, now: Timestamp) -> Result<Endpoint, CallbackError> {
    rows::find_endpoint(q, id)?.map(|kept| kept.shown(now)).ok_or(CallbackError::EndpointNotFound)
}
