//! Access tokens: EdDSA JWTs signed with a key from the database, and the cache of those already checked.
//!
//! Only our own keys and this algorithm are ever believed: nothing in a token's header says where else to look.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use jsonwebtoken::{Algorithm, Header, Validation, decode, decode_header, encode};
use kith_kernel::uuid::Uuid;
use kith_kernel::{Ctx, Sources, Timestamp, UserId, seconds};
use kith_store::{Error, Store};
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::keyring::Keyring;
use super::signing_keys::{self, Candidate, JsonWebKeySet, KeySet, Rotation, TYPE};
use crate::App;
use crate::app::StartError;
use crate::config::Auth;
use crate::telemetry::SecurityEvent;

const ISSUER: &str = "kith";
const AUDIENCE: &str = "kith";
const CACHED_TOKENS: usize = 100_000;
/// A node whose clock is a little behind the issuer's must not refuse a token that was just made.
const NOT_YET_VALID_LEEWAY: Duration = seconds(1);
/// Longer ones are not ours.
const LONGEST_TOKEN: usize = 2_048;
/// Tokens that name a key nobody has heard of make this node look for it at most this often.
const LOOK_UP_EVERY: Duration = seconds(1);

/// Makes and checks access tokens.
pub struct Tokens {
    keys: ArcSwap<KeySet>,
    versions: AtomicU64,
    looked_up_ms: AtomicI64,
    validation: Validation,
    lifetime: Duration,
    /// By the SHA-256 of the whole token, so that no other token hits the entry and none is kept.
    checked: Cache<[u8; 32], Checked>,
}

/// A token that was checked, against the keys of a version.
#[derive(Clone, Copy)]
struct Checked {
    claims: Claims,
    version: u64,
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

/// Why a token is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// It is not one of ours, or not valid yet.
    Invalid,
    /// It was valid once.
    Expired,
}

/// What became of a token.
pub(super) enum Verdict {
    Valid(Claims),
    Invalid,
    /// It was valid once.
    Expired,
    /// It names a key that this node does not know.
    UnknownKey,
}

impl Tokens {
    /// Reads the signing keys, and makes the first one if this is a new database.
    ///
    /// # Errors
    /// The database's; [`StartError::KeySealedOtherwise`].
    pub async fn load(
        db: &Store,
        sources: &Sources,
        keyring: &Keyring,
        config: &Auth,
    ) -> Result<Self, StartError> {
        let now = sources.clock.now();
        let mut keys = signing_keys::read(db, keyring, now).await?;
        if keys.is_empty() {
            signing_keys::make_first(db, sources, keyring).await?;
            keys = signing_keys::read(db, keyring, now).await?;
        }
        let keys = KeySet::new(keys, 0);
        if keys.signing(now).is_none() {
            return Err(StartError::NoSigningKey);
        }
        Ok(Self::with_keys(keys, config))
    }

