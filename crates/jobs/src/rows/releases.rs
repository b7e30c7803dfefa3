//! Row of an ended job whose unique key and dependents are not updated yet.

use kith_store::row_columns;

use crate::model::JobId;

/// Ended job whose unique key must be released, and whose dependent jobs must be updated.
pub struct JobRelease {
    pub id: JobId,
    pub unique_key: Option<String>,
    pub has_dependents: bool,
}

row_columns! {
    job_release_columns => JobRelease { id = "id", unique_key = "unique_key", has_dependents = "has_dependents" }
}
