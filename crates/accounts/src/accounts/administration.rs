//! What those do who look after the server: give roles, shut people out, let them in again, verify and release addresses.
//! All of it is audited.

use kith_kernel::uuid::Uuid;
use kith_kernel::{Ctx, Cursor, InvalidCursor, PageLimit, Problem, UserId};
use kith_platform::App;
use kith_platform::auth::Role;
use kith_store::Tx;
use serde_json::json;

use super::model::{Account, AccountError, AccountStatus, Email};
use super::{events, rows, rules, sign_in};

/// Which accounts somebody wants to see, and from where on.
#[derive(Clone, Debug)]
pub struct AccountList {
    pub(super) role: Option<Role>,
    pub(super) status: Option<AccountStatus>,
    pub(super) email_key: Option<String>,
    pub(super) before: UserId,
    pub(super) limit: PageLimit,
}

impl AccountList {
    /// Those with this role, status and address, any unless given, from `cursor` on.
    ///
    /// # Errors
    /// [`InvalidCursor`] if the cursor is not one that such a list handed out.
    pub fn new(
        role: Option<Role>,
        status: Option<AccountStatus>,
        email: Option<&str>,
        cursor: Option<&Cursor>,
        limit: PageLimit,
    ) -> Result<Self, InvalidCursor> {
        let before = cursor.map(Cursor::key).transpose()?.unwrap_or(UserId(Uuid::max()));
        Ok(Self { role, status, email_key: email.map(Email::key_of), before, limit })
    }
}

/// Gives somebody another role. It counts from their next request on.
///
/// # Errors
/// [`AccountError::ToSelf`], [`AccountError::NotFound`], [`AccountError::LastAdmin`].
pub fn set_role(
    tx: &Tx<'_>,
    ctx: &Ctx,
    actor: UserId,
    id: UserId,
    role: Role,
) -> Result<Account, AccountError> {
    if actor == id {
        return Err(AccountError::ToSelf);
    }
    change_role(tx, ctx, lock_account(tx, id)?, role)
}

fn change_role(tx: &Tx<'_>, ctx: &Ctx, account: Account, role: Role) -> Result<Account, AccountError> {
    let id = account.id;
    if account.role == role {
        return Ok(account);
    }
    rules::may_lose_admin(&account, rows::count_admins(tx)?)?;
    rows::set_role(tx, id, role)?;
    let details = json!({ "from": account.role, "to": role });
    tx.audit_with(ctx, "account.role_changed", id, Some(id), details);
    tx.emit(ctx, events::role_changed(id, role.as_str()));
    Ok(Account { role, ..account })
}

/// Shuts somebody out: their sessions end, and they cannot sign in until they are reinstated.
///
/// # Errors
/// [`AccountError::ToSelf`], [`AccountError::NotFound`], [`AccountError::OutOfReach`], [`AccountError::LastAdmin`].
pub fn suspend(
    tx: &Tx<'_>,
    ctx: &Ctx,
    (actor, role): (UserId, Role),
    id: UserId,
    reason: Option<&str>,
) -> Result<Account, AccountError> {
    let account = lock_account(tx, id)?;
    rules::may_suspend(actor, role, &account)?;
    if account.suspended_at.is_some() {
        return Ok(account);
    }
    rules::may_lose_admin(&account, rows::count_admins(tx)?)?;
    suspend_locked(tx, ctx, id, reason)?;
    account_after(tx, id)
}

/// Suspends an account that is locked and may be suspended.
fn suspend_locked(tx: &Tx<'_>, ctx: &Ctx, id: UserId, reason: Option<&str>) -> Result<(), AccountError> {
    rows::set_suspended(tx, id, Some(ctx.now))?;
    sign_in::end_sessions(tx, ctx, id, None)?;
    tx.audit_with(ctx, "account.suspended", id, Some(id), json!({ "reason": reason }));
    tx.emit(ctx, events::suspended(id));
    Ok(())
}

