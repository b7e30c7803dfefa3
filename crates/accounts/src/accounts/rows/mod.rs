//! SQL statements of accounts, one function per statement. Contains no business rules.

use kith_kernel::uuid::Uuid;
use kith_kernel::{Timestamp, UserId};
use kith_platform::auth::{Access, Role};
use kith_store::{Columns, Error, FromRow, Query, Row, Tx, params, row_columns};

use super::listing::AccountFilter;
use super::model::{Account, AccountStatus, Credentials, NewAccount, User, UserSummary};
use super::rules::SYNTHETIC_EMAIL_SUFFIX;

mod limits;
mod purges;
mod sessions;

pub use limits::*;
pub use purges::*;
pub use sessions::*;

row_columns! {
    user_columns => User {
        id = "id",
        email = "email",
        display_name = "display_name",
        role = "role",
        nickname = "nickname",
        theme = "theme",
        locale = "locale",
        time_zone = "time_zone",
        pronouns = "pronouns",
        created_at = "created_at",
        email_verified_at: Option<Timestamp> = "email_verified_at";
        email_verified = email_verified_at.is_some()
    }
}

row_columns! {
    account_columns => Account {
        id = "id",
        email = "email",
        display_name = "display_name",
        role = "role",
        created_at = "created_at",
        suspended_at: Option<Timestamp> = "suspended_at",
        purge_at: Option<Timestamp> = "purge_at",
        email_verified_at = "email_verified_at";
        status = status_of(suspended_at, purge_at)
    }
}

impl FromRow for UserSummary {
    /// Reads the columns `id` and `display_name`.
    fn from_columns(columns: &mut Columns<'_, '_>) -> Result<Self, Error> {
        Ok(Self { id: columns.read()?, display_name: columns.read()? })
    }
}

/// Inserts the account unless its address is taken. Returns `true` if it was inserted.
pub fn insert_user(tx: &Tx<'_>, user: &User, account: &NewAccount) -> Result<bool, Error> {
    let inserted = tx.exec(
        "INSERT INTO users (id, email, email_key, display_name, password_hash, role, created_at, email_verified_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (email_key) DO NOTHING",
        params![
            user.id,
            user.email,
            account.email.key,
            user.display_name,
            account.password_hash,
            user.role.as_str(),
            user.created_at,
            user.email_verified_at
        ],
    )?;
    Ok(inserted == 1)
}

pub fn find_user(q: &Query<'_>, id: UserId) -> Result<Option<User>, Error> {
    q.one(concat!("SELECT ", user_columns!(), " FROM users WHERE id = $1"), params![id], User::read_row)
}

/// Returns the account with this e-mail key and its credentials, unless the address was released.
pub fn find_credentials(q: &Query<'_>, email_key: &str) -> Result<Option<Credentials>, Error> {
    q.one(
        concat!(
            "SELECT ",
            user_columns!(),
            ", password_hash, password_version, suspended_at, purge_at FROM users WHERE email_key = $1 AND purged_at IS NULL AND email <> ''"
        ),
        params![email_key],
        read_credentials,
    )
}

pub fn find_credentials_by_id(q: &Query<'_>, id: UserId) -> Result<Option<Credentials>, Error> {
    q.one(
        concat!(
            "SELECT ",
            user_columns!(),
            ", password_hash, password_version, suspended_at, purge_at FROM users WHERE id = $1 AND purged_at IS NULL"
        ),
        params![id],
        read_credentials,
    )
}

/// Returns the user with this e-mail key, unless their account is deleted.
///
/// # Errors
/// Returns the store's error if the query fails.
pub fn find_by_email(q: &Query<'_>, email_key: &str) -> Result<Option<UserId>, Error> {
    let sql = "SELECT id FROM users WHERE email_key = $1 AND deleted_at IS NULL";
    q.one(sql, params![email_key], |row| row.get(0))
}

/// Owner of an e-mail address.
#[derive(Clone, Copy, Debug)]
pub struct EmailOwner {
    /// User ID.
    pub user: UserId,
    /// `true` if the address is verified.
    pub is_verified: bool,
}

/// Returns the owner of the address with this e-mail key, unless their account is deleted.
///
/// # Errors
/// Returns the store's error if the query fails.
pub fn find_email_owner(q: &Query<'_>, email_key: &str) -> Result<Option<EmailOwner>, Error> {
    let sql =
        "SELECT id, email_verified_at IS NOT NULL FROM users WHERE email_key = $1 AND deleted_at IS NULL";
    q.one(sql, params![email_key], |row| Ok(EmailOwner { user: row.get(0)?, is_verified: row.get(1)? }))
}

/// Returns the user whose account has this e-mail key, even if the account is deleted but not yet purged.
pub fn find_email_holder(q: &Query<'_>, email_key: &str) -> Result<Option<UserId>, Error> {
    let sql = "SELECT id FROM users WHERE email_key = $1 AND purged_at IS NULL AND email <> ''";
    q.one(sql, params![email_key], |row| row.get(0))
}

