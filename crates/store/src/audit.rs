//! Audit log: its entries, their personal details, and queries. The details can be erased without breaking
//! the hash chain.

use kith_kernel::uuid::{Builder, Uuid};
use kith_kernel::{Ctx, Timestamp, UserId, days};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::audit_keys::{AuditKeyring, AuditKeys};
use crate::chain_head::AuditHead;
use crate::sequencer::Seal;
use crate::value::{Param, Row};
use crate::{Error, Query, Tx, params};

/// Audit log entry, written in the same transaction as the change that it records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// Entry id.
    pub id: Uuid,
    /// Time of the change.
    pub at: Timestamp,
    /// Principal that made the change: `user:…`, `api_key:…`, `system:…` or `anonymous`.
    pub actor: String,
    /// Action, such as `partner_request.accepted`.
    pub action: String,
    /// Id of the object that was changed.
    pub object: String,
    /// Id of the request that made the change.
    pub request_id: String,
    /// SHA-256 of the salt and body of the personal details; `None` if the entry was written without details.
    /// The hash remains after the details are erased.
    pub details_hash: Option<[u8; 32]>,
}

/// Personal details of an entry, stored in a separate table so that they can be erased.
#[derive(Clone, Debug)]
pub(crate) struct AuditDetails {
    pub entry: Uuid,
    pub about: Option<UserId>,
    /// Random salt. It prevents a guess of erased details from being confirmed by their hash.
    pub salt: [u8; 32],
    /// Personal details, a JSON text.
    pub body: String,
}

/// Audit log entry together with its personal details.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    /// The entry.
    pub entry: AuditEntry,
    /// Personal details; `None` if the entry has none or if they were erased.
    pub details: Option<Value>,
}

/// Conditions for a list of audit log entries. A condition that is `None` matches every entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Actor, in the form of [`AuditEntry::actor`].
    pub actor: Option<String>,
    /// Action.
    pub action: Option<String>,
    /// Object id.
    pub object: Option<String>,
    /// Request id.
    pub request_id: Option<String>,
    /// Lower bound of the time, inclusive.
    pub since: Option<Timestamp>,
    /// Upper bound of the time, exclusive.
    pub until: Option<Timestamp>,
    /// Upper bound of the entry id, exclusive. It is the last entry of the previous page.
    pub before: Option<Uuid>,
}

/// Summary of a verified audit chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditChain {
    /// Number of links in the chain, including archived links.
    pub links: i64,
    /// Hash of the last link. It depends on every entry before it.
    pub head: [u8; 32],
    /// Number of links at the beginning of the chain that were created without a key, by a version that had
    /// no keys.
    pub unkeyed: i64,
    /// Last link that was archived and removed from the database; all zeros if no link was archived.
    pub archived: AuditHead,
}

/// Maximum number of entries read at once while verifying the chain.
const VERIFY_PAGE_SIZE: i64 = 1_000;

/// Maximum difference in days between the timestamp inside an entry's id and its `at`. Ids of one process
/// only increase, but a clock can be set back.
const ID_SLACK_DAYS: u64 = 1;

/// Text that sorts after every id.
const AFTER_ALL_IDS: &str = "~";

pub(crate) const INSERT_ENTRY: &str =
    "INSERT INTO audit_entries (id, at, actor, action, object, request_id, details_hash, ordinal)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";

pub(crate) const INSERT_DETAILS: &str =
    "INSERT INTO audit_details (entry_id, user_id, salt, body) VALUES ($1, $2, $3, $4)";

pub(crate) fn entry_params(entry: &AuditEntry, ordinal: i64) -> [Param<'_>; 8] {
    [
        Param::Id(entry.id),
        Param::Int(entry.at.as_millis()),
        Param::Text(&entry.actor),
        Param::Text(&entry.action),
        Param::Text(&entry.object),
        Param::Text(&entry.request_id),
        entry.details_hash.as_ref().map_or(Param::Null, |hash| Param::Bytes(hash)),
        Param::Int(ordinal),
    ]
}

pub(crate) fn details_params(details: &AuditDetails) -> [Param<'_>; 4] {
    [
        Param::Id(details.entry),
        details.about.map_or(Param::Null, |about| Param::Id(about.0)),
        Param::Bytes(&details.salt),
        Param::Text(&details.body),
    ]
}

