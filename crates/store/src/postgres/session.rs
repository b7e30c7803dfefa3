//! Execution of a closure's statements on a PostgreSQL connection.
//!
//! Several messages are combined to save round trips. BEGIN and lock requests are sent with the first
//! statement. Statements whose result is not needed are sent with the next statement, and the trace is sent
//! with COMMIT.

use std::cell::{Cell, RefCell};

use futures_util::future::{join, join_all, try_join, try_join_all, try_join4};
use futures_util::{FutureExt, TryStreamExt, pin_mut};
use tokio_postgres::Statement;

use super::connection::PostgresConnection;
use super::failure::{Failure, FailureKind, classify, unknown};
use super::pipeline::{DeferredStatement, Prefetch};
use crate::audit::{self, AuditDetails, AuditEntry};
use crate::events::Event;
use crate::statements::Stopwatch;
use crate::trace::Trace;
use crate::tx::WriteConnection;
use crate::value::{OwnedParam, Param, Row};
use crate::{Error, outbox};

/// Maximum number of statements that are sent before their responses are read. With more statements, the
/// socket buffers could fill up.
const MAX_PIPELINED_STATEMENTS: usize = 16;

const LOCK: &str = "SELECT pg_advisory_xact_lock(k) FROM unnest($1::bigint[]) AS k";

/// Transaction mode of a closure's statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TransactionMode {
    /// In a read-write transaction.
    Transaction,
    /// In a read-only transaction with one snapshot.
    Snapshot,
    /// Each statement in a separate transaction (autocommit).
    Plain,
}

/// Session in which one closure runs statements on a connection.
pub(crate) struct PostgresSession<'c> {
    connection: &'c PostgresConnection,
    mode: TransactionMode,
    begun: Cell<bool>,
    locks: RefCell<Vec<i64>>,
    /// Statements that will be sent with the next statement.
    deferred: RefCell<Vec<DeferredStatement>>,
    /// Announced reads, which are sent with the next statement, and their results.
    prefetches: RefCell<Vec<Prefetch>>,
    failure_kind: Cell<Option<FailureKind>>,
    /// True if BEGIN has failed (see [`PostgresSession::failed`]).
    begin_failed: Cell<bool>,
    pub write_connection: WriteConnection,
    #[cfg(feature = "testing")]
    pub faults: Option<&'c crate::testing::Faults>,
}

impl<'c> PostgresSession<'c> {
    pub fn new(connection: &'c PostgresConnection, mode: TransactionMode) -> Self {
        Self {
            connection,
            mode,
            begun: Cell::new(false),
            locks: RefCell::default(),
            deferred: RefCell::default(),
            prefetches: RefCell::default(),
            failure_kind: Cell::new(None),
            begin_failed: Cell::new(false),
            write_connection: WriteConnection::default(),
            #[cfg(feature = "testing")]
            faults: None,
        }
    }

    pub fn each(
        &self,
        sql: &'static str,
        params: &[Param<'_>],
        take: &mut dyn FnMut(&Row<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if !sql.starts_with("SELECT") {
            // The statement can change rows.
            self.prefetches.borrow_mut().clear();
        } else if let Some(rows) = self.take_prefetched(sql, params) {
            return rows.iter().try_for_each(|row| take(&Row::Postgres(row)));
        }
        self.run(sql, async |statement| {
            let rows = self.connection.client.query_raw(&statement, params).await?;
            pin_mut!(rows);
            while let Some(row) = rows.try_next().await? {
                if let Err(error) = take(&Row::Postgres(&row)) {
                    return Ok(Err(error));
                }
            }
            Ok(Ok(()))
        })?
    }

    /// Announces a read. It is sent with the next statement, and its rows are returned by the next call of
    /// [`PostgresSession::each`] with the same parameters.
    pub fn prefetch(&self, sql: &'static str, params: &[Param<'_>]) -> Result<(), Error> {
        let Some(params) = OwnedParam::copy_all(params) else { return Ok(()) };
        let statement = self.connection.prepare(sql).map_err(|failure| self.failed(failure))?;
        let statement = DeferredStatement::new(sql, statement, params)?;
        self.prefetches.borrow_mut().push(Prefetch::new(statement));
        Ok(())
    }

    /// Removes and returns the rows of an announced read; `None` if it was not announced or not sent yet.
    fn take_prefetched(&self, sql: &'static str, params: &[Param<'_>]) -> Option<Vec<tokio_postgres::Row>> {
        let mut prefetches = self.prefetches.borrow_mut();
        let at = prefetches.iter().position(|prefetch| prefetch.is_of(sql, params))?;
        prefetches.swap_remove(at).into_rows()
    }

