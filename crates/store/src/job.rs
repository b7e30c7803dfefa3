//! Closures queued for the threads of the store, and the return of their results.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::Instant;

use tokio::sync::oneshot;

use crate::stats::StoreStats;
use crate::{Error, IntoOutcome, Outcome, Query, Tx};

/// Requested end of a transaction, decided by its closure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Commit,
    Rollback,
}

/// Queued transaction. `run` may be called several times; `answer` is called once, with the outcome of the
/// transaction that the last run was part of.
pub(crate) trait WriteJob: Send {
    fn deadline(&self) -> Instant;
    fn run(&mut self, tx: &Tx<'_>) -> Ending;
    fn answer(self: Box<Self>, fate: Result<(), Error>);
}

/// Queued read.
pub(crate) trait ReadJob: Send {
    fn deadline(&self) -> Instant;
    /// Runs the closure and stores the result. Returns the error if the connection failed.
    fn run(&mut self, query: &Query<'_>) -> Option<Error>;
    fn answer(self: Box<Self>, fate: Result<(), Error>);
}

/// Queues a job by calling `put`. Returns an error if the queue is full or closed.
pub(crate) fn enqueue(stats: &StoreStats, put: impl FnOnce() -> Result<(), Refused>) -> Result<(), Error> {
    // Incremented before the job can be taken, so that the gauge never drops below zero.
    StoreStats::one(&stats.queued);
    put().map_err(|refused| {
        StoreStats::less(&stats.queued);
        match refused {
            Refused::Full => {
                StoreStats::one(&stats.refused_busy);
                Error::Busy
            }
            Refused::Closed => Error::unavailable("the store has shut down"),
        }
    })
}

/// Reason why a queue rejected a job.
pub(crate) enum Refused {
    Full,
    Closed,
}

impl<J> From<async_channel::TrySendError<J>> for Refused {
    fn from(error: async_channel::TrySendError<J>) -> Self {
        if error.is_full() { Self::Full } else { Self::Closed }
    }
}

impl<J> From<mpsc::TrySendError<J>> for Refused {
    fn from(error: mpsc::TrySendError<J>) -> Self {
        if matches!(error, mpsc::TrySendError::Full(_)) { Self::Full } else { Self::Closed }
    }
}

struct Job<F, T, E> {
    closure: F,
    deadline: Instant,
    result: Option<Result<T, E>>,
    reply: oneshot::Sender<Result<T, E>>,
}

type Answer<T, E> = oneshot::Receiver<Result<T, E>>;

pub(crate) fn write_job<F, O>(
    closure: F,
    deadline: Instant,
) -> (Box<dyn WriteJob>, Answer<O::Value, O::Error>)
where
    F: Fn(&Tx<'_>) -> O + Send + 'static,
    O: IntoOutcome,
    O::Value: Send + 'static,
    O::Error: From<Error> + Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    (Box::new(Transaction(Job { closure, deadline, result: None, reply })), answer)
}

pub(crate) fn read_job<F, T, E>(closure: F, deadline: Instant) -> (Box<dyn ReadJob>, Answer<T, E>)
where
    F: Fn(&Query<'_>) -> Result<T, E> + Send + 'static,
    T: Send + 'static,
    E: From<Error> + Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    (Box::new(Job { closure, deadline, result: None, reply }), answer)
}

impl<F, T, E: From<Error>> Job<F, T, E> {
    fn answer(self, fate: Result<(), Error>) {
        let answer = match (fate, self.result) {
            (Err(error), _) => Err(error.into()),
            (Ok(()), Some(result)) => result,
            (Ok(()), None) => Err(Error::fault("the closure was not run").into()),
        };
        // The caller may have stopped waiting; the transaction has ended nevertheless.
        let _ = self.reply.send(answer);
    }
}

struct Transaction<F, T, E>(Job<F, T, E>);

impl<F, O, T, E> WriteJob for Transaction<F, T, E>
where
    F: Fn(&Tx<'_>) -> O + Send,
    O: IntoOutcome<Value = T, Error = E>,
    T: Send,
    E: From<Error> + Send,
{
    fn deadline(&self) -> Instant {
        self.0.deadline
    }

    fn run(&mut self, tx: &Tx<'_>) -> Ending {
        let closure = &self.0.closure;
        let (result, ending) = match catch_unwind(AssertUnwindSafe(|| closure(tx).into_outcome())) {
            Ok(Outcome::Commit(value)) => (Ok(value), Ending::Commit),
            Ok(Outcome::CommitRefusal(error)) => (Err(error), Ending::Commit),
            Ok(Outcome::Rollback(error)) => (Err(error), Ending::Rollback),
            Err(_) => (Err(panicked().into()), Ending::Rollback),
        };
        self.0.result = Some(result);
        ending
    }

    fn answer(self: Box<Self>, fate: Result<(), Error>) {
        self.0.answer(fate);
    }
}

impl<F, T, E> ReadJob for Job<F, T, E>
where
    F: Fn(&Query<'_>) -> Result<T, E> + Send,
    T: Send,
    E: From<Error> + Send,
{
    fn deadline(&self) -> Instant {
        self.deadline
    }

    fn run(&mut self, query: &Query<'_>) -> Option<Error> {
        self.result = Some(catch_read(&self.closure, query));
        query.failure()
    }

    fn answer(self: Box<Self>, fate: Result<(), Error>) {
        Self::answer(*self, fate);
    }
}

/// Runs a read and converts a panic into an error.
pub(crate) fn catch_read<T, E: From<Error>>(
    closure: &impl Fn(&Query<'_>) -> Result<T, E>,
    query: &Query<'_>,
) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(|| closure(query))).unwrap_or_else(|_| Err(panicked().into()))
}

/// Logs no panic message, because it could contain personal data; the panic hook of the process reports the
/// location.
fn panicked() -> Error {
    tracing::error!("a transaction's closure panicked");
    Error::fault("the closure panicked")
}
