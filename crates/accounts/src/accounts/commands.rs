//! Commands on the caller's own account. Each runs in one transaction. Passwords are hashed before the
//! transaction begins.

use kith_kernel::{Ctx, UserId};
use kith_platform::auth::Role;
use kith_platform::http::Preconditions;
use kith_store::{Tx, TxOutcome};

use super::log_in::{self, IssuedSession, PasswordCheck};
use super::model::{AccountError, ClientInfo, NewAccount, SessionId, User};
use super::profile::ProfileChange;
use super::{events, rows, rules};

/// Client that sends a registration, and the hash by which rejected registrations of an address are counted.
#[derive(Clone, Debug)]
pub struct RegistrationContext {
    /// Client, as recorded in the session and the audit entry.
    pub client: ClientInfo,
    /// Keyed hash of the e-mail address. The `email_taken` responses are counted by it. `None` if rate
    /// limits are disabled.
    pub address_hash: Option<[u8; 32]>,
}

/// Creates an account and its first session. For a taken address, [`AccountError::EmailTaken`] is returned
/// at most 10 times an hour. A free address can always be registered.
///
/// # Errors
/// Returns [`AccountError::EmailTaken`] if an account has the address, and
/// [`AccountError::TooManyTakenResponses`] after 10 `EmailTaken` errors for this address within an hour.
pub fn register(
    tx: &Tx<'_>,
    ctx: &Ctx,
    account: &NewAccount,
    registration: &RegistrationContext,
) -> TxOutcome<(User, IssuedSession), AccountError> {
    match try_register(tx, ctx, account, registration) {
        Ok(signed_in) => TxOutcome::Commit(signed_in),
        Err(error @ AccountError::EmailTaken) => {
            let Some(address) = &registration.address_hash else { return TxOutcome::Rollback(error) };
            match record_taken_response(tx, ctx, address) {
                Ok(()) => TxOutcome::CommitRefusal(error),
                Err(refusal) => TxOutcome::Rollback(refusal),
            }
        }
        Err(error) => TxOutcome::Rollback(error),
    }
}

fn record_taken_response(tx: &Tx<'_>, ctx: &Ctx, address: &[u8; 32]) -> Result<(), AccountError> {
    super::queries::check_taken_responses(tx, address, ctx.now)?;
    Ok(rows::insert_refusal(tx, ctx.new_id(|id| id), address, ctx.now)?)
}

fn try_register(
    tx: &Tx<'_>,
    ctx: &Ctx,
    account: &NewAccount,
    registration: &RegistrationContext,
) -> Result<(User, IssuedSession), AccountError> {
    if let Some(address) = &registration.address_hash {
        // Serializes registrations of one address, so that each rejected attempt is counted.
        tx.lock("registrations", [hex(address)])?;
    }
    let user = create_account(tx, ctx, account, Role::User)?;
    let session = log_in::start_session(tx, ctx, user.id, &registration.client)?;
    Ok((user, session))
}

/// Creates an account. If the role is administrator, the e-mail address is marked as verified.
///
/// # Errors
/// Returns [`AccountError::EmailTaken`] if an account has the address.
pub fn create_account(
    tx: &Tx<'_>,
    ctx: &Ctx,
    account: &NewAccount,
    role: Role,
) -> Result<User, AccountError> {
    let email_verified_at = (role == Role::Admin).then_some(ctx.now);
    let (email, name) = (account.email.address.clone(), account.display_name.clone());
    let user = User {
        email_verified: email_verified_at.is_some(),
        email_verified_at,
        ..User::new(ctx.new_id(UserId), email, name, role, ctx.now)
    };
    if !rows::insert_user(tx, &user, account)? {
        return Err(AccountError::EmailTaken);
    }
    tx.audit(ctx, "account.registered", user.id);
    tx.emit(ctx, events::registered(&user));
    Ok(user)
}

fn hex(bytes: &[u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Changes the profile of a user if `preconditions` are met.
///
/// # Errors
/// Returns [`AccountError::ProfileChanged`] if a precondition fails, [`AccountError::CallerDeleted`] if the
/// account was deleted.
pub fn update_profile(
    tx: &Tx<'_>,
    ctx: &Ctx,
    id: UserId,
    change: &ProfileChange,
    preconditions: &Preconditions,
) -> Result<User, AccountError> {
    tx.lock("user", [id])?;
    let present = rows::find_user(tx, id)?.ok_or(AccountError::CallerDeleted)?;
    preconditions.check(&present)?;
    let user = change.apply(&present);
    if user != present {
        rows::update_profile(tx, &user)?;
        tx.audit(ctx, "account.updated", id);
        tx.emit(ctx, events::updated(id));
    }
    Ok(user)
}

/// Sets a new password if `check` verified the current one, and ends all other sessions of the user.
///
/// # Errors
/// Returns [`AccountError::WrongPassword`] if `check` failed, [`AccountError::Locked`] during a
/// lock-out.
pub fn change_password(
    tx: &Tx<'_>,
    ctx: &Ctx,
    user: UserId,
    session: SessionId,
    check: &PasswordCheck,
    new_hash: &str,
) -> TxOutcome<(), AccountError> {
    check.run_if_correct(tx, ctx, AccountError::WrongPassword, |tx| {
        rows::set_password(tx, user, new_hash)?;
        log_in::end_sessions(tx, ctx, user, Some(session))?;
        tx.audit_with_details(ctx, "account.password_changed", user, Some(user), check.client.details());
        Ok(())
    })
}

/// Marks an account as deleted, ends its sessions and runs `leave`, the deletion hooks of the other modules.
/// Returns the time of the purge, after the grace period.
///
/// # Errors
/// Returns [`AccountError::WrongPassword`] if `check` failed, [`AccountError::Locked`] during a lock-out,
/// [`AccountError::LastAdmin`] for the last active administrator, [`AccountError::CallerDeleted`] if the
/// account is already deleted.
pub fn delete(
    tx: &Tx<'_>,
    ctx: &Ctx,
    user: UserId,
    check: &PasswordCheck,
    leave: impl Fn(&Tx<'_>) -> Result<(), kith_store::Error>,
) -> TxOutcome<kith_kernel::Timestamp, AccountError> {
    check.run_if_correct(tx, ctx, AccountError::WrongPassword, |tx| {
        tx.lock("admins", ["all"])?;
        let account = rows::find_account(tx, user)?.ok_or(AccountError::CallerDeleted)?;
        if account.purge_at.is_some() {
            return Err(AccountError::CallerDeleted);
        }
        rules::check_not_last_admin(&account, rows::count_admins(tx)?)?;
        // Runs before the user is locked, because the hook of the module `bonds` locks both partners
        // together.
        leave(tx)?;
        tx.lock("user", [user])?;
        let purge_at = ctx.now + rules::hold_period(&account.email);
        rows::set_deleted(tx, user, Some(ctx.now), Some(purge_at))?;
        log_in::end_sessions(tx, ctx, user, None)?;
        tx.audit_with_details(ctx, "account.deleted", user, Some(user), check.client.details());
        tx.emit(ctx, events::deleted(user));
        Ok(purge_at)
    })
}
