//! Purges deleted accounts after their grace period, and exports a user's data.
//!
//! A purge cannot be undone, so it has safeguards. Each run purges a limited number of accounts. If an
//! unusually large share of the established accounts is due, their purge is slowed. A manifest is written to
//! disk before each purge.

use kith_kernel::uuid::Uuid;
use kith_kernel::{Ctx, Timestamp, UserId};
use kith_platform::export::ExportSection;
use kith_platform::purge::{self, PurgeOutcome, PurgeRun};
use kith_platform::{App, ExportPart, MaintenanceError, PersonalData};
use kith_store::{Error, Query, Tx};
use serde::Serialize;
use serde_json::{Map, Value};

use super::model::{Account, Email};
use super::rows::DueAccount;
use super::settings::AccountSettings;
use super::{events, rows, rules};

/// Number of e-mail keys checked in one transaction.
const EMAIL_KEYS_PER_TRANSACTION: i64 = 100;
/// Number of accounts that a run may try to purge, as a multiple of the number that it may purge. Failed
/// tries count.
const MAX_TRIES_PER_PURGE: i64 = 10;

/// Display name that replaces the name of a purged account.
pub const DELETED_ACCOUNT_NAME: &str = "Deleted account";

/// Manifest of a purge, written to disk before the purge.
#[derive(Debug, Serialize)]
struct AccountPurgeManifest {
    user_id: UserId,
    /// Time of the decision to purge.
    at: Timestamp,
    /// Number of rows that are deleted or cleared, by module and kind.
    rows: Map<String, Value>,
}

/// Deletes expired sessions, links and counters. Recomputes e-mail keys that an earlier version of Kith
/// stored. Erases the details of old audit entries about rejected log-ins.
///
/// # Errors
/// Returns an error if the database operation fails.
pub async fn delete_expired(app: App) -> Result<(), MaintenanceError> {
    let ctx = app.system_ctx("maintenance");
    app.write(&ctx, |tx, ctx| {
        let refused_before = ctx.now - rules::TAKEN_RESPONSES_WINDOW;
        recompute_email_keys(tx)?;
        rows::delete_expired_links(tx, ctx.real_now())?;
        rows::delete_expired(tx, ctx.now, refused_before, rules::LogInFailures::expired_before(ctx.now))
    })
    .await?;
    app.write(&ctx, |tx, ctx| {
        tx.erase_old_audit_details(
            "session.refused",
            ctx.now - rules::REFUSED_LOG_IN_RETENTION,
            rules::MAX_ERASED_PER_RUN,
        )
    })
    .await?;
    Ok(())
}

/// Recomputes e-mail keys that an earlier version stored without converting the domain to its ASCII form.
fn recompute_email_keys(tx: &Tx<'_>) -> Result<(), Error> {
    for (user, email, key) in rows::list_outdated_email_keys(tx, EMAIL_KEYS_PER_TRANSACTION)? {
        rows::delete_outdated_email_key(tx, user)?;
        let new = Email::comparison_key(&email);
        // The address of an account is empty after its release. Its key is then not derived from it.
        if !email.is_empty() && new != key && !rows::set_email_key(tx, user, &new)? {
            tracing::error!(user = %user, "account has the same mailbox as another account and cannot log in");
        }
    }
    Ok(())
}

/// Purges accounts whose grace period has ended.
///
/// # Errors
/// Returns an error if the database operation fails or a manifest cannot be written.
pub async fn purge_due(app: App) -> Result<(), MaintenanceError> {
    let ctx = app.system_ctx("maintenance");
    let run = PurgeRun::begin(&app, &ctx, "accounts", rows::start_holds).await?;
    let fault = check_established_share(&app, run).await?;
    let max_purged = i64::from(app.config.section::<AccountSettings>().max_purged_per_run);
    let mut purged = purge_oldest(&app, &ctx, run, fault.is_none(), max_purged).await;
    if fault.is_some() && rules::is_established_purge_due(run.previous_ms, run.elapsed_ms) {
        // Purges established accounts at a low rate. Stopping completely would let an attacker with many
        // aged accounts block the purge forever.
        purged = purged.and(purge_oldest(&app, &ctx, run, true, 1).await);
    }
    let (backlog, _) = app.db.read(move |q| rows::count_due(q, &run)).await?;
    run.end(&app, &ctx, PurgeOutcome { backlog, fault }).await?;
    purged
}

/// Returns why the purge of established accounts must be slowed, or `None` if the number of due ones is
/// normal.
async fn check_established_share(app: &App, run: PurgeRun) -> Result<Option<String>, Error> {
    let (_, due) = app.db.read(move |q| rows::count_due(q, &run)).await?;
    if due <= rules::MAX_ESTABLISHED_PURGES_PER_DAY {
        return Ok(None);
    }
    let established = app.db.export(move |q| rows::count_established(q, run.now)).await?;
    let share = app.config.section::<AccountSettings>().max_purge_percent;
    let fault = format!(
        "{due} of {established} accounts older than 30 days are due for purging, more than the {share} % of \
         `accounts.max_purge_percent`: {} of them are purged per day, the oldest first. Find out why, and \
         raise the limit if the number is correct",
        rules::MAX_ESTABLISHED_PURGES_PER_DAY,
    );
    Ok((!rules::allows_established_purge(due, established, share)).then_some(fault))
}

