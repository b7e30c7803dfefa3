//! Fault injection. Each fault occurs once, at the first operation to which it applies.

use std::sync::{Mutex, PoisonError};

/// Fault to inject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The disk is full at the n-th statement inside a transaction from now on, counted from 1.
    DiskFull {
        /// Number of the statement.
        at_statement: u32,
    },
    /// The connection, and with it the whole transaction, is lost at the n-th statement from now on, counted
    /// from 1.
    ConnectionLost {
        /// Number of the statement.
        at_statement: u32,
    },
    /// The next transaction that would commit fails with a deadlock.
    Conflict,
    /// The next COMMIT fails.
    CommitFails,
    /// The next COMMIT succeeds, but its response is lost.
    CommitAnswerLost,
}

/// Injected faults that have not occurred yet.
#[derive(Debug, Default)]
pub(crate) struct Faults(Mutex<Vec<Fault>>);

impl Faults {
    pub fn inject(&self, fault: Fault) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(fault);
    }

    /// Counts a statement. Removes and returns the fault that occurs at this statement, if there is one.
    pub fn at_statement(&self) -> Option<Fault> {
        let mut faults = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for fault in faults.iter_mut() {
            if let Fault::DiskFull { at_statement } | Fault::ConnectionLost { at_statement } = fault {
                *at_statement = at_statement.saturating_sub(1);
            }
        }
        take(&mut faults, |fault| {
            matches!(fault, Fault::DiskFull { at_statement: 0 } | Fault::ConnectionLost { at_statement: 0 })
        })
    }

    /// Returns true if a conflict must occur at the end of this closure.
    pub fn at_end(&self) -> bool {
        self.take_one(Fault::Conflict)
    }

    /// Returns true if this COMMIT must fail.
    pub fn at_commit(&self) -> bool {
        self.take_one(Fault::CommitFails)
    }

    /// Returns true if the response to this COMMIT must be lost.
    pub fn after_commit(&self) -> bool {
        self.take_one(Fault::CommitAnswerLost)
    }

    fn take_one(&self, wanted: Fault) -> bool {
        let mut faults = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        take(&mut faults, |fault| *fault == wanted).is_some()
    }
}

fn take(faults: &mut Vec<Fault>, matches: impl Fn(&Fault) -> bool) -> Option<Fault> {
    faults.iter().position(matches).map(|at| faults.remove(at))
}
