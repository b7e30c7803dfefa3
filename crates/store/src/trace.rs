//! Rows that a transaction writes at its commit in addition to its own changes.

use std::collections::BTreeSet;

use crate::audit::{AuditDetails, AuditEntry};
use crate::events::Event;

/// Audit entries, personal details and events of a transaction, written at its commit, and its notifications.
#[derive(Default)]
pub(crate) struct Trace {
    pub audit: Vec<AuditEntry>,
    pub details: Vec<AuditDetails>,
    pub events: Vec<Event>,
    /// Channels to be notified after the commit.
    pub channels: BTreeSet<String>,
}

impl Trace {
    pub fn is_empty(&self) -> bool {
        self.audit.is_empty() && self.events.is_empty()
    }
}
