//! Statements that are sent together with the next statement of a closure, to save round trips.

use bytes::BytesMut;
use futures_util::TryStreamExt;
use tokio_postgres::Statement;
use tokio_postgres::types::ToSql as _;

use super::connection::PostgresConnection;
use crate::Error;
use crate::value::{OwnedParam, Param};

/// Statement that is sent with the next statement, because its result is not needed yet.
pub(super) struct DeferredStatement {
    sql: &'static str,
    statement: Statement,
    params: Vec<OwnedParam>,
}

impl DeferredStatement {
    /// Creates a statement. Its parameters are checked now, because a message that cannot be built would be
    /// missing between those before and after it.
    ///
    /// # Errors
    /// Returns [`Error::Fault`] if the parameters do not fit the statement.
    pub fn new(sql: &'static str, statement: Statement, params: Vec<OwnedParam>) -> Result<Self, Error> {
        let types = statement.params();
        if types.len() != params.len() {
            let counts =
                format_args!("{} parameters, but {} are given", types.len(), params.len()).to_string();
            return Err(Error::fault(format!("a statement has {counts}: {sql}")));
        }
        let mut scratch = BytesMut::new();
        for (param, ty) in params.iter().zip(types) {
            param.as_param().to_sql_checked(ty, &mut scratch).map_err(Error::fault)?;
        }
        Ok(Self { sql, statement, params })
    }

    /// Sends the statement and waits for its response.
    pub async fn run(&self, connection: &PostgresConnection) -> Result<(), tokio_postgres::Error> {
        let params = self.params.iter().map(OwnedParam::as_param);
        let run = connection.client.execute_raw(&self.statement, params);
        connection.responded(connection.times_of(self.sql), run).await.map(drop)
    }
}

/// Read that was announced and is sent with the next statement.
pub(super) struct Prefetch {
    statement: DeferredStatement,
    /// Rows of the result; `None` until the read was sent.
    rows: Option<Vec<tokio_postgres::Row>>,
}

impl Prefetch {
    pub fn new(statement: DeferredStatement) -> Self {
        Self { statement, rows: None }
    }

    /// Returns true if this is the read of `sql` with `params`.
    pub fn is_of(&self, sql: &'static str, params: &[Param<'_>]) -> bool {
        std::ptr::eq(self.statement.sql, sql)
            && OwnedParam::copy_all(params).is_some_and(|params| params == self.statement.params)
    }

    pub fn is_sent(&self) -> bool {
        self.rows.is_some()
    }

    pub fn into_rows(self) -> Option<Vec<tokio_postgres::Row>> {
        self.rows
    }

    /// Sends the read and stores its rows.
    pub async fn run(&mut self, connection: &PostgresConnection) -> Result<(), tokio_postgres::Error> {
        let DeferredStatement { sql, statement, params } = &self.statement;
        let params = params.iter().map(OwnedParam::as_param);
        let rows = async { connection.client.query_raw(statement, params).await?.try_collect().await };
        self.rows = Some(connection.responded(connection.times_of(sql), rows).await?);
        Ok(())
    }
}
