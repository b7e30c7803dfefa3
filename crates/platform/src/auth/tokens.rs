//! Access tokens: EdDSA JWTs signed with a key from the database, and a cache of verified tokens.
//!
//! Only this algorithm and the keys of this deployment are accepted. Header parameters that refer to other
//! keys are ignored.

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
use super::signing_keys::{self, JsonWebKeySet, KeySet, Rotation, TYPE, UnpublishedKey};
use crate::App;
use crate::app::StartError;
use crate::config::Auth;
use crate::telemetry::SecurityEvent;

const ISSUER: &str = "kith";
const AUDIENCE: &str = "kith";
const CACHED_TOKENS: usize = 100_000;
/// Tolerance when `nbf` is checked, for a node whose clock is slightly behind the clock of the issuer.
const NOT_YET_VALID_LEEWAY: Duration = seconds(1);
/// Maximum length of a token in bytes. Longer tokens are rejected without decoding.
const MAX_TOKEN_BYTES: usize = 2_048;
/// Minimum time between two database reads caused by tokens with unknown key ids.
const MIN_RELOAD_INTERVAL: Duration = seconds(1);

/// Issues and verifies access tokens.
pub struct Tokens {
    keys: ArcSwap<KeySet>,
    versions: AtomicU64,
    reloaded_ms: AtomicI64,
    validation: Validation,
    lifetime: Duration,
    /// Verified tokens, keyed by the SHA-256 digest of the whole token. The tokens themselves are not stored.
    checked: Cache<[u8; 32], Checked>,
}

/// Cached result of verifying a token against one version of the key set.
#[derive(Clone, Copy)]
struct Checked {
    claims: Claims,
    version: u64,
}

/// Claims of a valid token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Id of the user (`sub`).
    pub user_id: UserId,
    /// Session in which the token was issued (`sid`).
    pub session: Uuid,
    /// Id of the token (`jti`).
    pub token_id: Uuid,
    /// Time from which the token is valid (`nbf`).
    pub not_before: Timestamp,
    /// Time from which the token is rejected: `exp`, or the retirement of its key if that is earlier.
    pub expires_at: Timestamp,
}

/// Claims as encoded in the token (RFC 7519).
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

/// Reason for rejecting a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// The token was not issued by this deployment, was changed, or is not valid yet.
    Invalid,
    /// The token has expired.
    Expired,
}

/// Result of verifying a token against the keys in memory.
pub(super) enum TokenVerification {
    Valid(Claims),
    Invalid,
    /// The token has expired.
    Expired,
    /// The token names a key that this node does not know.
    UnknownKey,
}

impl Tokens {
    /// Loads the signing keys from the database. Creates the first key if the database has none.
    ///
    /// # Errors
    /// Returns [`StartError::SealedWithUnknownSecret`] if a key was encrypted with another secret. Returns
    /// [`StartError::NoSigningKey`] if no key can sign tokens now, and [`StartError::Store`] if the database
    /// fails.
    pub async fn load(
        db: &Store,
        sources: &Sources,
        keyring: &Keyring,
        config: &Auth,
    ) -> Result<Self, StartError> {
        let now = sources.clock.now();
        let mut keys = signing_keys::read(db, keyring, now).await?;
        if keys.is_empty() {
            signing_keys::create_first(db, sources, keyring).await?;
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
        // `exp` and `nbf` are compared with the `now` of the request, not with the system clock.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        Self {
            keys: ArcSwap::from_pointee(keys),
            versions: AtomicU64::new(0),
            reloaded_ms: AtomicI64::new(i64::MIN),
            validation,
            lifetime: seconds(60 * u64::from(config.access_token_minutes)),
            checked: Cache::new(CACHED_TOKENS),
        }
    }

