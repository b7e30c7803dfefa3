//! Cached form of an API key, which requests are verified against.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use kith_kernel::{ApiKeyId, Timestamp, UserId, minutes};

use super::super::USER_ONLY_PERMISSIONS;
use super::model::ApiKeyStatus;

/// Minimum time between two records of the last use of a key.
pub(super) const NOTED_EVERY: Duration = minutes(1);

/// Data of an API key that is needed to verify requests.
#[derive(Debug)]
pub(crate) struct CachedApiKey {
    pub id: ApiKeyId,
    pub(super) digest: Vec<u8>,
    pub(super) created_by: UserId,
    scopes: Vec<String>,
    expires_at: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
    /// Time of the last recorded use in milliseconds; `i64::MIN` if the key was never used.
    last_used_ms: AtomicI64,
}

impl CachedApiKey {
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

    /// Returns true if the key has the scope `permission`. Permissions that keys cannot have are always
    /// rejected.
    pub fn has(&self, permission: &str) -> bool {
        !USER_ONLY_PERMISSIONS.contains(&permission) && self.scopes.iter().any(|scope| scope == permission)
    }

    pub(super) fn is_active(&self, now: Timestamp) -> bool {
        ApiKeyStatus::at(now, self.expires_at, self.revoked_at) == ApiKeyStatus::Active
    }

    /// Returns true if this use must be recorded because the last record is at least a minute old. In this
    /// case, sets the time of the last recorded use to `now`.
    pub(super) fn takes_note(&self, now: Timestamp) -> bool {
        let noted_ms = i64::try_from(NOTED_EVERY.as_millis()).unwrap_or(i64::MAX);
        let now_ms = now.as_millis();
        let take = |last: i64| (now_ms.saturating_sub(last) >= noted_ms).then_some(now_ms);
        self.last_used_ms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use kith_kernel::seconds;
    use kith_kernel::uuid::Uuid;

    use super::*;

    #[test]
    fn key_use_is_recorded_at_most_once_per_minute() {
        let now = Timestamp::from_millis(1_767_225_600_000);
        let id = ApiKeyId(Uuid::nil());
        let key = CachedApiKey::new(id, vec![], UserId(Uuid::nil()), vec![], None, None, None);
        let noted = [0, 1, 59, 60, 61, 10, 120].map(|s| key.takes_note(now + seconds(s)));
        assert_eq!(noted, [true, false, false, true, false, false, true]);
    }
}
