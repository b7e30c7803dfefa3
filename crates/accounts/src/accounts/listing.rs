//! Filter and page parameters of a list of accounts.

use kith_kernel::uuid::Uuid;
use kith_kernel::{Cursor, InvalidCursor, PageLimit, UserId};
use kith_platform::auth::Role;

use super::model::{AccountStatus, Email};

/// Filter and page parameters of a list of accounts.
#[derive(Clone, Debug)]
pub struct AccountFilter {
    pub(super) role: Option<Role>,
    pub(super) status: Option<AccountStatus>,
    pub(super) email_key: Option<String>,
    pub(super) before: UserId,
    pub(super) limit: PageLimit,
}

impl AccountFilter {
    /// Creates a filter for accounts that match all given conditions, starting after `cursor`.
    ///
    /// # Errors
    /// Returns [`InvalidCursor`] if the cursor does not come from this list.
    pub fn new(
        role: Option<Role>,
        status: Option<AccountStatus>,
        email: Option<&str>,
        cursor: Option<&Cursor>,
        limit: PageLimit,
    ) -> Result<Self, InvalidCursor> {
        let before = cursor.map(Cursor::key).transpose()?.unwrap_or(UserId(Uuid::max()));
        Ok(Self { role, status, email_key: email.map(Email::comparison_key), before, limit })
    }
}
