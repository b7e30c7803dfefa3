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

pub(super) fn unknown(error: &tokio_postgres::Error) -> Error {
    Error::OutcomeUnknown(Cause::new(describe(error)))
}

/// An error with its causes: the driver's own text leaves them out.
pub(super) fn describe(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Says what an error of PostgreSQL means for whoever asked (SQLSTATE: appendix A of its manual).
pub(super) fn classify(error: &tokio_postgres::Error) -> (Error, Trouble) {
    let text = describe(error);
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
        Some("08" | "57") => (Error::unavailable(text), Trouble::ConnectionLost),
        Some("53" | "58" | "25") => (Error::unavailable(text), Trouble::Lasting),
        Some("23") => (Error::Constraint(Cause::new(text)), Trouble::Lasting),
        _ => (Error::fault(text), Trouble::Lasting),
    }
}
