//! Bonds, alive and over.

use std::time::Duration;

use kith_kernel::{TextRules, Timestamp, UserId, days};
use serde::Serialize;
use utoipa::ToSchema;

use super::BondId;
use kith_accounts::accounts::Person;

/// Why somebody breaks up, for themselves alone.
pub const REASON: TextRules = TextRules { min: 0, max: 500, newlines: true };
/// A bond can come back this long after it ended, the last moment included.
const RESTORABLE: Duration = days(30);

/// Until when a bond that ended at `ended_at` can come back, this moment included.
pub fn restorable_until(ended_at: Timestamp) -> Timestamp {
    ended_at + RESTORABLE
}

/// A bond, as one of its two sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Bond {
    /// Of this bond; the same after a restoration.
    pub id: BondId,
    /// The other one.
    pub partner: Person,
    /// When it was first formed.
    pub since: Timestamp,
    /// When it last came back after a breakup.
    #[schema(required = true)]
    pub restored_at: Option<Timestamp>,
    /// How often it came back.
    pub restorations: i64,
}

/// A bond with how it ended, if it did, as one of its two sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct History {
    /// The bond itself; the name is as it was when it ended.
    #[serde(flatten)]
    pub bond: Bond,
    /// When it ended; null while it lasts.
    #[schema(required = true)]
    pub ended_at: Option<Timestamp>,
    /// Until when a request that is accepted between the two brings it back.
    #[schema(required = true)]
    pub restorable_until: Option<Timestamp>,
    /// When it was archived: it cannot come back, and what was in its space is kept apart.
    #[schema(required = true)]
    pub archived_at: Option<Timestamp>,
    /// Each time that it ended, the first one first.
    pub breakups: Vec<Breakup>,
}

/// One time that a bond ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Breakup {
    /// When.
    pub ended_at: Timestamp,
    /// When it came back, if it did.
    #[schema(required = true)]
    pub restored_at: Option<Timestamp>,
    /// What you wrote, if it was you who broke up; nobody else ever sees it.
    #[schema(required = true)]
    pub reason: Option<String>,
}

/// A bond of a pair that could come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Former {
    /// Which.
    pub id: BondId,
    /// When it was first formed.
    pub since: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// How often it has come back before.
    pub restorations: i64,
}

/// A living bond and its two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Living {
    /// Which.
    pub id: BondId,
    /// Both, the smaller id first.
    pub users: [UserId; 2],
}
