//! Operations of a closure: read and change rows, lock keys, write audit entries and events.
//!
//! A statement is a `&'static str` with the placeholders `$1`, `$2`, …, so SQL is never built from input.
//! After a statement has failed, all further statements fail too, on both databases, even if the closure
//! ignores the error.

use std::cell::{Cell, RefCell};
use std::ops::Deref;

use kith_kernel::{Ctx, UserId};

use crate::audit::{AuditDetails, AuditEntry};
use crate::events::{Event, NewEvent};
use crate::trace::Trace;
use crate::value::{Param, Row, check_all};
use crate::{Error, postgres, sqlite};

/// Session of the database engine that a closure uses.
pub(crate) enum EngineSession<'c> {
    Sqlite(sqlite::SqliteSession<'c>),
    Postgres(postgres::PostgresSession<'c>),
}

/// Read access to the database. In [`crate::Store::read`], each statement sees at least what was committed
/// when the read started. In a transaction, each statement sees what was committed when the statement
/// started, and the transaction's own changes. In [`crate::Store::export`], all statements see the same
/// snapshot.
pub struct Query<'c> {
    pub(crate) session: EngineSession<'c>,
    failure: RefCell<Option<Error>>,
}

/// Identity of the connection on which a transaction runs. Both numbers are always 0 on SQLite, because only
/// this process uses the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteConnection {
    /// Number of the connection. Write connections of this process are numbered from 1 in the order in which
    /// they were opened.
    pub number: u64,
    /// Number of the newest write connection when the transaction started.
    pub newest: u64,
}

/// Transaction. It has all operations of [`Query`] as well.
pub struct Tx<'c> {
    query: Query<'c>,
    trace: RefCell<Trace>,
    may_be_lost: Cell<bool>,
}

impl<'c> Query<'c> {
    pub(crate) fn new(session: EngineSession<'c>) -> Self {
        Self { session, failure: RefCell::new(None) }
    }

