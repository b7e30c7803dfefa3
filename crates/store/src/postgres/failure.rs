//! What an error of PostgreSQL means: for whoever asked, and for whether running again can help.

use tokio_postgres::error::SqlState;

use crate::Error;
use crate::error::Cause;

/// What kind of failure a session met: whether running again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Deadlock or serialization failure.
    Conflict,
    /// The connection is gone.
    ConnectionLost,
    /// Running again would fail again.
    Lasting,
}

/// Why a statement has no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The server, or the connection to it, said so.
    Said(tokio_postgres::Error),
    /// The server said nothing for too long.
    Silent,
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Said(error)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Said(error) => f.write_str(&describe(error)),
            Self::Silent => f.write_str("the server does not answer"),
        }
    }
}

pub(super) fn unknown(failure: Failure) -> Error {
    Error::OutcomeUnknown(Cause::new(failure))
}

/// An error with its causes, which the driver's own text leaves out, and without the server's DETAIL, which quotes
/// people's data.
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

/// Says what an error of PostgreSQL means for whoever asked (SQLSTATE: appendix A of its manual). `writes` is for a
/// connection that was made to a server that accepts writes.
pub(super) fn classify(failure: &Failure, writes: bool) -> (Error, Trouble) {
    let text = failure.to_string();
    let Failure::Said(error) = failure else {
        return (Error::unavailable(text), Trouble::ConnectionLost);
    };
    let Some(code) = error.code() else {
        let lost = error.is_closed()
            || std::error::Error::source(error).is_some_and(|source| source.is::<std::io::Error>());
        let trouble = if lost { Trouble::ConnectionLost } else { Trouble::Lasting };
        return (if lost { Error::unavailable(text) } else { Error::fault(text) }, trouble);
    };
    match code.code().get(..2) {
        _ if *code == SqlState::T_R_DEADLOCK_DETECTED || *code == SqlState::T_R_SERIALIZATION_FAILURE => {
            (Error::unavailable(text), Trouble::Conflict)
        }
        _ if *code == SqlState::QUERY_CANCELED || *code == SqlState::LOCK_NOT_AVAILABLE => {
            (Error::DeadlinePassed, Trouble::Lasting)
        }
        // The server has turned read-only since, and nothing was changed: another one may accept writes.
        _ if writes && *code == SqlState::READ_ONLY_SQL_TRANSACTION => {
            (Error::unavailable(text), Trouble::ConnectionLost)
        }
        // A statement that was prepared before another node changed the schema: a new connection prepares it anew.
        Some("0A" | "26") => (Error::fault(text), Trouble::ConnectionLost),
        Some("08" | "57") => (Error::unavailable(text), Trouble::ConnectionLost),
        Some("53" | "58" | "25") => (Error::unavailable(text), Trouble::Lasting),
        Some("23") => (Error::Constraint(Cause::new(text)), Trouble::Lasting),
        _ => (Error::fault(text), Trouble::Lasting),
    }
}
