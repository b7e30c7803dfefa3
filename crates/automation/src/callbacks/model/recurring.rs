//! Recurring callback as stored.

use kith_kernel::Timestamp;

use super::{EndpointId, RecurringId};

/// Recurring callback as stored.
#[derive(Clone, Debug)]
pub struct StoredRecurringCallback {
    /// Recurring callback ID.
    pub id: RecurringId,
    /// ID of the endpoint.
    pub endpoint_id: EndpointId,
    /// Target URL, with its query.
    pub url: String,
    /// HTTP method.
    pub method: String,
    /// Sealed headers, if any.
    pub headers: Option<Vec<u8>>,
    /// Body, if any.
    pub body: Option<String>,
    /// Maximum time in milliseconds to wait for the response.
    pub timeout_ms: Option<i64>,
    /// Time at which the schedule was created.
    pub created_at: Timestamp,
}