    /// Issues a token for `user` in `session`, valid from now.
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
        let key = keys.signing(ctx.now).expect("the newest key does not retire");
        encode(&key.header, &payload, &key.signing).expect("the key has signed before")
    }

    /// Returns the lifetime of a new token in seconds.
    pub fn lifetime_s(&self) -> i64 {
        i64::try_from(self.lifetime.as_secs()).unwrap_or(i64::MAX)
    }

    /// Verifies `token` at `now`. If the token names an unknown key, reloads the keys from the database,
    /// because another node may have published the key. Reloads at most once a second.
    ///
    /// # Errors
    /// Returns the store's error if the keys had to be reloaded and the database failed.
    pub async fn verify(
        &self,
        app: &App,
        token: &str,
        now: Timestamp,
    ) -> Result<Result<Claims, TokenError>, Error> {
        if !app.invalidation_feed.is_good() && self.may_reload(now) {
            // If this node receives no events, it does not learn that keys were retired at once, so it
            // reloads the keys.
            self.reload(&app.db, &app.keyring, now).await?;
        }
        let mut verdict = self.verify_in_memory(token, now);
        if matches!(verdict, TokenVerification::UnknownKey) && self.may_reload(now) {
            app.metrics.record_security_event(SecurityEvent::signing_keys_reloaded);
            self.reload(&app.db, &app.keyring, now).await?;
            verdict = self.verify_in_memory(token, now);
        }
        Ok(match verdict {
            TokenVerification::Valid(claims) => Ok(claims),
            TokenVerification::Expired => Err(TokenError::Expired),
            TokenVerification::Invalid | TokenVerification::UnknownKey => Err(TokenError::Invalid),
        })
    }

    /// Reloads the signing keys from the database. If they cannot be decrypted, logs an error and keeps the
    /// current keys.
    pub(crate) async fn reload(&self, db: &Store, keyring: &Keyring, now: Timestamp) -> Result<(), Error> {
        // The version is assigned before the keys are read. If two reloads run concurrently, the later one
        // takes effect.
        let version = self.versions.fetch_add(1, Ordering::Relaxed) + 1;
        match signing_keys::read(db, keyring, now).await {
            Ok(keys) => {
                let fresh = Arc::new(KeySet::new(keys, version));
                self.keys.rcu(|old| if old.version < version { Arc::clone(&fresh) } else { Arc::clone(old) });
                Ok(())
            }
            Err(StartError::Store(error)) => Err(error),
            Err(other) => {
                tracing::error!(error = %other, "cannot open the signing keys; the present keys stay in use");
                Ok(())
            }
        }
    }

    /// Returns the published keys. First reloads them if this node does not receive events from other nodes.
    pub(crate) async fn current_key_set(&self, app: &App, now: Timestamp) -> JsonWebKeySet {
        if !app.invalidation_feed.is_good()
            && self.may_reload(now)
            && let Err(error) = self.reload(&app.db, &app.keyring, now).await
        {
            tracing::warn!(%error, "cannot reload the signing keys");
        }
        self.published(now)
    }

    /// Returns the keys with which tokens can be verified at `now`.
    pub fn published(&self, now: Timestamp) -> JsonWebKeySet {
        self.keys.load().published(now)
    }

    /// Publishes a new key, which signs tokens only after every verifier has had time to fetch it. With
    /// `at_once`, the key signs from now on, and all existing tokens become invalid.
    ///
    /// # Errors
    /// Returns the store's error if the database fails.
    pub async fn rotate(&self, app: &App, ctx: &Ctx, at_once: bool) -> Result<Rotation, Error> {
        let candidate = UnpublishedKey::new(&app.sources, &app.keyring);
        let lifetime = self.lifetime;
        let rotation = app.write(ctx, move |tx, ctx| candidate.publish(tx, ctx, lifetime, at_once)).await?;
        // A consumer of the event also reloads the keys. They are reloaded here so that the caller learns of
        // an error.
        self.reload(&app.db, &app.keyring, ctx.now).await?;
        Ok(rotation)
    }

    fn may_reload(&self, now: Timestamp) -> bool {
        let now_ms = now.as_millis();
        let wait_ms = i64::try_from(MIN_RELOAD_INTERVAL.as_millis()).unwrap_or(i64::MAX);
        let take = |last: i64| (now_ms.saturating_sub(last) >= wait_ms || now_ms < last).then_some(now_ms);
        self.reloaded_ms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    pub(super) fn verify_in_memory(&self, token: &str, now: Timestamp) -> TokenVerification {
        if token.len() > MAX_TOKEN_BYTES {
            return TokenVerification::Invalid;
        }
        let digest: [u8; 32] = Sha256::digest(token).into();
        let keys = self.keys.load();
        let known = self.checked.get(&digest).filter(|checked| checked.version == keys.version);
        let claims = match known {
            Some(checked) => checked.claims,
            None => match self.check(token, &keys, now) {
                TokenVerification::Valid(claims) => {
                    self.checked.insert(digest, Checked { claims, version: keys.version });
                    claims
                }
                other => return other,
            },
        };
        if now >= claims.expires_at {
            TokenVerification::Expired
        } else if claims.not_before <= now + NOT_YET_VALID_LEEWAY {
            TokenVerification::Valid(claims)
        } else {
            TokenVerification::Invalid
        }
    }

    /// Verifies the signature, algorithm, type, issuer and audience of a token, but not its times.
    fn check(&self, token: &str, keys: &KeySet, now: Timestamp) -> TokenVerification {
        // A verifier must support the extensions listed in `crit` (RFC 7515, section 4.1.11). Kith supports
        // none.
        let Ok(Header { alg: Algorithm::EdDSA, typ: Some(kind), kid: Some(id), crit: None, .. }) =
            decode_header(token)
        else {
            return TokenVerification::Invalid;
        };
        if kind != TYPE {
            return TokenVerification::Invalid;
        }
        let Some(key) = keys.verifying(&id, now) else { return TokenVerification::UnknownKey };
        let Ok(token) = decode::<Payload>(token, &key.verifying, &self.validation) else {
            return TokenVerification::Invalid;
        };
        let at = |seconds: i64| Timestamp::from_millis(seconds.saturating_mul(1_000));
        let Payload { sub, sid, jti, nbf, exp, .. } = token.claims;
        TokenVerification::Valid(Claims {
            user_id: sub,
            session: sid,
            token_id: jti,
            not_before: at(nbf),
            // A token expires no later than the key that signed it retires.
            expires_at: key.retires_at.map_or(at(exp), |retires_at| retires_at.min(at(exp))),
        })
    }
}

#[cfg(test)]
#[path = "tokens_tests.rs"]
mod tests;
