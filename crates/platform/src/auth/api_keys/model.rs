//! API keys as returned to administrators, and the validation of new keys.

use std::collections::BTreeSet;

use kith_kernel::{ApiKeyId, FieldError, Text, TextRules, Timestamp, UserId};
use kith_store::Error;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;

use super::super::{PERMISSIONS, Role, USER_ONLY_PERMISSIONS};

const NAME: TextRules = TextRules { min: 1, max: 80, newlines: false };
/// Maximum number of scopes of a key.
const MAX_SCOPES: usize = 50;

/// API key without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApiKey {
    /// ID of the key.
    pub id: ApiKeyId,
    /// First part of the key, `kith_` and the encoded ID. It identifies the key and is not secret.
    #[schema(example = "kith_06gvr4a6tpo03dm123evt0lv9s")]
    pub prefix: String,
    /// Name that tells administrators what the key is used for.
    pub name: String,
    /// Permissions of the key, in alphabetical order.
    #[schema(example = json!(["jobs.read", "jobs.work"]))]
    pub scopes: Vec<String>,
    /// Status of the key at the time of the response.
    pub status: ApiKeyStatus,
    /// ID of the user who created the key. The key is valid only while this user may create keys.
    pub created_by: UserId,
    /// Time at which the key was created.
    pub created_at: Timestamp,
    /// Time from which the key is rejected; null if it does not expire.
    #[schema(required = true)]
    pub expires_at: Option<Timestamp>,
    /// Time at which the key was revoked; null if it was not.
    #[schema(required = true)]
    pub revoked_at: Option<Timestamp>,
    /// Time of the last use, recorded at most once a minute; null if the key was never used.
    #[schema(required = true)]
    pub last_used_at: Option<Timestamp>,
}

/// Status of an API key. Even an active key is rejected while its creator may not create keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ApiKeyStatus {
    /// The key is neither expired nor revoked.
    Active,
    /// The key's `expires_at` has passed.
    Expired,
    /// An administrator revoked the key.
    Revoked,
}

impl ApiKeyStatus {
    /// Returns the status at `now`. A revoked key is `Revoked` even after its expiry.
    pub(super) fn at(now: Timestamp, expires_at: Option<Timestamp>, revoked_at: Option<Timestamp>) -> Self {
        match (revoked_at, expires_at) {
            (Some(_), _) => Self::Revoked,
            (None, Some(expires_at)) if expires_at <= now => Self::Expired,
            _ => Self::Active,
        }
    }
}

/// Validated input for a new key.
#[derive(Clone, Debug)]
pub struct NewApiKey {
    pub(super) name: String,
    pub(super) scopes: Vec<String>,
    pub(super) expires_at: Option<Timestamp>,
}

impl NewApiKey {
    /// Validates the input of a caller with `role` at `now`. Sorts the scopes and removes duplicates.
    ///
    /// # Errors
    /// Returns all errors, each with a JSON Pointer to its field. Errors are an invalid name, no scopes or
    /// more than 50 scopes, and an expiry that is not in the future. A scope is an error if it is unknown,
    /// not allowed for API keys, or not a permission of `role`.
    pub fn parse(
        role: Role,
        now: Timestamp,
        name: &str,
        scopes: &[String],
        expires_at: Option<Timestamp>,
    ) -> Result<Self, Vec<FieldError>> {
        let name = Text::parse(name, NAME, "/name");
        let mut faults: Vec<_> = name.as_ref().err().cloned().into_iter().collect();
        if scopes.is_empty() {
            faults.push(FieldError::new("/scopes", "too_short", "Enter at least one scope."));
        }
        if scopes.len() > MAX_SCOPES {
            faults.push(FieldError::new("/scopes", "too_long", format!("At most {MAX_SCOPES}.")));
        } else {
            faults.extend(scopes.iter().enumerate().filter_map(|(n, scope)| scope_fault(role, n, scope)));
        }
        if expires_at.is_some_and(|expires_at| expires_at <= now) {
            faults.push(FieldError::new("/expires_at", "in_the_past", "The time must be in the future."));
        }
        match name {
            Ok(name) if faults.is_empty() => {
                let scopes: BTreeSet<_> = scopes.iter().cloned().collect();
                Ok(Self { name: name.into_string(), scopes: scopes.into_iter().collect(), expires_at })
            }
            _ => Err(faults),
        }
    }
}

fn scope_fault(role: Role, n: usize, scope: &str) -> Option<FieldError> {
    let (code, detail) = if !PERMISSIONS.iter().any(|(name, _)| *name == scope) {
        ("unknown_scope", "This permission does not exist.")
    } else if USER_ONLY_PERMISSIONS.contains(&scope) {
        ("people_only", "API keys cannot have this permission.")
    } else if role.has(scope) {
        return None;
    } else {
        ("not_permitted", "Your role does not have this permission, so you cannot grant it.")
    };
    Some(FieldError::new(format!("/scopes/{n}"), code, detail))
}

/// Error of a command on an API key.
#[derive(Debug, Error)]
pub enum ApiKeyError {
    /// No key has this ID.
    #[error("the API key does not exist")]
    NotFound,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_767_225_600_000);

    fn parse(role: Role, scopes: &[&str]) -> Result<Vec<String>, Vec<&'static str>> {
        let scopes: Vec<_> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        let parsed = NewApiKey::parse(role, NOW, "ci", &scopes, None);
        parsed.map(|key| key.scopes).map_err(|faults| faults.into_iter().map(|fault| fault.code).collect())
    }

    /// ACC-13: a key gets only permissions that its creator has.
    #[test]
    fn scopes_are_limited_to_creator_permissions() {
        assert_eq!(
            parse(Role::Admin, &["jobs.work", "jobs.read", "jobs.work"]).unwrap(),
            ["jobs.read", "jobs.work"]
        );
        assert_eq!(parse(Role::Moderator, &["users.read"]).unwrap(), ["users.read"]);
        assert_eq!(parse(Role::Moderator, &["users.read", "jobs.read"]).unwrap_err(), ["not_permitted"]);
        assert_eq!(parse(Role::Admin, &[]).unwrap_err(), ["too_short"]);
        assert_eq!(parse(Role::Admin, &["jobs", ""]).unwrap_err(), ["unknown_scope", "unknown_scope"]);
        for scope in USER_ONLY_PERMISSIONS {
            assert_eq!(parse(Role::Admin, &[scope]).unwrap_err(), ["people_only"], "{scope}");
        }
        assert_eq!(parse(Role::Admin, &["jobs.read"; MAX_SCOPES + 1]).unwrap_err(), ["too_long"]);
    }

    #[test]
    fn each_field_error_is_reported() {
        let faults = NewApiKey::parse(Role::Admin, NOW, " ", &["x".to_owned()], Some(NOW)).unwrap_err();
        let pointers: Vec<_> = faults.iter().map(|fault| &*fault.pointer).collect();
        assert_eq!(pointers, ["/name", "/scopes/0", "/expires_at"]);
    }

    #[test]
    fn status_reflects_expiry_and_revocation() {
        let at = |expires, revoked| ApiKeyStatus::at(NOW, expires, revoked);
        let later = NOW + kith_kernel::seconds(1);
        assert_eq!(at(None, None), ApiKeyStatus::Active);
        assert_eq!(at(Some(later), None), ApiKeyStatus::Active);
        assert_eq!(at(Some(NOW), None), ApiKeyStatus::Expired);
        assert_eq!(at(Some(later), Some(NOW)), ApiKeyStatus::Revoked);
    }
}
