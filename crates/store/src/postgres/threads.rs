//! Threads that run closures on PostgreSQL. Each thread owns one connection, and reconnects when the
//! connection is lost.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use async_channel::Receiver;

use super::Shared;
use super::connection::PostgresConnection;
use super::failure::FailureKind;
use super::session::{PostgresSession, TransactionMode};
use crate::closures::{ClosureDecision, QueuedRead, QueuedWrite};
use crate::stats::StoreStats;
use crate::threads::Threads;
use crate::tx::{EngineSession, WriteConnection};
use crate::{Error, Query, Tx};

/// Maximum number of attempts to run one closure.
const MAX_RUNS: u32 = 6;

/// Class of the reads that a thread runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadClass {
    /// Short reads: each statement sees what was committed before the statement started.
    Short,
    /// Slow reads: all statements see the same snapshot.
    Slow,
}

struct Worker {
    shared: Arc<Shared>,
    connection: Option<PostgresConnection>,
    connected_before: bool,
    only_reads: bool,
    /// Number of the write connection; 0 if the thread only reads.
    write_connection: u64,
    /// Number of the newest write connection when this thread last checked that it is connected to the
    /// current server.
    newest: u64,
}

/// Result of one attempt.
enum AttemptResult {
    Finished(Result<(), Error>),
    /// Nothing was changed, and another attempt may succeed.
    Retry(FailureKind, Error),
}

pub(super) fn write_thread(
    threads: &Threads,
    shared: &Arc<Shared>,
    queue: Receiver<QueuedWrite>,
    n: usize,
) -> Result<(), Error> {
    let mut worker = Worker::new(shared, false);
    threads.spawn("kith-pg-write", move || {
        while let Some(mut closure) = worker.next(&queue) {
            StoreStats::one(&worker.shared.stats.running);
            worker.shared.activity.begin(n);
            let outcome = worker.in_time(closure.deadline()).and_then(|()| worker.write(&mut closure));
            worker.shared.activity.idle(n);
            StoreStats::less(&worker.shared.stats.running);
            closure.answer(outcome);
        }
    })
}

pub(super) fn read_thread(
    threads: &Threads,
    shared: &Arc<Shared>,
    queue: Receiver<QueuedRead>,
    lane: ReadClass,
) -> Result<(), Error> {
    let mut worker = Worker::new(shared, true);
    threads.spawn("kith-pg-read", move || {
        while let Some(mut closure) = worker.next(&queue) {
            StoreStats::one(&worker.shared.stats.running);
            let outcome = worker.in_time(closure.deadline()).and_then(|()| worker.read(&mut closure, lane));
            StoreStats::less(&worker.shared.stats.running);
            closure.answer(outcome);
        }
    })
}

impl Worker {
    fn new(shared: &Arc<Shared>, only_reads: bool) -> Self {
        Self {
            shared: Arc::clone(shared),
            connection: None,
            connected_before: false,
            only_reads,
            write_connection: 0,
            newest: 0,
        }
    }

    /// Waits for a queued closure. The runtime of the connection runs during this wait, so that a closed
    /// connection is noticed.
    fn next<J>(&self, queue: &Receiver<J>) -> Option<J> {
        let taken = match &self.connection {
            Some(connection) => connection.runtime.block_on(queue.recv()),
            None => queue.recv_blocking(),
        };
        let closure = taken.ok()?;
        StoreStats::less(&self.shared.stats.queued);
        Some(closure)
    }

    #[expect(clippy::disallowed_methods, reason = "deadlines are measured in real time")]
    fn in_time(&self, deadline: Instant) -> Result<(), Error> {
        if deadline > Instant::now() {
            return Ok(());
        }
        StoreStats::one(&self.shared.stats.dropped_late);
        Err(Error::DeadlinePassed)
    }

    fn connect(&mut self) -> Result<(), Error> {
        // The number is read first, so that a newer connection to another server is noticed below.
        self.newest = self.shared.write_connections.load(Ordering::SeqCst);
        if self
            .connection
            .as_ref()
            .is_some_and(|connection| connection.is_usable() && self.shared.is_on_server(connection))
        {
            return Ok(());
        }
        self.connection = None;
        let known = self.only_reads.then(|| self.shared.server());
        let connection = PostgresConnection::connect(&self.shared.settings, known, |_| {})?
            .measured_in(&self.shared.statements);
        self.shared.connected(&connection);
        if self.only_reads {
            connection.batch("SET default_transaction_read_only = on").map_err(Error::unavailable)?;
        } else {
            self.write_connection = self.shared.write_connections.fetch_add(1, Ordering::SeqCst) + 1;
            self.newest = self.write_connection;
        }
        self.connection = Some(connection);
        if std::mem::replace(&mut self.connected_before, true) {
            StoreStats::one(&self.shared.stats.reconnects);
        }
        Ok(())
    }

