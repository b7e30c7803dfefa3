//! A closure on its way to a thread of the store, and its answer on the way back.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::Instant;

use tokio::sync::oneshot;

use crate::stats::StoreStats;
use crate::{Error, IntoOutcome, Outcome, Query, Tx};

/// How a run of a closure wants its transaction to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Commit,
    Rollback,
}

/// A transaction that waits for its turn. `run` may be called again; `answer` is called once, with the fate of the
/// transaction that the last run was part of.
pub(crate) trait WriteJob: Send {
    fn deadline(&self) -> Instant;
    fn run(&mut self, tx: &Tx<'_>) -> Ending;
    fn answer(self: Box<Self>, fate: Result<(), Error>);
}

/// A read that waits for its turn.
pub(crate) trait ReadJob: Send {
    fn deadline(&self) -> Instant;
    /// Runs it and keeps the result; says whether the connection failed under it.
    fn run(&mut self, query: &Query<'_>) -> Option<Error>;
    fn answer(self: Box<Self>, fate: Result<(), Error>);
}

/// Puts a job where `put` puts it, or refuses it at once.
pub(crate) fn enqueue(stats: &StoreStats, put: impl FnOnce() -> Result<(), Refused>) -> Result<(), Error> {
    // Counted before it can be taken, so that the gauge never goes below zero.
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

/// Why a queue does not take a job.
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
        // Whoever asked may have gone away; the transaction has ended all the same.
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

/// Runs a read; a panic in it becomes an error.
pub(crate) fn catch_read<T, E: From<Error>>(
    closure: &impl Fn(&Query<'_>) -> Result<T, E>,
    query: &Query<'_>,
) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(|| closure(query))).unwrap_or_else(|_| Err(panicked().into()))
}

/// The panic's own text may quote people's data; the process's panic hook says where it happened.
fn panicked() -> Error {
    tracing::error!("a transaction's closure panicked");
    Error::fault("the closure panicked")
}
