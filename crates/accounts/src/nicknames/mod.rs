//! Private nicknames for other users. Only the user who set a nickname can read it (PRT-09).

mod http;
mod rows;

use kith_kernel::{Ctx, Timestamp, UserId};
use kith_platform::{ExportPart, Module, PersonalData, Tag};
use kith_store::{Error, Migration, NewEvent, Tx};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

const SET: &str = "nickname.set";
const REMOVED: &str = "nickname.removed";
/// Maximum number of nicknames per user.
const MAX_NICKNAMES: i64 = 10_000;

/// The module `nicknames`.
pub static MODULE: Module = Module {
    depends_on: &["accounts", "blocks"],
    tags: &[Tag { name: "Nicknames", description: "Give other users names that only the caller sees." }],
    routes: http::routes,
    migrations: &[Migration {
        version: 1,
        name: "nicknames",
        sql: include_str!("migrations/0001_nicknames.sql"),
    }],
    problems: http::PROBLEMS,
    events: &[SET, REMOVED],
    personal: Some(PersonalData {
        on_account_deletion: |_, _, _| Ok(()),
        export: &[ExportPart::Value(|q, user| {
            Ok(json!(rows::list(q, user, UserId(kith_kernel::uuid::Uuid::nil()), MAX_NICKNAMES)?))
        })],
        count: |q, user| Ok(vec![("nicknames", rows::count(q, user)?)]),
        purge: |tx, user| rows::purge(tx, user),
    }),
    ..Module::named("nicknames")
};

/// Nickname that the caller has given to another user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
struct Nickname {
    /// ID of the user who has the nickname.
    user_id: UserId,
    /// Nickname, 1 to 40 characters.
    nickname: String,
    /// Time of the last change.
    updated_at: Timestamp,
}

/// Sets a nickname. Returns `None` if the owner already has the maximum number of nicknames.
fn set(
    tx: &Tx<'_>,
    ctx: &Ctx,
    owner: UserId,
    user_id: UserId,
    text: &str,
) -> Result<Option<Nickname>, Error> {
    tx.lock("user", [owner])?;
    let existing = rows::find(tx, owner, user_id)?;
    if let Some(same) = existing.as_ref().filter(|existing| existing.nickname == text) {
        return Ok(Some(same.clone()));
    }
    if existing.is_none() && rows::count(tx, owner)? >= MAX_NICKNAMES {
        return Ok(None);
    }
    let nickname = Nickname { user_id, nickname: text.to_owned(), updated_at: ctx.now };
    rows::upsert(tx, owner, &nickname)?;
    tx.audit(ctx, "nickname.set", user_id);
    tx.emit(ctx, nickname_event(SET, owner, user_id));
    Ok(Some(nickname))
}

fn remove(tx: &Tx<'_>, ctx: &Ctx, owner: UserId, user_id: UserId) -> Result<(), Error> {
    tx.lock("user", [owner])?;
    if rows::delete(tx, owner, user_id)? {
        tx.audit(ctx, "nickname.removed", user_id);
        tx.emit(ctx, nickname_event(REMOVED, owner, user_id));
    }
    Ok(())
}

/// Builds an event that only the owner receives.
fn nickname_event(kind: &'static str, owner: UserId, user_id: UserId) -> NewEvent {
    NewEvent { kind, subject: owner.0, recipients: vec![owner], payload: json!({ "user_id": user_id }) }
}
