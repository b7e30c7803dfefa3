//! Statements over many rows. SQLite needs no round trip for a statement, so there they run once per row. On
//! PostgreSQL they run once, with arrays as parameters.

use crate::value::{Param, Row, Values};
use crate::{Error, Tx};

/// Statement with a separate text for each database. It is used if one text cannot express the statement for
/// both.
#[derive(Clone, Copy, Debug)]
pub struct Statement {
    /// Text for SQLite.
    pub sqlite: &'static str,
    /// Text for PostgreSQL.
    pub postgres: &'static str,
}

#[cfg(any(test, feature = "testing"))]
impl Statement {
    /// Returns the statement with `EXPLAIN (ANALYZE, BUFFERS)` before the PostgreSQL text. The statement is
    /// still executed.
    #[must_use]
    pub fn explained(self) -> Self {
        let postgres = format!("EXPLAIN (ANALYZE, BUFFERS) {}", self.postgres);
        // This leaks memory. It is called only a few times in a test or benchmark.
        Self { sqlite: self.sqlite, postgres: postgres.leak() }
    }
}

/// Statement over many rows. The first placeholders stand for the parameters that all rows share. The
/// following placeholders stand for the values of one row on SQLite, and for arrays of values on PostgreSQL.
/// On SQLite a row can need several statements.
#[derive(Clone, Copy, Debug)]
pub struct Bulk {
    /// Statements for SQLite, run in order for each row. Only the last one returns rows.
    pub each: &'static [&'static str],
    /// Statement for PostgreSQL, run once with arrays as parameters.
    pub all: &'static str,
}

impl Tx<'_> {
    /// Runs `bulk` for all rows in `columns` and reads the returned rows.
    ///
    /// # Errors
    /// Returns the error of the failed statement, such as [`Error::Unavailable`]. The transaction cannot be
    /// used afterwards.
    ///
    /// # Panics
    /// If the columns have different lengths.
    pub fn bulk<T>(
        &self,
        bulk: &Bulk,
        shared: &[Param<'_>],
        columns: &[Values<'_>],
        read: impl Fn(&Row<'_>) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        let rows = columns.first().map_or(0, |column| column.len());
        assert!(columns.iter().all(|column| column.len() == rows), "columns of one length");
        if rows == 0 {
            return Ok(Vec::new());
        }
        let mut params = shared.to_vec();
        if self.is_shared() {
            params.extend(columns.iter().map(|column| Param::Array(*column)));
            return self.all(bulk.all, &params, read);
        }
        let mut found = Vec::with_capacity(rows);
        for row in 0..rows {
            params.truncate(shared.len());
            params.extend(columns.iter().map(|column| column.at(row)));
            let (last, before) = bulk.each.split_last().ok_or_else(|| Error::fault("no statement"))?;
            for sql in before {
                self.exec(sql, &params)?;
            }
            self.each(last, &params, &mut |row| {
                found.push(read(row)?);
                Ok(())
            })?;
        }
        Ok(found)
    }

    /// Returns all rows of a statement that has a separate text for each database. On PostgreSQL, `columns`
    /// are passed as further parameters after `params`. On SQLite they are ignored.
    ///
    /// # Errors
    /// Returns the error of the failed statement, such as [`Error::Unavailable`]. The transaction cannot be
    /// used afterwards.
    pub fn all_for_engine<T>(
        &self,
        statement: &Statement,
        params: &[Param<'_>],
        columns: &[Values<'_>],
        read: impl Fn(&Row<'_>) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        if !self.is_shared() {
            return self.all(statement.sqlite, params, read);
        }
        let all: Vec<_> = params.iter().copied().chain(columns.iter().copied().map(Param::Array)).collect();
        self.all(statement.postgres, &all, read)
    }

    /// Runs a statement that has a separate text for each database. Returns the number of rows changed.
    ///
    /// # Errors
    /// Returns the error of the failed statement, such as [`Error::Unavailable`]. The transaction cannot be
    /// used afterwards.
    pub fn exec_for_engine(&self, statement: &Statement, params: &[Param<'_>]) -> Result<u64, Error> {
        self.exec(if self.is_shared() { statement.postgres } else { statement.sqlite }, params)
    }
}
