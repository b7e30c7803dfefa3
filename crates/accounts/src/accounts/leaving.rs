//! Leaving for good: what happens when the hold of a deleted account is over, and what a person can take along.
//!
//! Nothing is purged in one step: it is held, so many go at a time, an unlikely share of the established accounts stops
//! theirs, and a manifest is on the disk first.

use kith_kernel::uuid::Uuid;
use kith_kernel::{Ctx, Timestamp, UserId};
use kith_platform::export::ExportSection;
use kith_platform::purge::{self, PurgeOutcome, PurgeRun};
use kith_platform::{App, ExportPart, PersonalData, UpkeepError};
use kith_store::{Error, Query, Tx};
use serde::Serialize;
use serde_json::{Map, Value};

use super::model::{Account, Email};
use super::rows::DueAccount;
use super::{events, rows, rules};

/// Email keys checked in one transaction.
const KEYS_CHECKED_AT_ONCE: i64 = 100;
/// How many accounts a run tries to purge for each that it may.
const TRIED_FOR_EACH: i64 = 10;

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
        rekey(tx)?;
        rows::tidy_links(tx, ctx.real_now())?;
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

/// Gives addresses the keys of this version where an earlier one made others: a domain and its ASCII form are one.
fn rekey(tx: &Tx<'_>) -> Result<(), Error> {
    for (user, email, key) in rows::list_keys_to_check(tx, KEYS_CHECKED_AT_ONCE)? {
        rows::delete_key_to_check(tx, user)?;
        let new = Email::key_of(&email);
        // A released address has a key that is not made of it.
        if !email.is_empty() && new != key && !rows::set_email_key(tx, user, &new)? {
            tracing::error!(user = %user, "an account has the same mailbox as another, and nobody can sign in to it");
        }
    }
    Ok(())
}

/// Purges accounts whose hold is over.
///
/// # Errors
/// The database's, or the disk's.
pub async fn purge_due(app: App) -> Result<(), UpkeepError> {
    let ctx = app.system_ctx("upkeep");
    let run = PurgeRun::begin(&app, &ctx, "accounts", rows::hold_deleted).await?;
    let fault = check_share(&app, run).await?;
    let most = i64::from(app.config.accounts.purge_most);
    let mut purged = purge_oldest(&app, &ctx, run, fault.is_none(), most).await;
    if fault.is_some() && rules::is_turn_of_established(run.previous_ms, run.elapsed_ms) {
        // Slowly, and never not at all: strangers could have as many accounts grow old.
        purged = purged.and(purge_oldest(&app, &ctx, run, true, 1).await);
    }
    let (backlog, _) = app.db.read(move |q| rows::count_due(q, &run)).await?;
    run.end(&app, &ctx, PurgeOutcome { backlog, fault }).await?;
    purged
}

/// Why established accounts are purged slowly, if so many of them are due that it cannot be their owners' doing.
async fn check_share(app: &App, run: PurgeRun) -> Result<Option<String>, Error> {
    let (_, due) = app.db.read(move |q| rows::count_due(q, &run)).await?;
    if due <= rules::DUE_FREELY {
        return Ok(None);
    }
    let established = app.db.export(move |q| rows::count_established(q, run.now)).await?;
    let share = app.config.accounts.max_purge_share_percent;
    let fault = format!(
        "{due} of {established} accounts that are older than 30 days are due to be purged, more than the {share} % of \
         `accounts.max_purge_share_percent`: {} of these go a day, the oldest first. Look into it, and raise the limit if it \
         is right",
        rules::DUE_FREELY,
    );
    Ok((!rules::may_purge_established(due, established, share)).then_some(fault))
}

/// Purges `most` accounts. One that cannot be purged does not keep those behind it.
async fn purge_oldest(
    app: &App,
    ctx: &Ctx,
    run: PurgeRun,
    with_established: bool,
    most: i64,
) -> Result<(), UpkeepError> {
    let (mut purged, mut tried, mut failure) = (0, 0, None);
    let mut after = DueAccount { user: UserId(Uuid::nil()), purge_at: Timestamp::from_millis(i64::MIN) };
    while purged < most && tried < most * TRIED_FOR_EACH {
        let limit = most - purged;
        let batch = app.db.read(move |q| rows::list_due(q, &run, after, with_established, limit)).await?;
        let Some(last) = batch.last() else { break };
        after = *last;
        for DueAccount { user, .. } in batch {
            tried += 1;
            match purge_one(app, ctx, user, run.elapsed_ms).await {
                Ok(()) => purged += 1,
                // The disk is full, or the database away: then it is nobody's fault who is due.
                Err(PurgeError::Manifest(error)) => return Err(error),
                Err(PurgeError::Account(error)) => {
                    tracing::error!(%error, user = %user, "an account could not be purged; the next is");
                    failure = Some(error);
                }
            }
        }
    }
    failure.map_or(Ok(()), |error| Err(error.into()))
}

