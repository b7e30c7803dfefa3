//! Signing keys of access tokens: creation, publication, use and retirement. The keys are stored encrypted in
//! the database, so that all nodes share them.

use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use kith_kernel::{Ctx, Sources, Timestamp, minutes};
use kith_store::{Error, NewEvent, Query, Store, Tx, params};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::keyring::Keyring;
use crate::app::StartError;

/// Event that a new signing key was published. Every node then reloads its keys.
pub(crate) const KEY_PUBLISHED: &str = "signing_key.published";
/// Time for which clients may cache the JSON Web Key Set. A new key is published for longer than this before
/// it signs tokens.
pub(crate) const JWKS_MAX_AGE: Duration = minutes(5);
/// Additional time for which a new key is published before it signs tokens, in case nodes or caches update
/// late.
const PUBLISHING_MARGIN: Duration = minutes(1);
/// Additional time before previous keys retire, because the clocks of nodes can differ.
const RETIREMENT_MARGIN: Duration = minutes(1);
/// `typ` of access tokens (RFC 9068, section 2.1). Tokens of another type are rejected.
pub(super) const TYPE: &str = "at+jwt";
const SEED_BYTES: usize = 32;
/// PKCS #8 prefix of an Ed25519 private key (RFC 8410, section 7). The 32-byte seed follows it.
const PKCS8_PREFIX: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// Signing key, decrypted and decoded.
pub(super) struct SigningKey {
    pub header: Header,
    pub signing: EncodingKey,
    pub verifying: DecodingKey,
    public: Vec<u8>,
    signs_from: Timestamp,
    pub retires_at: Option<Timestamp>,
}

/// Keys that have not retired, in the order of the times from which they sign tokens.
#[derive(Default)]
pub(super) struct KeySet {
    keys: Vec<SigningKey>,
    /// Increases with each reload. Cached results of another version are not used.
    pub version: u64,
}

/// JSON Web Key Set (RFC 7517) with the public keys for verifying access tokens.
#[derive(Debug, Serialize, ToSchema)]
pub struct JsonWebKeySet {
    keys: Vec<JsonWebKey>,
}

/// Public Ed25519 key as a JSON Web Key (RFC 8037).
#[derive(Debug, Serialize, ToSchema)]
pub struct JsonWebKey {
    #[schema(example = "OKP")]
    kty: &'static str,
    #[schema(example = "Ed25519")]
    crv: &'static str,
    #[schema(example = "EdDSA")]
    alg: &'static str,
    #[schema(example = "sig")]
    r#use: &'static str,
    /// Key ID. The tokens that the key signs have it in their `kid` header.
    kid: String,
    /// Public key in base64url without padding.
    x: String,
}

/// Result of requesting a key rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Id of the new key.
    pub key_id: String,
    /// Time from which the new key signs tokens.
    pub signs_from: Timestamp,
    /// Time from which tokens signed with the previous keys are rejected.
    pub previous_retire_at: Timestamp,
    /// True if an earlier request started this rotation.
    pub is_pending: bool,
}

impl SigningKey {
    pub fn new(id: &str, seed: &[u8], signs_from: Timestamp, retires_at: Option<Timestamp>) -> Option<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).ok()?;
        let public = pair.public_key().as_ref();
        Some(Self {
            header: Header {
                typ: Some(TYPE.to_owned()),
                kid: Some(id.to_owned()),
                ..Header::new(Algorithm::EdDSA)
            },
            signing: EncodingKey::from_ed_der(&[&PKCS8_PREFIX, seed].concat()),
            verifying: DecodingKey::from_ed_der(public),
            public: public.to_vec(),
            signs_from,
            retires_at,
        })
    }

    fn is_good(&self, now: Timestamp) -> bool {
        self.retires_at.is_none_or(|retires_at| now < retires_at)
    }

    fn id(&self) -> &str {
        self.header.kid.as_deref().unwrap_or_default()
    }
}

