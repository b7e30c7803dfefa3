//! One PostgreSQL connection, driven by the thread that owns it, and how a closure's statements run on it.
//!
//! Round trips are what costs: BEGIN and the locks travel with the first statement, the trace with COMMIT.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use futures_util::future::{join, join_all, try_join};
use futures_util::{TryStreamExt, pin_mut};
use tokio::runtime::Runtime;
use tokio_postgres::{AsyncMessage, Client, Connection, NoTls, Statement};

use super::failure::{Trouble, classify, describe, unknown};
use super::settings::Settings;
use crate::events::{AuditEntry, Event};
use crate::tx::Trace;
use crate::value::{Param, Row};
use crate::{Error, outbox};

/// Statements sent together at most; more would fill the socket while nobody reads the answers.
const PIPELINE: usize = 16;

const LOCK: &str = "SELECT pg_advisory_xact_lock(k) FROM unnest($1::bigint[]) AS k";

/// A connection and the statements prepared on it.
pub(crate) struct Link {
    pub runtime: Runtime,
    pub client: Client,
    statements: RefCell<HashMap<(usize, usize), Statement>>,
}

impl Link {
    /// Connects; notifications go to `on_notice`.
    pub fn connect(
        settings: &Settings,
        on_notice: impl FnMut(AsyncMessage) + Send + 'static,
    ) -> Result<Self, Error> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::unavailable)?;
        let client = runtime.block_on(async {
            let client = match &settings.tls {
                None => {
                    let (client, connection) = settings.config.connect(NoTls).await?;
                    tokio::spawn(drive(connection, on_notice));
                    client
                }
                Some(tls) => {
                    let (client, connection) = settings.config.connect(tls.clone()).await?;
                    tokio::spawn(drive(connection, on_notice));
                    client
                }
            };
            client.batch_execute(&settings.greeting).await?;
            Ok(client)
        });
        let client = client.map_err(|error: tokio_postgres::Error| Error::unavailable(describe(&error)))?;
        Ok(Self { runtime, client, statements: RefCell::default() })
    }

    /// The statement, prepared on this connection if it was not yet.
    pub fn prepare(&self, sql: &'static str) -> Result<Statement, tokio_postgres::Error> {
        let key = (sql.as_ptr().addr(), sql.len());
        if let Some(statement) = self.statements.borrow().get(&key) {
            return Ok(statement.clone());
        }
        let statement = self.runtime.block_on(self.client.prepare(sql))?;
        self.statements.borrow_mut().insert(key, statement.clone());
        Ok(statement)
    }

    pub fn batch(&self, sql: &str) -> Result<(), tokio_postgres::Error> {
        self.runtime.block_on(self.client.batch_execute(sql))
    }
}

/// Moves bytes for a connection until it closes.
async fn drive<S, T>(mut connection: Connection<S, T>, mut on_notice: impl FnMut(AsyncMessage))
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let messages = futures_util::stream::poll_fn(move |cx| connection.poll_message(cx));
    pin_mut!(messages);
    while let Ok(Some(message)) = messages.try_next().await {
        on_notice(message);
    }
}

/// How a closure's statements are framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// In a transaction that changes things.
    Transaction,
    /// In a transaction that sees one state.
    Snapshot,
    /// Each on its own.
    Plain,
}

/// A link while a closure uses it.
pub(crate) struct Session<'c> {
    link: &'c Link,
    frame: Frame,
    begun: Cell<bool>,
    locks: RefCell<Vec<i64>>,
    trouble: Cell<Option<Trouble>>,
    #[cfg(feature = "testing")]
    pub faults: Option<&'c crate::testing::Faults>,
}

impl<'c> Session<'c> {
    pub fn new(link: &'c Link, frame: Frame) -> Self {
        Self {
            link,
            frame,
            begun: Cell::new(false),
            locks: RefCell::default(),
            trouble: Cell::new(None),
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
        self.run(sql, async |statement| {
            let rows = self.link.client.query_raw(&statement, params).await?;
            pin_mut!(rows);
            while let Some(row) = rows.try_next().await? {
                if let Err(error) = take(&Row::Postgres(&row)) {
                    return Ok(Err(error));
                }
            }
            Ok(Ok(()))
        })?
    }

    pub fn exec(&self, sql: &'static str, params: &[Param<'_>]) -> Result<u64, Error> {
        self.run(sql, async |statement| self.link.client.execute_raw(&statement, params).await)
    }