    pub fn exec(&self, sql: &'static str, params: &[Param<'_>]) -> Result<u64, Error> {
        self.prefetches.borrow_mut().clear();
        self.run(sql, async |statement| self.connection.client.execute_raw(&statement, params).await)
    }

    /// Adds a statement that will be sent with the next statement. If too many accumulate, they are sent
    /// before they could fill the socket buffers. Outside a transaction no COMMIT would follow, so the
    /// statement runs at once.
    pub fn exec_deferred(&self, sql: &'static str, params: &[Param<'_>]) -> Result<(), Error> {
        let copied = OwnedParam::copy_all(params).filter(|_| self.mode == TransactionMode::Transaction);
        let Some(params) = copied else { return self.exec(sql, params).map(drop) };
        self.prefetches.borrow_mut().clear();
        self.inject_fault()?;
        let statement = self.connection.prepare(sql).map_err(|failure| self.failed(failure))?;
        self.deferred.borrow_mut().push(DeferredStatement::new(sql, statement, params)?);
        if self.deferred.borrow().len() < MAX_PIPELINED_STATEMENTS {
            return Ok(());
        }
        let opening = self.preamble().map_err(|failure| self.failed(failure))?;
        self.connection.wait(self.open(opening)).map_err(|failure| self.failed(failure))
    }

    /// Adds keys to be locked. The lock request is sent with the next statement.
    pub fn lock(&self, keys: Vec<i64>) -> Result<(), Error> {
        // Rows read before the lock may change before it is taken.
        self.prefetches.borrow_mut().clear();
        self.locks.borrow_mut().extend(keys);
        Ok(())
    }

    fn run<T>(
        &self,
        sql: &'static str,
        go: impl AsyncFnOnce(Statement) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, Error> {
        self.inject_fault()?;
        let statement = self.connection.prepare(sql).map_err(|failure| self.failed(failure))?;
        let opening = self.preamble().map_err(|failure| self.failed(failure))?;
        // Started when everything before the statement has been answered, so that the time spent waiting for
        // locks is not counted as time of the statement.
        let stopwatch = Cell::new(None);
        let opened = async {
            self.open(opening).await?;
            stopwatch.set(Some(Stopwatch::start(self.connection.times_of(sql))));
            Ok(())
        };
        let both = try_join(opened, go(statement));
        let ((), value) = self.connection.wait(both).map_err(|failure| self.failed(failure))?;
        Ok(value)
    }

    /// Returns the messages that must be sent before the next statement.
    fn preamble(&self) -> Result<Preamble, Failure> {
        let begin = match self.mode {
            TransactionMode::Transaction => Some("BEGIN"),
            TransactionMode::Snapshot => Some("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"),
            TransactionMode::Plain => None,
        };
        let begin = begin.filter(|_| !self.begun.replace(true));
        let mut keys = self.locks.take();
        keys.sort_unstable();
        keys.dedup();
        let lock = if keys.is_empty() { None } else { Some((self.connection.prepare(LOCK)?, keys)) };
        Ok(Preamble { begin, lock, deferred: self.deferred.take() })
    }

    /// Writes the trace and commits the transaction. After any error other than [`Error::OutcomeUnknown`]
    /// nothing was changed. If `is_async`, the commit may be acknowledged before it is on the server's disk.
    pub fn commit(&self, trace: &Trace, is_async: bool) -> Result<(), Error> {
        if !self.begun.get() && trace.is_empty() && self.deferred.borrow().is_empty() {
            return Ok(());
        }
        outbox::check_trace(trace)?;
        // The closure has ended, so their rows are not needed.
        self.prefetches.borrow_mut().clear();
        if !self.begun.get() {
            // What is sent next contains COMMIT. If the connection is lost then, the outcome is unknown.
            self.connection.check_open().map_err(|failure| self.failed(failure))?;
        }
        let writes = self.trace_writes(trace).map_err(|failure| self.failed(failure))?;
        let (early, last) = writes.split_at(writes.len().saturating_sub(MAX_PIPELINED_STATEMENTS));
        if !early.is_empty() {
            let opening = self.preamble().map_err(|failure| self.failed(failure))?;
            self.connection.wait(self.open(opening)).map_err(|failure| self.failed(failure))?;
        }
        for write in early {
            self.connection.wait(self.send(write)).map_err(|failure| self.failed(failure))?;
        }
        self.inject_fault_before_commit();
        let opening = self.preamble().map_err(|failure| self.failed(failure))?;
        let end = join(
            self.open(opening),
            join(
                join_all(last.iter().map(|write| self.send(write))),
                self.connection.responded(None, self.connection.client.batch_execute(end_of(is_async))),
            ),
        );
        let (begun, (written, committed)) = self.connection.wait(end.map(Ok)).map_err(unknown)?;
        for outcome in std::iter::once(begun).chain(written) {
            // If the server reported the error, COMMIT has rolled the transaction back. Otherwise the outcome
            // is unknown.
            outcome.map_err(|error| {
                if error.code().is_some() { self.failed(error.into()) } else { unknown(error.into()) }
            })?;
        }
        committed.map_err(|error| unknown(error.into()))?;
        self.inject_fault_after_commit()
    }

    fn trace_writes<'t>(&self, trace: &'t Trace) -> Result<Vec<TraceWrite<'t>>, Failure> {
        let mut writes = Vec::with_capacity(trace.audit.len() + trace.details.len() + trace.events.len());
        for (ordinal, entry) in (0..).zip(&trace.audit) {
            writes.push(TraceWrite::Audit(self.connection.prepare(audit::INSERT_ENTRY)?, entry, ordinal));
        }
        for details in &trace.details {
            writes.push(TraceWrite::Details(self.connection.prepare(audit::INSERT_DETAILS)?, details));
        }
        for (ordinal, event) in (0..).zip(&trace.events) {
            let insert = self.connection.prepare(outbox::INSERT_EVENT)?;
            writes.push(TraceWrite::Event(insert, event, event.recipients_text(), ordinal));
        }
        Ok(writes)
    }

    async fn send(&self, write: &TraceWrite<'_>) -> Result<(), tokio_postgres::Error> {
        let client = &self.connection.client;
        let sent = async {
            match write {
                TraceWrite::Audit(insert, entry, ordinal) => {
                    client.execute_raw(insert, audit::entry_params(entry, *ordinal)).await
                }
                TraceWrite::Details(insert, details) => {
                    client.execute_raw(insert, audit::details_params(details)).await
                }
                TraceWrite::Event(insert, event, recipients, ordinal) => {
                    client.execute_raw(insert, outbox::event_params(event, recipients, *ordinal)).await
                }
            }
        };
        self.connection.responded(None, sent).await.map(drop)
    }

    /// Rolls back the transaction. Returns true if the connection can be used again.
    pub fn rollback(&self) -> bool {
        self.connection.is_usable() && (!self.begun.get() || self.connection.batch("ROLLBACK").is_ok())
    }

    /// Ends a transaction that changed nothing. Returns true if the connection can be used again.
    pub fn end_reading(&self) -> bool {
        self.connection.is_usable() && (self.mode == TransactionMode::Plain || self.rollback())
    }

    pub fn failure_kind(&self) -> Option<FailureKind> {
        self.failure_kind.get()
    }

    fn failed(&self, failure: Failure) -> Error {
        if self.begin_failed.get() {
            // Statements that were sent after the failed BEGIN ran without a transaction and may have been
            // committed.
            self.connection.abandon();
            self.failure_kind.set(Some(FailureKind::Permanent));
            return unknown(failure);
        }
        let (error, failure_kind) = classify(&failure, self.mode == TransactionMode::Transaction);
        self.failure_kind.set(Some(failure_kind));
        error
    }

    /// Sends BEGIN, the lock request, deferred statements and announced reads, before a statement.
    async fn open(&self, opening: Preamble) -> Result<(), tokio_postgres::Error> {
        let client = &self.connection.client;
        let begin = async {
            let Some(begin) = opening.begin else { return Ok(()) };
            let begun = self.connection.responded(None, client.batch_execute(begin)).await;
            begun.inspect_err(|error| self.begin_failed.set(error.code().is_some()))
        };
        let lock = async {
            let Some((statement, keys)) = &opening.lock else { return Ok(()) };
            self.connection.responded(None, client.execute(statement, &[keys])).await.map(drop)
        };
        let deferred = opening.deferred.iter().map(|deferred| deferred.run(self.connection));
        let mut prefetches = self.prefetches.take();
        let reads = prefetches.iter_mut().filter(|prefetch| !prefetch.is_sent());
        let reads = try_join_all(reads.map(|prefetch| prefetch.run(self.connection)));
        // The first poll sends the messages in this order.
        try_join4(begin, lock, try_join_all(deferred), reads).await?;
        self.prefetches.replace(prefetches);
        Ok(())
    }
}