impl KeySet {
    pub fn new(mut keys: Vec<SigningKey>, version: u64) -> Self {
        keys.sort_by_key(|key| key.signs_from);
        Self { keys, version }
    }

    /// Returns the key that signs tokens at `now`: the newest key whose signing time has begun and that has
    /// not retired.
    pub fn signing(&self, now: Timestamp) -> Option<&SigningKey> {
        self.keys.iter().rev().find(|key| key.signs_from <= now && key.is_good(now))
    }

    /// Returns the key with this id, or `None` if it does not exist or has retired by `now`.
    pub fn verifying(&self, id: &str, now: Timestamp) -> Option<&SigningKey> {
        self.keys.iter().find(|key| key.id() == id && key.is_good(now))
    }

    pub fn published(&self, now: Timestamp) -> JsonWebKeySet {
        let keys = self.keys.iter().filter(|key| key.is_good(now)).map(|key| JsonWebKey {
            kty: "OKP",
            crv: "Ed25519",
            alg: "EdDSA",
            r#use: "sig",
            kid: key.id().to_owned(),
            x: URL_SAFE_NO_PAD.encode(&key.public),
        });
        JsonWebKeySet { keys: keys.collect() }
    }
}

struct SigningKeyRow {
    id: String,
    sealed: Vec<u8>,
    signs_from: Timestamp,
    retires_at: Option<Timestamp>,
}

fn list(q: &Query<'_>, now: Timestamp) -> Result<Vec<SigningKeyRow>, Error> {
    let sql = "SELECT id, sealed, signs_from, retires_at FROM signing_keys
               WHERE retires_at IS NULL OR retires_at > $1 ORDER BY signs_from";
    q.all(sql, params![now], |row| {
        Ok(SigningKeyRow {
            id: row.get(0)?,
            sealed: row.get(1)?,
            signs_from: row.get(2)?,
            retires_at: row.get(3)?,
        })
    })
}

/// Returns the id, creation and retirement times of all keys, for administrators.
pub(crate) fn signing_key_ages(q: &Query<'_>) -> Result<Vec<serde_json::Value>, Error> {
    let sql = "SELECT id, created_at, retires_at FROM signing_keys ORDER BY signs_from";
    q.all(sql, &[], |row| {
        let (id, created_at) = (row.get::<String>(0)?, row.get::<Timestamp>(1)?);
        Ok(json!({ "id": id, "created_at": created_at, "retires_at": row.get::<Option<Timestamp>>(2)? }))
    })
}

/// Reads the keys that have not retired. Fails with [`StartError::SealedWithUnknownSecret`] if a key was
/// encrypted with another secret, because no user could sign in without the key.
pub(super) async fn read(
    db: &Store,
    keyring: &Keyring,
    now: Timestamp,
) -> Result<Vec<SigningKey>, StartError> {
    let rows = db.read(move |q| list(q, now)).await?;
    let open = |row: SigningKeyRow| {
        let seed = keyring.open(&row.id, &row.sealed).ok_or(StartError::SealedWithUnknownSecret)?;
        SigningKey::new(&row.id, &seed, row.signs_from, row.retires_at)
            .ok_or(StartError::SealedWithUnknownSecret)
    };
    rows.into_iter().map(open).collect()
}

/// Creates the first key of a new database. Does nothing if another node has already created it.
pub(super) async fn create_first(db: &Store, sources: &Sources, keyring: &Keyring) -> Result<(), Error> {
    let now = sources.clock.now();
    let id = sources.ids.next(now).to_string();
    let (sealed, public) = new_key(sources, keyring, &id);
    db.write(move |tx: &Tx<'_>| insert(tx, &id, &sealed, &public, now, Timestamp::EPOCH).map(|_| ())).await
}

fn new_key(sources: &Sources, keyring: &Keyring, id: &str) -> (Vec<u8>, Vec<u8>) {
    let mut seed = [0; SEED_BYTES];
    sources.random.fill(&mut seed);
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed).expect("any 32 bytes are a seed");
    (keyring.seal(&*sources.random, id, &seed), pair.public_key().as_ref().to_vec())
}

