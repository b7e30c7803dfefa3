//! Roles of users and their permissions. Each handler declares the permission that it requires.

use std::fmt;

use kith_store::{Column, Error, Row};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Role of a user, which determines the user's permissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Ordinary user. New accounts have this role.
    User,
    /// Account that represents a business.
    Business,
    /// Moderates content and users.
    Moderator,
    /// Administers the server.
    Admin,
}

impl Role {
    /// All roles, from the least to the most privileged.
    pub const ALL: [Self; 4] = [Self::User, Self::Business, Self::Moderator, Self::Admin];

    /// Returns the name of the role in the database and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Business => "business",
            Self::Moderator => "moderator",
            Self::Admin => "admin",
        }
    }

    /// Parses a name returned by [`Role::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }

    /// Returns true if the role has the permission named `permission`.
    pub fn has(self, permission: &str) -> bool {
        PERMISSIONS.iter().any(|(name, roles)| *name == permission && roles.contains(&self))
    }
}

impl Column for Role {
    fn from_row(row: &Row<'_>, at: usize) -> Result<Self, Error> {
        let text: String = row.get(at)?;
        Self::parse(&text).ok_or_else(|| Error::fault(format_args!("unknown role {text:?}")))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Permission that a handler requires, given as the type parameter of an extractor: `Allowed<ReadUsers>`.
pub trait Permission: Send + Sync + 'static {
    /// Name of the permission in OpenAPI: `security(("bearer" = ["users.read"]))`.
    const NAME: &'static str;
}

macro_rules! permissions {
    ($($(#[$doc:meta])* $name:ident = $text:literal for $($role:ident),+;)+) => {
        $($(#[$doc])* #[derive(Clone, Copy, Debug)] pub struct $name;
        impl Permission for $name {
            const NAME: &'static str = $text;
        })+
        /// All permissions, each with the roles that have it.
        pub const PERMISSIONS: &[(&str, &[Role])] = &[$(($text, &[$(Role::$role),+])),+];
    };
}

permissions! {
    /// Read accounts, including roles and suspensions.
    ReadUsers = "users.read" for Moderator, Admin;
    /// Suspend and reinstate accounts.
    SuspendUsers = "users.suspend" for Moderator, Admin;
    /// Change the role of a user.
    SetRoles = "users.set_role" for Admin;
    /// Verify e-mail addresses, and remove unverified addresses from accounts.
    VerifyUsers = "users.verify" for Admin;
    /// Read the audit log.
    ReadAudit = "audit.read" for Admin;
    /// Read the server's facts: configuration, database and counts.
    ReadFacts = "facts.read" for Admin;
    /// Read and change the log level.
    WriteLogs = "logs.write" for Admin;
    /// Declare collections of spaces.
    WriteCollections = "collections.write" for Admin;
    /// Read jobs and queues.
    ReadJobs = "jobs.read" for Admin;
    /// Enqueue, cancel and retry jobs.
    WriteJobs = "jobs.write" for Admin;
    /// Claim jobs and report their outcomes, as workers do.
    WorkJobs = "jobs.work" for Admin;
    /// Pause, resume, limit and drain queues.
    WriteQueues = "queues.write" for Admin;
    /// Read schedules and their runs.
    ReadSchedules = "schedules.read" for Admin;
    /// Create, change, pause and run schedules.
    WriteSchedules = "schedules.write" for Admin;
    /// Read scheduled HTTP callbacks, their endpoints and responses.
    ReadCallbacks = "callbacks.read" for Admin;
    /// Create and change scheduled HTTP callbacks and their endpoints.
    WriteCallbacks = "callbacks.write" for Admin;
    /// Read API keys, without their secrets.
    ReadApiKeys = "api_keys.read" for Admin;
    /// Create and revoke API keys.
    WriteApiKeys = "api_keys.write" for Admin;
}

/// Permissions that API keys cannot have. With them, a key could extend its own permissions or lifetime, or
/// suspend the administrators who could revoke the key.
pub const USER_ONLY_PERMISSIONS: &[&str] =
    &[SetRoles::NAME, SuspendUsers::NAME, VerifyUsers::NAME, WriteApiKeys::NAME];

#[cfg(test)]
mod tests {
    use super::*;

    /// ACC-09: roles without administrative tasks have no permissions.
    #[test]
    fn user_and_business_roles_have_no_permissions() {
        for (name, _) in PERMISSIONS {
            assert!(!Role::User.has(name) && !Role::Business.has(name), "{name}");
            assert!(Role::Admin.has(name), "{name}");
        }
        assert!(Role::Moderator.has(ReadUsers::NAME) && !Role::Moderator.has(SetRoles::NAME));
        assert!(!Role::Admin.has("users.rea") && !Role::Admin.has(""));
    }

    #[test]
    fn role_names_round_trip() {
        for role in Role::ALL {
            assert_eq!(Role::parse(role.as_str()), Some(role));
            assert_eq!(serde_json::to_value(role).unwrap(), role.as_str());
        }
        assert_eq!(Role::parse("root"), None);
    }
}
