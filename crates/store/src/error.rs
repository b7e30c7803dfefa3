//! What the store can answer besides a result. Causes stay here, for the log; callers see a kind.

use std::sync::Arc;

use thiserror::Error;

/// Why a transaction or a read did not give its result.
///
/// Only after [`Error::OutcomeUnknown`] may something have changed.
#[derive(Clone, Debug, Error)]
pub enum Error {
    /// The queue is full: nothing was started.
    #[error("too much work is waiting")]
    Busy,
    /// The deadline passed before the closure started, or a statement or lock outlasted it: nothing was changed.
    #[error("the deadline passed")]
    DeadlinePassed,
    /// The database cannot be reached, its disk is full, or it gave up on too many conflicts: nothing was changed.
    #[error("the database is not available: {0}")]
    Unavailable(Cause),
    /// COMMIT failed or its answer was lost: the change is there whole or not at all, and nobody knows yet.
    #[error("the outcome of the commit is unknown: {0}")]
    OutcomeUnknown(Cause),
    /// A text with U+0000 in it, which not both databases can hold.
    #[error("text must not contain U+0000")]
    NulInText,
    /// A unique, foreign-key or check constraint refused the statement, and so the transaction.
    #[error("a constraint refused the change: {0}")]
    Constraint(Cause),
    /// A fault of ours: a statement that does not fit its table, a panic in the closure.
    #[error("the transaction failed: {0}")]
    Fault(Cause),
}

/// The underlying error, as text for the log.
#[derive(Clone, Debug, Error)]
#[error("{0}")]
pub struct Cause(Arc<str>);

impl Cause {
    pub(crate) fn new(of: impl std::fmt::Display) -> Self {
        Self(of.to_string().into())
    }
}

impl Error {
    /// A fault of ours.
    pub fn fault(of: impl std::fmt::Display) -> Self {
        Self::Fault(Cause::new(of))
    }

    /// Not there, for this reason.
    pub fn unavailable(of: impl std::fmt::Display) -> Self {
        Self::Unavailable(Cause::new(of))
    }
}

/// Why a database could not be opened or migrated.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process has the data folder.
    #[error("the data folder {folder} is in use by {holder}")]
    FolderInUse {
        /// The folder.
        folder: String,
        /// Who holds it, as it said of itself.
        holder: String,
    },
    /// The folder or a file in it cannot be used.
    #[error("cannot use {path}: {source}")]
    Folder {
        /// The folder or file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The address, the certificates or another setting is wrong.
    #[error("{0}")]
    Settings(String),
    /// The database has migrations that this build does not know, or knows with another text.
    #[error("{0}")]
    Schema(String),
    /// The database refused.
    #[error(transparent)]
    Database(#[from] Error),
}
