//! What a block is.

use kith_kernel::uuid::Uuid;
use kith_kernel::{Timestamp, UserId, id_type};
use serde::Serialize;
use thiserror::Error;
use utoipa::ToSchema;

id_type! {
    /// One person's door, shut on another.
    BlockId
}

impl BlockId {
    /// Behind all others.
    pub const LAST: Self = Self(Uuid::max());
}

/// A door that somebody has shut, as they see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Block {
    /// For paging only.
    #[serde(skip)]
    pub id: BlockId,
    /// On whom.
    pub user_id: UserId,
    /// Their name as it was then; null if you could not see it.
    #[schema(required = true)]
    pub display_name: Option<String>,
    /// When.
    pub blocked_at: Timestamp,
}

/// Why somebody could not be blocked. Nothing was changed.
#[derive(Debug, Error)]
pub enum BlockError {
    /// One cannot block oneself.
    #[error("nobody blocks themselves")]
    ToSelf,
    /// There are too many already.
    #[error("too many people are blocked")]
    TooMany,
    /// One has not blocked this person.
    #[error("there is no such block")]
    NotFound,
    /// The database's own.
    #[error(transparent)]
    Store(#[from] kith_store::Error),
}
