//! What a closure may do: read rows, change rows, lock what it decides about, leave its trace.
//!
//! A statement is a `&'static str` with `$1`, `$2`, …: nobody builds SQL from input. A statement that fails ends
//! the transaction, on either database, even if the closure swallows the error.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::Deref;

use kith_kernel::{Ctx, UserId};

use crate::audit::{self, AuditDetails, AuditEntry};
use crate::events::{Event, NewEvent};
use crate::value::{Param, Row, check_all};
use crate::{Error, outbox, postgres, sqlite};

/// The connection under a closure.
pub(crate) enum Session<'c> {
    Sqlite(sqlite::Session<'c>),
    Postgres(postgres::Session<'c>),
}

/// Reads. Inside [`crate::Store::read`] each statement sees at least what was committed when the read began; inside a
/// transaction what is committed when it starts, and the transaction's own changes; inside [`crate::Store::export`] all
/// statements see the same state.
pub struct Query<'c> {
    pub(crate) session: Session<'c>,
    failure: RefCell<Option<Error>>,
}

/// Connection that a transaction runs on. Always 0 on SQLite, whose database ends with the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteConnection {
    /// Its number, from 1, in the order in which this process opened connections that write.
    pub number: u64,
    /// The number of the newest one when the transaction began.
    pub newest: u64,
}

/// A transaction.
pub struct Tx<'c> {
    query: Query<'c>,
    trace: RefCell<Trace>,
    may_be_lost: Cell<bool>,
}

/// What a transaction leaves beside its rows, written with the commit.
#[derive(Default)]
pub(crate) struct Trace {
    pub audit: Vec<AuditEntry>,
    pub details: Vec<AuditDetails>,
    pub events: Vec<Event>,
    /// What is rung once it is committed.
    pub bells: BTreeSet<String>,
}

impl Trace {
    /// Whether both databases can hold it.
    pub fn check(&self) -> Result<(), Error> {
        self.audit.iter().try_for_each(|entry| check_all(&audit::entry_params(entry, 0)))?;
        self.details.iter().try_for_each(|details| check_all(&audit::details_params(details)))?;
        self.events.iter().try_for_each(|event| check_all(&outbox::event_params(event, "", 0)))
    }

    pub fn is_empty(&self) -> bool {
        self.audit.is_empty() && self.events.is_empty()
    }
}

impl<'c> Query<'c> {
    pub(crate) fn new(session: Session<'c>) -> Self {
        Self { session, failure: RefCell::new(None) }
    }

    /// The first row of the result, if there is one.
    ///
    /// # Errors
    /// Whatever the database answers; the transaction is then over.
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

    /// All rows of the result.
    ///
    /// # Errors
    /// Whatever the database answers; the transaction is then over.
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
                Session::Sqlite(session) => session.each(sql, params, take),
                Session::Postgres(session) => session.each(sql, params, take),
            }
        })
    }

    /// Runs a statement unless one has failed before, and remembers if it fails.
    fn guarded<T>(&self, run: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        if let Some(error) = &*self.failure.borrow() {
            return Err(error.clone());
        }
        run().inspect_err(|error| *self.failure.borrow_mut() = Some(error.clone()))
    }

    fn is_postgres(&self) -> bool {
        matches!(self.session, Session::Postgres(_))
    }

    /// The first statement's error, if one failed.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.failure.borrow().clone()
    }
}

impl<'c> Tx<'c> {
    pub(crate) fn new(session: Session<'c>) -> Self {
        Self { query: Query::new(session), trace: RefCell::default(), may_be_lost: Cell::new(false) }
    }

    /// Changes rows and says how many.
    ///
    /// # Errors
    /// Whatever the database answers; the transaction is then over.
    pub fn exec(&self, sql: &'static str, params: &[Param<'_>]) -> Result<u64, Error> {
        self.guarded(|| {
            check_all(params)?;
            record(self.is_postgres(), sql, params);
            match &self.query.session {
                Session::Sqlite(session) => session.exec(sql, params),
                Session::Postgres(session) => session.exec(sql, params),
            }
        })
    }

    /// Says whom this transaction decides about: no other one that names any of `keys` runs until this one ends.
    ///
    /// Call it before the reads the decision rests on, and once, with all keys: the store sorts them, so that two
    /// transactions never wait for each other.
    ///
    /// # Errors
    /// [`Error::DeadlinePassed`] if another transaction holds one of them for too long.
    pub fn lock<K: ToString>(
        &self,
        what: &'static str,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<(), Error> {
        match &self.query.session {
            // Writers stand in one line anyway.
            Session::Sqlite(_) => Ok(()),
            Session::Postgres(session) => {
                let keys = keys.into_iter().map(|key| postgres::lock_key(what, &key.to_string()));
                self.guarded(|| session.lock(keys.collect()))
            }
        }
    }

    /// Leaves an audit entry: `action` was done to `object`.
    pub fn audit(&self, ctx: &Ctx, action: &'static str, object: impl ToString) {
        self.trace.borrow_mut().audit.push(AuditEntry::new(ctx, action, object));
    }

    /// Leaves an audit entry with personal details: what tells of a person, such as an address, stands beside the
    /// entry, where it can be erased, and never in `action` or `object`. `about` names the person, who finds the entry
    /// (not the details) among their own activity.
    pub fn audit_with(
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

    /// Says what has happened. Followers learn of it after the commit, in the order of positions.
    pub fn emit(&self, ctx: &Ctx, event: NewEvent) {
        self.trace.borrow_mut().events.push(Event::new(ctx, event));
    }

    /// What `pick` makes of the events emitted so far.
    pub fn emitted<T>(&self, pick: impl FnMut(&Event) -> Option<T>) -> Vec<T> {
        self.trace.borrow().events.iter().filter_map(pick).collect()
    }

    /// Wakes those who listen to the bell `name`, here and on other nodes, once this transaction is committed.
    pub fn ring(&self, name: impl Into<String>) {
        self.trace.borrow_mut().bells.insert(name.into());
    }

    /// Says that nobody relies on this transaction once the database's machine has lost its power: it may be answered
    /// before it is on the disk, where that is quicker. For what then is found undone and done again.
    pub fn may_be_lost(&self) {
        self.may_be_lost.set(true);
    }

    pub(crate) fn is_loose(&self) -> bool {
        self.may_be_lost.get()
    }

    /// The connection that this transaction runs on. What a process remembers of the database across transactions, and
    /// cannot verify, holds only on connections that were open when it was learned: a crash of the database, which may
    /// undo commits of [`Tx::may_be_lost`], ends every connection.
    pub fn connection(&self) -> WriteConnection {
        match &self.query.session {
            Session::Sqlite(_) => WriteConnection::default(),
            Session::Postgres(session) => session.connection,
        }
    }

    /// Whether several processes may use the database, so that a statement costs a round trip.
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
