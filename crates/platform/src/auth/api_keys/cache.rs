//! Verification of API keys in requests. Keys are cached until an event reports a change. The last use of a
//! key is recorded at most once a minute.

use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use kith_kernel::{ApiKeyId, Problem, Timestamp, problems};

use super::super::{Permission as _, WriteApiKeys};
use super::known_key::{CachedApiKey, NOTED_EVERY};
use super::rows;
use super::text::ApiKeyText;
use crate::App;
use crate::cache::{Cache, InvalidationFeed};
use crate::http::store_problem;
use crate::telemetry::SecurityEvent;

/// Maximum number of cached keys.
const MAX_CACHED_KEYS: usize = 10_000;

/// Cache of API keys by id. `None` means that no key with this id exists.
pub(crate) struct ApiKeyCache(Cache<ApiKeyId, Option<Arc<CachedApiKey>>>);

impl ApiKeyCache {
    pub fn new(invalidation_feed: InvalidationFeed) -> Self {
        Self(Cache::new(MAX_CACHED_KEYS, invalidation_feed))
    }

    /// Returns the active key that matches `text` at `now`, and records its use.
    ///
    /// Returns a 401 problem if the key is malformed, unknown, expired or revoked, if its secret is wrong, or
    /// if its creator may no longer create keys. Returns a problem of the store if the database fails.
    pub async fn authenticate(
        &self,
        app: &App,
        text: &str,
        now: Timestamp,
    ) -> Result<Arc<CachedApiKey>, Problem> {
        let refuse = |detail| {
            app.metrics.record_security_event(SecurityEvent::token_refused);
            Problem::new(&problems::UNAUTHENTICATED, detail).token_error("The API key is not valid")
        };
        let malformed =
            "The API key is malformed: its checksum is wrong. Check that it was copied completely.";
        let sent = ApiKeyText::parse(text).map_err(|_| refuse(malformed))?;
        let known = self.find(app, sent.id).await?;
        // The digests are compared in constant time, so that the response time does not reveal a partial
        // match.
        let is_it = |key: &Arc<CachedApiKey>| verify_slices_are_equal(&key.digest, &sent.digest()).is_ok();
        let known = known.filter(is_it).filter(|key| key.is_active(now));
        let key = known.ok_or_else(|| refuse(KEY_NOT_VALID))?;
        if !self.creator_may_create_keys(app, &key).await? {
            return Err(refuse(KEY_NOT_VALID));
        }
        self.record_use(app, &key, now);
        Ok(key)
    }

    /// Verifies again, during a long-running request, that a key is active and has `permission`.
    ///
    /// # Errors
    /// Returns a 401 problem if the key is no longer valid, and a problem of the store if the database fails.
    pub async fn reauthenticate(&self, app: &App, id: ApiKeyId, permission: &str) -> Result<(), Problem> {
        let now = app.sources.clock.now();
        let key = self.find(app, id).await?.filter(|key| key.is_active(now) && key.has(permission));
        if let Some(key) = key
            && self.creator_may_create_keys(app, &key).await?
        {
            return Ok(());
        }
        Err(Problem::new(&problems::UNAUTHENTICATED, KEY_NOT_VALID).token_error("The API key is not valid"))
    }

    pub fn forget(&self, id: ApiKeyId) {
        self.0.invalidate(&id);
    }

    async fn find(&self, app: &App, id: ApiKeyId) -> Result<Option<Arc<CachedApiKey>>, Problem> {
        let read = async || {
            let key = app.db.read(move |q| rows::find_known(q, id)).await?;
            Ok(key.map(Arc::new))
        };
        self.0.get_or_read(id, read).await.map_err(store_problem)
    }

    /// Returns true if the user who created the key may still create keys.
    async fn creator_may_create_keys(&self, app: &App, key: &CachedApiKey) -> Result<bool, Problem> {
        let role = app.access.role_of(app, key.created_by).await?;
        Ok(role.is_some_and(|role| role.has(WriteApiKeys::NAME)))
    }

    /// Records the use of the key in a background task, at most once a minute. A crash can lose the latest
    /// record.
    fn record_use(&self, app: &App, key: &CachedApiKey, now: Timestamp) {
        if !key.takes_note(now) {
            return;
        }
        let (app, id) = (app.clone(), key.id);
        tokio::spawn(async move {
            let noted = app.db.write(move |tx| rows::record_use(tx, id, now, now - NOTED_EVERY)).await;
            if let Err(error) = noted {
                tracing::warn!(%error, key = %id, "cannot record the last use of an API key");
            }
        });
    }
}

/// All these cases have the same text, so that the response does not reveal which case applies.
const KEY_NOT_VALID: &str = "This API key is not valid: it is unknown, expired or revoked, or its creator \
                             may no longer create keys.";
