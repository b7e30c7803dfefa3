//! Administration of accounts: roles, suspension, verification and release of e-mail addresses. All changes
//! are recorded in the audit log.

use kith_kernel::{Ctx, Problem, UserId};
use kith_platform::App;
use kith_platform::auth::Role;
use kith_store::Tx;
use serde_json::json;

use super::model::{Account, AccountError, Email};
use super::{events, log_in, rows, rules};

/// Sets the role of an account. The new role applies from the user's next request on.
///
/// # Errors
/// Returns [`AccountError::SelfAction`] for the actor's own account, [`AccountError::NotFound`] if there is
/// no such account, [`AccountError::LastAdmin`] if the last active administrator would lose the role.
pub fn set_role(
    tx: &Tx<'_>,
    ctx: &Ctx,
    actor: UserId,
    id: UserId,
    role: Role,
) -> Result<Account, AccountError> {
    if actor == id {
        return Err(AccountError::SelfAction);
    }
    change_role(tx, ctx, lock_account(tx, id)?, role)
}

fn change_role(tx: &Tx<'_>, ctx: &Ctx, account: Account, role: Role) -> Result<Account, AccountError> {
    let id = account.id;
    if account.role == role {
        return Ok(account);
    }
    rules::check_not_last_admin(&account, rows::count_admins(tx)?)?;
    rows::set_role(tx, id, role)?;
    let details = json!({ "from": account.role, "to": role });
    tx.audit_with_details(ctx, "account.role_changed", id, Some(id), details);
    tx.emit(ctx, events::role_changed(id, role.as_str()));
    Ok(Account { role, ..account })
}

/// Suspends an account: ends its sessions and rejects log-ins until it is reinstated.
///
/// # Errors
/// Returns [`AccountError::SelfAction`] for the actor's own account, [`AccountError::NotFound`] if there is
/// no such account, [`AccountError::RoleTooHigh`] if its role is not below the actor's,
/// [`AccountError::LastAdmin`] for the last active administrator.
pub fn suspend(
    tx: &Tx<'_>,
    ctx: &Ctx,
    (actor, role): (UserId, Role),
    id: UserId,
    reason: Option<&str>,
) -> Result<Account, AccountError> {
    let account = lock_account(tx, id)?;
    rules::check_suspension(actor, role, &account)?;
    if account.suspended_at.is_some() {
        return Ok(account);
    }
    rules::check_not_last_admin(&account, rows::count_admins(tx)?)?;
    suspend_locked(tx, ctx, id, reason)?;
    reload_account(tx, id)
}

/// Suspends an account. The caller has locked it and checked the rules.
fn suspend_locked(tx: &Tx<'_>, ctx: &Ctx, id: UserId, reason: Option<&str>) -> Result<(), AccountError> {
    rows::set_suspended(tx, id, Some(ctx.now))?;
    log_in::end_sessions(tx, ctx, id, None)?;
    tx.audit_with_details(ctx, "account.suspended", id, Some(id), json!({ "reason": reason }));
    tx.emit(ctx, events::suspended(id));
    Ok(())
}

/// Reinstates a suspended account.
///
/// # Errors
/// Returns [`AccountError::SelfAction`], [`AccountError::NotFound`] or [`AccountError::RoleTooHigh`], as
/// [`suspend`] does.
pub fn reinstate(
    tx: &Tx<'_>,
    ctx: &Ctx,
    (actor, role): (UserId, Role),
    id: UserId,
) -> Result<Account, AccountError> {
    let account = lock_account(tx, id)?;
    rules::check_suspension(actor, role, &account)?;
    if account.suspended_at.is_none() {
        return Ok(account);
    }
    rows::set_suspended(tx, id, None)?;
    tx.audit(ctx, "account.reinstated", id);
    tx.emit(ctx, events::reinstated(id));
    reload_account(tx, id)
}

/// Marks the e-mail address of an account as verified. From then on, other users can find the account by
/// this address.
///
/// # Errors
/// Returns [`AccountError::NotFound`] if there is no such account or its address was released.
pub fn verify_email(tx: &Tx<'_>, ctx: &Ctx, id: UserId) -> Result<Account, AccountError> {
    let account = lock_account(tx, id)?;
    if account.email.is_empty() {
        return Err(AccountError::NotFound);
    }
    if account.email_verified_at.is_some() {
        return Ok(account);
    }
    rows::set_email_verified(tx, id, ctx.now)?;
    tx.audit(ctx, "account.email_verified", id);
    tx.emit(ctx, events::email_verified(id));
    reload_account(tx, id)
}

