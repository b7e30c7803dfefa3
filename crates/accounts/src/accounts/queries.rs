//! Read operations of accounts.

use kith_kernel::{Page, Timestamp, UserId};
use kith_store::Query;

use super::listing::AccountFilter;
use super::model::{Account, AccountError, Credentials, User};
use super::rows;
use super::rules::{self, LogInFailures};

/// Returns the account of the signed-in user `id`.
///
/// # Errors
/// Returns [`AccountError::CallerDeleted`] if the account was deleted after the token was issued.
pub fn get_user(q: &Query<'_>, id: UserId) -> Result<User, AccountError> {
    rows::find_user(q, id)?.ok_or(AccountError::CallerDeleted)
}

/// Returns the account with this e-mail key and its credentials.
///
/// # Errors
/// Returns [`AccountError::Store`] if the query fails.
pub fn find_credentials(q: &Query<'_>, email_key: &str) -> Result<Option<Credentials>, AccountError> {
    Ok(rows::find_credentials(q, email_key)?)
}

/// Returns the credentials of a signed-in user.
///
/// # Errors
/// Returns [`AccountError::CallerDeleted`] if the account was purged.
pub fn get_credentials(q: &Query<'_>, id: UserId) -> Result<Credentials, AccountError> {
    rows::find_credentials_by_id(q, id)?.ok_or(AccountError::CallerDeleted)
}

/// Checks that `subject` is not locked out at `now`.
///
/// # Errors
/// Returns [`AccountError::Locked`] during a lock-out.
pub fn check_not_locked(q: &Query<'_>, subject: &[u8; 32], now: Timestamp) -> Result<(), AccountError> {
    let failures: LogInFailures = rows::find_failures(q, subject)?;
    failures.check_not_locked(now)
}

/// Checks that the error `email_taken` may be returned for an address once more at `now`.
///
/// # Errors
/// Returns [`AccountError::TooManyTakenResponses`] if the error was returned [`rules::MAX_TAKEN_RESPONSES`]
/// times within [`rules::TAKEN_RESPONSES_WINDOW`].
pub fn check_taken_responses(q: &Query<'_>, address: &[u8; 32], now: Timestamp) -> Result<(), AccountError> {
    match rows::find_refusals(q, address, now - rules::TAKEN_RESPONSES_WINDOW)? {
        (count, Some(first)) if count >= rules::MAX_TAKEN_RESPONSES => {
            let wait = (first + rules::TAKEN_RESPONSES_WINDOW).since(now);
            Err(AccountError::TooManyTakenResponses { wait })
        }
        _ => Ok(()),
    }
}

/// Checks whether a registration with this address may proceed. If the address is taken, runs
/// [`check_taken_responses`]. Called before the password is hashed, because hashing is expensive.
///
/// # Errors
/// Returns [`AccountError::TooManyTakenResponses`] if the address is taken and the limit of responses is
/// reached.
pub fn check_registration(
    q: &Query<'_>,
    email_key: &str,
    address: &[u8; 32],
    now: Timestamp,
) -> Result<(), AccountError> {
    if rows::find_email_holder(q, email_key)?.is_some() {
        check_taken_responses(q, address, now)
    } else {
        Ok(())
    }
}

/// Returns an account for administrators.
///
/// # Errors
/// Returns [`AccountError::NotFound`] if there is no such account or it was purged.
pub fn get_account(q: &Query<'_>, id: UserId) -> Result<Account, AccountError> {
    rows::find_account(q, id)?.ok_or(AccountError::NotFound)
}

/// Returns a page of accounts, newest first.
///
/// # Errors
/// Returns [`AccountError::Store`] if the query fails.
pub fn list_accounts(q: &Query<'_>, filter: &AccountFilter) -> Result<Page<Account>, AccountError> {
    Ok(Page::from_rows(rows::list_accounts(q, filter)?, filter.limit, |account| account.id))
}
