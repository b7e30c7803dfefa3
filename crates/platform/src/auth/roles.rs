//! Roles, and the named permissions that each of them has. What a permission lets somebody do is the handler's business.

use std::fmt;

use kith_store::{Column, Error, Row};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What somebody is on this server. Each role has what its permissions say and nothing that goes without saying.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Somebody with an account.
    User,
    /// Somebody who acts for a business.
    Business,
    /// Looks after what people do to each other.
    Moderator,
    /// Runs the server.
    Admin,
}

impl Role {
    /// All of them, the least first.
    pub const ALL: [Self; 4] = [Self::User, Self::Business, Self::Moderator, Self::Admin];

    /// As the database and the API write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Business => "business",
            Self::Moderator => "moderator",
            Self::Admin => "admin",
        }
    }

    /// Reads what [`Role::as_str`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }

    /// Whether it has the permission of this name.
    pub fn has(self, permission: &str) -> bool {
        PERMISSIONS.iter().any(|(name, roles)| *name == permission && roles.contains(&self))
    }
}

impl Column for Role {
    fn from_row(row: &Row<'_>, at: usize) -> Result<Self, Error> {
        let text: String = row.get(at)?;
        Self::parse(&text).ok_or_else(|| Error::fault(format_args!("{text:?} is no role")))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A permission that a handler asks for: `Allowed<ReadUsers>`.
pub trait Permission: Send + Sync + 'static {
    /// As OpenAPI names it, in `security(("bearer" = ["users.read"]))`.
    const NAME: &'static str;
}

macro_rules! permissions {
    ($($(#[$doc:meta])* $name:ident = $text:literal for $($role:ident),+;)+) => {
        $($(#[$doc])* #[derive(Clone, Copy, Debug)] pub struct $name;
        impl Permission for $name {
            const NAME: &'static str = $text;
        })+
        /// Every permission, and the roles that have it.
        pub const PERMISSIONS: &[(&str, &[Role])] = &[$(($text, &[$(Role::$role),+])),+];
    };
}

permissions! {
    /// See accounts, their roles and whether they are suspended.
    ReadUsers = "users.read" for Moderator, Admin;
    /// Suspend accounts, and let them back in.
    SuspendUsers = "users.suspend" for Moderator, Admin;
    /// Give somebody another role.
    SetRoles = "users.set_role" for Admin;
    /// Settle whose an e-mail address is: prove one, or release one that is not proven.
    VerifyUsers = "users.verify" for Admin;
    /// Read the audit log.
    ReadAudit = "audit.read" for Admin;
    /// See what the server says of itself: configuration, database, counts.
    ReadFacts = "facts.read" for Admin;
    /// See and change what is logged.
    WriteLogs = "logs.write" for Admin;
    /// Declare what collections of spaces hold.
    WriteCollections = "collections.write" for Admin;
    /// See jobs, queues and what became of them.
    ReadJobs = "jobs.read" for Admin;
    /// Enqueue, cancel and retry jobs.
    WriteJobs = "jobs.write" for Admin;
    /// Take jobs out of queues and say what became of them: what a worker does.
    WorkJobs = "jobs.work" for Admin;
    /// Pause, resume, limit and drain queues.
    WriteQueues = "queues.write" for Admin;
    /// See schedules and their runs.
    ReadSchedules = "schedules.read" for Admin;
    /// Make, change, pause and run schedules.
    WriteSchedules = "schedules.write" for Admin;
    /// See scheduled HTTP callbacks, their endpoints and answers.
    ReadCallbacks = "callbacks.read" for Admin;
    /// Make and change scheduled HTTP callbacks and their endpoints.
    WriteCallbacks = "callbacks.write" for Admin;
    /// See which API keys there are, never the keys themselves.
    ReadApiKeys = "api_keys.read" for Admin;
    /// Make and revoke API keys.
    WriteApiKeys = "api_keys.write" for Admin;
}

/// Permissions that no API key can have: by them it could do more than it was made for, outlive its end, or shut out those
/// who would end it.
pub const PEOPLE_ONLY: &[&str] = &[SetRoles::NAME, SuspendUsers::NAME, VerifyUsers::NAME, WriteApiKeys::NAME];

#[cfg(test)]
mod tests {
    use super::*;

    /// ACC-09: least privilege by default.
    #[test]
    fn whoever_is_nobody_special_has_no_permission() {
        for (name, _) in PERMISSIONS {
            assert!(!Role::User.has(name) && !Role::Business.has(name), "{name}");
            assert!(Role::Admin.has(name), "{name}");
        }
        assert!(Role::Moderator.has(ReadUsers::NAME) && !Role::Moderator.has(SetRoles::NAME));
        assert!(!Role::Admin.has("users.rea") && !Role::Admin.has(""));
    }

    #[test]
    fn a_role_reads_back() {
        for role in Role::ALL {
            assert_eq!(Role::parse(role.as_str()), Some(role));
            assert_eq!(serde_json::to_value(role).unwrap(), role.as_str());
        }
        assert_eq!(Role::parse("root"), None);
    }
}
