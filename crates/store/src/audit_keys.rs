//! Keys of the audit chain. The database stores them encrypted, but not the secret that decrypts them.
//! Therefore write access to the database is not enough to compute a link.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::{Error, Query, Tx, params};

/// Length of a key in bytes.
pub const AUDIT_KEY_BYTES: usize = 32;

/// Interval at which the process that creates the links reads the keys again.
const RELOAD_INTERVAL: Duration = Duration::from_secs(5);

/// Generates, encrypts and decrypts keys of the audit chain with a secret that is not stored in the database.
/// All nodes that share a database must use the same secret.
pub trait AuditVault: fmt::Debug + Send + Sync {
    /// Generates a random key. Returns the key and its encrypted form. [`AuditVault::open`] can decrypt it
    /// only if it is called with the same `name`.
    fn generate(&self, name: &str) -> GeneratedKey;

    /// Decrypts a key. Returns `None` if it was encrypted with another secret or another name.
    fn open(&self, name: &str, sealed: &[u8]) -> Option<[u8; AUDIT_KEY_BYTES]>;
}

/// Key of the audit chain, in plain and in encrypted form. It is a secret, so it does not implement `Debug`.
pub struct GeneratedKey {
    /// Plain key.
    pub key: [u8; AUDIT_KEY_BYTES],
    /// Encrypted key, as stored in the database.
    pub sealed: Vec<u8>,
}

/// Returns the name with which the key `id` is encrypted. The name contains the number of the first link that
/// uses the key, so that an encrypted key cannot be moved to other links.
pub fn audit_key_name(id: i64, first_link: i64) -> String {
    format!("audit-key:{id}:{first_link}")
}

/// Function that computes the hash of a link.
#[derive(Clone)]
pub(crate) enum LinkKey {
    /// SHA-256, for links that were created before the first key.
    Unkeyed,
    /// HMAC-SHA-256 (RFC 2104).
    Keyed(Hmac<Sha256>),
}

impl LinkKey {
    pub fn new(key: &[u8; AUDIT_KEY_BYTES]) -> Self {
        Self::Keyed(Hmac::new_from_slice(key).expect("HMAC accepts keys of any length"))
    }

    pub fn hash<'p>(&self, parts: impl Iterator<Item = &'p [u8]>) -> [u8; 32] {
        match self {
            Self::Unkeyed => parts.fold(Sha256::new(), Digest::chain_update).finalize().into(),
            Self::Keyed(mac) => parts.fold(mac.clone(), Mac::chain_update).finalize().into_bytes().into(),
        }
    }
}

/// Vault of this process, with a cache of decrypted keys. The cached keys remain usable if the keys are
/// encrypted with another secret while this process runs.
#[derive(Debug)]
pub(crate) struct AuditKeyring {
    vault: Arc<dyn AuditVault>,
    opened: Mutex<BTreeMap<(i64, i64), OpenedKey>>,
}

#[derive(Clone)]
struct OpenedKey(LinkKey);

impl fmt::Debug for OpenedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Keys of the chain, in the order of their first links.
#[derive(Clone, Default)]
pub(crate) struct AuditKeys {
    keys: Vec<AuditKey>,
    loaded_at: Option<Instant>,
}

#[derive(Clone)]
struct AuditKey {
    id: i64,
    first_link: i64,
    is_retired: bool,
    /// Key in plain form; `None` if the secret of this process cannot decrypt it.
    key: Option<LinkKey>,
}

impl AuditKeyring {
    pub fn new(vault: Arc<dyn AuditVault>) -> Self {
        Self { vault, opened: Mutex::default() }
    }

    /// Reads the keys of the chain from the database.
    #[expect(clippy::disallowed_methods, reason = "paces real work")]
    pub fn load(&self, q: &Query<'_>) -> Result<AuditKeys, Error> {
        let rows =
            q.all("SELECT id, first_link, sealed, is_retired FROM audit_keys ORDER BY id", &[], |row| {
                Ok((row.get::<i64>(0)?, row.get::<i64>(1)?, row.get::<Vec<u8>>(2)?, row.get::<bool>(3)?))
            })?;
        let open = |(id, first_link, sealed, is_retired): (i64, i64, Vec<u8>, bool)| AuditKey {
            id,
            first_link,
            is_retired,
            key: self.open(id, first_link, &sealed),
        };
        Ok(AuditKeys { keys: rows.into_iter().map(open).collect(), loaded_at: Some(Instant::now()) })
    }

    fn open(&self, id: i64, first_link: i64, sealed: &[u8]) -> Option<LinkKey> {
        let mut opened = self.opened();
        if let Some(OpenedKey(known)) = opened.get(&(id, first_link)) {
            return Some(known.clone());
        }
        let key = LinkKey::new(&self.vault.open(&audit_key_name(id, first_link), sealed)?);
        opened.insert((id, first_link), OpenedKey(key.clone()));
        Some(key)
    }

    fn opened(&self) -> MutexGuard<'_, BTreeMap<(i64, i64), OpenedKey>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the keys, including a key for link `next`. Creates a new key if there is none or if the newest
    /// key is retired. Only the process that creates the links may call this function.
    pub fn with_key_for(&self, tx: &Tx<'_>, keys: AuditKeys, next: i64) -> Result<AuditKeys, Error> {
        // The newest key may have been retired since the keys were read.
        let is_old = keys.loaded_at.is_none_or(|loaded_at| loaded_at.elapsed() > RELOAD_INTERVAL);
        let mut keys = if is_old { self.load(tx)? } else { keys };
        if keys.keys.last().is_some_and(|newest| !newest.is_retired) {
            return Ok(keys);
        }
        let id = keys.keys.last().map_or(1, |newest| newest.id + 1);
        let GeneratedKey { key, sealed } = self.vault.generate(&audit_key_name(id, next));
        tx.exec(
            "INSERT INTO audit_keys (id, first_link, sealed, is_retired) VALUES ($1, $2, $3, FALSE)",
            params![id, next, sealed],
        )?;
        let key = LinkKey::new(&key);
        self.opened().insert((id, next), OpenedKey(key.clone()));
        keys.keys.push(AuditKey { id, first_link: next, is_retired: false, key: Some(key) });
        Ok(keys)
    }
}

impl AuditKeys {
    /// Returns the function that computes the hash of link `n`.
    pub fn of_link(&self, n: i64) -> Result<LinkKey, Error> {
        match self.keys.iter().rev().find(|key| key.first_link <= n) {
            None => Ok(LinkKey::Unkeyed),
            Some(AuditKey { key: Some(key), .. }) => Ok(key.clone()),
            Some(AuditKey { id, .. }) => Err(wrong_secret(*id)),
        }
    }

    /// Returns how many of the first `links` links were created before the first key existed.
    pub fn unkeyed(&self, links: i64) -> i64 {
        self.keys.iter().map(|key| key.first_link - 1).min().unwrap_or(links).min(links)
    }

    /// Returns an error if the secret of this process cannot decrypt all keys.
    pub fn check(&self) -> Result<(), Error> {
        match self.keys.iter().find(|key| key.key.is_none()) {
            Some(key) => Err(wrong_secret(key.id)),
            None => Ok(()),
        }
    }
}

fn wrong_secret(id: i64) -> Error {
    Error::fault(format!("key {id} of the audit chain was sealed under another secret"))
}
