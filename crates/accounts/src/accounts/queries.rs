//! Reads about accounts.

use kith_kernel::{Page, Timestamp, UserId};
use kith_store::Query;

use super::administration::AccountList;
use super::model::{Account, AccountError, Credentials, User};
use super::rows;
use super::rules::{self, Failures};

/// The account behind a token.
///
/// # Errors
/// [`AccountError::Gone`] if it was deleted since the token was issued.
pub fn get_user(q: &Query<'_>, id: UserId) -> Result<User, AccountError> {
    rows::find_user(q, id)?.ok_or(AccountError::Gone)
}

/// The account whose address has this key, and what its password is checked against.
///
/// # Errors
/// The database's.
pub fn find_credentials(q: &Query<'_>, email_key: &str) -> Result<Option<Credentials>, AccountError> {
    Ok(rows::find_credentials(q, email_key)?)
}

/// What the password of somebody who is signed in is checked against.
///
/// # Errors
/// [`AccountError::Gone`].
pub fn get_credentials(q: &Query<'_>, id: UserId) -> Result<Credentials, AccountError> {
    rows::find_credentials_of(q, id)?.ok_or(AccountError::Gone)
}

/// Whether `subject` may try a password at `now`.
///
/// # Errors
/// [`AccountError::Locked`].
pub fn may_try(q: &Query<'_>, subject: &[u8; 32], now: Timestamp) -> Result<(), AccountError> {
    let failures: Failures = rows::find_failures(q, subject)?;
    failures.may_try(now)
}

/// Whether it may be said once more at `now` that an address is registered.
///
/// # Errors
/// [`AccountError::TooManyTaken`].
pub fn may_say_taken(q: &Query<'_>, address: &[u8; 32], now: Timestamp) -> Result<(), AccountError> {
    match rows::find_refusals(q, address, now - rules::REFUSALS_WITHIN)? {
        (count, Some(first)) if count >= rules::REFUSALS_MOST => {
            let wait = (first + rules::REFUSALS_WITHIN).since(now);
            Err(AccountError::TooManyTaken { wait })
        }
        _ => Ok(()),
    }
}

/// Whether it is worth hashing a password for this address: not if it is registered, and that was said too often.
///
/// # Errors
/// [`AccountError::TooManyTaken`].
pub fn may_register(
    q: &Query<'_>,
    email_key: &str,
    address: &[u8; 32],
    now: Timestamp,
) -> Result<(), AccountError> {
    if rows::find_holder(q, email_key)?.is_some() { may_say_taken(q, address, now) } else { Ok(()) }
}

/// The account with this id, for those who look after the server.
///
/// # Errors
/// [`AccountError::NotFound`].
pub fn get_account(q: &Query<'_>, id: UserId) -> Result<Account, AccountError> {
    rows::find_account(q, id)?.ok_or(AccountError::NotFound)
}

/// Accounts, newest first.
///
/// # Errors
/// The database's.
pub fn list_accounts(q: &Query<'_>, list: &AccountList) -> Result<Page<Account>, AccountError> {
    Ok(Page::from_rows(rows::list_accounts(q, list)?, list.limit, |account| account.id))
}
