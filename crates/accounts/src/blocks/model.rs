//! Types of blocks.

use kith_kernel::uuid::Uuid;
use kith_kernel::{Timestamp, UserId, id_type};
use serde::Serialize;
use thiserror::Error;
use utoipa::ToSchema;

id_type! {
    /// Block ID.
    BlockId
}

impl BlockId {
    /// Largest possible ID: the start of a list that is sorted newest first.
    pub const LAST: Self = Self(Uuid::max());
}

/// Block of another user by the caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Block {
    /// Block ID, used for paging only.
    #[serde(skip)]
    pub id: BlockId,
    /// ID of the blocked user.
    pub user_id: UserId,
    /// Display name of the blocked user at the time of the block; `null` if the caller could not see it.
    #[schema(required = true)]
    pub display_name: Option<String>,
    /// Time of the block.
    pub blocked_at: Timestamp,
}

/// Error of a command about blocks. If it is returned, nothing was changed.
#[derive(Debug, Error)]
pub enum BlockError {
    /// Users cannot block themselves.
    #[error("users cannot block themselves")]
    SelfBlock,
    /// The caller has reached the maximum number of blocks.
    #[error("too many users are blocked")]
    TooMany,
    /// The caller has not blocked this user.
    #[error("the block does not exist")]
    NotFound,
    /// The database operation failed.
    #[error(transparent)]
    Store(#[from] kith_store::Error),
}
