//! SQL statements of accounts, one function per statement. No decisions.

use kith_kernel::uuid::Uuid;
use kith_kernel::{Timestamp, UserId};
use kith_platform::auth::{Access, Role};
use kith_platform::purge::PurgeRun;
use kith_store::{Columns, Error, FromRow, Query, Row, Tx, params, row_columns};

use super::listing::AccountFilter;
use super::model::{Account, AccountStatus, Credentials, NewAccount, User, UserSummary};
use super::rules::{self, LogInFailures, SYNTHETIC_EMAIL_SUFFIX};

mod sessions;

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
    /// Reads `id, display_name`.
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

/// Returns the user whose account has this e-mail key, also if the account is deleted and held.
pub fn find_email_holder(q: &Query<'_>, email_key: &str) -> Result<Option<UserId>, Error> {
    let sql = "SELECT id FROM users WHERE email_key = $1 AND purged_at IS NULL AND email <> ''";
    q.one(sql, params![email_key], |row| row.get(0))
}

/// Returns up to `limit` accounts whose e-mail key must be recomputed: user ID, address, present key.
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
    tx.exec("UPDATE users SET email_verified_at = $2 WHERE id = $1", params![user, at])?;
    Ok(())
}

/// Removes the e-mail address of an account, so that another account can register it.
pub fn release_email(tx: &Tx<'_>, user: UserId) -> Result<(), Error> {
    let sql =
        "UPDATE users SET email = '', email_key = 'released:' || id, email_verified_at = NULL WHERE id = $1";
    tx.exec(sql, params![user])?;
    Ok(())
}

