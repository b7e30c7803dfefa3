//! Side effects of a transaction that are written at commit.

use std::collections::BTreeSet;

use crate::audit::{AuditDetails, AuditEntry};
use crate::events::Event;

/// Audit entries, events and notifications of a transaction, written at commit.
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