/// Removes an unverified e-mail address from its account, so that the real owner of the address can register
/// it. The account is suspended. Its data stays for investigation.
///
/// # Errors
/// Returns [`AccountError::NotFound`] if there is no such account, [`AccountError::EmailVerified`] if the
/// address is verified, [`AccountError::LastAdmin`] for the last active administrator. If `actor` is given,
/// also returns [`AccountError::SelfAction`] and [`AccountError::RoleTooHigh`], as [`suspend`] does.
pub fn release_email(
    tx: &Tx<'_>,
    ctx: &Ctx,
    actor: Option<(UserId, Role)>,
    id: UserId,
) -> Result<Account, AccountError> {
    let account = lock_account(tx, id)?;
    if let Some((actor, role)) = actor {
        rules::check_suspension(actor, role, &account)?;
    }
    if account.email.is_empty() {
        return Ok(account);
    }
    if account.email_verified_at.is_some() {
        return Err(AccountError::EmailVerified);
    }
    rules::check_not_last_admin(&account, rows::count_admins(tx)?)?;
    rows::release_email(tx, id)?;
    tx.audit_with_details(ctx, "account.email_released", id, Some(id), json!({ "email": account.email }));
    tx.emit(ctx, events::email_released(id));
    if account.suspended_at.is_none() {
        suspend_locked(tx, ctx, id, Some("e-mail address released"))?;
    }
    reload_account(tx, id)
}

/// Runs [`verify_email`] for the account with this address. Used by the command line and in development
/// mode.
///
/// # Errors
/// Returns the problem of [`AccountError::NotFound`] if no account has the address.
pub async fn verify_address(app: &App, ctx: &Ctx, email: &str) -> Result<Account, Problem> {
    let key = Email::comparison_key(email);
    let verified = app.write(ctx, move |tx, ctx| verify_email(tx, ctx, find_email_holder(tx, &key)?)).await;
    verified.map_err(AccountError::into)
}

/// Runs [`release_email`] for the account with this address. Used by the command line.
///
/// # Errors
/// Returns the error of [`release_email`], converted to a problem.
pub async fn release_address(app: &App, ctx: &Ctx, email: &str) -> Result<Account, Problem> {
    let key = Email::comparison_key(email);
    let released =
        app.write(ctx, move |tx, ctx| release_email(tx, ctx, None, find_email_holder(tx, &key)?)).await;
    released.map_err(AccountError::into)
}

/// Makes the account with this address an administrator. Used by the command line. Returns `None` if no
/// account has the address.
///
/// # Errors
/// Returns the problem of [`AccountError::EmailNotVerified`], because another person may have registered the
/// address, or of [`AccountError::Suspended`].
pub async fn promote_address(app: &App, ctx: &Ctx, email: &str) -> Result<Option<Account>, Problem> {
    let key = Email::comparison_key(email);
    let promoted = app.write(ctx, move |tx, ctx| {
        let Some(id) = rows::find_email_holder(tx, &key)? else { return Ok(None) };
        let account = lock_account(tx, id)?;
        if account.role != Role::Admin && account.email_verified_at.is_none() {
            return Err(AccountError::EmailNotVerified);
        }
        if account.suspended_at.is_some() {
            return Err(AccountError::Suspended);
        }
        change_role(tx, ctx, account, Role::Admin).map(Some)
    });
    promoted.await.map_err(AccountError::into)
}

fn find_email_holder(tx: &Tx<'_>, email_key: &str) -> Result<UserId, AccountError> {
    rows::find_email_holder(tx, email_key)?.ok_or(AccountError::NotFound)
}

/// Locks the set of administrators and the account, and reads the account.
fn lock_account(tx: &Tx<'_>, id: UserId) -> Result<Account, AccountError> {
    tx.lock("admins", ["all"])?;
    tx.lock("user", [id])?;
    rows::find_account(tx, id)?.ok_or(AccountError::NotFound)
}

fn reload_account(tx: &Tx<'_>, id: UserId) -> Result<Account, AccountError> {
    rows::find_account(tx, id)?.ok_or(AccountError::NotFound)
}
