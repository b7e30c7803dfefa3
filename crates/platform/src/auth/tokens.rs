//! Access tokens: EdDSA JWTs signed with a key from the database, and the cache of those already checked.
//!
//! Only this key and this algorithm are ever believed: nothing in a token's header says where else to look.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use kith_kernel::uuid::Uuid;
use kith_kernel::{Ctx, Sources, Timestamp, UserId, seconds};
use kith_store::{Error, Query, Store, Tx, params};
use moka::sync::Cache;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::app::StartError;
use crate::config::Auth;

const ISSUER: &str = "kith";
const AUDIENCE: &str = "kith";
const PURPOSE: &str = "access_token";
/// PKCS #8 around an Ed25519 seed (RFC 8410, section 7): everything before the seed is constant.
const PKCS8_PREFIX: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
const CACHED_TOKENS: u64 = 100_000;
/// A node whose clock is a little behind the issuer's must not refuse a token that was just made.
const NOT_YET_VALID_LEEWAY: std::time::Duration = seconds(1);
/// Longer ones are not ours.
const LONGEST_TOKEN: usize = 2_048;

/// Makes and checks access tokens.
pub struct Tokens {
    header: Header,
    signing: EncodingKey,
    verifying: DecodingKey,
    validation: Validation,
    lifetime_s: i64,
    /// By the SHA-256 of the whole token, so that no other token hits the entry and none is kept.
    checked: Cache<[u8; 32], Claims>,
}

/// What a valid token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Who.
    pub user_id: UserId,
    /// The session it was issued in.
    pub session: Uuid,
    /// Of this token.
    pub token_id: Uuid,
    /// Valid from.
    pub not_before: Timestamp,
    /// No longer valid from.
    pub expires_at: Timestamp,
}

/// As they stand in the token (RFC 7519).
#[derive(Serialize, Deserialize)]
struct Payload {
    iss: String,
    aud: String,
    sub: UserId,
    sid: Uuid,
    jti: Uuid,
    iat: i64,
    nbf: i64,
    exp: i64,
}

struct SigningKey {
    id: String,
    seed: Vec<u8>,
}

impl Tokens {
    /// Reads the signing key, and makes it first if this is a new database.
    ///
    /// # Errors
    /// The database's.
    pub async fn load(db: &Store, sources: &Sources, config: &Auth) -> Result<Self, StartError> {
        let key = match db.read(in_use).await? {
            Some(key) => key,
            None => make(db, sources).await?,
        };
        Ok(Self::with_key(&key, config))
    }

    fn with_key(key: &SigningKey, config: &Auth) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&key.seed).expect("the key column holds 32 bytes");
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[AUDIENCE]);
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        // Judged by the request's `now`, which the crate does not know.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        Self {
            header: Header { kid: Some(key.id.clone()), ..Header::new(Algorithm::EdDSA) },
            signing: EncodingKey::from_ed_der(&[&PKCS8_PREFIX, &*key.seed].concat()),
            verifying: DecodingKey::from_ed_der(pair.public_key().as_ref()),
            validation,
            lifetime_s: i64::from(config.access_token_minutes) * 60,
            checked: Cache::new(CACHED_TOKENS),
        }
    }

    /// A token for `user` in `session`, valid from now on.
    pub fn issue(&self, ctx: &Ctx, user: UserId, session: Uuid) -> String {
        let now_s = ctx.now.as_millis().div_euclid(1_000);
        let payload = Payload {
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            sub: user,
            sid: session,
            jti: ctx.new_id(|id| id),
            iat: now_s,
            nbf: now_s,
            exp: now_s + self.lifetime_s,
        };
        encode(&self.header, &payload, &self.signing).expect("the key has signed before")
    }

    /// For how many seconds a new token is valid.
    pub fn lifetime_s(&self) -> i64 {
        self.lifetime_s
    }

    /// What `token` says, if it is one of ours and valid at `now`.
    pub fn verify(&self, token: &str, now: Timestamp) -> Option<Claims> {
        if token.len() > LONGEST_TOKEN {
            return None;
        }
        let digest: [u8; 32] = Sha256::digest(token).into();
        let claims = match self.checked.get(&digest) {
            Some(claims) => claims,
            None => {
                let claims = self.check(token)?;
                self.checked.insert(digest, claims);
                claims
            }
        };
        (claims.not_before <= now + NOT_YET_VALID_LEEWAY && now < claims.expires_at).then_some(claims)
    }

    /// Signature, algorithm, issuer and audience; not the time.
    fn check(&self, token: &str) -> Option<Claims> {
        let token = decode::<Payload>(token, &self.verifying, &self.validation).ok()?;
        if token.header.kid != self.header.kid {
            return None;
        }
        let at = |seconds: i64| Timestamp::from_millis(seconds.saturating_mul(1_000));
        let Payload { sub, sid, jti, nbf, exp, .. } = token.claims;
        Some(Claims { user_id: sub, session: sid, token_id: jti, not_before: at(nbf), expires_at: at(exp) })
    }
}

/// The key that signs, if there is one.
fn in_use(q: &Query<'_>) -> Result<Option<SigningKey>, Error> {
    let sql = "SELECT id, private_key FROM signing_keys WHERE purpose = $1 AND retired_at IS NULL";
    q.one(sql, params![PURPOSE], |row| Ok(SigningKey { id: row.get(0)?, seed: row.get(1)? }))
}

/// Makes a key, unless another node is faster, and returns the one that is now in use.
async fn make(db: &Store, sources: &Sources) -> Result<SigningKey, StartError> {
    let now = sources.clock.now();
    let id = sources.ids.next(now);
    let mut seed = [0; 32];
    sources.random.fill(&mut seed);
    db.write(move |tx: &Tx<'_>| {
        let sql = "INSERT INTO signing_keys (id, purpose, private_key, created_at) VALUES ($1, $2, $3, $4) \
                   ON CONFLICT DO NOTHING";
        tx.exec(sql, params![id, PURPOSE, seed, now]).map(|_| ())
    })
    .await?;
    db.read(in_use).await?.ok_or(StartError::NoSigningKey)
}

#[cfg(test)]
#[path = "tokens_tests.rs"]
mod tests;
