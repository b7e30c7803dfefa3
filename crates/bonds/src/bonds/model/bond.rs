//! Types of bonds and their breakups.

use std::time::Duration;

use kith_kernel::{TextRules, Timestamp, UserId, days};
use serde::Serialize;
use utoipa::ToSchema;

use super::BondId;
use kith_accounts::accounts::UserSummary;

/// Rules for the reason of a breakup.
pub const REASON: TextRules = TextRules { min: 0, max: 500, newlines: true };
/// Time after the end of a bond within which it can be restored, inclusive.
const RESTORATION_WINDOW: Duration = days(30);

/// Returns the last moment at which a bond that ended at `ended_at` can be restored.
pub fn restorable_until(ended_at: Timestamp) -> Timestamp {
    ended_at + RESTORATION_WINDOW
}

/// Bond between the caller and a partner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Bond {
    /// Bond ID. It stays the same after a restoration.
    pub id: BondId,
    /// Partner of the caller.
    pub partner: UserSummary,
    /// Time at which the bond was first formed.
    pub since: Timestamp,
    /// Time of the last restoration; `null` if the bond was never restored.
    #[schema(required = true)]
    pub restored_at: Option<Timestamp>,
    /// Number of restorations.
    pub restorations: i64,
}

/// Bond with its breakups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct BondHistoryEntry {
    /// Bond. If it has ended, it contains the display name that the partner had at the end.
    #[serde(flatten)]
    pub bond: Bond,
    /// Time at which the bond ended; `null` while it is active.
    #[schema(required = true)]
    pub ended_at: Option<Timestamp>,
    /// Last moment at which accepting a request between both users restores the bond; `null` if the bond
    /// cannot be restored.
    #[schema(required = true)]
    pub restorable_until: Option<Timestamp>,
    /// Time at which the bond was archived; `null` if it is not archived. An archived bond cannot be
    /// restored. Its space is archived too.
    #[schema(required = true)]
    pub archived_at: Option<Timestamp>,
    /// Breakups of the bond, oldest first.
    pub breakups: Vec<Breakup>,
}

/// Breakup of a bond.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Breakup {
    /// Time of the breakup.
    pub ended_at: Timestamp,
    /// Time of the restoration that followed; `null` if there was none.
    #[schema(required = true)]
    pub restored_at: Option<Timestamp>,
    /// Reason that the caller gave; `null` if the partner ended the bond or no reason was given.
    #[schema(required = true)]
    pub reason: Option<String>,
}

/// Bond of a pair that has ended but is not archived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormerBond {
    /// Bond ID.
    pub id: BondId,
    /// Time at which the bond was first formed.
    pub since: Timestamp,
    /// Time at which the bond ended.
    pub ended_at: Timestamp,
    /// Number of restorations so far.
    pub restorations: i64,
}

/// Active bond and its two users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActiveBond {
    /// Bond ID.
    pub id: BondId,
    /// Both users, smaller ID first.
    pub users: [UserId; 2],
}
