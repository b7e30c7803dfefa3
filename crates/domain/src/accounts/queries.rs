//! Reads about accounts.

use kith_kernel::UserId;
use kith_store::Query;

use super::model::{AccountError, Email, User};
use super::rows;

/// The account behind a token.
///
/// # Errors
/// [`AccountError::Gone`] if it was deleted since the token was issued.
pub fn get_user(q: &Query<'_>, id: UserId) -> Result<User, AccountError> {
    rows::find_user(q, id)?.ok_or(AccountError::Gone)
}

/// The account with this address, and the hash its password is checked against.
///
/// # Errors
/// The database's.
pub fn find_credentials(q: &Query<'_>, email: &str) -> Result<Option<(User, String)>, AccountError> {
    Ok(rows::find_credentials(q, &Email::key_of(email))?)
}