impl AuditEntry {
    pub(crate) fn new(ctx: &Ctx, action: &'static str, object: impl ToString) -> Self {
        Self {
            id: ctx.new_id(|id| id),
            at: ctx.now,
            actor: ctx.actor.to_string(),
            action: action.to_owned(),
            object: object.to_string(),
            request_id: ctx.request_id.to_string(),
            details_hash: None,
        }
    }

    /// Reads the columns from index `at` on: id, at, actor, action, object, request_id, details_hash.
    pub(crate) fn read(row: &Row<'_>, at: usize) -> Result<Self, Error> {
        Ok(Self {
            id: row.get(at)?,
            at: row.get(at + 1)?,
            actor: row.get(at + 2)?,
            action: row.get(at + 3)?,
            object: row.get(at + 4)?,
            request_id: row.get(at + 5)?,
            details_hash: row.get::<Option<Vec<u8>>>(at + 6)?.map(hash).transpose()?,
        })
    }
}

impl AuditDetails {
    /// Creates the details of `entry` and sets its `details_hash`.
    pub fn of(ctx: &Ctx, entry: &mut AuditEntry, about: Option<UserId>, details: &Value) -> Self {
        let details = Self { entry: entry.id, about, salt: ctx.random(), body: details.to_string() };
        entry.details_hash = Some(details_hash(&details.salt, &details.body));
        details
    }
}

/// Returns the SHA-256 of salt and body. The salt has a fixed length, so the concatenation is unambiguous.
fn details_hash(salt: &[u8], body: &str) -> [u8; 32] {
    Sha256::new().chain_update(salt).chain_update(body).finalize().into()
}

pub(crate) fn hash(bytes: Vec<u8>) -> Result<[u8; 32], Error> {
    bytes.try_into().map_err(|_| Error::fault("a hash of another length"))
}

/// Returns the smallest UUIDv7 whose timestamp is `at`.
fn id_at(at: Timestamp) -> String {
    let millis = u64::try_from(at.as_millis()).unwrap_or(0);
    Builder::from_unix_timestamp_millis(millis, &[0; 10]).into_uuid().to_string()
}

/// Filter in the form of query parameters. A condition that is `None` becomes a bound that includes every
/// entry.
struct Bounds {
    before: String,
    from: String,
    since: i64,
    until: i64,
}

impl Bounds {
    fn of(filter: &AuditFilter) -> Self {
        let slack = days(ID_SLACK_DAYS);
        let before = filter.before.map_or(AFTER_ALL_IDS.to_owned(), |id| id.to_string());
        let newest = filter.until.map_or(AFTER_ALL_IDS.to_owned(), |until| id_at(until + slack));
        Self {
            before: before.min(newest),
            from: filter.since.map_or_else(String::new, |since| id_at(since - slack)),
            since: filter.since.map_or(i64::MIN, Timestamp::as_millis),
            until: filter.until.map_or(i64::MAX, Timestamp::as_millis),
        }
    }
}

macro_rules! records {
    ($($rest:literal),+) => {
        concat!(
            "SELECT a.id, a.at, a.actor, a.action, a.object, a.request_id, a.details_hash, d.body
             FROM audit_entries a LEFT JOIN audit_details d ON d.entry_id = a.id
             WHERE a.id < $1 AND a.id >= $2 AND a.at >= $3 AND a.at < $4",
            $($rest),+
        )
    };
}

macro_rules! filtered_records {
    ($of_actor:literal) => {
        records!(
            " AND (CAST($6 AS TEXT) IS NULL OR a.action = $6)
               AND (CAST($7 AS TEXT) IS NULL OR a.object = $7)
               AND (CAST($8 AS TEXT) IS NULL OR a.request_id = $8)",
            $of_actor,
            " ORDER BY a.id DESC LIMIT $5"
        )
    };
}

/// This is a separate statement, because with optional filters PostgreSQL underestimates the number of rows
/// and sorts all of them.
const RECORDS: &str = records!(" ORDER BY a.id DESC LIMIT $5");
const FILTERED_RECORDS: &str = filtered_records!("");
/// This is a separate statement, so that the index on `actor` can be used.
const RECORDS_OF_ACTOR: &str = filtered_records!(" AND a.actor = $9");

