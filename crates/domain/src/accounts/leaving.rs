//! Leaving for good: what happens when the hold of a deleted account is over, and what a person can take along.
//!
//! Nothing is purged in one step: what would go is counted, too many at once stop it, and a manifest is on the disk first.

use kith_kernel::{Ctx, Timestamp, UserId};
use kith_platform::{App, PersonalData, UpkeepError, purge};
use kith_store::{Error, Query, Tx};
use serde::Serialize;
use serde_json::{Map, Value};

use super::model::Account;
use super::{events, rows, rules};

/// What stands in others' histories for somebody who has gone.
pub const GONE: &str = "Deleted account";

/// What is about to be purged.
#[derive(Debug, Serialize)]
struct Manifest {
    user_id: UserId,
    /// When the purge was decided.
    at: Timestamp,
    /// By module and kind: how many rows go, or are emptied.
    rows: Map<String, Value>,
}

/// Forgets sessions and counts that have run out.
///
/// # Errors
/// The database's.
pub async fn tidy(app: App) -> Result<(), UpkeepError> {
    let ctx = app.system_ctx("upkeep");
    app.write(&ctx, |tx, ctx| {
        let refused_before = ctx.now - rules::REFUSALS_WITHIN;
        rows::tidy(tx, ctx.now, refused_before, rules::Failures::forgotten_before(ctx.now))
    })
    .await?;
    app.write(&ctx, |tx, ctx| {
        tx.erase_old_audit_details(
            "session.refused",
            ctx.now - rules::REFUSED_DETAILS_KEPT,
            rules::TIDIED_AT_ONCE,
        )
    })
    .await?;
    Ok(())
}

/// Purges accounts whose hold is over.
///
/// # Errors
/// The database's, or the disk's.
pub async fn purge_due(app: App) -> Result<(), UpkeepError> {
    let ctx = app.system_ctx("upkeep");
    let most = app.config.accounts.purge_most;
    let now = ctx.renewed().now;
    let due = app.db.read(move |q| rows::list_due(q, now, i64::from(most) + 1)).await?;
    purge::check_count(due.len(), most, "accounts", "accounts.purge_most")?;
    for user in due {
        purge_one(&app, &ctx, user).await?;
    }
    Ok(())
}

/// Purges an account at once that has been deleted and can be nobody's.
pub async fn purge_if_made_up(app: &App, user: UserId) {
    let found = app.db.read(move |q| rows::find_account(q, user)).await;
    let made_up = matches!(found, Ok(Some(account)) if rules::is_made_up(&account.email));
    if made_up {
        // What fails now is done by the upkeep, with all that is due.
        let _ = purge_one(app, &app.system_ctx("upkeep"), user).await;
    }
}

async fn purge_one(app: &App, ctx: &Ctx, user: UserId) -> Result<(), UpkeepError> {
    let parts = parts(app);
    let counted = parts.clone();
    let counts = app.db.read(move |q| count(q, &counted, user)).await?;
    let manifest = Manifest { user_id: user, at: ctx.renewed().now, rows: counts };
    let text = purge::keep_manifest(app, &user.to_string(), &manifest).await?;
    app.write(ctx, move |tx, ctx| {
        tx.lock("user", [user])?;
        if !rows::is_due(tx, user, ctx.now)? {
            return Ok(());
        }
        // What was made up is nobody, and what is done in its name can be looked up as long as any refusal.
        let is_somebody = |account: Account| !rules::is_made_up(&account.email);
        if rows::find_account(tx, user)?.is_none_or(is_somebody) {
            tx.erase_audit_details(user)?;
        }
        for (_, personal) in &parts {
            (personal.purge)(tx, user)?;
        }
        rows::insert_purge(tx, user, ctx.now, &text)?;
        tx.audit(ctx, "account.purged", user);
        tx.emit(ctx, events::purged(user));
        Ok::<_, Error>(())
    })
    .await?;
    Ok(())
}

type Parts = Vec<(&'static str, PersonalData)>;

fn parts(app: &App) -> Parts {
    app.modules.iter().filter_map(|module| Some((module.name, module.personal?))).collect()
}

fn count(q: &Query<'_>, parts: &Parts, user: UserId) -> Result<Map<String, Value>, Error> {
    let counts = parts.iter().map(|(name, personal)| {
        let kinds = (personal.count)(q, user)?;
        let kinds: Map<_, _> = kinds.into_iter().map(|(kind, n)| (kind.to_owned(), n.into())).collect();
        Ok(((*name).to_owned(), kinds.into()))
    });
    counts.collect()
}

/// Everything that is kept about a person, for themselves.
///
/// # Errors
/// The database's.
pub async fn export(app: &App, ctx: &Ctx, user: UserId) -> Result<Value, Error> {
    let parts = parts(app);
    let modules = app.db.export(move |q| {
        let each = parts.iter().map(|(name, personal)| Ok(((*name).to_owned(), (personal.export)(q, user)?)));
        each.collect::<Result<Map<_, _>, Error>>()
    });
    let modules = modules.await?;
    Ok(serde_json::json!({ "exported_at": ctx.now, "user_id": user, "modules": modules }))
}

/// What this module itself keeps about people.
pub const PERSONAL: PersonalData = PersonalData {
    // What the module does itself when somebody leaves is in `commands::delete`.
    leave: |_, _, _| Ok(()),
    export: export_own,
    count: |q, user| Ok(vec![("account", 1), ("sessions", rows::count_sessions(q, user)?)]),
    purge: purge_own,
};

fn export_own(q: &Query<'_>, user: UserId) -> Result<Value, Error> {
    let now = Timestamp::EPOCH;
    let sessions = rows::list_sessions(q, user, super::SessionId(kith_kernel::uuid::Uuid::nil()), now)?;
    Ok(serde_json::json!({ "profile": rows::find_user(q, user)?, "sessions": sessions }))
}

fn purge_own(tx: &Tx<'_>, user: UserId) -> Result<(), Error> {
    rows::delete_sessions(tx, user, None)?;
    rows::empty_user(tx, user, GONE)
}