    /// Remembers what to lock; it travels with the next statement.
    pub fn lock(&self, keys: Vec<i64>) -> Result<(), Error> {
        self.locks.borrow_mut().extend(keys);
        Ok(())
    }

    fn run<T>(
        &self,
        sql: &'static str,
        go: impl AsyncFnOnce(Statement) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, Error> {
        self.strike()?;
        let statement = self.link.prepare(sql).map_err(|error| self.failed(&error))?;
        let opening = self.opening().map_err(|error| self.failed(&error))?;
        let both = async { try_join(opening.send(&self.link.client), go(statement)).await };
        let ((), value) = self.link.runtime.block_on(both).map_err(|error| self.failed(&error))?;
        Ok(value)
    }

    /// What has to travel before the next statement.
    fn opening(&self) -> Result<Opening, tokio_postgres::Error> {
        let begin = match self.frame {
            Frame::Transaction => Some("BEGIN"),
            Frame::Snapshot => Some("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"),
            Frame::Plain => None,
        };
        let begin = begin.filter(|_| !self.begun.replace(true));
        let mut keys = self.locks.take();
        keys.sort_unstable();
        keys.dedup();
        let lock = if keys.is_empty() { None } else { Some((self.link.prepare(LOCK)?, keys)) };
        Ok(Opening { begin, lock })
    }

    /// Ends the transaction with its trace. An error other than [`Error::OutcomeUnknown`] means nothing was changed.
    pub fn commit(&self, trace: &Trace) -> Result<(), Error> {
        if !self.begun.get() && trace.is_empty() {
            return Ok(());
        }
        let writes = self.trace_writes(trace).map_err(|error| self.failed(&error))?;
        let (early, last) = writes.split_at(writes.len().saturating_sub(PIPELINE));
        if !early.is_empty() {
            let opening = self.opening().map_err(|error| self.failed(&error))?;
            let opened = self.link.runtime.block_on(opening.send(&self.link.client));
            opened.map_err(|error| self.failed(&error))?;
        }
        for write in early {
            self.link.runtime.block_on(self.send(write)).map_err(|error| self.failed(&error))?;
        }
        self.strike_before_commit();
        let opening = self.opening().map_err(|error| self.failed(&error))?;
        let (begun, (written, committed)) = self.link.runtime.block_on(join(
            opening.send(&self.link.client),
            join(
                join_all(last.iter().map(|write| self.send(write))),
                self.link.client.batch_execute("COMMIT"),
            ),
        ));
        for outcome in std::iter::once(begun).chain(written) {
            // The server has refused it, so COMMIT rolled back; without the server's word nobody knows.
            outcome.map_err(
                |error| if error.code().is_some() { self.failed(&error) } else { unknown(&error) },
            )?;
        }
        committed.map_err(|error| unknown(&error))?;
        self.strike_after_commit()
    }

    fn trace_writes<'t>(&self, trace: &'t Trace) -> Result<Vec<TraceWrite<'t>>, tokio_postgres::Error> {
        let mut writes = Vec::with_capacity(trace.audit.len() + trace.events.len());
        for (ordinal, entry) in (0..).zip(&trace.audit) {
            writes.push(TraceWrite::Audit(self.link.prepare(outbox::INSERT_AUDIT)?, entry, ordinal));
        }
        for (ordinal, event) in (0..).zip(&trace.events) {
            let insert = self.link.prepare(outbox::INSERT_EVENT)?;
            writes.push(TraceWrite::Event(insert, event, event.recipients_text(), ordinal));
        }
        Ok(writes)
    }

    async fn send(&self, write: &TraceWrite<'_>) -> Result<(), tokio_postgres::Error> {
        let client = &self.link.client;
        let sent = match write {
            TraceWrite::Audit(insert, entry, ordinal) => {
                client.execute_raw(insert, outbox::audit_params(entry, *ordinal)).await
            }
            TraceWrite::Event(insert, event, recipients, ordinal) => {
                client.execute_raw(insert, outbox::event_params(event, recipients, *ordinal)).await
            }
        };
        sent.map(drop)
    }

    /// Undoes the transaction. Says whether the connection can be used again.
    pub fn rollback(&self) -> bool {
        !self.begun.get() || self.link.batch("ROLLBACK").is_ok()
    }

    /// Ends a transaction that changed nothing. Says whether the connection can be used again.
    pub fn end_reading(&self) -> bool {
        self.frame == Frame::Plain || self.rollback()
    }

    pub fn trouble(&self) -> Option<Trouble> {
        self.trouble.get()
    }

    fn failed(&self, error: &tokio_postgres::Error) -> Error {
        let (error, trouble) = classify(error);
        self.trouble.set(Some(trouble));
        error
    }
}