/// Union of two index scans: entries of changes by the user, and entries about the user by other actors.
const ACTIVITY: &str = "SELECT id, at, actor, action, object, request_id, details_hash FROM (
       SELECT * FROM (
         SELECT a.* FROM audit_entries a WHERE a.actor = $1 AND a.id < $2 ORDER BY a.id DESC LIMIT $3
       ) AS did
       UNION ALL
       SELECT * FROM (
         SELECT a.* FROM audit_details d JOIN audit_entries a ON a.id = d.entry_id
         WHERE d.user_id = $4 AND d.entry_id < $2 AND a.actor <> $1 ORDER BY d.entry_id DESC LIMIT $3
       ) AS about
     ) AS activity ORDER BY id DESC LIMIT $3";

impl Query<'_> {
    /// Returns up to `limit` audit log entries that match `filter`, newest first.
    ///
    /// # Errors
    /// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
    pub fn audit_records(&self, filter: &AuditFilter, limit: i64) -> Result<Vec<AuditRecord>, Error> {
        let Bounds { before, from, since, until } = Bounds::of(filter);
        let (action, object, request_id) = (&filter.action, &filter.object, &filter.request_id);
        let all = params![before, from, since, until, limit, *action, *object, *request_id, filter.actor];
        let has_filter = action.is_some() || object.is_some() || request_id.is_some();
        match (filter.actor.is_some(), has_filter) {
            (true, _) => self.all(RECORDS_OF_ACTOR, all, read_record),
            (false, true) => self.all(FILTERED_RECORDS, &all[..8], read_record),
            (false, false) => self.all(RECORDS, &all[..5], read_record),
        }
    }

    /// Returns up to `limit` entries older than `before`, newest first: entries of changes that `person`
    /// made, and entries about `person`.
    ///
    /// # Errors
    /// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
    pub fn audit_activity(
        &self,
        person: UserId,
        before: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<AuditEntry>, Error> {
        let before = before.map_or(AFTER_ALL_IDS.to_owned(), |id| id.to_string());
        let actor = kith_kernel::Actor::User(person).to_string();
        self.all(ACTIVITY, params![actor, before, limit, person], |row| AuditEntry::read(row, 0))
    }
}

impl Tx<'_> {
    /// Erases all personal details about `person`, and returns the number of entries that had such details.
    /// The entries are not deleted, and the chain remains valid.
    ///
    /// # Errors
    /// Returns the error of the failed statement, such as [`Error::Unavailable`]. The transaction cannot be
    /// used afterwards.
    pub fn erase_audit_details(&self, person: UserId) -> Result<u64, Error> {
        self.exec("DELETE FROM audit_details WHERE user_id = $1", params![person])
    }
}

impl Tx<'_> {
    /// Erases the personal details of up to `limit` entries with this action that are older than `before`,
    /// and returns the number of these entries. The entries are not deleted, and the chain remains valid.
    ///
    /// # Errors
    /// Returns the error of the failed statement, such as [`Error::Unavailable`]. The transaction cannot be
    /// used afterwards.
    pub fn erase_old_audit_details(&self, action: &str, before: Timestamp, limit: i64) -> Result<u64, Error> {
        self.exec(
            "DELETE FROM audit_details WHERE entry_id IN
                (SELECT d.entry_id FROM audit_details d JOIN audit_entries e ON e.id = d.entry_id
                 WHERE e.action = $1 AND e.at < $2 ORDER BY d.entry_id LIMIT $3)",
            params![action, before, limit],
        )
    }
}

fn read_record(row: &Row<'_>) -> Result<AuditRecord, Error> {
    let body = row.get::<Option<String>>(7)?;
    let details = body.map(|body| serde_json::from_str(&body).map_err(Error::fault)).transpose()?;
    Ok(AuditRecord { entry: AuditEntry::read(row, 0)?, details })
}

/// Link of the audit chain, with its entry and the salt and body of the entry's personal details.
pub(crate) struct AuditLink {
    pub n: i64,
    pub hash: [u8; 32],
    pub entry: Option<AuditEntry>,
    details: Option<(Vec<u8>, String)>,
}

impl AuditLink {
    pub fn read(row: &Row<'_>) -> Result<Self, Error> {
        let is_there = row.get::<Option<Uuid>>(2)?.is_some();
        let (salt, body) = (row.get::<Option<Vec<u8>>>(9)?, row.get::<Option<String>>(10)?);
        Ok(Self {
            n: row.get(0)?,
            hash: hash(row.get(1)?)?,
            entry: if is_there { Some(AuditEntry::read(row, 2)?) } else { None },
            details: salt.zip(body),
        })
    }