/// Returns up to `limit` accounts whose e-mail key must be recomputed: user ID, address and current key.
pub fn list_outdated_email_keys(q: &Query<'_>, limit: i64) -> Result<Vec<(UserId, String, String)>, Error> {
    let sql = "SELECT c.user_id, COALESCE(u.email, ''), COALESCE(u.email_key, '')
               FROM outdated_email_keys c LEFT JOIN users u ON u.id = c.user_id ORDER BY c.user_id LIMIT $1";
    q.all(sql, params![limit], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
}

/// Records that the e-mail key of an account has been recomputed.
pub fn delete_outdated_email_key(tx: &Tx<'_>, user: UserId) -> Result<(), Error> {
    tx.exec("DELETE FROM outdated_email_keys WHERE user_id = $1", params![user]).map(drop)
}

/// Sets the e-mail key of an account. Returns `false` if another account has that key.
pub fn set_email_key(tx: &Tx<'_>, user: UserId, key: &str) -> Result<bool, Error> {
    let sql = "UPDATE users SET email_key = $2 WHERE id = $1
               AND NOT EXISTS (SELECT 1 FROM users other WHERE other.email_key = $2)";
    Ok(tx.exec(sql, params![user, key])? == 1)
}

/// Records that the e-mail address of an account is verified.
pub fn set_email_verified(tx: &Tx<'_>, user: UserId, at: Timestamp) -> Result<(), Error> {
    tx.exec_deferred("UPDATE users SET email_verified_at = $2 WHERE id = $1", params![user, at])?;
    Ok(())
}

/// Removes the e-mail address of an account, so that another account can register it.
pub fn release_email(tx: &Tx<'_>, user: UserId) -> Result<(), Error> {
    let sql =
        "UPDATE users SET email = '', email_key = 'released:' || id, email_verified_at = NULL WHERE id = $1";
    tx.exec_deferred(sql, params![user])?;
    Ok(())
}

pub fn update_profile(tx: &Tx<'_>, user: &User) -> Result<(), Error> {
    tx.exec_deferred(
        "UPDATE users SET display_name = $2, nickname = $3, theme = $4, locale = $5, time_zone = $6, pronouns = $7
         WHERE id = $1",
        params![
            user.id,
            user.display_name,
            user.nickname,
            user.theme,
            user.locale,
            user.time_zone,
            user.pronouns
        ],
    )?;
    Ok(())
}

/// Replaces the hash of an unchanged password, after the hash parameters changed. The password version
/// stays.
pub fn set_password_hash(tx: &Tx<'_>, user: UserId, hash: &str) -> Result<(), Error> {
    tx.exec_deferred("UPDATE users SET password_hash = $2 WHERE id = $1", params![user, hash])?;
    Ok(())
}

/// Stores a new password and increases the password version.
pub fn set_password(tx: &Tx<'_>, user: UserId, hash: &str) -> Result<(), Error> {
    let sql = "UPDATE users SET password_hash = $2, password_version = password_version + 1 WHERE id = $1";
    tx.exec_deferred(sql, params![user, hash])?;
    Ok(())
}

/// Marks an account as deleted, or as not deleted if the times are `None`.
pub fn set_deleted(
    tx: &Tx<'_>,
    user: UserId,
    deleted_at: Option<Timestamp>,
    purge_at: Option<Timestamp>,
) -> Result<(), Error> {
    let sql = "UPDATE users SET deleted_at = $2, purge_at = $3, purge_elapsed_ms = NULL WHERE id = $1";
    tx.exec_deferred(sql, params![user, deleted_at, purge_at])?;
    Ok(())
}

/// Counts accounts by the beginning of their password hash, up to the salt.
///
/// An argon2 hash ends in a salt of 22 characters and a digest of 43 characters, each preceded by `$`. The
/// first 7 characters of a bcrypt hash contain its cost. Other texts are counted as `unknown`.
pub fn count_hashes(q: &Query<'_>) -> Result<Vec<(String, i64)>, Error> {
    q.all(
        "SELECT kind, COUNT(*) FROM (
           SELECT CASE WHEN password_hash LIKE $1 AND LENGTH(password_hash) > 67
                       THEN SUBSTR(password_hash, 1, LENGTH(password_hash) - 67)
                       WHEN password_hash LIKE $2 AND LENGTH(password_hash) = 60 THEN SUBSTR(password_hash, 1, 7)
                       ELSE 'unknown' END AS kind
           FROM users WHERE purged_at IS NULL
         ) AS kinds GROUP BY kind ORDER BY kind",
        params!["$argon2%", "$2%"],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

pub fn set_role(tx: &Tx<'_>, user: UserId, role: Role) -> Result<(), Error> {
    tx.exec_deferred("UPDATE users SET role = $2 WHERE id = $1", params![user, role.as_str()])?;
    Ok(())
}

pub fn set_suspended(tx: &Tx<'_>, user: UserId, at: Option<Timestamp>) -> Result<(), Error> {
    tx.exec_deferred("UPDATE users SET suspended_at = $2 WHERE id = $1", params![user, at])?;
    Ok(())
}

/// Counts the active administrators, except synthetic accounts.
pub fn count_admins(q: &Query<'_>) -> Result<i64, Error> {
    let sql = "SELECT COUNT(*) FROM users
               WHERE role = 'admin' AND suspended_at IS NULL AND deleted_at IS NULL AND email_key NOT LIKE '%' || $1";
    Ok(q.one(sql, params![SYNTHETIC_EMAIL_SUFFIX], |row| row.get(0))?.unwrap_or(0))
}

/// Returns the active administrators, including synthetic accounts, ordered by ID.
pub fn list_admins(q: &Query<'_>) -> Result<Vec<UserId>, Error> {
    let sql = "SELECT id FROM users WHERE role = 'admin' AND suspended_at IS NULL AND deleted_at IS NULL ORDER BY id";
    q.all(sql, &[], |row| row.get(0))
}

pub fn find_account(q: &Query<'_>, id: UserId) -> Result<Option<Account>, Error> {
    q.one(
        concat!("SELECT ", account_columns!(), " FROM users WHERE id = $1 AND purged_at IS NULL"),
        params![id],
        Account::read_row,
    )
}

macro_rules! accounts {
    ($condition:literal) => {
        concat!("SELECT ", account_columns!(), " FROM users WHERE purged_at IS NULL AND ", $condition)
    };
}

/// Returns a page of accounts that are not purged, newest first. An absent filter is passed as NULL.
pub fn list_accounts(q: &Query<'_>, filter: &AccountFilter) -> Result<Vec<Account>, Error> {
    let status = filter.status.map(|status| match status {
        AccountStatus::Active => "active",
        AccountStatus::Suspended => "suspended",
        AccountStatus::Deleted => "deleted",
    });
    let (before, limit) = (filter.before, filter.limit.rows());
    let role = filter.role.map(Role::as_str);
    // Uses a separate statement per filter, so that each statement can use an index.
    if let Some(email_key) = &filter.email_key {
        return q.all(
            accounts!(
                "email_key = $2 AND id < $1 AND (CAST($3 AS TEXT) IS NULL OR role = $3)
                   AND (CAST($4 AS TEXT) IS NULL
                        OR $4 = CASE WHEN deleted_at IS NOT NULL THEN 'deleted'
                                     WHEN suspended_at IS NOT NULL THEN 'suspended' ELSE 'active' END)"
            ),
            params![before, email_key, role, status],
            Account::read_row,
        );
    }
    if role.is_none() && status.is_none() {
        return q.all(
            accounts!("id < $1 ORDER BY id DESC LIMIT $2"),
            params![before, limit],
            Account::read_row,
        );
    }
    q.all(
        accounts!(
            "id < $1 AND (CAST($2 AS TEXT) IS NULL OR role = $2)
               AND (CAST($3 AS TEXT) IS NULL
                    OR $3 = CASE WHEN deleted_at IS NOT NULL THEN 'deleted'
                                 WHEN suspended_at IS NOT NULL THEN 'suspended' ELSE 'active' END)
             ORDER BY id DESC LIMIT $4"
        ),
        params![before, role, status, limit],
        Account::read_row,
    )
}

/// Returns the role and the open sessions of a user; `None` if the account is suspended or deleted.
pub fn find_access(q: &Query<'_>, user: UserId) -> Result<Option<Access>, Error> {
    let rows = q.all(
        "SELECT u.role, s.id FROM users u LEFT JOIN sessions s ON s.user_id = u.id
         WHERE u.id = $1 AND u.suspended_at IS NULL AND u.deleted_at IS NULL",
        params![user],
        |row| Ok((row.get(0)?, row.get::<Option<Uuid>>(1)?)),
    )?;
    let role = rows.first().map(|(role, _): &(Role, _)| *role);
    let sessions = rows.into_iter().filter_map(|(_, session)| session).collect();
    Ok(role.map(|role| Access { role, sessions }))
}

fn read_credentials(row: &Row<'_>) -> Result<Credentials, Error> {
    let mut columns = Columns::of(row);
    Ok(Credentials {
        user: columns.read()?,
        password_hash: columns.read()?,
        password_version: columns.read()?,
        is_suspended: columns.read::<Option<Timestamp>>()?.is_some(),
        purge_at: columns.read()?,
    })
}

fn status_of(suspended_at: Option<Timestamp>, purge_at: Option<Timestamp>) -> AccountStatus {
    match (purge_at, suspended_at) {
        (Some(_), _) => AccountStatus::Deleted,
        (None, Some(_)) => AccountStatus::Suspended,
        (None, None) => AccountStatus::Active,
    }
}
