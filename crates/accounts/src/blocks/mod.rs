//! Blocks between users. Each module applies blocks to its own data: in its hook `MODULE.on_block`, and by
//! joining the table `blocks (blocker, blocked)` in its statements.
//!
//! The API does not reveal whether a user exists or has blocked the caller: every ID can be blocked, with the
//! same response.

mod http;
mod model;
mod rows;

use kith_kernel::{Ctx, UserId};
use kith_platform::{BlockHook, ExportPart, Module, PersonalData, Tag};
use kith_store::{Migration, NewEvent, Tx};
use serde_json::json;

pub use model::{Block, BlockError, BlockId};

const CREATED: &str = "block.created";
const REMOVED: &str = "block.removed";
/// Maximum number of blocks per user.
const MAX_BLOCKS: i64 = 10_000;

/// The module `blocks`.
pub static MODULE: Module = Module {
    depends_on: &["accounts"],
    tags: &[Tag { name: "Blocks", description: "Block users: neither can contact or find the other." }],
    routes: http::routes,
    migrations: &[Migration { version: 1, name: "blocks", sql: include_str!("migrations/0001_blocks.sql") }],
    problems: http::PROBLEMS,
    events: &[CREATED, REMOVED],
    personal: Some(PersonalData {
        on_account_deletion: |_, _, _| Ok(()),
        export: &[ExportPart::Value(|q, user| Ok(json!(rows::list(q, user, BlockId::LAST, MAX_BLOCKS)?)))],
        count: |q, user| Ok(vec![("blocks", rows::count(q, user)?)]),
        purge: |tx, user| rows::purge(tx, user),
    }),
    ..Module::named("blocks")
};

/// Creates a block and runs the `on_block` hook of every module in the same transaction. If the block
/// already exists, returns it and changes nothing.
///
/// # Errors
/// Returns [`BlockError::SelfBlock`] if both users are the same, and [`BlockError::TooMany`] if the blocker
/// has reached [`MAX_BLOCKS`].
fn block(
    tx: &Tx<'_>,
    ctx: &Ctx,
    blocker: UserId,
    blocked: UserId,
    hooks: &[BlockHook],
) -> Result<Block, BlockError> {
    if blocker == blocked {
        return Err(BlockError::SelfBlock);
    }
    tx.lock("user", [blocker, blocked])?;
    if let Some(block) = rows::find(tx, blocker, blocked)? {
        return Ok(block);
    }
    if rows::count(tx, blocker)? >= MAX_BLOCKS {
        return Err(BlockError::TooMany);
    }
    let display_name = rows::find_visible_name(tx, blocker, blocked)?;
    let block = Block { id: ctx.new_id(BlockId), user_id: blocked, display_name, blocked_at: ctx.now };
    rows::insert(tx, blocker, &block)?;
    for close in hooks {
        close(tx, ctx, blocker, blocked)?;
    }
    tx.audit(ctx, "block.created", blocked);
    tx.emit(ctx, block_event(CREATED, blocker, blocked));
    Ok(block)
}

/// Removes a block. If the other user has not blocked this one, runs the `on_unblock` hook of every
/// module in the same transaction. Bonds and requests that the block ended are not restored.
fn unblock(
    tx: &Tx<'_>,
    ctx: &Ctx,
    blocker: UserId,
    blocked: UserId,
    hooks: &[BlockHook],
) -> Result<(), BlockError> {
    tx.lock("user", [blocker, blocked])?;
    if rows::delete(tx, blocker, blocked)? {
        if rows::find(tx, blocked, blocker)?.is_none() {
            for open in hooks {
                open(tx, ctx, blocker, blocked)?;
            }
        }
        tx.audit(ctx, "block.removed", blocked);
        tx.emit(ctx, block_event(REMOVED, blocker, blocked));
    }
    Ok(())
}

/// Builds an event that only the blocker receives.
fn block_event(kind: &'static str, blocker: UserId, blocked: UserId) -> NewEvent {
    NewEvent {
        kind,
        subject: blocker.0,
        recipients: vec![blocker],
        payload: json!({ "blocker": blocker, "blocked": blocked }),
    }
}