/// Lets somebody in again.
///
/// # Errors
/// [`AccountError::ToSelf`], [`AccountError::NotFound`], [`AccountError::OutOfReach`].
pub fn reinstate(
    tx: &Tx<'_>,
    ctx: &Ctx,
    (actor, role): (UserId, Role),
    id: UserId,
) -> Result<Account, AccountError> {
    let account = lock_account(tx, id)?;
    rules::may_suspend(actor, role, &account)?;
    if account.suspended_at.is_none() {
        return Ok(account);
    }
    rows::set_suspended(tx, id, None)?;
    tx.audit(ctx, "account.reinstated", id);
    tx.emit(ctx, events::reinstated(id));
    account_after(tx, id)
}

/// Marks the address of an account as verified. Other users can find the account by it from then on.
///
/// # Errors
/// [`AccountError::NotFound`], also if the address was released.
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
    account_after(tx, id)
}

/// Removes an unverified address from its account, so that its owner can register it. The account is suspended: it keeps
/// its data, for administrators to investigate, and cannot be signed in to.
///
/// # Errors
/// [`AccountError::NotFound`], [`AccountError::EmailVerified`], [`AccountError::LastAdmin`]; for an `actor` also
/// [`AccountError::ToSelf`], [`AccountError::OutOfReach`].
pub fn release_email(
    tx: &Tx<'_>,
    ctx: &Ctx,
    actor: Option<(UserId, Role)>,
    id: UserId,
) -> Result<Account, AccountError> {
    let account = lock_account(tx, id)?;
    if let Some((actor, role)) = actor {
        rules::may_suspend(actor, role, &account)?;
    }
    if account.email.is_empty() {
        return Ok(account);
    }
    if account.email_verified_at.is_some() {
        return Err(AccountError::EmailVerified);
    }
    rules::may_lose_admin(&account, rows::count_admins(tx)?)?;
    rows::release_email(tx, id)?;
    tx.audit_with(ctx, "account.email_released", id, Some(id), json!({ "email": account.email }));
    tx.emit(ctx, events::email_released(id));
    if account.suspended_at.is_none() {
        suspend_locked(tx, ctx, id, Some("the address was released"))?;
    }
    account_after(tx, id)
}

/// [`verify_email`] for the account with this address, called by operators.
///
/// # Errors
/// [`AccountError::NotFound`].
pub async fn verify_address(app: &App, ctx: &Ctx, email: &str) -> Result<Account, Problem> {
    let key = Email::key_of(email);
    let verified = app.write(ctx, move |tx, ctx| verify_email(tx, ctx, find_holder(tx, &key)?)).await;
    verified.map_err(AccountError::into)
}

/// [`release_email`] for the account with this address, called by operators.
///
/// # Errors
/// As there.
pub async fn release_address(app: &App, ctx: &Ctx, email: &str) -> Result<Account, Problem> {
    let key = Email::key_of(email);
    let released = app.write(ctx, move |tx, ctx| release_email(tx, ctx, None, find_holder(tx, &key)?)).await;
    released.map_err(AccountError::into)
}

/// Makes the account with this address an administrator, called by operators. None if there is no such account.
///
/// # Errors
/// [`AccountError::EmailNotVerified`], because a stranger may have registered the address; [`AccountError::Suspended`].
pub async fn promote_address(app: &App, ctx: &Ctx, email: &str) -> Result<Option<Account>, Problem> {
    let key = Email::key_of(email);
    let promoted = app.write(ctx, move |tx, ctx| {
        let Some(id) = rows::find_holder(tx, &key)? else { return Ok(None) };
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

fn find_holder(tx: &Tx<'_>, email_key: &str) -> Result<UserId, AccountError> {
    rows::find_holder(tx, email_key)?.ok_or(AccountError::NotFound)
}

/// The account, with nobody else deciding about it or about who administers.
fn lock_account(tx: &Tx<'_>, id: UserId) -> Result<Account, AccountError> {
    tx.lock("admins", ["all"])?;
    tx.lock("user", [id])?;
    rows::find_account(tx, id)?.ok_or(AccountError::NotFound)
}

fn account_after(tx: &Tx<'_>, id: UserId) -> Result<Account, AccountError> {
    rows::find_account(tx, id)?.ok_or(AccountError::NotFound)
}