const fn end_of(is_async: bool) -> &'static str {
    if is_async { "SET LOCAL synchronous_commit = off; COMMIT" } else { "COMMIT" }
}

/// Row of the trace to be inserted. Audit entries and events have a number within the transaction.
enum TraceWrite<'t> {
    Audit(Statement, &'t AuditEntry, i64),
    Details(Statement, &'t AuditDetails),
    Event(Statement, &'t Event, String, i64),
}

/// Messages that must be sent before a statement.
struct Preamble {
    begin: Option<&'static str>,
    lock: Option<(Statement, Vec<i64>)>,
    deferred: Vec<DeferredStatement>,
}

#[cfg(feature = "testing")]
impl PostgresSession<'_> {
    /// Injects the requested fault at a statement. The fault is caused in the server.
    fn inject_fault(&self) -> Result<(), Error> {
        use crate::testing::Fault;
        let sql = match self.faults.and_then(crate::testing::Faults::at_statement) {
            None => return Ok(()),
            Some(Fault::ConnectionLost { .. }) => "SELECT pg_terminate_backend(pg_backend_pid())",
            Some(_) => "BEGIN; DO $$ BEGIN RAISE 'injected' USING ERRCODE = 'disk_full'; END $$",
        };
        self.begun.set(true);
        self.connection.batch(sql).map_err(|failure| self.failed(failure))
    }

    pub fn inject_fault_at_end(&self) -> Result<(), Error> {
        if !self.faults.is_some_and(crate::testing::Faults::at_end) {
            return Ok(());
        }
        self.begun.set(true);
        let deadlock = "BEGIN; DO $$ BEGIN RAISE 'injected' USING ERRCODE = 'deadlock_detected'; END $$";
        self.connection.batch(deadlock).map_err(|failure| self.failed(failure))
    }

    fn inject_fault_before_commit(&self) {
        if self.faults.is_some_and(crate::testing::Faults::at_commit) {
            // The error of this statement does not matter. The connection is lost when COMMIT is sent.
            let _ = self.connection.batch("SELECT pg_terminate_backend(pg_backend_pid())");
        }
    }

    fn inject_fault_after_commit(&self) -> Result<(), Error> {
        let lost = self.faults.is_some_and(crate::testing::Faults::after_commit);
        if lost {
            Err(Error::OutcomeUnknown(crate::error::Cause::new("injected: the response was lost")))
        } else {
            Ok(())
        }
    }
}

#[cfg(not(feature = "testing"))]
#[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "faults are injected in test builds only")]
impl PostgresSession<'_> {
    const fn inject_fault(&self) -> Result<(), Error> {
        Ok(())
    }

    pub const fn inject_fault_at_end(&self) -> Result<(), Error> {
        Ok(())
    }

    const fn inject_fault_before_commit(&self) {}

    const fn inject_fault_after_commit(&self) -> Result<(), Error> {
        Ok(())
    }
}
