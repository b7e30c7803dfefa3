//! State of the audit chain and of event positions, for administrators.

use serde::Serialize;

use crate::audit_keys::AuditKeyring;
use crate::sequencer::Seal;
use crate::tx::EngineSession;
use crate::{Error, Query, audit, audit_archive, params};

/// State of the newest links of the audit chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditTail {
    /// Total number of links.
    pub links: i64,
    /// Number of links that were recomputed, which are the newest ones.
    pub recomputed: i64,
    /// Description of the first error; `None` if there is none.
    pub fault: Option<String>,
}

/// State of the event positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Positions {
    /// Number of positions.
    pub count: i64,
    /// First position; 0 if there is none.
    pub first: i64,
    /// Last position; 0 if there is none.
    pub last: i64,
}

/// SQL that finds unique keys of a table. In SQLite a primary key of one integer column has no index, so the
/// columns of the primary key are also read.
const KEYS_IN_SQLITE: &str = "SELECT l.name FROM pragma_index_list($1) l
     WHERE l.\"unique\" = 1 AND l.partial = 0
       AND (SELECT group_concat(i.name, ',') FROM pragma_index_info(l.name) i) = $2
     UNION ALL
     SELECT columns FROM (
       SELECT group_concat(c.name, ',') AS columns
       FROM (SELECT name FROM pragma_table_info($1) WHERE pk > 0 ORDER BY pk) c
     ) WHERE columns = $2";
const KEYS_IN_POSTGRES: &str = "SELECT c.relname::text FROM pg_index i
     JOIN pg_class c ON c.oid = i.indexrelid
     WHERE i.indrelid = to_regclass($1) AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
       AND (SELECT string_agg(a.attname, ',' ORDER BY k.n)
            FROM unnest(i.indkey::int2[]) WITH ORDINALITY k (attnum, n)
            JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum) = $2";

/// Recomputes the newest `limit` links of the audit chain. A broken link is reported in the result and not as
/// an error.
pub(crate) fn audit_tail(q: &Query<'_>, keyring: &AuditKeyring, limit: i64) -> Result<AuditTail, Error> {
    let links = q.one("SELECT COALESCE(MAX(n), 0) FROM audit_seals", &[], |row| row.get(0))?;
    let links: i64 = links.unwrap_or(0);
    let base = audit_archive::base(q)?;
    let before = (links - limit).max(base.n);
    let mut seal = match audit::link_hash(q, before)? {
        Some(hash) => Seal { n: before, hash },
        None => base,
    };
    let fault = loop {
        match audit::verify_page(q, keyring, &seal) {
            Ok(verified) if verified.more => seal = verified.seal,
            Ok(_) => break check_sealed(q, before)?,
            Err(Error::Fault(why)) => break Some(why.to_string()),
            Err(other) => return Err(other),
        }
    };
    Ok(AuditTail { links, recomputed: links - before, fault })
}

/// Checks that the entries after link `before` have a link. Returns a description of the error if one of them
/// lacks a required link.
fn check_sealed(q: &Query<'_>, before: i64) -> Result<Option<String>, Error> {
    let mut from = audit::entry_after(q, before)?;
    loop {
        match audit::check_sealed(q, from) {
            Ok(None) => return Ok(None),
            Ok(last) => from = last,
            Err(Error::Fault(why)) => return Ok(Some(why.to_string())),
            Err(other) => return Err(other),
        }
    }
}

impl Query<'_> {
    /// Returns true if the database enforces uniqueness of `columns` (`a,b`) in `table`.
    ///
    /// # Errors
    /// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
    pub fn has_unique_key(&self, table: &str, columns: &str) -> Result<bool, Error> {
        let sql = match self.session {
            EngineSession::Sqlite(_) => KEYS_IN_SQLITE,
            EngineSession::Postgres(_) => KEYS_IN_POSTGRES,
        };
        Ok(self.one(sql, params![table, columns], |_| Ok(()))?.is_some())
    }

    /// Returns the number of event positions, the first position and the last position. If there are no gaps,
    /// `count` is `last - first + 1`.
    ///
    /// # Errors
    /// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
    pub fn positions(&self) -> Result<Positions, Error> {
        let counted = self.one(
            "SELECT COUNT(*), COALESCE(MIN(position), 0), COALESCE(MAX(position), 0) FROM outbox_positions",
            &[],
            |row| Ok(Positions { count: row.get(0)?, first: row.get(1)?, last: row.get(2)? }),
        )?;
        Ok(counted.unwrap_or(Positions { count: 0, first: 0, last: 0 }))
    }
}