    /// Repeats `attempt` until it finishes, at most [`MAX_RUNS`] times and until the deadline. Reconnects if
    /// the connection was lost.
    fn persist(
        &mut self,
        deadline: Instant,
        mut attempt: impl FnMut(&mut Self) -> Result<AttemptResult, Error>,
    ) -> Result<(), Error> {
        let mut last = Error::unavailable("not run");
        for run in 0..MAX_RUNS {
            if run > 0 {
                self.in_time(deadline).map_err(|_| last.clone())?;
                StoreStats::one(&self.shared.stats.retries);
            }
            self.connect()?;
            // The deadline is checked again, because connecting may have taken long.
            self.in_time(deadline)?;
            match attempt(self)? {
                AttemptResult::Finished(outcome) => return outcome,
                AttemptResult::Retry(failure_kind, error) => {
                    if failure_kind == FailureKind::ConnectionLost {
                        self.connection = None;
                    }
                    last = error;
                }
            }
        }
        Err(Error::unavailable(last))
    }

    fn write(&mut self, closure: &mut QueuedWrite) -> Result<(), Error> {
        self.persist(closure.deadline(), |worker| {
            if worker.shared.runs_twice
                && let dry_run @ AttemptResult::Retry(..) = worker.attempt(closure, true)?
            {
                return Ok(dry_run);
            }
            worker.attempt(closure, false)
        })
    }

    /// Runs the closure once in a separate transaction. A dry run is rolled back.
    fn attempt(&mut self, closure: &mut QueuedWrite, is_dry_run: bool) -> Result<AttemptResult, Error> {
        let connection = self.connection.as_ref().ok_or_else(|| Error::unavailable("not connected"))?;
        let session = self.session(connection, TransactionMode::Transaction);
        let tx = Tx::new(EngineSession::Postgres(session));
        let ending = closure.run(&tx);
        let EngineSession::Postgres(session) = &tx.session else {
            return Err(Error::fault("a session belongs to another database engine"));
        };
        let mut outcome = tx.failure().map_or(Ok(()), Err);
        let (mut traced, mut channels) = (false, BTreeSet::new());
        if outcome.is_ok() && !is_dry_run {
            outcome = session.inject_fault_at_end();
        }
        if outcome.is_ok() && ending == ClosureDecision::Commit && !is_dry_run {
            let trace = tx.take_trace();
            traced = !trace.is_empty();
            outcome = session.commit(&trace, tx.allows_async_commit());
            channels = trace.channels;
        }
        let committed = outcome.is_ok() && ending == ClosureDecision::Commit && !is_dry_run;
        let failure_kind = session.failure_kind();
        let sound = match &outcome {
            Err(Error::OutcomeUnknown(_)) => false,
            _ => committed || session.rollback(),
        };
        drop(tx);
        if !sound {
            self.connection = None;
        }
        if committed && !channels.is_empty() {
            traced |= self.shared.channels.notify_all_nodes(&channels);
        }
        self.count(committed, traced, &outcome);
        Ok(match (outcome, failure_kind) {
            (Err(error), Some(failure_kind))
                if failure_kind != FailureKind::Permanent && !matches!(error, Error::OutcomeUnknown(_)) =>
            {
                AttemptResult::Retry(failure_kind, error)
            }
            (outcome, _) => AttemptResult::Finished(outcome),
        })
    }

    fn count(&self, committed: bool, traced: bool, outcome: &Result<(), Error>) {
        let stats = &self.shared.stats;
        match outcome {
            Ok(()) if committed => StoreStats::one(&stats.commits),
            Err(Error::OutcomeUnknown(_)) => StoreStats::one(&stats.outcomes_unknown),
            _ => StoreStats::one(&stats.rollbacks),
        }
        if traced {
            self.shared.committed.notify_one();
        }
    }

    fn read(&mut self, closure: &mut QueuedRead, lane: ReadClass) -> Result<(), Error> {
        let (mode, counter) = match lane {
            ReadClass::Short => (TransactionMode::Plain, &self.shared.stats.reads),
            ReadClass::Slow => (TransactionMode::Snapshot, &self.shared.stats.slow_reads),
        };
        StoreStats::one(counter);
        self.persist(closure.deadline(), |worker| {
            let connection = worker.connection.as_ref().ok_or_else(|| Error::unavailable("not connected"))?;
            let query = Query::new(EngineSession::Postgres(PostgresSession::new(connection, mode)));
            let failure = closure.run(&query);
            let EngineSession::Postgres(session) = &query.session else {
                return Err(Error::fault("a session belongs to another database engine"));
            };
            let failure_kind = session.failure_kind();
            let sound = session.end_reading();
            drop(query);
            if !sound {
                worker.connection = None;
            }
            Ok(match (failure, failure_kind) {
                (Some(error), Some(failure_kind)) if failure_kind != FailureKind::Permanent => {
                    AttemptResult::Retry(failure_kind, error)
                }
                _ => AttemptResult::Finished(Ok(())),
            })
        })
    }

    fn session<'l>(
        &'l self,
        connection: &'l PostgresConnection,
        mode: TransactionMode,
    ) -> PostgresSession<'l> {
        let mut session = PostgresSession::new(connection, mode);
        session.write_connection = WriteConnection { number: self.write_connection, newest: self.newest };
        #[cfg(feature = "testing")]
        {
            session.faults = Some(&self.shared.faults);
        }
        session
    }
}
