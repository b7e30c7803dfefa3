//! The three ways in which a transaction ends.

/// What a transaction's closure decides.
#[derive(Debug)]
pub enum Outcome<T, E> {
    /// Keep the changes, answer with the value.
    Commit(T),
    /// Keep the changes, answer with a refusal: one that must leave a trace, such as a failed log-in.
    CommitRefusal(E),
    /// Undo the changes, answer with the problem.
    Rollback(E),
}

impl<T, E> Outcome<T, E> {
    /// The same with another value.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Outcome<U, E> {
        match self {
            Self::Commit(value) => Outcome::Commit(f(value)),
            Self::CommitRefusal(error) => Outcome::CommitRefusal(error),
            Self::Rollback(error) => Outcome::Rollback(error),
        }
    }
}

/// What a closure may return: an [`Outcome`], or a `Result` whose error rolls back.
pub trait IntoOutcome {
    /// Of a success.
    type Value;
    /// Of a refusal.
    type Error;
    /// Turns it.
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
