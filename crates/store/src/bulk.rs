//! One statement for many rows: run row by row where a statement costs no round trip, once over arrays where it does.

use crate::value::{Param, Row};
use crate::{Error, Tx};

/// A statement in two texts, for what one text cannot say.
#[derive(Clone, Copy, Debug)]
pub struct Statement {
    /// Text for SQLite.
    pub sqlite: &'static str,
    /// Text for PostgreSQL.
    pub postgres: &'static str,
}

#[cfg(any(test, feature = "testing"))]
impl Statement {
    /// The same, explained instead of done on PostgreSQL, with the pages it touched.
    #[must_use]
    pub fn explained(self) -> Self {
        let postgres = format!("EXPLAIN (ANALYZE, BUFFERS) {}", self.postgres);
        // Made a few times in the life of a test or benchmark.
        Self { sqlite: self.sqlite, postgres: postgres.leak() }
    }
}

/// What is done to many rows. The first placeholders stand for what all rows share, those behind for one row's values
/// on SQLite, where a row may take several statements, and for columns of values on PostgreSQL.
#[derive(Clone, Copy, Debug)]
pub struct Bulk {
    /// Statements for SQLite, run for each row; the last returns rows.
    pub each: &'static [&'static str],
    /// Statement for PostgreSQL, run once over arrays.
    pub all: &'static str,
}

/// The values of all rows for one placeholder.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// BIGINT.
    Ints(&'a [i64]),
    /// BIGINT, or NULL.
    MaybeInts(&'a [Option<i64>]),
    /// TEXT.
    Texts(&'a [&'a str]),
    /// TEXT, or NULL.
    MaybeTexts(&'a [Option<&'a str>]),
}

impl<'a> Values<'a> {
    const fn len(self) -> usize {
        match self {
            Self::Ints(all) => all.len(),
            Self::MaybeInts(all) => all.len(),
            Self::Texts(all) => all.len(),
            Self::MaybeTexts(all) => all.len(),
        }
    }

    fn at(self, row: usize) -> Param<'a> {
        match self {
            Self::Ints(all) => Param::Int(all[row]),
            Self::MaybeInts(all) => all[row].map_or(Param::Null, Param::Int),
            Self::Texts(all) => Param::Text(all[row]),
            Self::MaybeTexts(all) => all[row].map_or(Param::Null, Param::Text),
        }
    }
}

impl Tx<'_> {
    /// Runs `bulk` for all rows that `columns` hold, and reads the rows that come back.
    ///
    /// # Errors
    /// Whatever the database answers; the transaction is then over.
    ///
    /// # Panics
    /// If the columns are not equally long.
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
            params.extend(columns.iter().map(|column| Param::Many(*column)));
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

    /// All rows of the result of a statement in two texts. The placeholders behind those of `params` stand for
    /// `columns`, on PostgreSQL alone.
    ///
    /// # Errors
    /// Whatever the database answers; the transaction is then over.
    pub fn all_by<T>(
        &self,
        statement: &Statement,
        params: &[Param<'_>],
        columns: &[Values<'_>],
        read: impl Fn(&Row<'_>) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        if !self.is_shared() {
            return self.all(statement.sqlite, params, read);
        }
        let all: Vec<_> = params.iter().copied().chain(columns.iter().copied().map(Param::Many)).collect();
        self.all(statement.postgres, &all, read)
    }

    /// Changes rows by a statement in two texts and says how many.
    ///
    /// # Errors
    /// Whatever the database answers; the transaction is then over.
    pub fn exec_by(&self, statement: &Statement, params: &[Param<'_>]) -> Result<u64, Error> {
        self.exec(if self.is_shared() { statement.postgres } else { statement.sqlite }, params)
    }
}
