//! Classification of PostgreSQL errors: the error for the caller, and whether a retry can succeed.

use tokio_postgres::error::SqlState;

use crate::Error;
use crate::error::Cause;

/// Kind of a failure. It determines whether the closure is run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// Deadlock or serialization failure. A retry can succeed.
    Conflict,
    /// The connection was lost. A retry on a new connection can succeed.
    ConnectionLost,
    /// The failure is permanent: a retry would fail in the same way.
    Permanent,
}

/// Reason why a statement has no result.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Error reported by the server or by the connection.
    Reported(tokio_postgres::Error),
    /// The server did not respond in time.
    NoResponse,
    /// The server has closed the connection, and nothing was sent.
    Closed,
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Reported(error)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Reported(error) => f.write_str(&describe(error)),
            Self::NoResponse => f.write_str("the server does not respond"),
            Self::Closed => f.write_str("the server has closed the connection"),
        }
    }
}

pub(super) fn unknown(failure: Failure) -> Error {
    Error::OutcomeUnknown(Cause::new(failure))
}

/// Formats an error with its causes, which the driver's own text omits. The server's DETAIL is left out,
/// because it can contain personal data.
pub(super) fn describe(error: &tokio_postgres::Error) -> String {
    if let Some(refused) = error.as_db_error() {
        return format!("{} {}: {}", refused.severity(), refused.code().code(), refused.message());
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Maps a PostgreSQL error (SQLSTATE, appendix A of the PostgreSQL manual) to the error for the caller and
/// the kind of failure. `writes` is true if the statement ran in a read-write transaction.
pub(super) fn classify(failure: &Failure, writes: bool) -> (Error, FailureKind) {
    let text = failure.to_string();
    let Failure::Reported(error) = failure else {
        return (Error::unavailable(text), FailureKind::ConnectionLost);
    };
    let Some(code) = error.code() else {
        let lost = error.is_closed()
            || std::error::Error::source(error).is_some_and(|source| source.is::<std::io::Error>());
        let trouble = if lost { FailureKind::ConnectionLost } else { FailureKind::Permanent };
        return (if lost { Error::unavailable(text) } else { Error::fault(text) }, trouble);
    };
    match code.code().get(..2) {
        _ if *code == SqlState::T_R_DEADLOCK_DETECTED || *code == SqlState::T_R_SERIALIZATION_FAILURE => {
            (Error::unavailable(text), FailureKind::Conflict)
        }
        _ if *code == SqlState::QUERY_CANCELED || *code == SqlState::LOCK_NOT_AVAILABLE => {
            (Error::DeadlinePassed, FailureKind::Permanent)
        }
        // The server has become read-only, and nothing was changed. A retry may find another server that
        // accepts writes.
        _ if writes && *code == SqlState::READ_ONLY_SQL_TRANSACTION => {
            (Error::unavailable(text), FailureKind::ConnectionLost)
        }
        // Another node changed the schema after the statement was prepared. A new connection prepares the
        // statement again.
        Some("0A" | "26") => (Error::fault(text), FailureKind::ConnectionLost),
        Some("08" | "57") => (Error::unavailable(text), FailureKind::ConnectionLost),
        Some("53" | "58" | "25") => (Error::unavailable(text), FailureKind::Permanent),
        Some("23") => (Error::Constraint(Cause::new(text)), FailureKind::Permanent),
        _ => (Error::fault(text), FailureKind::Permanent),
    }
}
