//! What people call others for themselves. Nobody but whoever set a nickname ever sees it (PRT-09).

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
/// How many people one person can give a nickname.
const MOST: i64 = 10_000;

/// What the server mounts.
pub static MODULE: Module = Module {
    needs: &["accounts", "blocks"],
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
        leave: |_, _, _| Ok(()),
        export: &[ExportPart::Value(|q, user| {
            Ok(json!(rows::list(q, user, UserId(kith_kernel::uuid::Uuid::nil()), MOST)?))
        })],
        count: |q, user| Ok(vec![("nicknames", rows::count(q, user)?)]),
        purge: |tx, user| rows::purge(tx, user),
    }),
    ..Module::named("nicknames")
};

/// What somebody calls somebody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
struct Nickname {
    /// Whom.
    user_id: UserId,
    nickname: String,
    updated_at: Timestamp,
}

/// `Ok(None)` if there are too many already.
fn set(
    tx: &Tx<'_>,
    ctx: &Ctx,
    owner: UserId,
    user_id: UserId,
    text: &str,
) -> Result<Option<Nickname>, Error> {
    tx.lock("user", [owner])?;
    let known = rows::find(tx, owner, user_id)?;
    if let Some(same) = known.as_ref().filter(|known| known.nickname == text) {
        return Ok(Some(same.clone()));
    }
    if known.is_none() && rows::count(tx, owner)? >= MOST {
        return Ok(None);
    }
    let nickname = Nickname { user_id, nickname: text.to_owned(), updated_at: ctx.now };
    rows::upsert(tx, owner, &nickname)?;
    tx.audit(ctx, "nickname.set", user_id);
    tx.emit(ctx, about(SET, owner, user_id));
    Ok(Some(nickname))
}

fn remove(tx: &Tx<'_>, ctx: &Ctx, owner: UserId, user_id: UserId) -> Result<(), Error> {
    tx.lock("user", [owner])?;
    if rows::delete(tx, owner, user_id)? {
        tx.audit(ctx, "nickname.removed", user_id);
        tx.emit(ctx, about(REMOVED, owner, user_id));
    }
    Ok(())
}

/// For the owner's own devices, and for nobody else.
fn about(kind: &'static str, owner: UserId, user_id: UserId) -> NewEvent {
    NewEvent { kind, subject: owner.0, recipients: vec![owner], payload: json!({ "user_id": user_id }) }
}
