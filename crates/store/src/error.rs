//! Errors of the store. Callers match on the variant; the cause is a text for the log.

use std::sync::Arc;

use thiserror::Error;

/// Reason why a transaction or read returned no result.
///
/// Nothing was changed, except possibly after [`Error::OutcomeUnknown`].
#[derive(Clone, Debug, Error)]
pub enum Error {
    /// The queue is full. The transaction or read was not started.
    #[error("the queue is full")]
    Busy,
    /// The deadline passed before the closure started, or during a statement or a wait for a lock. Nothing
    /// was changed.
    #[error("deadline exceeded")]
    DeadlinePassed,
    /// The database cannot be reached, its disk is full, or the transaction had too many conflicts. Nothing
    /// was changed.
    #[error("database unavailable: {0}")]
    Unavailable(Cause),
    /// COMMIT failed or its response was lost. It is not known whether all changes of the transaction or none
    /// of them were made.
    #[error("the outcome of the commit is unknown: {0}")]
    OutcomeUnknown(Cause),
    /// The text contains U+0000, which PostgreSQL cannot store.
    #[error("text must not contain U+0000")]
    NulInText,
    /// A unique, foreign-key or check constraint rejected the statement. The transaction is rolled back.
    #[error("a constraint rejected the change: {0}")]
    Constraint(Cause),
    /// A programming error: a statement that does not match the schema, or a panic in the closure.
    #[error("the transaction failed: {0}")]
    Fault(Cause),
}

/// Underlying error, as text for the log.
#[derive(Clone, Debug, Error)]
#[error("{0}")]
pub struct Cause(Arc<str>);

impl Cause {
    pub(crate) fn new(of: impl std::fmt::Display) -> Self {
        Self(of.to_string().into())
    }
}

impl Error {
    /// Creates an [`Error::Fault`].
    pub fn fault(of: impl std::fmt::Display) -> Self {
        Self::Fault(Cause::new(of))
    }

    /// Creates an [`Error::Unavailable`].
    pub fn unavailable(of: impl std::fmt::Display) -> Self {
        Self::Unavailable(Cause::new(of))
    }
}

/// Reason why a database could not be opened or migrated.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process uses the data folder.
    #[error("the data folder {folder} is in use by {holder}")]
    FolderInUse {
        /// Path of the folder.
        folder: String,
        /// Program name and process id of the process that uses the folder.
        holder: String,
    },
    /// The folder or a file in it cannot be used.
    #[error("cannot use {path}: {source}")]
    Folder {
        /// Path of the folder or file.
        path: String,
        /// I/O error.
        source: std::io::Error,
    },
    /// The database URL, the certificates or another setting is invalid.
    #[error("{0}")]
    Settings(String),
    /// The database has migrations that this build does not know, or whose content differs in this build.
    #[error("{0}")]
    Schema(String),
    /// The database returned an error.
    #[error(transparent)]
    Database(#[from] Error),
}
