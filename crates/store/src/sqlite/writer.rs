//! Writer thread: runs each queued closure in a savepoint, and commits a group of closures with one sync to
//! disk.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use super::Shared;
use super::checkpoint::LogRestarts;
use super::connection::{ConnectionMode, SqliteConnection, SqliteSession, StopAt};
use crate::audit_keys::AuditKeys;
use crate::closures::{ClosureDecision, QueuedWrite};
use crate::error::Cause;
use crate::sequencer::{Heads, SequencedBatch};
use crate::stats::StoreStats;
use crate::trace::Trace;
use crate::tx::EngineSession;
use crate::{Error, Event, Tx, outbox};

/// Maximum number of closures in a group.
const MAX_GROUP_SIZE: usize = 256;

/// Maximum time for which a group runs closures before it is committed.
const MAX_GROUP_TIME: Duration = Duration::from_millis(2);

/// Maximum number of attempts to run one closure.
const MAX_RUNS: u32 = 6;

pub(super) struct Writer {
    shared: Arc<Shared>,
    /// Connection; `None` from a failed commit until the connection is opened again.
    connection: Option<(SqliteConnection, Arc<StopAt>)>,
    heads: Heads,
    audit_keys: AuditKeys,
    log: LogRestarts,
}

/// Closure that was run in the current group.
struct FinishedRun {
    closure: QueuedWrite,
    result: RunResult,
}

/// Result of one run of a closure.
enum RunResult {
    /// The changes are part of the current group and will be committed with it.
    Applied,
    /// The closure requested a rollback.
    RolledBack,
    /// A statement failed, and the changes of the closure were rolled back.
    Failed(Error),
    /// The changes of the closure were rolled back, and the closure must be run again.
    Retry,
    /// The whole transaction was lost, including the changes of closures that ran in it earlier.
    TransactionLost(Error),
}

impl Writer {
    pub fn open(shared: Arc<Shared>) -> Result<Self, Error> {
        let log = LogRestarts::new(Arc::clone(&shared));
        let mut writer =
            Self { shared, connection: None, heads: Heads::default(), audit_keys: AuditKeys::default(), log };
        writer.reopen()?;
        Ok(writer)
    }

    /// Opens the connection again, and reads the last position, the last audit link and the keys of the audit
    /// chain.
    fn reopen(&mut self) -> Result<(), Error> {
        self.connection = None;
        let connection =
            SqliteConnection::open(&self.shared.file, self.shared.synchronous, ConnectionMode::Write)?;
        let mut connection = connection.measured_in(&self.shared.statements);
        let tx = Tx::new(EngineSession::Sqlite(SqliteSession::plain(&connection)));
        self.heads = outbox::heads(&tx)?;
        self.audit_keys = self.shared.audit_keyring.load(&tx)?;
        drop(tx);
        let stop_at = connection.stoppable()?;
        self.log.measure(&mut connection)?;
        self.connection = Some((connection, stop_at));
        self.publish_head();
        Ok(())
    }

    pub fn run(mut self, queue: &Receiver<QueuedWrite>) {
        while let Ok(first) = queue.recv() {
            StoreStats::less(&self.shared.stats.queued);
            let mut waiting = VecDeque::from([first]);
            let mut finished = Vec::new();
            StoreStats::one(&self.shared.stats.running);
            while !waiting.is_empty() {
                self.group(queue, &mut waiting, &mut finished);
            }
            self.shared.activity.idle(0);
            StoreStats::less(&self.shared.stats.running);
        }
    }

    /// Runs one group in one transaction. On return, `waiting` is empty or contains closures for the next
    /// group.
    #[expect(clippy::disallowed_methods, reason = "bounds real work")]
    fn group(
        &mut self,
        queue: &Receiver<QueuedWrite>,
        waiting: &mut VecDeque<QueuedWrite>,
        finished: &mut Vec<FinishedRun>,
    ) {
        self.shared.activity.begin(0);
        if let Err(error) = self.begin() {
            self.connection = None;
            return waiting.drain(..).for_each(|closure| closure.answer(Err(error.clone())));
        }
        let started = Instant::now();
        let mut traces = Trace::default();
        loop {
            let Some(mut closure) = waiting.pop_front().or_else(|| self.take(queue)) else { break };
            if closure.deadline() <= Instant::now() {
                StoreStats::one(&self.shared.stats.dropped_late);
                closure.answer(Err(Error::DeadlinePassed));
                continue;
            }
            self.shared.activity.begin(0);
            match self.run_to_end(&mut closure, &mut traces) {
                RunResult::TransactionLost(error) => {
                    self.connection = None;
                    closure.answer(Err(error));
                    return self.requeue(finished, waiting);
                }
                result => finished.push(FinishedRun { closure, result }),
            }
            if finished.len() >= MAX_GROUP_SIZE || (started.elapsed() >= MAX_GROUP_TIME && waiting.is_empty())
            {
                break;
            }
        }
        self.shared.activity.begin(0);
        let committed = self.commit(&traces);
        self.answer(finished, &committed);
        if let Some((connection, _)) = &self.connection {
            self.log.restart_if_long(connection);
        }
    }

