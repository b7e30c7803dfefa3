//! Commands that the command line sends over the control socket, and the replies of the server. Both are
//! JSON.

use std::path::PathBuf;

use kith_automation::jobs::JobOperation;
use kith_automation::schedules::{ScheduleOperation, ScheduleOperationResult};
use kith_kernel::{ApiKeyId, Timestamp, UserId};
use kith_platform::audit::archive::Archive;
use kith_platform::auth::api_keys::ApiKey;
use kith_platform::auth::{ResealedColumn, Rotation};
use kith_platform::consumers::operator::{ConsumerCommand, ConsumerReply};
use kith_store::{AuditChain, AuditHead, MigrationState, MigrationStatus};
use serde::{Deserialize, Serialize};

/// Command to a server. The type is not `Debug`, because a command may contain a password.
#[derive(Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub(crate) enum Command {
    CreateAdmin {
        email: String,
        display_name: String,
        password: String,
    },
    /// Grants the administrator role to the account with this address, if there is one.
    PromoteAdmin {
        email: String,
    },
    /// Marks an e-mail address as verified.
    VerifyEmail {
        email: String,
    },
    /// Removes an unverified e-mail address from its account.
    ReleaseEmail {
        email: String,
    },
    /// True to sign with the new key immediately and invalidate all access tokens.
    RotateKeys {
        at_once: bool,
    },
    /// Encrypts all stored secrets again with the current secret.
    ResealKeys,
    CreateApiKey {
        /// E-mail address of the administrator who owns the key.
        admin: String,
        name: String,
        scopes: Vec<String>,
        lifetime_s: Option<u64>,
    },
    ListApiKeys,
    Jobs {
        order: JobOperation,
    },
    RevokeApiKey {
        id: ApiKeyId,
    },
    Schedules(ScheduleOperation),
    Consumers(ConsumerCommand),
    MigrateStatus,
    /// Requests the address on which the server listens.
    Address,
    AuditVerify {
        /// Head of the audit log that the chain must contain.
        expected: Option<String>,
        /// Number of links at the beginning of the chain that may be sealed without a key.
        max_unkeyed: i64,
    },
    AuditAcceptHead,
    AuditArchive {
        older_than_days: u16,
        /// Absolute path of the file to create.
        file: PathBuf,
    },
    AuditVerifyArchive {
        /// Absolute path of the archive.
        file: PathBuf,
    },
    /// Level to set. `None` only requests the current level.
    LogLevel {
        level: Option<String>,
    },
}

/// Reply to a command.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    AdminCreated {
        user_id: UserId,
    },
    /// Id of the account that is now an administrator. `None` if no account has the address.
    AdminPromoted {
        user_id: Option<UserId>,
    },
    EmailVerified {
        user_id: UserId,
        at: Option<Timestamp>,
    },
    EmailReleased {
        user_id: UserId,
    },
    KeysRotated(KeysRotated),
    KeysResealed(Vec<ResealedColumn>),
    ApiKeyCreated(RevealedKey),
    ApiKeys(Vec<ApiKey>),
    ApiKeyRevoked,
    Lines(Vec<String>),
    Schedules(ScheduleOperationResult),
    Consumers(ConsumerReply),
    Migrations(Vec<MigrationLine>),
    LogLevel(String),
    Address(String),
    Audit(AuditReport),
    AuditHeadAccepted(String),
    AuditArchive(ArchiveReport),
    Refused(String),
}

/// API key in plain text. The type is not `Debug` or `Display`, so that no message can contain the key.
#[derive(Serialize, Deserialize)]
pub(crate) struct RevealedKey(pub(super) String);

impl RevealedKey {
    /// Returns the key, so that it can be printed to the terminal once.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for RevealedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Result of a rotation of the signing keys.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeysRotated {
    pub key_id: String,
    pub signs_from: Timestamp,
    pub others_retire_at: Timestamp,
    /// True if an earlier rotation was still in progress. No new key was then created.
    pub already_in_progress: bool,
}

impl From<Rotation> for KeysRotated {
    fn from(
        Rotation { key_id, signs_from, previous_retire_at: others_retire_at, is_pending: under_way }: Rotation,
    ) -> Self {
        Self { key_id, signs_from, others_retire_at, already_in_progress: under_way }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MigrationLine {
    name: String,
    applied_at: Option<Timestamp>,
    is_known: bool,
}

impl From<MigrationStatus> for MigrationLine {
    fn from(status: MigrationStatus) -> Self {
        let applied_at = match status.state {
            MigrationState::Applied { at } => Some(at),
            _ => None,
        };
        Self { name: status.name, applied_at, is_known: status.state != MigrationState::Unknown }
    }
}

impl From<MigrationLine> for MigrationStatus {
    fn from(line: MigrationLine) -> Self {
        let state = match (line.applied_at, line.is_known) {
            (Some(at), _) => MigrationState::Applied { at },
            (None, true) => MigrationState::Pending,
            (None, false) => MigrationState::Unknown,
        };
        Self { name: line.name, state }
    }
}

/// Result of verifying an audit chain that is intact.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AuditReport {
    /// Number of links, which is the number of sealed entries.
    pub links: i64,
    /// Head of the chain: the number of links, a colon, and the hash of the last link in hexadecimal.
    pub head: String,
    /// Number of links at the beginning of the chain that were sealed without a key, by a version without
    /// keys.
    pub unkeyed: i64,
    /// Number of links at the beginning of the chain that were moved to archives.
    pub archived: i64,
}

impl From<AuditChain> for AuditReport {
    fn from(AuditChain { links, head: hash, unkeyed, archived }: AuditChain) -> Self {
        let head = AuditHead { links, hash }.to_string();
        Self { links, head, unkeyed, archived: archived.links }
    }
}

/// Contents of an archive of the audit log.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ArchiveReport {
    /// Number of links in the archive.
    pub links: i64,
    /// Head of the chain before the first link of the archive.
    pub from: String,
    /// Head of the chain at the last link of the archive.
    pub to: String,
    /// True if the database contains further entries that are old enough to archive.
    pub more: bool,
}

impl From<Archive> for ArchiveReport {
    fn from(archive: Archive) -> Self {
        let Archive { from, to, more } = archive;
        Self { links: archive.links(), from: from.to_string(), to: to.to_string(), more }
    }
}
