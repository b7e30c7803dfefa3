//! Keys as requests are judged by them: kept in memory until they change, and their use noted now and then.

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

/// Keys that are kept in memory.
const KEPT: usize = 10_000;
/// How often the last use of a key is written down.
const NOTED_EVERY: Duration = minutes(1);

/// A key, as far as it is needed to judge who asks by it.
#[derive(Debug)]
pub(crate) struct KnownKey {
    pub id: ApiKeyId,
    digest: Vec<u8>,
    created_by: UserId,
    scopes: Vec<String>,
    expires_at: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
    /// Milliseconds; below all that can be if it never was.
    last_used_ms: AtomicI64,
}

/// Those in memory, and those that are known not to be there.
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

    /// Whether it may do what needs this permission.
    pub fn has(&self, permission: &str) -> bool {
        !PEOPLE_ONLY.contains(&permission) && self.scopes.iter().any(|scope| scope == permission)
    }

    fn is_active(&self, now: Timestamp) -> bool {
        ApiKeyStatus::at(now, self.expires_at, self.revoked_at) == ApiKeyStatus::Active
    }

    /// Whether this use is to be written down: the first in a minute.
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

    /// The key that `text` is, if it counts at `now`.
    ///
    /// # Errors
    /// A 401 if it does not: malformed, unknown, with another secret, expired, revoked, or made by somebody who may no
    /// longer make keys. The database's.
    pub async fn judge(&self, app: &App, text: &str, now: Timestamp) -> Result<Arc<KnownKey>, Problem> {
        let refuse = |detail| {
            app.metrics.count_security(SecurityEvent::token_refused);
            Problem::new(&problems::UNAUTHENTICATED, detail).token_error("The API key is not valid")
        };
        let malformed = "This API key is not whole: its checksum is wrong. Has a part of it been lost?";
        let sent = ApiKeyText::parse(text).map_err(|_| refuse(malformed))?;
        let known = self.find(app, sent.id).await?;
        // In constant time, so that no answer tells how much of a guess was right.
        let is_it = |key: &Arc<KnownKey>| verify_slices_are_equal(&key.digest, &sent.digest()).is_ok();
        let known = known.filter(is_it).filter(|key| key.is_active(now));
        let key = known.ok_or_else(|| refuse(NO_LONGER))?;
        if !self.maker_counts(app, &key).await? {
            return Err(refuse(NO_LONGER));
        }
        self.note_use(app, &key, now);
        Ok(key)
    }

    /// Whether a key that was judged before still counts.
    ///
    /// # Errors
    /// A 401 if not; the database's.
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

    /// Whether whoever made it may make keys now.
    async fn maker_counts(&self, app: &App, key: &KnownKey) -> Result<bool, Problem> {
        let role = app.access.role_of(app, key.created_by).await?;
        Ok(role.is_some_and(|role| role.has(WriteApiKeys::NAME)))
    }

    /// Writes down that it is used, behind the request's back and once a minute at most. What is lost with a crash is one
    /// such note.
    fn note_use(&self, app: &App, key: &KnownKey, now: Timestamp) {
        if !key.takes_note(now) {
            return;
        }
        let (app, id) = (app.clone(), key.id);
        tokio::spawn(async move {
            let noted = app.db.write(move |tx| rows::note_use(tx, id, now, now - NOTED_EVERY)).await;
            if let Err(error) = noted {
                tracing::warn!(%error, key = %id, "the last use of an API key was not written down");
            }
        });
    }
}

/// Nobody is told which of them it is.
const NO_LONGER: &str = "This API key does not count: it is not known, has expired, was revoked, or whoever made it may \
                         no longer make keys.";

#[cfg(test)]
mod tests {
    use kith_kernel::seconds;
    use kith_kernel::uuid::Uuid;

    use super::*;

    #[test]
    fn a_use_is_noted_once_a_minute_and_a_clock_set_back_notes_none() {
        let now = Timestamp::from_millis(1_767_225_600_000);
        let id = ApiKeyId(Uuid::nil());
        let key = KnownKey::new(id, vec![], UserId(Uuid::nil()), vec![], None, None, None);
        let noted = [0, 1, 59, 60, 61, 10, 120].map(|s| key.takes_note(now + seconds(s)));
        assert_eq!(noted, [true, false, false, true, false, false, true]);
    }
}