pub fn update_profile(tx: &Tx<'_>, user: &User) -> Result<(), Error> {
    tx.exec(
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

/// Stores the same password with new hash parameters. The password version stays.
pub fn set_password_hash(tx: &Tx<'_>, user: UserId, hash: &str) -> Result<(), Error> {
    tx.exec("UPDATE users SET password_hash = $2 WHERE id = $1", params![user, hash])?;
    Ok(())
}

/// Stores a new password and increases the password version.
pub fn set_password(tx: &Tx<'_>, user: UserId, hash: &str) -> Result<(), Error> {
    let sql = "UPDATE users SET password_hash = $2, password_version = password_version + 1 WHERE id = $1";
    tx.exec(sql, params![user, hash])?;
    Ok(())
}

/// Marks an account as deleted, or, with `None`, as not deleted.
pub fn set_deleted(
    tx: &Tx<'_>,
    user: UserId,
    deleted_at: Option<Timestamp>,
    purge_at: Option<Timestamp>,
) -> Result<(), Error> {
    let sql = "UPDATE users SET deleted_at = $2, purge_at = $3, purge_elapsed_ms = NULL WHERE id = $1";
    tx.exec(sql, params![user, deleted_at, purge_at])?;
    Ok(())
}

/// Counts accounts by the part of their password hash before the salt.
///
/// An argon2 hash ends in a salt of 22 and a hash of 43 characters, each preceded by `$`. A bcrypt hash
/// begins with 7 characters that contain its cost. Other texts are counted as `unknown`.
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
    tx.exec("UPDATE users SET role = $2 WHERE id = $1", params![user, role.as_str()])?;
    Ok(())
}

pub fn set_suspended(tx: &Tx<'_>, user: UserId, at: Option<Timestamp>) -> Result<(), Error> {
    tx.exec("UPDATE users SET suspended_at = $2 WHERE id = $1", params![user, at])?;
    Ok(())
}

/// Counts the active administrators, without synthetic accounts.
pub fn count_admins(q: &Query<'_>) -> Result<i64, Error> {
    let sql = "SELECT COUNT(*) FROM users
               WHERE role = 'admin' AND suspended_at IS NULL AND deleted_at IS NULL AND email_key NOT LIKE '%' || $1";
    Ok(q.one(sql, params![SYNTHETIC_EMAIL_SUFFIX], |row| row.get(0))?.unwrap_or(0))
}

/// Returns the active administrators.
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
    // Separate statements, so that each can use an index.
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

pub fn find_failures(q: &Query<'_>, subject: &[u8; 32]) -> Result<LogInFailures, Error> {
    let found = q.one(
        "SELECT failures, failed_at, locked_until FROM login_failures WHERE subject = $1",
        params![subject],
        |row| Ok(LogInFailures { count: row.get(0)?, failed_at: row.get(1)?, locked_until: row.get(2)? }),
    )?;
    Ok(found.unwrap_or(LogInFailures::NONE))
}

pub fn upsert_failures(tx: &Tx<'_>, subject: &[u8; 32], failures: LogInFailures) -> Result<(), Error> {
    tx.exec(
        "INSERT INTO login_failures (subject, failures, failed_at, locked_until) VALUES ($1, $2, $3, $4)
         ON CONFLICT (subject) DO UPDATE
         SET failures = excluded.failures, failed_at = excluded.failed_at, locked_until = excluded.locked_until",
        params![subject, failures.count, failures.failed_at, failures.locked_until],
    )?;
    Ok(())
}

pub fn delete_failures(tx: &Tx<'_>, subject: &[u8; 32]) -> Result<(), Error> {
    tx.exec("DELETE FROM login_failures WHERE subject = $1", params![subject])?;
    Ok(())
}

/// Counts the `email_taken` responses for an address since `since`, and returns the time of the first.
pub fn find_refusals(
    q: &Query<'_>,
    address: &[u8; 32],
    since: Timestamp,
) -> Result<(i64, Option<Timestamp>), Error> {
    let found = q.one(
        "SELECT COUNT(*), MIN(refused_at) FROM registration_refusals WHERE address = $1 AND refused_at > $2",
        params![address, since],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    Ok(found.unwrap_or_default())
}

pub fn insert_refusal(tx: &Tx<'_>, id: Uuid, address: &[u8; 32], at: Timestamp) -> Result<(), Error> {
    let sql = "INSERT INTO registration_refusals (id, address, refused_at) VALUES ($1, $2, $3)";
    tx.exec(sql, params![id, address, at])?;
    Ok(())
}

pub fn insert_link(tx: &Tx<'_>, secret_hash: &[u8; 32], expires_at: Timestamp) -> Result<(), Error> {
    let sql = "INSERT INTO first_admin_links (secret_hash, expires_at) VALUES ($1, $2)";
    tx.exec(sql, params![secret_hash, expires_at])?;
    Ok(())
}

/// Deletes expired links.
pub fn delete_expired_links(tx: &Tx<'_>, now: Timestamp) -> Result<(), Error> {
    tx.exec("DELETE FROM first_admin_links WHERE expires_at <= $1", params![now])?;
    Ok(())
}

pub fn has_link(q: &Query<'_>, secret_hash: &[u8; 32], now: Timestamp) -> Result<bool, Error> {
    let sql = "SELECT 1 FROM first_admin_links WHERE secret_hash = $1 AND expires_at > $2";
    Ok(q.one(sql, params![secret_hash, now], |_| Ok(()))?.is_some())
}

pub fn delete_links(tx: &Tx<'_>) -> Result<(), Error> {
    tx.exec("DELETE FROM first_admin_links", &[])?;
    Ok(())
}

/// Deletes expired sessions, and counters that no longer matter.
pub fn delete_expired(
    tx: &Tx<'_>,
    now: Timestamp,
    refused_before: Timestamp,
    failed_before: Timestamp,
) -> Result<(), Error> {
    tx.exec("DELETE FROM sessions WHERE expires_at <= $1", params![now])?;
    tx.exec("DELETE FROM registration_refusals WHERE refused_at <= $1", params![refused_before])?;
    tx.exec("DELETE FROM login_failures WHERE failed_at <= $1", params![failed_before])?;
    Ok(())
}

/// Sets the end of the hold in observed time for accounts deleted since the previous run. Wall-clock time
/// since the deletion counts only as far as it was observed.
pub fn start_holds(tx: &Tx<'_>, run: &PurgeRun) -> Result<(), Error> {
    tx.exec(
        "UPDATE users SET purge_elapsed_ms = $2 + (purge_at - deleted_at)
            - CASE WHEN deleted_at > $1 THEN 0 WHEN deleted_at < CAST($1 AS BIGINT) - CAST($3 AS BIGINT) THEN $3 ELSE $1 - deleted_at END
         WHERE purge_at IS NOT NULL AND purged_at IS NULL AND purge_elapsed_ms IS NULL",
        params![run.now, run.elapsed_ms, run.elapsed_ms - run.previous_ms],
    )?;
    Ok(())
}

/// Account that is due to be purged.
#[derive(Clone, Copy, Debug)]
pub struct DueAccount {
    /// User ID.
    pub user: UserId,
    /// End of the hold. Together with the ID, it is the position in the list.
    pub purge_at: Timestamp,
}

macro_rules! due {
    ($columns:literal, $and:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM users WHERE purge_at IS NOT NULL AND purged_at IS NULL AND purge_at <= $1
               AND (purge_elapsed_ms <= $2 OR purge_at <= deleted_at)",
            $and
        )
    };
}

/// Returns up to `limit` accounts whose hold is over, longest due first, after `after`. Accounts that were at
/// least [`rules::ESTABLISHED_AGE`] old when they were deleted are included only if `with_established`.
pub fn list_due(
    q: &Query<'_>,
    run: &PurgeRun,
    after: DueAccount,
    with_established: bool,
    limit: i64,
) -> Result<Vec<DueAccount>, Error> {
    q.all(
        due!(
            "id, purge_at",
            " AND (purge_at > $3 OR (purge_at = $3 AND id > $4))
               AND ($5 OR deleted_at - created_at < $6)
             ORDER BY purge_at, id LIMIT $7"
        ),
        params![
            run.now,
            run.elapsed_ms,
            after.purge_at,
            after.user,
            with_established,
            established_ms(),
            limit
        ],
        |row| Ok(DueAccount { user: row.get(0)?, purge_at: row.get(1)? }),
    )
}

/// Returns the number of accounts due to be purged, and how many of them are established.
pub fn count_due(q: &Query<'_>, run: &PurgeRun) -> Result<(i64, i64), Error> {
    let counted = q.one(
        due!("COUNT(*), COALESCE(SUM(CASE WHEN deleted_at - created_at >= $3 THEN 1 ELSE 0 END), 0)", ""),
        params![run.now, run.elapsed_ms, established_ms()],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    Ok(counted.unwrap_or_default())
}

/// Counts the accounts that are established at `now`, including those that are due.
pub fn count_established(q: &Query<'_>, now: Timestamp) -> Result<i64, Error> {
    let sql = "SELECT COUNT(*) FROM users WHERE purged_at IS NULL AND created_at <= $1";
    Ok(q.one(sql, params![now - rules::ESTABLISHED_AGE], |row| row.get(0))?.unwrap_or(0))
}

fn established_ms() -> i64 {
    i64::try_from(rules::ESTABLISHED_AGE.as_millis()).unwrap_or(i64::MAX)
}

/// Returns `true` if the hold of this account is still over, at `now` and in observed time.
pub fn is_due(q: &Query<'_>, user: UserId, now: Timestamp, elapsed_ms: i64) -> Result<bool, Error> {
    let sql = due!("1", " AND id = $3");
    Ok(q.one(sql, params![now, elapsed_ms, user], |_| Ok(()))?.is_some())
}

/// Clears all personal data of an account. Its ID stays, because the histories of others refer to it.
pub fn clear_user(tx: &Tx<'_>, user: UserId, name: &str) -> Result<(), Error> {
    tx.exec(
        "UPDATE users SET email = '', email_key = 'purged:' || id, display_name = $2, password_hash = '',
                role = 'user', email_verified_at = NULL, nickname = NULL, theme = NULL, locale = NULL, time_zone = NULL,
                pronouns = NULL
         WHERE id = $1",
        params![user, name],
    )?;
    Ok(())
}

pub fn insert_purge(tx: &Tx<'_>, user: UserId, now: Timestamp, manifest: &str) -> Result<(), Error> {
    tx.exec("UPDATE users SET purged_at = $2 WHERE id = $1", params![user, now])?;
    tx.exec(
        "INSERT INTO purges (user_id, purged_at, manifest) VALUES ($1, $2, $3)",
        params![user, now, manifest],
    )?;
    Ok(())
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