fn insert(
    tx: &Tx<'_>,
    id: &str,
    sealed: &[u8],
    public: &[u8],
    now: Timestamp,
    signs_from: Timestamp,
) -> Result<bool, Error> {
    let sql =
        "INSERT INTO signing_keys (id, sealed, public_key, created_at, signs_from) VALUES ($1, $2, $3, $4, $5)
               ON CONFLICT (signs_from) DO NOTHING";
    tx.exec(sql, params![id, sealed, public, now, signs_from]).map(|rows| rows == 1)
}

/// New key that is not published yet. It is generated before the transaction that stores it.
pub(super) struct UnpublishedKey {
    id: kith_kernel::uuid::Uuid,
    sealed: Vec<u8>,
    public: Vec<u8>,
}

impl UnpublishedKey {
    pub fn new(sources: &Sources, keyring: &Keyring) -> Self {
        let id = sources.ids.next(sources.clock.now());
        let (sealed, public) = new_key(sources, keyring, &id.to_string());
        Self { id, sealed, public }
    }

    /// Publishes the key. It signs tokens only after every verifier has had time to fetch it. The previous
    /// keys stay valid until the last tokens they signed have expired. If a rotation is already pending,
    /// returns the pending rotation and does not publish this key. `at_once` is for a compromised key: the
    /// new key signs from now on, and all existing tokens become invalid.
    pub fn publish(
        &self,
        tx: &Tx<'_>,
        ctx: &Ctx,
        token_lifetime: Duration,
        at_once: bool,
    ) -> Result<Rotation, Error> {
        tx.lock("signing_keys", ["all"])?;
        if let Some(under_way) = pending(tx, ctx.now)?.filter(|_| !at_once) {
            return Ok(under_way);
        }
        let (signs_from, others_retire_at) = if at_once {
            (ctx.now, ctx.now)
        } else {
            let signs_from = ctx.now + JWKS_MAX_AGE + PUBLISHING_MARGIN;
            (signs_from, signs_from + token_lifetime + RETIREMENT_MARGIN)
        };
        let key_id = self.id.to_string();
        if !insert(tx, &key_id, &self.sealed, &self.public, ctx.now, signs_from)? {
            // Another rotation stored its key first in the same millisecond, so that rotation is returned.
            let sql = "SELECT id FROM signing_keys WHERE signs_from = $1";
            let key_id = tx.one(sql, params![signs_from], |row| row.get(0))?.unwrap_or(key_id);
            return Ok(Rotation {
                key_id,
                signs_from,
                previous_retire_at: others_retire_at,
                is_pending: true,
            });
        }
        let retire = "UPDATE signing_keys SET retires_at = $1
                      WHERE id <> $2 AND (retires_at IS NULL OR retires_at > $1)";
        tx.exec_deferred(retire, params![others_retire_at, key_id])?;
        tx.audit(ctx, KEY_PUBLISHED, &key_id);
        let payload = json!({ "key_id": key_id, "signs_from": signs_from });
        tx.emit(ctx, NewEvent { kind: KEY_PUBLISHED, subject: self.id, recipients: vec![], payload });
        Ok(Rotation { key_id, signs_from, previous_retire_at: others_retire_at, is_pending: false })
    }
}

/// Returns the pending rotation: its key is published but does not sign tokens yet.
fn pending(tx: &Tx<'_>, now: Timestamp) -> Result<Option<Rotation>, Error> {
    let sql = "SELECT n.id, n.signs_from, (SELECT MAX(o.retires_at) FROM signing_keys o)
               FROM signing_keys n WHERE n.signs_from > $1 AND (n.retires_at IS NULL OR n.retires_at > $1)";
    tx.one(sql, params![now], |row| {
        Ok(Rotation {
            key_id: row.get(0)?,
            signs_from: row.get(1)?,
            previous_retire_at: row.get(2)?,
            is_pending: true,
        })
    })
}
