//! Outcomes that the closure of a transaction can choose.

/// Outcome chosen by the closure of a transaction.
#[derive(Debug)]
pub enum TxOutcome<T, E> {
    /// Commits and returns the value.
    Commit(T),
    /// Commits and returns an error. It is used for rejections that must be recorded, such as a failed login.
    CommitRefusal(E),
    /// Rolls back and returns the error.
    Rollback(E),
}

impl<T, E> TxOutcome<T, E> {
    /// Converts the value with `f`.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> TxOutcome<U, E> {
        match self {
            Self::Commit(value) => TxOutcome::Commit(f(value)),
            Self::CommitRefusal(error) => TxOutcome::CommitRefusal(error),
            Self::Rollback(error) => TxOutcome::Rollback(error),
        }
    }
}

/// Return type of a transaction's closure: a [`TxOutcome`], or a `Result` whose error rolls the transaction
/// back.
pub trait IntoTxOutcome {
    /// Type of the value on success.
    type Value;
    /// Type of the error.
    type Error;
    /// Converts `self` into a [`TxOutcome`].
    fn into_outcome(self) -> TxOutcome<Self::Value, Self::Error>;
}

impl<T, E> IntoTxOutcome for TxOutcome<T, E> {
    type Value = T;
    type Error = E;
    fn into_outcome(self) -> Self {
        self
    }
}

impl<T, E> IntoTxOutcome for Result<T, E> {
    type Value = T;
    type Error = E;
    fn into_outcome(self) -> TxOutcome<T, E> {
        match self {
            Ok(value) => TxOutcome::Commit(value),
            Err(error) => TxOutcome::Rollback(error),
        }
    }
}