    pub(super) fn with_keys(keys: KeySet, config: &Auth) -> Self {
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[AUDIENCE]);
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        // Judged by the request's `now`, which the crate does not know.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        Self {
            keys: ArcSwap::from_pointee(keys),
            versions: AtomicU64::new(0),
            looked_up_ms: AtomicI64::new(i64::MIN),
            validation,
            lifetime: seconds(60 * u64::from(config.access_token_minutes)),
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
            exp: now_s + self.lifetime_s(),
        };
        let keys = self.keys.load();
        let key = keys.signing(ctx.now).expect("the newest key has no end");
        encode(&key.header, &payload, &key.signing).expect("the key has signed before")
    }

    /// For how many seconds a new token is valid.
    pub fn lifetime_s(&self) -> i64 {
        i64::try_from(self.lifetime.as_secs()).unwrap_or(i64::MAX)
    }

    /// Verifies `token` at `now`. A key that this node does not know is looked for in
    /// the database, at most once a second: another node may have begun to use it.
    ///
    /// # Errors
    /// The database's, where it had to be asked.
    pub async fn verify(
        &self,
        app: &App,
        token: &str,
        now: Timestamp,
    ) -> Result<Result<Claims, TokenError>, Error> {
        if !app.hearing.is_good() && self.may_look_up(now) {
            // Another node may have retired keys at once, and this one would not hear of it.
            self.reload(&app.db, &app.keyring, now).await?;
        }
        let mut verdict = self.judge(token, now);
        if matches!(verdict, Verdict::UnknownKey) && self.may_look_up(now) {
            app.metrics.count_security(SecurityEvent::unknown_key_looked_up);
            self.reload(&app.db, &app.keyring, now).await?;
            verdict = self.judge(token, now);
        }
        Ok(match verdict {
            Verdict::Valid(claims) => Ok(claims),
            Verdict::Expired => Err(TokenError::Expired),
            Verdict::Invalid | Verdict::UnknownKey => Err(TokenError::Invalid),
        })
    }

    /// Reads the keys anew.
    pub(crate) async fn reload(&self, db: &Store, keyring: &Keyring, now: Timestamp) -> Result<(), Error> {
        // Taken before the reading, so that of two at once the later one wins.
        let version = self.versions.fetch_add(1, Ordering::Relaxed) + 1;
        match signing_keys::read(db, keyring, now).await {
            Ok(keys) => {
                let fresh = Arc::new(KeySet::new(keys, version));
                self.keys.rcu(|old| if old.version < version { Arc::clone(&fresh) } else { Arc::clone(old) });
                Ok(())
            }
            Err(StartError::Store(error)) => Err(error),
            Err(other) => {
                tracing::error!(error = %other, "the signing keys cannot be read; the old ones stay in use");
                Ok(())
            }
        }
    }

    /// The keys that tokens may be checked with, read anew if this node does not hear what others publish.
    pub(crate) async fn published_lately(&self, app: &App, now: Timestamp) -> JsonWebKeySet {
        if !app.hearing.is_good()
            && self.may_look_up(now)
            && let Err(error) = self.reload(&app.db, &app.keyring, now).await
        {
            tracing::warn!(%error, "the signing keys cannot be read anew");
        }
        self.published(now)
    }

    /// The keys that tokens may be checked with.
    pub fn published(&self, now: Timestamp) -> JsonWebKeySet {
        self.keys.load().published(now)
    }

    /// Publishes a new key, which signs when everyone can know it; `at_once` also ends every token that is out.
    ///
    /// # Errors
    /// The database's.
    pub async fn rotate(&self, app: &App, ctx: &Ctx, at_once: bool) -> Result<Rotation, Error> {
        let candidate = Candidate::new(&app.sources, &app.keyring);
        let lifetime = self.lifetime;
        let rotation = app.write(ctx, move |tx, ctx| candidate.publish(tx, ctx, lifetime, at_once)).await?;
        // The hook has done so already; whoever ends all tokens must hear if it could not.
        self.reload(&app.db, &app.keyring, ctx.now).await?;
        Ok(rotation)
    }

    fn may_look_up(&self, now: Timestamp) -> bool {
        let now_ms = now.as_millis();
        let wait_ms = i64::try_from(LOOK_UP_EVERY.as_millis()).unwrap_or(i64::MAX);
        let take = |last: i64| (now_ms.saturating_sub(last) >= wait_ms || now_ms < last).then_some(now_ms);
        self.looked_up_ms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    pub(super) fn judge(&self, token: &str, now: Timestamp) -> Verdict {
        if token.len() > LONGEST_TOKEN {
            return Verdict::Invalid;
        }
        let digest: [u8; 32] = Sha256::digest(token).into();
        let keys = self.keys.load();
        let known = self.checked.get(&digest).filter(|checked| checked.version == keys.version);
        let claims = match known {
            Some(checked) => checked.claims,
            None => match self.check(token, &keys, now) {
                Verdict::Valid(claims) => {
                    self.checked.insert(digest, Checked { claims, version: keys.version });
                    claims
                }
                other => return other,
            },
        };
        if now >= claims.expires_at {
            Verdict::Expired
        } else if claims.not_before <= now + NOT_YET_VALID_LEEWAY {
            Verdict::Valid(claims)
        } else {
            Verdict::Invalid
        }
    }

    /// Signature, algorithm, type, issuer and audience; not the time.
    fn check(&self, token: &str, keys: &KeySet, now: Timestamp) -> Verdict {
        // What `crit` lists must be understood (RFC 7515, section 4.1.11), and we understand nothing of the kind.
        let Ok(Header { alg: Algorithm::EdDSA, typ: Some(kind), kid: Some(id), crit: None, .. }) =
            decode_header(token)
        else {
            return Verdict::Invalid;
        };
        if kind != TYPE {
            return Verdict::Invalid;
        }
        let Some(key) = keys.verifying(&id, now) else { return Verdict::UnknownKey };
        let Ok(token) = decode::<Payload>(token, &key.verifying, &self.validation) else {
            return Verdict::Invalid;
        };
        let at = |seconds: i64| Timestamp::from_millis(seconds.saturating_mul(1_000));
        let Payload { sub, sid, jti, nbf, exp, .. } = token.claims;
        Verdict::Valid(Claims {
            user_id: sub,
            session: sid,
            token_id: jti,
            not_before: at(nbf),
            // A token that is kept does not outlive the key that made it.
            expires_at: key.retires_at.map_or(at(exp), |retires_at| retires_at.min(at(exp))),
        })
    }
}

#[cfg(test)]
#[path = "tokens_tests.rs"]
mod tests;
