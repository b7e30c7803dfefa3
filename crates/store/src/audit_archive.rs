//! Archiving of the oldest links of the audit chain outside the database. The chain in the database then
//! begins after them. An entry of the chain records the last archived link. Removing further links from the
//! beginning of the chain is therefore detected, unless the key is known.

use kith_kernel::Timestamp;
use kith_kernel::uuid::Uuid;
use serde::{Deserialize, Serialize};

use crate::audit::{self, AuditEntry, AuditLink};
use crate::audit_keys::AuditKeyring;
use crate::chain_head::{AuditHead, hex, parse_hex};
use crate::sequencer::Seal;
use crate::{Error, Query, Tx, params};

/// Action of the audit entry that records an archiving. The object of the entry is the last archived link, in
/// the text form of [`AuditHead`].
pub const AUDIT_ARCHIVED: &str = "audit.archived";

/// Link of the audit chain with its entry, as stored in an archive. Personal details are not archived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchivedLink {
    /// Number of the link.
    pub n: i64,
    /// Entry id.
    pub id: Uuid,
    /// Time of the change.
    pub at: Timestamp,
    /// Principal that made the change.
    pub actor: String,
    /// Action.
    pub action: String,
    /// Id of the object that was changed.
    pub object: String,
    /// Id of the request that made the change.
    pub request_id: String,
    /// Hash of the personal details with which the entry was written, in hexadecimal.
    pub details_hash: Option<String>,
    /// Hash of the link, in hexadecimal.
    pub hash: String,
}

impl ArchivedLink {
    fn of(n: i64, hash: &[u8; 32], entry: AuditEntry) -> Self {
        let AuditEntry { id, at, actor, action, object, request_id, details_hash } = entry;
        let details_hash = details_hash.map(|hash| hex(&hash));
        Self { n, id, at, actor, action, object, request_id, details_hash, hash: hex(hash) }
    }

    fn entry(&self) -> Option<AuditEntry> {
        let details_hash = match &self.details_hash {
            Some(digits) => Some(parse_hex(digits)?),
            None => None,
        };
        Some(AuditEntry {
            id: self.id,
            at: self.at,
            actor: self.actor.clone(),
            action: self.action.clone(),
            object: self.object.clone(),
            request_id: self.request_id.clone(),
            details_hash,
        })
    }
}

/// Returns the last link that was archived and removed, which is the base of the chain. Returns all zeros if
/// no link was removed.
pub(crate) fn base(q: &Query<'_>) -> Result<Seal, Error> {
    let first = q.one("SELECT n, prev FROM audit_seals ORDER BY n LIMIT 1", &[], |row| {
        Ok(Seal { n: row.get::<i64>(0)? - 1, hash: audit::hash(row.get(1)?)? })
    })?;
    Ok(first.filter(|base| base.n > 0).unwrap_or_default())
}

/// Checks that an entry of the chain records the archiving of the links up to `base`.
///
/// # Errors
/// Returns [`Error::Fault`] if there is no such entry.
pub(crate) fn check_base(q: &Query<'_>, base: &Seal) -> Result<(), Error> {
    if base.n == 0 {
        return Ok(());
    }
    for archived in records(q)?.iter().filter(|archived| archived.links >= base.n) {
        // If the removal was interrupted, links up to the archived one may still exist.
        let hash =
            if archived.links == base.n { Some(base.hash) } else { audit::link_hash(q, archived.links)? };
        if hash == Some(archived.hash) {
            return Ok(());
        }
    }
    Err(Error::fault(format!(
        "the audit chain begins at link {}, but no entry records that the links before it were archived",
        base.n + 1
    )))
}

/// Returns true if an entry of the chain records the archiving of the links up to `to`.
pub(crate) fn is_recorded(q: &Query<'_>, to: &AuditHead) -> Result<bool, Error> {
    Ok(records(q)?.contains(to))
}

fn records(q: &Query<'_>) -> Result<Vec<AuditHead>, Error> {
    let objects = q.all(
        "SELECT a.object FROM audit_entries a JOIN audit_seals s ON s.entry_id = a.id WHERE a.action = 'audit.archived'",
        &[],
        |row| row.get::<String>(0),
    )?;
    Ok(objects.iter().filter_map(|object| object.parse().ok()).collect())
}

/// Returns up to `limit` links after `from`. It stops before the first link whose entry is not older than
/// `before`, and never returns the newest link.
///
/// # Errors
/// Returns [`Error::Fault`] with the number of the first link that does not match.
pub(crate) fn links_after(
    q: &Query<'_>,
    keyring: &AuditKeyring,
    from: &AuditHead,
    before: Timestamp,
    limit: i64,
) -> Result<Vec<ArchivedLink>, Error> {
    let keys = keyring.load(q)?;
    let newest = q.one("SELECT MAX(n) FROM audit_seals", &[], |row| row.get::<Option<i64>>(0))?.flatten();
    let mut seal = Seal { n: from.links, hash: from.hash };
    let mut archived = Vec::new();
    for link in q.all(audit::LINKS, params![from.links, limit], AuditLink::read)? {
        if !link.follows(&mut seal, &keys)? {
            return Err(Error::fault(format!("the audit chain breaks at link {}", link.n)));
        }
        match link.entry {
            Some(entry) if entry.at < before && Some(link.n) != newest => {
                archived.push(ArchivedLink::of(link.n, &link.hash, entry));
            }
            _ => break,
        }
    }
    Ok(archived)
}

/// Recomputes archived links that follow `from`, and returns the last of them as a head.
///
/// # Errors
/// Returns [`Error::Fault`] with the number of the first link that does not match.
pub(crate) fn check(
    q: &Query<'_>,
    keyring: &AuditKeyring,
    from: &AuditHead,
    links: &[ArchivedLink],
) -> Result<AuditHead, Error> {
    let keys = keyring.load(q)?;
    let mut seal = Seal { n: from.links, hash: from.hash };
    for link in links {
        let breaks = || Error::fault(format!("the archive breaks at link {}", link.n));
        let row = seal.extend(&link.entry().ok_or_else(breaks)?, &keys)?;
        if seal.n != link.n || hex(&row.hash) != link.hash {
            return Err(breaks());
        }
    }
    Ok(AuditHead { links: seal.n, hash: seal.hash })
}

/// Removes up to `limit` of the oldest links up to link number `to`, with their entries and personal details.
/// Returns the number of links removed.
pub(crate) fn remove(tx: &Tx<'_>, to: i64, limit: i64) -> Result<u64, Error> {
    let last = tx.one(
        "SELECT MAX(n) FROM (SELECT n FROM audit_seals WHERE n <= $1 ORDER BY n LIMIT $2) AS oldest",
        params![to, limit],
        |row| row.get::<Option<i64>>(0),
    )?;
    let Some(last) = last.flatten() else { return Ok(0) };
    tx.exec(
        "DELETE FROM audit_details WHERE entry_id IN (SELECT entry_id FROM audit_seals WHERE n <= $1)",
        params![last],
    )?;
    tx.exec(
        "DELETE FROM audit_entries WHERE id IN (SELECT entry_id FROM audit_seals WHERE n <= $1)",
        params![last],
    )?;
    tx.exec("DELETE FROM audit_seals WHERE n <= $1", params![last])
}
