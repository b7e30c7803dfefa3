//! What a key is made of, what a new one may be, and why there is none.

use std::collections::BTreeSet;

use kith_kernel::{ApiKeyId, FieldError, Text, TextRules, Timestamp, UserId};
use kith_store::Error;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;

use super::super::{PEOPLE_ONLY, PERMISSIONS, Role};

const NAME: TextRules = TextRules { min: 1, max: 80, newlines: false };
/// More than this is no list of permissions.
const SCOPES_MOST: usize = 50;

/// A key, as administrators see it: never its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApiKey {
    /// Of the key.
    pub id: ApiKeyId,
    /// What it begins with; the secret comes after it.
    #[schema(example = "kith_06gvr4a6tpo03dm123evt0lv9s")]
    pub prefix: String,
    /// What it is for.
    pub name: String,
    /// What it may do: permissions, in alphabetical order.
    #[schema(example = json!(["jobs.read", "jobs.work"]))]
    pub scopes: Vec<String>,
    /// Whether it may be used.
    pub status: ApiKeyStatus,
    /// Whoever made it. It counts only while they may make keys.
    pub created_by: UserId,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it is refused; null is never.
    #[schema(required = true)]
    pub expires_at: Option<Timestamp>,
    /// When it was revoked, if it was.
    #[schema(required = true)]
    pub revoked_at: Option<Timestamp>,
    /// When it was last used, to the minute; null is never.
    #[schema(required = true)]
    pub last_used_at: Option<Timestamp>,
}

/// Whether a key may be used, as far as the key itself goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ApiKeyStatus {
    /// It may.
    Active,
    /// Its time is over.
    Expired,
    /// An administrator ended it.
    Revoked,
}

impl ApiKeyStatus {
    /// At `now`.
    pub(super) fn at(now: Timestamp, expires_at: Option<Timestamp>, revoked_at: Option<Timestamp>) -> Self {
        match (revoked_at, expires_at) {
            (Some(_), _) => Self::Revoked,
            (None, Some(expires_at)) if expires_at <= now => Self::Expired,
            _ => Self::Active,
        }
    }
}

/// A key that somebody wants.
#[derive(Clone, Debug)]
pub struct NewApiKey {
    pub(super) name: String,
    pub(super) scopes: Vec<String>,
    pub(super) expires_at: Option<Timestamp>,
}

impl NewApiKey {
    /// Cleans and checks what somebody in `role` asks for at `now`.
    ///
    /// # Errors
    /// Every fault, by its field: a name that is none, a scope that there is not, that no key may have, or that `role`
    /// has not itself, a time that is over.
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
            faults.push(FieldError::new("/scopes", "too_short", "At least one."));
        }
        if scopes.len() > SCOPES_MOST {
            faults.push(FieldError::new("/scopes", "too_long", format!("At most {SCOPES_MOST}.")));
        } else {
            faults.extend(scopes.iter().enumerate().filter_map(|(n, scope)| scope_fault(role, n, scope)));
        }
        if expires_at.is_some_and(|expires_at| expires_at <= now) {
            faults.push(FieldError::new("/expires_at", "in_the_past", "A time that is still to come."));
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
        ("unknown_scope", "There is no such permission.")
    } else if PEOPLE_ONLY.contains(&scope) {
        ("people_only", "No API key may have this permission.")
    } else if role.has(scope) {
        return None;
    } else {
        ("not_permitted", "Your role does not have this permission itself.")
    };
    Some(FieldError::new(format!("/scopes/{n}"), code, detail))
}

/// Why nothing was done to a key.
#[derive(Debug, Error)]
pub enum ApiKeyError {
    /// There is none with this id.
    #[error("there is no such key")]
    NotFound,
    /// The database's.
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

    /// ACC-13: least privilege.
    #[test]
    fn a_key_has_only_what_its_maker_has_and_nothing_that_is_for_people() {
        assert_eq!(
            parse(Role::Admin, &["jobs.work", "jobs.read", "jobs.work"]).unwrap(),
            ["jobs.read", "jobs.work"]
        );
        assert_eq!(parse(Role::Moderator, &["users.read"]).unwrap(), ["users.read"]);
        assert_eq!(parse(Role::Moderator, &["users.read", "jobs.read"]).unwrap_err(), ["not_permitted"]);
        assert_eq!(parse(Role::Admin, &[]).unwrap_err(), ["too_short"]);
        assert_eq!(parse(Role::Admin, &["jobs", ""]).unwrap_err(), ["unknown_scope", "unknown_scope"]);
        for scope in PEOPLE_ONLY {
            assert_eq!(parse(Role::Admin, &[scope]).unwrap_err(), ["people_only"], "{scope}");
        }
        assert_eq!(parse(Role::Admin, &["jobs.read"; SCOPES_MOST + 1]).unwrap_err(), ["too_long"]);
    }

    #[test]
    fn each_fault_is_named() {
        let faults = NewApiKey::parse(Role::Admin, NOW, " ", &["x".to_owned()], Some(NOW)).unwrap_err();
        let pointers: Vec<_> = faults.iter().map(|fault| &*fault.pointer).collect();
        assert_eq!(pointers, ["/name", "/scopes/0", "/expires_at"]);
    }

    #[test]
    fn a_key_ends_when_it_expires_or_is_revoked() {
        let at = |expires, revoked| ApiKeyStatus::at(NOW, expires, revoked);
        let later = NOW + kith_kernel::seconds(1);
        assert_eq!(at(None, None), ApiKeyStatus::Active);
        assert_eq!(at(Some(later), None), ApiKeyStatus::Active);
        assert_eq!(at(Some(NOW), None), ApiKeyStatus::Expired);
        assert_eq!(at(Some(later), Some(NOW)), ApiKeyStatus::Revoked);
    }
}
