//! PostgreSQL connection that is driven by the thread that owns it, with its prepared statements.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio_postgres::{AsyncMessage, Client, Statement};

use super::connect;
use super::failure::Failure;
use super::settings::Settings;
use crate::Error;
use crate::statements::{Statements, Times};

/// Connection with its prepared statements.
pub(crate) struct PostgresConnection {
    pub runtime: Runtime,
    pub client: Client,
    /// Start time of the server, which identifies it (see [`connect::SERVER`]).
    pub server: i64,
    response_timeout: Cell<Duration>,
    /// Time of the last response in the pipeline that is being waited for.
    responded_at: Cell<Instant>,
    plan_max_age: Duration,
    /// Time at which the oldest cached plan was made.
    planned_at: Cell<Instant>,
    /// True after the server has not responded in time, or if it is unknown whether a transaction is open.
    unusable: Cell<bool>,
    statements: RefCell<HashMap<(usize, usize), Statement>>,
    /// Object in which the times of statements are recorded, if they are measured.
    measured: Option<Arc<Statements>>,
    times: RefCell<HashMap<(usize, usize), Arc<Times>>>,
}

impl PostgresConnection {
    /// Connects to the first server that accepts writes. Notifications are passed to `on_notice`.
    ///
    /// If `known` is given and identifies a server that has become read-only, this server is accepted too,
    /// because no other server can have acknowledged changes.
    pub fn connect(
        settings: &Settings,
        known: Option<i64>,
        on_notice: impl FnMut(AsyncMessage) + Clone + Send + 'static,
    ) -> Result<Self, Error> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::unavailable)?;
        let (client, server) = runtime.block_on(connect::to_first(settings, known, on_notice))?;
        let (response_timeout, unusable) = (Cell::new(settings.response_timeout), Cell::new(false));
        Ok(Self {
            runtime,
            client,
            server,
            response_timeout,
            responded_at: Cell::new(now()),
            plan_max_age: settings.plan_max_age,
            planned_at: Cell::new(now()),
            unusable,
            statements: RefCell::default(),
            measured: None,
            times: RefCell::default(),
        })
    }

    /// Makes the connection record the times of closures' statements in `statements`.
    pub fn measured_in(self, statements: &Arc<Statements>) -> Self {
        Self { measured: Some(Arc::clone(statements)), ..self }
    }

    /// Returns the object in which the times of the statement are recorded; `None` if they are not measured.
    pub fn times_of(&self, sql: &'static str) -> Option<Arc<Times>> {
        let key = (sql.as_ptr().addr(), sql.len());
        let statements = self.measured.as_ref()?;
        Some(Arc::clone(self.times.borrow_mut().entry(key).or_insert_with(|| statements.of(sql))))
    }

    /// Awaits the response to one message of a pipeline. The time from the previous response, or from the
    /// message if that is later, is recorded in `times`.
    pub async fn responded<T>(
        &self,
        times: Option<Arc<Times>>,
        response: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, tokio_postgres::Error> {
        let sent_at = now();
        let responded = response.await;
        let responded_at = now();
        if let Some(times) = times {
            times.count(responded_at.saturating_duration_since(sent_at.max(self.responded_at.get())));
        }
        self.responded_at.set(responded_at);
        responded
    }

    /// Returns true if statements can still be sent.
    pub fn is_usable(&self) -> bool {
        !self.unusable.get() && !self.client.is_closed()
    }

    /// Sets the maximum time that later statements wait for a response.
    pub fn set_response_timeout(&self, timeout: Duration) {
        self.response_timeout.set(timeout);
    }

    /// Waits for a response, or for all responses of a pipeline. Fails with [`Failure::NoResponse`] after the
    /// response timeout, which starts again with each message of a pipeline that [`Self::responded`] awaits.
    /// Normally the timeouts of the server end a statement earlier.
    pub fn wait<T>(
        &self,
        answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Failure> {
        self.responded_at.set(now());
        let timeout = self.response_timeout.get();
        let answered = self.runtime.block_on(async {
            let mut answer = pin!(answer);
            loop {
                let deadline = self.responded_at.get() + timeout;
                match tokio::time::timeout_at(deadline.into(), &mut answer).await {
                    Ok(answered) => return Some(answered),
                    Err(_) if self.responded_at.get() + timeout == deadline => return None,
                    // A response has arrived in the meantime.
                    Err(_) => {}
                }
            }
        });
        match answered {
            Some(answered) => answered.map_err(Failure::Reported),
            None => {
                self.unusable.set(true);
                Err(Failure::NoResponse)
            }
        }
    }

    /// Lets the driver of the connection run once, so that it notices if the server has closed the connection.
    /// Under load the thread takes work without waiting for it.
    ///
    /// # Errors
    /// Returns [`Failure::Closed`] if the connection is closed.
    pub fn check_open(&self) -> Result<(), Failure> {
        self.runtime.block_on(async {
            // The first wakes the driver, which runs before the second ends.
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
        });
        if self.client.is_closed() { Err(Failure::Closed) } else { Ok(()) }
    }

    /// Marks the connection as unusable, because it is unknown whether a transaction is open.
    pub fn abandon(&self) {
        self.unusable.set(true);
    }

    /// Returns a prepared statement. The statement is prepared when it is first used on this connection.
    pub fn prepare(&self, sql: &'static str) -> Result<Statement, Failure> {
        self.renew_plans()?;
        let key = (sql.as_ptr().addr(), sql.len());
        if let Some(statement) = self.statements.borrow().get(&key) {
            return Ok(statement.clone());
        }
        let statement = self.wait(self.client.prepare(sql))?;
        self.statements.borrow_mut().insert(key, statement.clone());
        Ok(statement)
    }

    /// Discards the cached plans when they are older than `plan_max_age`. The server itself keeps a plan
    /// until autovacuum has analyzed a table.
    fn renew_plans(&self) -> Result<(), Failure> {
        if self.planned_at.get().elapsed() < self.plan_max_age {
            return Ok(());
        }
        self.planned_at.set(now());
        self.batch("DISCARD PLANS")
    }

    pub fn batch(&self, sql: &str) -> Result<(), Failure> {
        self.wait(self.client.batch_execute(sql))
    }
}

#[expect(clippy::disallowed_methods, reason = "measures the database")]
fn now() -> Instant {
    Instant::now()
}