    /// Returns the first row of the result, or `None` if the result is empty.
    ///
    /// # Errors
    /// Returns the error of the failed statement, such as [`Error::Unavailable`]. The transaction cannot be
    /// used afterwards.
    pub fn one<T>(
        &self,
        sql: &'static str,
        params: &[Param<'_>],
        read: impl Fn(&Row<'_>) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        let mut first = None;
        self.each(sql, params, &mut |row| {
            if first.is_none() {
                first = Some(read(row)?);
            }
            Ok(())
        })?;
        Ok(first)
    }

    /// Returns all rows of the result.
    ///
    /// # Errors
    /// Returns the error of the failed statement, such as [`Error::Unavailable`]. The transaction cannot be
    /// used afterwards.
    pub fn all<T>(
        &self,
        sql: &'static str,
        params: &[Param<'_>],
        read: impl Fn(&Row<'_>) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        let mut rows = Vec::new();
        self.each(sql, params, &mut |row| {
            rows.push(read(row)?);
            Ok(())
        })?;
        Ok(rows)
    }

    pub(crate) fn each(
        &self,
        sql: &'static str,
        params: &[Param<'_>],
        take: &mut dyn FnMut(&Row<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.guarded(|| {
            check_all(params)?;
            record(self.is_postgres(), sql, params);
            match &self.session {
                EngineSession::Sqlite(session) => session.each(sql, params, take),
                EngineSession::Postgres(session) => session.each(sql, params, take),
            }
        })
    }

    /// Runs a statement and stores its error. If an earlier statement has failed, returns that error instead.
    fn guarded<T>(&self, run: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        if let Some(error) = &*self.failure.borrow() {
            return Err(error.clone());
        }
        run().inspect_err(|error| *self.failure.borrow_mut() = Some(error.clone()))
    }

    fn is_postgres(&self) -> bool {
        matches!(self.session, EngineSession::Postgres(_))
    }

    /// Returns the error of the first failed statement; `None` if no statement has failed.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.failure.borrow().clone()
    }
}

impl<'c> Tx<'c> {
    pub(crate) fn new(session: EngineSession<'c>) -> Self {
        Self { query: Query::new(session), trace: RefCell::default(), may_be_lost: Cell::new(false) }
    }

    /// Runs a statement that changes rows, and returns the number of changed rows.
    ///
    /// # Errors
    /// Returns the error of the failed statement, such as [`Error::Unavailable`]. The transaction cannot be
    /// used afterwards.
    pub fn exec(&self, sql: &'static str, params: &[Param<'_>]) -> Result<u64, Error> {
        self.guarded(|| {
            check_all(params)?;
            record(self.is_postgres(), sql, params);
            match &self.query.session {
                EngineSession::Sqlite(session) => session.exec(sql, params),
                EngineSession::Postgres(session) => session.exec(sql, params),
            }
        })
    }

    /// Runs a statement whose result is not needed. On PostgreSQL it is sent together with the next statement
    /// or with COMMIT, so it needs no separate round trip. Its error is then returned by that statement or by
    /// the transaction. Therefore do not use it for a statement whose failure the closure handles.
    ///
    /// # Errors
    /// Returns the same errors as [`Tx::exec`].
    pub fn exec_deferred(&self, sql: &'static str, params: &[Param<'_>]) -> Result<(), Error> {
        self.guarded(|| {
            check_all(params)?;
            record(self.is_postgres(), sql, params);
            match &self.query.session {
                EngineSession::Sqlite(session) => session.exec(sql, params).map(drop),
                EngineSession::Postgres(session) => session.exec_deferred(sql, params),
            }
        })
    }

    /// Announces a read that the closure will run later with the same statement and parameters. On PostgreSQL
    /// it is sent together with the next statement, so it needs no separate round trip. If the transaction
    /// changes rows or locks keys in between, the announcement is discarded. `sql` must be a `static`, because
    /// the read is recognized by the address of its text. Does nothing on SQLite.
    ///
    /// # Errors
    /// Returns the same errors as [`Tx::exec`].
    pub fn prefetch(&self, sql: &'static str, params: &[Param<'_>]) -> Result<(), Error> {
        match &self.query.session {
            EngineSession::Sqlite(_) => Ok(()),
            EngineSession::Postgres(session) => self.guarded(|| {
                check_all(params)?;
                session.prefetch(sql, params)
            }),
        }
    }

    /// Locks `keys` until the transaction ends. Other transactions that lock any of them wait.
    ///
    /// Call it before the reads on which a decision depends, and only once, with all keys. The store sorts
    /// the keys, so that transactions cannot deadlock. Does nothing on SQLite, where only one transaction
    /// runs at a time.
    ///
    /// # Errors
    /// Returns [`Error::DeadlinePassed`] if another transaction has locked one of the keys for too long.
    pub fn lock<K: ToString>(
        &self,
        what: &'static str,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<(), Error> {
        match &self.query.session {
            // Only one transaction runs at a time.
            EngineSession::Sqlite(_) => Ok(()),
            EngineSession::Postgres(session) => {
                let keys = keys.into_iter().map(|key| postgres::lock_key(what, &key.to_string()));
                self.guarded(|| session.lock(keys.collect()))
            }
        }
    }

    /// Adds an audit entry: `action` was performed on `object`.
    pub fn audit(&self, ctx: &Ctx, action: &'static str, object: impl ToString) {
        self.trace.borrow_mut().audit.push(AuditEntry::new(ctx, action, object));
    }

    /// Adds an audit entry with personal details. Personal data, such as an address, must be in `details`,
    /// where it can be erased, and never in `action` or `object`. `about` is the user whom the entry
    /// concerns. The entry, without its details, appears in that user's activity.
    pub fn audit_with_details(
        &self,
        ctx: &Ctx,
        action: &'static str,
        object: impl ToString,
        about: Option<UserId>,
        details: serde_json::Value,
    ) {
        let mut entry = AuditEntry::new(ctx, action, object);
        let details = AuditDetails::of(ctx, &mut entry, about, &details);
        let mut trace = self.trace.borrow_mut();
        trace.audit.push(entry);
        trace.details.push(details);
    }

    /// Adds an event. Consumers receive it after the commit, in the order of positions.
    pub fn emit(&self, ctx: &Ctx, event: NewEvent) {
        self.trace.borrow_mut().events.push(Event::new(ctx, event));
    }

    /// Returns the values that `pick` returns for the events emitted so far.
    pub fn emitted<T>(&self, pick: impl FnMut(&Event) -> Option<T>) -> Vec<T> {
        self.trace.borrow().events.iter().filter_map(pick).collect()
    }

    /// Notifies the channel `name` after the commit, on all nodes.
    pub fn notify(&self, name: impl Into<String>) {
        self.trace.borrow_mut().channels.insert(name.into());
    }

    /// Allows the commit to be acknowledged before it is on disk (PostgreSQL). Use it only for changes that
    /// may be lost in a crash of the database server, because the loss is detected and the change is
    /// repeated.
    pub fn allow_async_commit(&self) {
        self.may_be_lost.set(true);
    }

    pub(crate) fn allows_async_commit(&self) -> bool {
        self.may_be_lost.get()
    }

    /// Returns the connection on which this transaction runs. It is needed for state that a process caches
    /// across transactions and cannot verify. Such state is valid only for connections that were open when it
    /// was cached. A crash of the database closes all connections, and can undo commits of
    /// [`Tx::allow_async_commit`].
    pub fn connection(&self) -> WriteConnection {
        match &self.query.session {
            EngineSession::Sqlite(_) => WriteConnection::default(),
            EngineSession::Postgres(session) => session.write_connection,
        }
    }

    /// Returns true if the database runs on a server (PostgreSQL), so that each statement costs a round trip.
    pub(crate) fn is_shared(&self) -> bool {
        self.is_postgres()
    }

    pub(crate) fn take_trace(&self) -> Trace {
        self.trace.take()
    }
}

impl<'c> Deref for Tx<'c> {
    type Target = Query<'c>;
    fn deref(&self) -> &Query<'c> {
        &self.query
    }
}

/// Records a statement for `cargo xtask plans`.
#[cfg(feature = "testing")]
pub(crate) fn record(is_postgres: bool, sql: &'static str, params: &[Param<'_>]) {
    crate::testing::record(is_postgres, sql, params);
}

#[cfg(not(feature = "testing"))]
pub(crate) const fn record(_: bool, _: &'static str, _: &[Param<'_>]) {}
