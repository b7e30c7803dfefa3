//! Row of an ended job that is not settled yet.

use kith_store::row_columns;

use crate::model::JobId;

/// Ended job with what is left to settle: its unique key, and the jobs that wait for it.
pub struct UnsettledJob {
    pub id: JobId,
    pub unique_key: Option<String>,
    pub has_dependents: bool,
}

row_columns! {
    unsettled_columns => UnsettledJob { id = "id", unique_key = "unique_key", has_dependents = "has_dependents" }
}