    fn take(&self, queue: &Receiver<QueuedWrite>) -> Option<QueuedWrite> {
        let closure = queue.try_recv().ok()?;
        StoreStats::less(&self.shared.stats.queued);
        Some(closure)
    }

    fn begin(&mut self) -> Result<(), Error> {
        if self.connection.is_none() {
            self.reopen()?;
            StoreStats::one(&self.shared.stats.reconnects);
        }
        self.connection().command("BEGIN IMMEDIATE")
    }

    fn connection(&self) -> &SqliteConnection {
        &self.open_link().0
    }

    fn open_link(&self) -> &(SqliteConnection, Arc<StopAt>) {
        self.connection.as_ref().expect("a group has begun, so the connection is open")
    }

    /// Puts the closures back into the queue that ran in a transaction which a later closure lost.
    fn requeue(&self, finished: &mut Vec<FinishedRun>, waiting: &mut VecDeque<QueuedWrite>) {
        StoreStats::add(&self.shared.stats.retries, finished.len() as u64);
        for requeued in finished.drain(..).rev() {
            waiting.push_front(requeued.closure);
        }
    }

    fn run_to_end(&self, closure: &mut QueuedWrite, traces: &mut Trace) -> RunResult {
        if self.shared.runs_twice {
            match self.run_once(closure, None) {
                RunResult::TransactionLost(error) => return RunResult::TransactionLost(error),
                RunResult::Applied | RunResult::RolledBack | RunResult::Failed(_) | RunResult::Retry => {}
            }
        }
        for _ in 0..MAX_RUNS {
            match self.run_once(closure, Some(traces)) {
                RunResult::Retry => StoreStats::one(&self.shared.stats.retries),
                outcome => return outcome,
            }
        }
        RunResult::Failed(Error::unavailable("too many conflicts"))
    }

    /// Runs the closure once in a savepoint. If `traces` is `None`, the run is a dry run and is rolled back.
    fn run_once(&self, closure: &mut QueuedWrite, traces: Option<&mut Trace>) -> RunResult {
        match self.run_in_savepoint(closure, traces) {
            Ok(outcome) => outcome,
            Err(error) if self.connection().raw.is_autocommit() => RunResult::TransactionLost(error),
            Err(error) => match self.rollback_savepoint() {
                Ok(()) => RunResult::Failed(error),
                Err(worse) => RunResult::TransactionLost(worse),
            },
        }
    }

    fn run_in_savepoint(
        &self,
        closure: &mut QueuedWrite,
        traces: Option<&mut Trace>,
    ) -> Result<RunResult, Error> {
        self.connection().command("SAVEPOINT closure")?;
        self.limit_statement_time();
        let tx = Tx::new(EngineSession::Sqlite(self.session()));
        let ending = closure.run(&tx);
        if let Some(error) = tx.failure() {
            return Err(error);
        }
        let trace = tx.take_trace();
        let Some(traces) = traces else {
            self.rollback_savepoint()?;
            return Ok(RunResult::RolledBack);
        };
        if self.conflict_is_due() {
            self.rollback_savepoint()?;
            return Ok(RunResult::Retry);
        }
        if ending == ClosureDecision::Rollback {
            self.rollback_savepoint()?;
            return Ok(RunResult::RolledBack);
        }
        outbox::write_trace(&tx, &trace)?;
        self.connection().command("RELEASE closure")?;
        // Personal details are not collected, because they are already inserted and nothing is computed from
        // them.
        traces.audit.extend(trace.audit);
        traces.events.extend(trace.events);
        traces.channels.extend(trace.channels);
        Ok(RunResult::Applied)
    }

    /// Sets the time limit of statements to the deadline of the store, because all other writes wait for this
    /// closure.
    #[expect(clippy::disallowed_methods, reason = "bounds real work")]
    fn limit_statement_time(&self) {
        self.open_link().1.set(Instant::now() + self.shared.deadline);
    }

    fn rollback_savepoint(&self) -> Result<(), Error> {
        self.open_link().1.never();
        self.connection().command("ROLLBACK TO closure")?;
        self.connection().command("RELEASE closure")
    }

