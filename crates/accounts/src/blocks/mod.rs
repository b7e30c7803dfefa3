//! Who has shut the door on whom. What a closed door means is each module's own affair: it says so in `MODULE.blocked`,
//! and joins `blocks (blocker, blocked)` in its statements.
//!
//! Nobody learns here whether somebody exists, or has blocked them: every id can be blocked, and reads the same after it.

mod http;
mod model;
mod rows;

use kith_kernel::{Ctx, UserId};
use kith_platform::{Blocked, ExportPart, Module, PersonalData, Tag};
use kith_store::{Migration, NewEvent, Tx};
use serde_json::json;

pub use model::{Block, BlockError, BlockId};

const CREATED: &str = "block.created";
const REMOVED: &str = "block.removed";
/// How many people one person can block.
const MOST: i64 = 10_000;

/// What the server mounts.
pub static MODULE: Module = Module {
    needs: &["accounts"],
    tags: &[Tag { name: "Blocks", description: "Block users: neither can contact or find the other." }],
    routes: http::routes,
    migrations: &[Migration { version: 1, name: "blocks", sql: include_str!("migrations/0001_blocks.sql") }],
    problems: http::PROBLEMS,
    events: &[CREATED, REMOVED],
    personal: Some(PersonalData {
        leave: |_, _, _| Ok(()),
        export: &[ExportPart::Value(|q, user| Ok(json!(rows::list(q, user, BlockId::LAST, MOST)?)))],
        count: |q, user| Ok(vec![("blocks", rows::count(q, user)?)]),
        purge: |tx, user| rows::purge(tx, user),
    }),
    ..Module::named("blocks")
};

/// Shuts the door on `blocked`, and has every module close its own. Doing it again changes nothing.
///
/// # Errors
/// [`BlockError`] says what is in the way.
fn block(
    tx: &Tx<'_>,
    ctx: &Ctx,
    blocker: UserId,
    blocked: UserId,
    doors: &[Blocked],
) -> Result<Block, BlockError> {
    if blocker == blocked {
        return Err(BlockError::ToSelf);
    }
    tx.lock("user", [blocker, blocked])?;
    if let Some(block) = rows::find(tx, blocker, blocked)? {
        return Ok(block);
    }
    if rows::count(tx, blocker)? >= MOST {
        return Err(BlockError::TooMany);
    }
    let display_name = rows::find_visible_name(tx, blocker, blocked)?;
    let block = Block { id: ctx.new_id(BlockId), user_id: blocked, display_name, blocked_at: ctx.now };
    rows::insert(tx, blocker, &block)?;
    for close in doors {
        close(tx, ctx, blocker, blocked)?;
    }
    tx.audit(ctx, "block.created", blocked);
    tx.emit(ctx, about(CREATED, blocker, blocked));
    Ok(block)
}

/// Removes the block. If the other user has not blocked this one too, each module then runs its `unblocked` hook. Bonds and
/// requests that the block ended stay ended.
fn unblock(
    tx: &Tx<'_>,
    ctx: &Ctx,
    blocker: UserId,
    blocked: UserId,
    doors: &[Blocked],
) -> Result<(), BlockError> {
    tx.lock("user", [blocker, blocked])?;
    if rows::delete(tx, blocker, blocked)? {
        if rows::find(tx, blocked, blocker)?.is_none() {
            for open in doors {
                open(tx, ctx, blocker, blocked)?;
            }
        }
        tx.audit(ctx, "block.removed", blocked);
        tx.emit(ctx, about(REMOVED, blocker, blocked));
    }
    Ok(())
}

/// For the blocker's own devices, and for nobody else.
fn about(kind: &'static str, blocker: UserId, blocked: UserId) -> NewEvent {
    NewEvent {
        kind,
        subject: blocker.0,
        recipients: vec![blocker],
        payload: json!({ "blocker": blocker, "blocked": blocked }),
    }
}