    /// Returns true if this link follows `seal`, and then advances `seal` to this link. Personal details may
    /// be missing, but must not be changed.
    pub fn follows(&self, seal: &mut Seal, keys: &AuditKeys) -> Result<bool, Error> {
        let Some(entry) = &self.entry else { return Ok(false) };
        let details = self.details.as_ref().map(|(salt, body)| details_hash(salt, body));
        let is_sealed = seal.extend(entry, keys)?.hash == self.hash && seal.n == self.n;
        Ok(is_sealed && (details.is_none() || details == entry.details_hash))
    }
}

/// SQL that selects up to `$2` links after link number `$1`, in order.
pub(crate) const LINKS: &str =
    "SELECT s.n, s.hash, a.id, a.at, a.actor, a.action, a.object, a.request_id, a.details_hash, d.salt, d.body
     FROM audit_seals s LEFT JOIN audit_entries a ON a.id = s.entry_id
       LEFT JOIN audit_details d ON d.entry_id = s.entry_id
     WHERE s.n > $1 ORDER BY s.n LIMIT $2";

/// Result of verifying one page of the chain.
pub(crate) struct VerifiedPage {
    pub seal: Seal,
    /// Number of links up to `seal` that were created without a key.
    pub unkeyed: i64,
    /// True if more links follow.
    pub more: bool,
}

/// Recomputes up to [`VERIFY_PAGE_SIZE`] links after `from`.
///
/// # Errors
/// Returns [`Error::Fault`] with the number of the first link that does not match, or of the key that cannot
/// be decrypted.
pub(crate) fn verify_page(q: &Query<'_>, keyring: &AuditKeyring, from: &Seal) -> Result<VerifiedPage, Error> {
    let keys = keyring.load(q)?;
    let links = q.all(LINKS, params![from.n, VERIFY_PAGE_SIZE], AuditLink::read)?;
    let mut seal = from.clone();
    for link in &links {
        if !link.follows(&mut seal, &keys)? {
            return Err(Error::fault(format!("the audit chain breaks at link {}", link.n)));
        }
    }
    let more = links.len() as i64 == VERIFY_PAGE_SIZE;
    Ok(VerifiedPage { unkeyed: keys.unkeyed(seal.n), seal, more })
}

/// Returns the hash of link `n`, or `None` if it does not exist.
pub(crate) fn link_hash(q: &Query<'_>, n: i64) -> Result<Option<[u8; 32]>, Error> {
    let found = q.one("SELECT hash FROM audit_seals WHERE n = $1", params![n], |row| row.get(0))?;
    found.map(hash).transpose()
}

/// Checks that each entry of one page, from id `from` on, has a link in the chain. On PostgreSQL only entries
/// below the sequencer's watermark must have a link. Returns the last id of the page, or `None` after the
/// last page.
///
/// # Errors
/// Returns [`Error::Fault`] if an entry has no link.
pub(crate) fn check_sealed(q: &Query<'_>, from: Option<Uuid>) -> Result<Option<Uuid>, Error> {
    let from = from.map(|id| id.to_string()).unwrap_or_default();
    let entries = q.all(
        "SELECT a.id, a.tx < COALESCE((SELECT low_tx FROM sequencer WHERE id = 1), 1)
             AND NOT EXISTS (SELECT 1 FROM audit_seals s WHERE s.entry_id = a.id)
         FROM audit_entries a WHERE a.id >= $1 ORDER BY a.id LIMIT $2",
        params![from, VERIFY_PAGE_SIZE],
        |row| Ok((row.get::<Uuid>(0)?, row.get::<bool>(1)?)),
    )?;
    if entries.iter().any(|(_, lacks_link)| *lacks_link) {
        return Err(Error::fault("the audit log has entries that no link seals"));
    }
    Ok(entries.last().filter(|_| entries.len() as i64 == VERIFY_PAGE_SIZE).map(|(id, _)| *id))
}

/// Returns the id of the entry of the first link after link `n`.
pub(crate) fn entry_after(q: &Query<'_>, n: i64) -> Result<Option<Uuid>, Error> {
    q.one("SELECT entry_id FROM audit_seals WHERE n > $1 ORDER BY n LIMIT 1", params![n], |row| row.get(0))
}