/// A row of the trace on its way, with its place within the transaction.
enum TraceWrite<'t> {
    Audit(Statement, &'t AuditEntry, i64),
    Event(Statement, &'t Event, String, i64),
}

/// What travels ahead of a statement.
struct Opening {
    begin: Option<&'static str>,
    lock: Option<(Statement, Vec<i64>)>,
}

impl Opening {
    async fn send(self, client: &Client) -> Result<(), tokio_postgres::Error> {
        let begin = async {
            match self.begin {
                Some(begin) => client.batch_execute(begin).await,
                None => Ok(()),
            }
        };
        let lock = async {
            match self.lock {
                Some((statement, keys)) => client.execute(&statement, &[&keys]).await.map(drop),
                None => Ok(()),
            }
        };
        try_join(begin, lock).await.map(drop)
    }
}

#[cfg(feature = "testing")]
impl Session<'_> {
    /// Lets a fault that was switched on happen here, by the server's own hand.
    fn strike(&self) -> Result<(), Error> {
        use crate::testing::Fault;
        let sql = match self.faults.and_then(crate::testing::Faults::at_statement) {
            None => return Ok(()),
            Some(Fault::ConnectionLost) => "SELECT pg_terminate_backend(pg_backend_pid())",
            Some(_) => "BEGIN; DO $$ BEGIN RAISE 'injected' USING ERRCODE = 'disk_full'; END $$",
        };
        self.begun.set(true);
        self.link.batch(sql).map_err(|error| self.failed(&error))
    }

    pub fn strike_at_end(&self) -> Result<(), Error> {
        if !self.faults.is_some_and(crate::testing::Faults::at_end) {
            return Ok(());
        }
        self.begun.set(true);
        let deadlock = "BEGIN; DO $$ BEGIN RAISE 'injected' USING ERRCODE = 'deadlock_detected'; END $$";
        self.link.batch(deadlock).map_err(|error| self.failed(&error))
    }

    fn strike_before_commit(&self) {
        if self.faults.is_some_and(crate::testing::Faults::at_commit) {
            // Its own error is the fault: the connection is gone when COMMIT is sent.
            let _ = self.link.batch("SELECT pg_terminate_backend(pg_backend_pid())");
        }
    }

    fn strike_after_commit(&self) -> Result<(), Error> {
        let lost = self.faults.is_some_and(crate::testing::Faults::after_commit);
        if lost {
            Err(Error::OutcomeUnknown(crate::error::Cause::new("injected: the answer was lost")))
        } else {
            Ok(())
        }
    }
}

#[cfg(not(feature = "testing"))]
#[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "faults strike in test builds only")]
impl Session<'_> {
    const fn strike(&self) -> Result<(), Error> {
        Ok(())
    }

    pub const fn strike_at_end(&self) -> Result<(), Error> {
        Ok(())
    }

    const fn strike_before_commit(&self) {}

    const fn strike_after_commit(&self) -> Result<(), Error> {
        Ok(())
    }
}
