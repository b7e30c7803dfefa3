//! Verification of API keys in requests. Keys are cached until an event says that they changed; their last
//! use is recorded at most once a minute.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use kith_kernel::{ApiKeyId, Problem, Timestamp, UserId, minutes, problems};

use super::super::{PEOPLE_ONLY, Permission as _, WriteApiKeys};
use super::model::ApiKeyStatus;
use super::rows;
use super::text::ApiKeyText;
use crate::App;
use crate::cache::{Cache, Hearing};
use crate::http::store_problem;
use crate::telemetry::SecurityEvent;

/// Maximum number of cached keys.
const KEPT: usize = 10_000;
/// Minimum time between two records of the last use of a key.
const NOTED_EVERY: Duration = minutes(1);

/// Data of a key that verification needs.
#[derive(Debug)]
pub(crate) struct KnownKey {
    pub id: ApiKeyId,
    digest: Vec<u8>,
    created_by: UserId,
    scopes: Vec<String>,
    expires_at: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
    /// Time of the last recorded use in milliseconds; `i64::MIN` if the key was never used.
    last_used_ms: AtomicI64,
}

/// Cache of keys by id. `None` records that no such key exists.
pub(crate) struct KnownKeys(Cache<ApiKeyId, Option<Arc<KnownKey>>>);

impl KnownKey {
    pub fn new(
        id: ApiKeyId,
        digest: Vec<u8>,
        created_by: UserId,
        scopes: Vec<String>,
        expires_at: Option<Timestamp>,
        revoked_at: Option<Timestamp>,
        last_used_at: Option<Timestamp>,
    ) -> Self {
        let last_used_ms = AtomicI64::new(last_used_at.map_or(i64::MIN, Timestamp::as_millis));
        Self { id, digest, created_by, scopes, expires_at, revoked_at, last_used_ms }
    }

    /// Returns true if the key has this permission as a scope.
    pub fn has(&self, permission: &str) -> bool {
        !PEOPLE_ONLY.contains(&permission) && self.scopes.iter().any(|scope| scope == permission)
    }

    fn is_active(&self, now: Timestamp) -> bool {
        ApiKeyStatus::at(now, self.expires_at, self.revoked_at) == ApiKeyStatus::Active
    }

    /// Returns true if this use is to be recorded, because the last record is at least a minute old. Updates
    /// the time.
    fn takes_note(&self, now: Timestamp) -> bool {
        let noted_ms = i64::try_from(NOTED_EVERY.as_millis()).unwrap_or(i64::MAX);
        let now_ms = now.as_millis();
        let take = |last: i64| (now_ms.saturating_sub(last) >= noted_ms).then_some(now_ms);
        self.last_used_ms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

impl KnownKeys {
    pub fn new(hearing: Hearing) -> Self {
        Self(Cache::new(KEPT, hearing))
    }

    /// Returns the active key that matches `text` at `now`, and records its use.
    ///
    /// # Errors
    /// Returns a 401 problem if the key is malformed, unknown, expired or revoked, if its secret is wrong, or
    /// if its creator may no longer create keys; and a problem of the store if the database fails.
    pub async fn judge(&self, app: &App, text: &str, now: Timestamp) -> Result<Arc<KnownKey>, Problem> {
        let refuse = |detail| {
            app.metrics.count_security(SecurityEvent::token_refused);
            Problem::new(&problems::UNAUTHENTICATED, detail).token_error("The API key is not valid")
        };
        let malformed =
            "The API key is malformed: its checksum is wrong. Check that it was copied completely.";
        let sent = ApiKeyText::parse(text).map_err(|_| refuse(malformed))?;
        let known = self.find(app, sent.id).await?;
        // Compared in constant time, so that the response time does not reveal a partial match.
        let is_it = |key: &Arc<KnownKey>| verify_slices_are_equal(&key.digest, &sent.digest()).is_ok();
        let known = known.filter(is_it).filter(|key| key.is_active(now));
        let key = known.ok_or_else(|| refuse(NO_LONGER))?;
        if !self.maker_counts(app, &key).await? {
            return Err(refuse(NO_LONGER));
        }
        self.note_use(app, &key, now);
        Ok(key)
    }

    /// Verifies again that a key is active and has `permission`, for a long-running request.
    ///
    /// # Errors
    /// Returns a 401 problem if the key is no longer valid, and a problem of the store if the database fails.
    pub async fn judge_again(&self, app: &App, id: ApiKeyId, permission: &str) -> Result<(), Problem> {
        let now = app.sources.clock.now();
        let key = self.find(app, id).await?.filter(|key| key.is_active(now) && key.has(permission));
        if let Some(key) = key
            && self.maker_counts(app, &key).await?
        {
            return Ok(());
        }
        Err(Problem::new(&problems::UNAUTHENTICATED, NO_LONGER).token_error("The API key is not valid"))
    }

    pub fn forget(&self, id: ApiKeyId) {
        self.0.forget(&id);
    }

    async fn find(&self, app: &App, id: ApiKeyId) -> Result<Option<Arc<KnownKey>>, Problem> {
        let read = async || {
            let key = app.db.read(move |q| rows::find_known(q, id)).await?;
            Ok(key.map(Arc::new))
        };
        self.0.get_or_read(id, read).await.map_err(store_problem)
    }

    /// Returns true if the user who created the key may still create keys.
    async fn maker_counts(&self, app: &App, key: &KnownKey) -> Result<bool, Problem> {
        let role = app.access.role_of(app, key.created_by).await?;
        Ok(role.is_some_and(|role| role.has(WriteApiKeys::NAME)))
    }

    /// Records the use of the key in a background task, at most once a minute. A crash can lose one such
    /// record.
    fn note_use(&self, app: &App, key: &KnownKey, now: Timestamp) {
        if !key.takes_note(now) {
            return;
        }
        let (app, id) = (app.clone(), key.id);
        tokio::spawn(async move {
            let noted = app.db.write(move |tx| rows::note_use(tx, id, now, now - NOTED_EVERY)).await;
            if let Err(error) = noted {
                tracing::warn!(%error, key = %id, "cannot record the last use of an API key");
            }
        });
    }
}

/// One text for all these cases, so that the response does not reveal which of them applies.
const NO_LONGER: &str = "This API key does not count: it is not known, has expired, was revoked, or whoever made it may \
                         no longer make keys.";

#[cfg(test)]
mod tests {
    use kith_kernel::seconds;
    use kith_kernel::uuid::Uuid;

    use super::*;

    #[test]
    fn use_is_recorded_at_most_once_per_minute() {
        let now = Timestamp::from_millis(1_767_225_600_000);
        let id = ApiKeyId(Uuid::nil());
        let key = KnownKey::new(id, vec![], UserId(Uuid::nil()), vec![], None, None, None);
        let noted = [0, 1, 59, 60, 61, 10, 120].map(|s| key.takes_note(now + seconds(s)));
        assert_eq!(noted, [true, false, false, true, false, false, true]);
    }
}
