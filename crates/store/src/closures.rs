//! Closures queued for the threads of the store, and the transfer of their results to the callers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Instant;

use tokio::sync::oneshot;

use crate::stats::StoreStats;
use crate::{Error, IntoTxOutcome, Query, Tx, TxOutcome};

/// End of a transaction that its closure requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClosureDecision {
    Commit,
    Rollback,
}

/// Closure of a transaction. It stores its result itself, so that its type does not depend on the type of the
/// result, and the code of the threads is compiled only once.
pub(crate) type WriteClosure = Box<dyn FnMut(&Tx<'_>) -> ClosureDecision + Send>;
/// Closure of a read that stores its result itself.
pub(crate) type ReadClosure = Box<dyn FnMut(&Query<'_>) + Send>;

/// Queued transaction. Its closure may run several times. [`QueuedClosure::answer`] is called once, with the
/// outcome of the transaction in which the last run took place.
pub(crate) type QueuedWrite = QueuedClosure<WriteClosure>;
/// Queued read.
pub(crate) type QueuedRead = QueuedClosure<ReadClosure>;

pub(crate) struct QueuedClosure<F> {
    closure: F,
    deadline: Instant,
    has_panicked: bool,
    reply: oneshot::Sender<Result<(), Error>>,
}

impl<F> QueuedClosure<F> {
    /// Creates a queued closure and the receiver of its outcome.
    pub fn new(closure: F, deadline: Instant) -> (Self, oneshot::Receiver<Result<(), Error>>) {
        let (reply, outcome) = oneshot::channel();
        (Self { closure, deadline, has_panicked: false, reply }, outcome)
    }

    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Sends the outcome to the caller.
    pub fn answer(self, outcome: Result<(), Error>) {
        let outcome = outcome.and_then(|()| if self.has_panicked { Err(panicked()) } else { Ok(()) });
        // The caller may have stopped waiting. The transaction has ended nevertheless.
        let _ = self.reply.send(outcome);
    }
}

impl QueuedWrite {
    /// Runs the closure. After a panic, the transaction is rolled back.
    pub fn run(&mut self, tx: &Tx<'_>) -> ClosureDecision {
        let ending = catch_unwind(AssertUnwindSafe(|| (self.closure)(tx)));
        self.has_panicked = ending.is_err();
        ending.unwrap_or(ClosureDecision::Rollback)
    }
}

impl QueuedRead {
    /// Runs the closure. Returns an error if the connection failed.
    pub fn run(&mut self, query: &Query<'_>) -> Option<Error> {
        self.has_panicked = catch_read(&mut *self.closure, query).is_err();
        query.failure()
    }
}

/// Runs a read and converts a panic into an error.
pub(crate) fn catch_read(closure: &mut (dyn FnMut(&Query<'_>) + '_), query: &Query<'_>) -> Result<(), Error> {
    catch_unwind(AssertUnwindSafe(|| closure(query))).map_err(|_| panicked())
}

/// Returns the error for a panic. The panic message is not logged, because it could contain personal data.
/// The panic hook of the process logs the location.
fn panicked() -> Error {
    tracing::error!("a transaction's closure panicked");
    Error::fault("the closure panicked")
}

/// Result of the last run of a closure. The closure stores it on a thread of the store.
#[derive(Debug)]
pub struct ClosureResult<T, E>(Arc<Mutex<Option<Result<T, E>>>>);

impl<T, E: From<Error>> ClosureResult<T, E> {
    fn empty() -> (Self, Self) {
        let result = Arc::new(Mutex::new(None));
        (Self(Arc::clone(&result)), Self(result))
    }

    fn set(&self, result: Result<T, E>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
    }

    /// Returns the stored result.
    ///
    /// # Errors
    /// Returns the closure's own error, or [`Error::Fault`] if the closure was not run.
    pub fn take(self) -> Result<T, E> {
        let result = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        result.unwrap_or_else(|| Err(Error::fault("the closure was not run").into()))
    }
}

/// Transaction for [`Store::run`](crate::Store::run). Its type does not depend on the result of its closure.
pub struct Transaction(pub(crate) WriteClosure);

impl Transaction {
    /// Creates a transaction, and the object that receives the result of its closure.
    pub fn new<F, O>(closure: F) -> (Self, ClosureResult<O::Value, O::Error>)
    where
        F: Fn(&Tx<'_>) -> O + Send + 'static,
        O: IntoTxOutcome,
        O::Value: Send + 'static,
        O::Error: From<Error> + Send + 'static,
    {
        let (result, stored) = ClosureResult::empty();
        let closure = move |tx: &Tx<'_>| {
            let (result, ending) = match closure(tx).into_outcome() {
                TxOutcome::Commit(value) => (Ok(value), ClosureDecision::Commit),
                TxOutcome::CommitRefusal(error) => (Err(error), ClosureDecision::Commit),
                TxOutcome::Rollback(error) => (Err(error), ClosureDecision::Rollback),
            };
            stored.set(result);
            ending
        };
        (Self(Box::new(closure)), result)
    }
}

/// Creates the closure of a queued read, and the object that receives its result.
pub(crate) fn queued_read<F, T, E>(closure: F) -> (ReadClosure, ClosureResult<T, E>)
where
    F: Fn(&Query<'_>) -> Result<T, E> + Send + 'static,
    T: Send + 'static,
    E: From<Error> + Send + 'static,
{
    let (result, stored) = ClosureResult::empty();
    (Box::new(move |query: &Query<'_>| stored.set(closure(query))), result)
}

/// Queues a closure by calling `put`. Returns an error if the queue is full or closed.
pub(crate) fn enqueue(
    stats: &StoreStats,
    put: impl FnOnce() -> Result<(), QueueRejection>,
) -> Result<(), Error> {
    // The gauge is incremented before a thread can take the closure, so that it never drops below zero.
    StoreStats::one(&stats.queued);
    put().map_err(|refused| {
        StoreStats::less(&stats.queued);
        match refused {
            QueueRejection::Full => {
                StoreStats::one(&stats.refused_busy);
                Error::Busy
            }
            QueueRejection::Closed => shut_down(),
        }
    })
}

/// Returns the error of a store that no longer accepts work.
pub(crate) fn shut_down() -> Error {
    Error::unavailable("the store has shut down")
}

/// Reason why a queue rejected a closure.
pub(crate) enum QueueRejection {
    Full,
    Closed,
}

impl<J> From<async_channel::TrySendError<J>> for QueueRejection {
    fn from(error: async_channel::TrySendError<J>) -> Self {
        if error.is_full() { Self::Full } else { Self::Closed }
    }
}

impl<J> From<mpsc::TrySendError<J>> for QueueRejection {
    fn from(error: mpsc::TrySendError<J>) -> Self {
        if matches!(error, mpsc::TrySendError::Full(_)) { Self::Full } else { Self::Closed }
    }
}
