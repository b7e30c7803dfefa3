//! What a database tells of itself and of the trace that changes leave: for facts that administrators see.

use serde::Serialize;

use crate::audit_keys::AuditKeyring;
use crate::sequencer::Seal;
use crate::tx::Session;
use crate::{Error, Query, audit, audit_archive, params};

/// How the newest links of the audit chain stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditTail {
    /// Links altogether.
    pub links: i64,
    /// The newest of them, which were recomputed.
    pub recomputed: i64,
    /// What is wrong with them, if anything is.
    pub fault: Option<String>,
}

/// How the positions of events stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Positions {
    /// Positions given.
    pub count: i64,
    /// The first of them; 0 if there is none.
    pub first: i64,
    /// The last of them; 0 if there is none.
    pub last: i64,
}

/// A primary key of one integer has no index of its own there.
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

/// Recomputes the newest `limit` links of the audit chain. A broken link is no error, but reported.
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

/// Why entries as new as those of the links behind `before` are not sealed as they must be.
fn check_sealed(q: &Query<'_>, before: i64) -> Result<Option<String>, Error> {
    let mut from = audit::entry_behind(q, before)?;
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
    /// Whether the database itself refuses a second row of `table` with the same `columns` (`a,b`).
    ///
    /// # Errors
    /// Whatever the database answers.
    pub fn has_unique_key(&self, table: &str, columns: &str) -> Result<bool, Error> {
        let sql = match self.session {
            Session::Sqlite(_) => KEYS_IN_SQLITE,
            Session::Postgres(_) => KEYS_IN_POSTGRES,
        };
        Ok(self.one(sql, params![table, columns], |_| Ok(()))?.is_some())
    }

    /// Counts the positions of events: without a gap there are as many as from the first to the last.
    ///
    /// # Errors
    /// Whatever the database answers.
    pub fn positions(&self) -> Result<Positions, Error> {
        let counted = self.one(
            "SELECT COUNT(*), COALESCE(MIN(position), 0), COALESCE(MAX(position), 0) FROM outbox_positions",
            &[],
            |row| Ok(Positions { count: row.get(0)?, first: row.get(1)?, last: row.get(2)? }),
        )?;
        Ok(counted.unwrap_or(Positions { count: 0, first: 0, last: 0 }))
    }
}