    /// Assigns positions and audit links to the group's trace, and commits the group to disk.
    fn commit(&mut self, traces: &Trace) -> Result<(), Error> {
        self.open_link().1.never();
        let batch = match self.seal(traces) {
            Ok(batch) => batch,
            Err(error) => {
                self.connection = None;
                return Err(error);
            }
        };
        let committed = self.inject_commit_fault().and_then(|()| self.connection().command("COMMIT"));
        let committed = committed.and_then(|()| self.inject_fault_after_commit());
        // The counter is also incremented if the commit failed, so that readers take a new snapshot.
        self.shared.commits.fetch_add(1, Ordering::Release);
        if let Err(error) = committed {
            tracing::error!(%error, "a commit failed; reopening the connection");
            self.connection = None;
            StoreStats::one(&self.shared.stats.outcomes_unknown);
            return Err(Error::OutcomeUnknown(Cause::new(error)));
        }
        StoreStats::one(&self.shared.stats.groups);
        StoreStats::add(&self.shared.stats.sequenced, traces.events.len() as u64);
        self.heads = batch.heads;
        if !traces.events.is_empty() {
            self.publish_head();
        }
        traces.channels.iter().for_each(|name| self.shared.channels.notify(name));
        Ok(())
    }

    fn seal(&mut self, traces: &Trace) -> Result<SequencedBatch, Error> {
        let tx = Tx::new(EngineSession::Sqlite(SqliteSession::plain(self.connection())));
        let mut keys = self.audit_keys.clone();
        if !traces.audit.is_empty() {
            keys = self.shared.audit_keyring.with_key_for(&tx, keys, self.heads.seal.n + 1)?;
        }
        let events = traces.events.iter().map(Event::unsequenced);
        let batch = self.heads.assign(events, traces.audit.iter(), &keys)?;
        outbox::write_sequenced(&tx, &batch)?;
        drop(tx);
        // If the commit fails, the connection is opened again, which also reads the keys again.
        self.audit_keys = keys;
        Ok(batch)
    }

    fn publish_head(&self) {
        self.shared.stats.head.store(self.heads.position.cast_unsigned(), Ordering::Relaxed);
        self.shared.head.send_replace(self.heads.position);
    }

    fn answer(&self, finished: &mut Vec<FinishedRun>, committed: &Result<(), Error>) {
        for FinishedRun { closure, result } in finished.drain(..) {
            let answer = match (result, committed) {
                (RunResult::Applied, Ok(())) => {
                    StoreStats::one(&self.shared.stats.commits);
                    Ok(())
                }
                (RunResult::Applied, Err(error)) => Err(error.clone()),
                (RunResult::Failed(error) | RunResult::TransactionLost(error), Ok(())) => {
                    StoreStats::one(&self.shared.stats.rollbacks);
                    Err(error)
                }
                (RunResult::RolledBack | RunResult::Retry, Ok(())) => {
                    StoreStats::one(&self.shared.stats.rollbacks);
                    Ok(())
                }
                // The closure changed nothing, but it may have read changes that were not committed.
                (_, Err(error)) => Err(Error::unavailable(error)),
            };
            closure.answer(answer);
        }
    }

    #[cfg(feature = "testing")]
    fn session(&self) -> SqliteSession<'_> {
        SqliteSession { connection: self.connection(), faults: Some(&self.shared.faults) }
    }

    #[cfg(not(feature = "testing"))]
    fn session(&self) -> SqliteSession<'_> {
        SqliteSession::plain(self.connection())
    }

    #[cfg(feature = "testing")]
    fn conflict_is_due(&self) -> bool {
        self.shared.faults.at_end()
    }

    #[cfg(not(feature = "testing"))]
    #[expect(clippy::unused_self, reason = "faults are injected in test builds only")]
    const fn conflict_is_due(&self) -> bool {
        false
    }

    /// Makes the next COMMIT fail if this was requested: SQLite rejects it and rolls back. It exists only in
    /// test builds.
    #[cfg(feature = "testing")]
    fn inject_commit_fault(&mut self) -> Result<(), Error> {
        if self.shared.faults.at_commit() {
            let (connection, _) =
                self.connection.as_mut().expect("a group has begun, so the connection is open");
            connection.raw.commit_hook(Some(|| true)).map_err(super::connection::sqlite_error)?;
        }
        Ok(())
    }

    #[cfg(not(feature = "testing"))]
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "faults are injected in test builds only"
    )]
    const fn inject_commit_fault(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Reports a successful COMMIT as failed if this was requested. It exists only in test builds.
    #[cfg(feature = "testing")]
    fn inject_fault_after_commit(&self) -> Result<(), Error> {
        let lost = self.shared.faults.after_commit();
        if lost { Err(Error::unavailable("injected: the response was lost")) } else { Ok(()) }
    }

    #[cfg(not(feature = "testing"))]
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "faults are injected in test builds only"
    )]
    const fn inject_fault_after_commit(&self) -> Result<(), Error> {
        Ok(())
    }
}