/// Purges up to `max_purged` accounts, longest overdue first. If an account cannot be purged, continues with
/// the next one.
async fn purge_oldest(
    app: &App,
    ctx: &Ctx,
    run: PurgeRun,
    with_established: bool,
    max_purged: i64,
) -> Result<(), MaintenanceError> {
    let (mut purged, mut attempted, mut failure) = (0, 0, None);
    let mut after = DueAccount { user: UserId(Uuid::nil()), purge_at: Timestamp::from_millis(i64::MIN) };
    while purged < max_purged && attempted < max_purged * MAX_TRIES_PER_PURGE {
        let limit = max_purged - purged;
        let batch = app.db.read(move |q| rows::list_due(q, &run, after, with_established, limit)).await?;
        let Some(last) = batch.last() else { break };
        after = *last;
        for DueAccount { user, .. } in batch {
            attempted += 1;
            match purge_one(app, ctx, user, run.elapsed_ms).await {
                Ok(()) => purged += 1,
                // A manifest that cannot be written is not the account's fault: stop the run.
                Err(PurgeError::Manifest(error)) => return Err(error),
                Err(PurgeError::Account(error)) => {
                    tracing::error!(%error, user = %user, "account could not be purged; continuing with the next");
                    failure = Some(error);
                }
            }
        }
    }
    failure.map_or(Ok(()), |error| Err(error.into()))
}

/// Purges a deleted synthetic account at once, without waiting for the maintenance job.
pub async fn purge_if_synthetic(app: &App, user: UserId) {
    let found = app.db.read(move |q| rows::find_account(q, user)).await;
    let is_synthetic = matches!(found, Ok(Some(account)) if rules::is_synthetic(&account.email));
    if is_synthetic {
        // If this fails, the maintenance job purges the account later.
        let _ = purge_one(app, &app.system_ctx("maintenance"), user, 0).await;
    }
}

/// Error of purging an account.
enum PurgeError {
    /// The manifest cannot be written, so no account can be purged.
    Manifest(MaintenanceError),
    /// This account cannot be purged.
    Account(Error),
}

impl From<Error> for PurgeError {
    fn from(error: Error) -> Self {
        Self::Account(error)
    }
}

async fn purge_one(app: &App, ctx: &Ctx, user: UserId, elapsed_ms: i64) -> Result<(), PurgeError> {
    let parts = personal_data_parts(app);
    let counted = parts.clone();
    let counts = app.db.read(move |q| count(q, &counted, user)).await?;
    let manifest = AccountPurgeManifest { user_id: user, at: ctx.refreshed().now, rows: counts };
    let written = purge::write_manifest(app, &user.to_string(), &manifest).await;
    let text = written.map_err(PurgeError::Manifest)?;
    app.write(ctx, move |tx, ctx| {
        tx.lock("user", [user])?;
        if !rows::is_due(tx, user, ctx.now, elapsed_ms)? {
            return Ok(());
        }
        // Synthetic accounts belong to no person, so their audit details are not erased. They expire like
        // those of any rejected log-in.
        let is_real = |account: Account| !rules::is_synthetic(&account.email);
        if rows::find_account(tx, user)?.is_none_or(is_real) {
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

type PersonalDataParts = Vec<(&'static str, PersonalData)>;

fn personal_data_parts(app: &App) -> PersonalDataParts {
    app.installed.iter().filter_map(|module| Some((module.name, module.personal?))).collect()
}

fn count(q: &Query<'_>, parts: &PersonalDataParts, user: UserId) -> Result<Map<String, Value>, Error> {
    let counts = parts.iter().map(|(name, personal)| {
        let kinds = (personal.count)(q, user)?;
        let kinds: Map<_, _> = kinds.into_iter().map(|(kind, n)| (kind.to_owned(), n.into())).collect();
        Ok(((*name).to_owned(), kinds.into()))
    });
    counts.collect()
}

/// Returns the export of a user's data in sections. Together they form one JSON object with a member per
/// module.
pub fn export(app: &App, ctx: &Ctx, user: UserId) -> Vec<ExportSection> {
    let text = |text: String| ExportSection::Text(text);
    let head = serde_json::json!({ "exported_at": ctx.now, "user_id": user }).to_string();
    let head = head.strip_suffix('}').expect("an object");
    let mut sections = vec![text(format!("{head},\"modules\":{{"))];
    for (n, (name, personal)) in personal_data_parts(app).into_iter().enumerate() {
        let comma = if n > 0 { "," } else { "" };
        sections.push(text(format!("{comma}\"{name}\":")));
        sections.extend(personal.export.iter().map(|part| ExportSection::of(*part, user)));
    }
    sections.push(text("}}".to_owned()));
    sections
}

/// Personal data that this module stores.
pub const PERSONAL: PersonalData = PersonalData {
    // Nothing to do: `commands::delete` already changes the data of this module.
    on_account_deletion: |_, _, _| Ok(()),
    export: &[ExportPart::Value(export_account)],
    count: |q, user| Ok(vec![("account", 1), ("sessions", rows::count_sessions(q, user)?)]),
    purge: purge_account,
};

fn export_account(q: &Query<'_>, user: UserId) -> Result<Value, Error> {
    let now = Timestamp::EPOCH;
    let sessions = rows::list_sessions(q, user, super::SessionId(Uuid::nil()), now)?;
    Ok(serde_json::json!({ "profile": rows::find_user(q, user)?, "sessions": sessions }))
}

fn purge_account(tx: &Tx<'_>, user: UserId) -> Result<(), Error> {
    rows::delete_sessions(tx, user, None)?;
    rows::clear_user(tx, user, DELETED_ACCOUNT_NAME)
}
