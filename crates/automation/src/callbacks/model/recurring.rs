//! Recurring callbacks as stored in the database.

use kith_kernel::Timestamp;

use super::{EndpointId, RecurringId};

/// Recurring callback as stored. Its schedule is stored by the job engine.
#[derive(Clone, Debug)]
pub struct StoredRecurringCallback {
    /// Recurring callback ID.
    pub id: RecurringId,
    /// ID of the endpoint.
    pub endpoint_id: EndpointId,
    /// Target URL, including its query.
    pub url: String,
    /// HTTP method.
    pub method: String,
    /// Encrypted additional headers; `None` if there are none.
    pub headers: Option<Vec<u8>>,
    /// Body; `None` if the request has no body.
    pub body: Option<String>,
    /// Maximum time in milliseconds to wait for the response.
    pub timeout_ms: Option<i64>,
    /// Time at which the recurring callback was created.
    pub created_at: Timestamp,
}
