//! Outcomes of a transaction.

/// Outcome chosen by the closure of a transaction.
#[derive(Debug)]
pub enum Outcome<T, E> {
    /// Commits and returns the value.
    Commit(T),
    /// Commits and returns an error. For refusals that must leave a trace, such as a failed login.
    CommitRefusal(E),
    /// Rolls back and returns the error.
    Rollback(E),
}

impl<T, E> Outcome<T, E> {
    /// Converts the value with `f`.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Outcome<U, E> {
        match self {
            Self::Commit(value) => Outcome::Commit(f(value)),
            Self::CommitRefusal(error) => Outcome::CommitRefusal(error),
            Self::Rollback(error) => Outcome::Rollback(error),
        }
    }
}

/// Return types of transaction closures: an [`Outcome`], or a `Result` whose error rolls back.
pub trait IntoOutcome {
    /// Value on success.
    type Value;
    /// Error on refusal.
    type Error;
    /// Converts `self` into an [`Outcome`].
    fn into_outcome(self) -> Outcome<Self::Value, Self::Error>;
}

impl<T, E> IntoOutcome for Outcome<T, E> {
    type Value = T;
    type Error = E;
    fn into_outcome(self) -> Self {
        self
    }
}

impl<T, E> IntoOutcome for Result<T, E> {
    type Value = T;
    type Error = E;
    fn into_outcome(self) -> Outcome<T, E> {
        match self {
            Ok(value) => Outcome::Commit(value),
            Err(error) => Outcome::Rollback(error),
        }
    }
}