/// Purges an account at once that has been deleted and can be nobody's.
pub async fn purge_if_made_up(app: &App, user: UserId) {
    let found = app.db.read(move |q| rows::find_account(q, user)).await;
    let made_up = matches!(found, Ok(Some(account)) if rules::is_made_up(&account.email));
    if made_up {
        // What fails now is done by the upkeep, with all that is due.
        let _ = purge_one(app, &app.system_ctx("upkeep"), user, 0).await;
    }
}

/// Why an account was not purged.
enum PurgeError {
    /// No account can be.
    Manifest(UpkeepError),
    /// This one cannot be.
    Account(Error),
}

impl From<Error> for PurgeError {
    fn from(error: Error) -> Self {
        Self::Account(error)
    }
}

async fn purge_one(app: &App, ctx: &Ctx, user: UserId, elapsed_ms: i64) -> Result<(), PurgeError> {
    let parts = parts(app);
    let counted = parts.clone();
    let counts = app.db.read(move |q| count(q, &counted, user)).await?;
    let manifest = Manifest { user_id: user, at: ctx.renewed().now, rows: counts };
    let kept = purge::keep_manifest(app, &user.to_string(), &manifest).await;
    let text = kept.map_err(PurgeError::Manifest)?;
    app.write(ctx, move |tx, ctx| {
        tx.lock("user", [user])?;
        if !rows::is_due(tx, user, ctx.now, elapsed_ms)? {
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
    app.installed.iter().filter_map(|module| Some((module.name, module.personal?))).collect()
}

fn count(q: &Query<'_>, parts: &Parts, user: UserId) -> Result<Map<String, Value>, Error> {
    let counts = parts.iter().map(|(name, personal)| {
        let kinds = (personal.count)(q, user)?;
        let kinds: Map<_, _> = kinds.into_iter().map(|(kind, n)| (kind.to_owned(), n.into())).collect();
        Ok(((*name).to_owned(), kinds.into()))
    });
    counts.collect()
}

/// Everything that is kept about a person, for themselves, as sections of an export.
pub fn export(app: &App, ctx: &Ctx, user: UserId) -> Vec<ExportSection> {
    let text = |text: String| ExportSection::Text(text);
    let head = serde_json::json!({ "exported_at": ctx.now, "user_id": user }).to_string();
    let head = head.strip_suffix('}').expect("an object");
    let mut sections = vec![text(format!("{head},\"modules\":{{"))];
    for (n, (name, personal)) in parts(app).into_iter().enumerate() {
        let comma = if n > 0 { "," } else { "" };
        sections.push(text(format!("{comma}\"{name}\":")));
        sections.extend(personal.export.iter().map(|part| ExportSection::of(*part, user)));
    }
    sections.push(text("}}".to_owned()));
    sections
}

/// What this module itself keeps about people.
pub const PERSONAL: PersonalData = PersonalData {
    // What the module does itself when somebody leaves is in `commands::delete`.
    leave: |_, _, _| Ok(()),
    export: &[ExportPart::Value(export_own)],
    count: |q, user| Ok(vec![("account", 1), ("sessions", rows::count_sessions(q, user)?)]),
    purge: purge_own,
};

fn export_own(q: &Query<'_>, user: UserId) -> Result<Value, Error> {
    let now = Timestamp::EPOCH;
    let sessions = rows::list_sessions(q, user, super::SessionId(Uuid::nil()), now)?;
    Ok(serde_json::json!({ "profile": rows::find_user(q, user)?, "sessions": sessions }))
}

fn purge_own(tx: &Tx<'_>, user: UserId) -> Result<(), Error> {
    rows::delete_sessions(tx, user, None)?;
    rows::empty_user(tx, user, GONE)
}
