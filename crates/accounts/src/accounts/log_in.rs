//! Log-in, account restoration and sessions. Failed log-ins are counted whether or not the account exists.

use kith_kernel::{Ctx, UserId};
use kith_platform::auth::Keyring;
use kith_store::{Tx, TxOutcome};

use super::model::{AccountError, ClientInfo, Credentials, SessionId, User};
use super::secrets::RefreshToken;
use super::{events, rows, rules};

/// Session that was started or refreshed.
#[derive(Clone, Copy, Debug)]
pub struct IssuedSession {
    /// Session ID.
    pub id: SessionId,
    /// User of the session.
    pub user_id: UserId,
    /// Number of refreshes so far. It identifies the current pair of tokens.
    pub generation: i64,
}

impl IssuedSession {
    /// Returns the refresh token of the current pair as text. For responses only.
    pub fn refresh_token(self, keyring: &Keyring) -> String {
        RefreshToken { session: self.id, generation: self.generation }.reveal(keyring)
    }
}

/// Result of checking a password. It is computed before a transaction and applied inside of it.
#[derive(Clone, Debug)]
pub struct PasswordCheck {
    /// Subject for which failures are counted: keyed hash of an e-mail address, a device or a user.
    pub subject: [u8; 32],
    /// Account for which the password was checked; `None` if no such account exists.
    pub credentials: Option<Credentials>,
    /// `true` if the password was correct when it was checked.
    pub is_correct: bool,
    /// New hash of the password with the current parameters. `None` if the password was wrong or the stored
    /// hash already has these parameters.
    pub upgraded_hash: Option<String>,
    /// Client of the request.
    pub client: ClientInfo,
}

impl PasswordCheck {
    /// Runs `run` and resets the failure counter if the password was correct. Otherwise counts a failure and
    /// returns `refusal`. During a lock-out, always returns [`AccountError::Locked`], even if the password
    /// was correct.
    pub fn run_if_correct<T>(
        &self,
        tx: &Tx<'_>,
        ctx: &Ctx,
        refusal: AccountError,
        run: impl Fn(&Tx<'_>) -> Result<T, AccountError>,
    ) -> TxOutcome<T, AccountError> {
        match self.verify_in_transaction(tx, ctx) {
            Ok(true) => match run(tx) {
                Ok(value) => TxOutcome::Commit(value),
                Err(error) => TxOutcome::Rollback(error),
            },
            Ok(false) => TxOutcome::CommitRefusal(refusal),
            Err(error) => TxOutcome::Rollback(error),
        }
    }

    fn verify_in_transaction(&self, tx: &Tx<'_>, ctx: &Ctx) -> Result<bool, AccountError> {
        let user = self.credentials.as_ref().map(|credentials| credentials.user.id);
        let user_id = user.unwrap_or_else(|| placeholder_user_id(&self.subject));
        tx.lock("login", [user_id])?;
        let failures = rows::find_failures(tx, &self.subject)?;
        failures.check_not_locked(ctx.now)?;
        if self.is_correct && self.is_current(tx)? {
            if failures.count > 0 {
                rows::delete_failures(tx, &self.subject)?;
            }
            if let (Some(user), Some(hash)) = (user, &self.upgraded_hash) {
                rows::set_password_hash(tx, user, hash)?;
            }
            return Ok(true);
        }
        rows::upsert_failures(tx, &self.subject, failures.with_failure(ctx.now))?;
        let object = user.map_or_else(|| "unknown".to_owned(), |user| user.to_string());
        // Writes the same entry for unknown accounts: one index row fewer would be measurable in the
        // response time.
        tx.audit_with_details(ctx, "session.refused", object, Some(user_id), self.client.details());
        Ok(false)
    }

    /// Returns `true` if the password has not changed since it was checked.
    fn is_current(&self, tx: &Tx<'_>) -> Result<bool, AccountError> {
        let Some(credentials) = &self.credentials else { return Ok(false) };
        let now = rows::find_credentials_by_id(tx, credentials.user.id)?;
        Ok(now.is_some_and(|now| now.password_version == credentials.password_version))
    }
}

/// Returns a user ID derived from `subject`. It stands for the user if no account has the address.
fn placeholder_user_id(subject: &[u8; 32]) -> UserId {
    let (first, _) = subject.split_first_chunk::<16>().expect("32 is more than 16");
    UserId(kith_kernel::uuid::Uuid::from_bytes(*first))
}

/// Logs in the user whose password was checked.
///
/// # Errors
/// Returns [`AccountError::InvalidCredentials`] if the address is unknown or the password is wrong, and
/// [`AccountError::Locked`] during a lock-out. If the password is correct, returns
/// [`AccountError::Suspended`] or [`AccountError::Deleted`] for an account in that state.
pub fn log_in(
    tx: &Tx<'_>,
    ctx: &Ctx,
    check: &PasswordCheck,
) -> TxOutcome<(User, IssuedSession), AccountError> {
    check.run_if_correct(tx, ctx, AccountError::InvalidCredentials, |tx| {
        let credentials = lock_credentials(tx, check)?;
        if let Some(purge_at) = credentials.purge_at {
            return Err(AccountError::Deleted { purge_at });
        }
        open_session(tx, ctx, credentials, &check.client)
    })
}

/// Restores a deleted account before its grace period ends, and starts a session.
///
/// # Errors
/// Returns the errors of [`log_in`], and [`AccountError::NotDeleted`] if the account is not deleted.
pub fn restore(
    tx: &Tx<'_>,
    ctx: &Ctx,
    check: &PasswordCheck,
) -> TxOutcome<(User, IssuedSession), AccountError> {
    check.run_if_correct(tx, ctx, AccountError::InvalidCredentials, |tx| {
        let credentials = lock_credentials(tx, check)?;
        let purge_at = credentials.purge_at.ok_or(AccountError::NotDeleted)?;
        if purge_at <= ctx.now {
            return Err(AccountError::Deleted { purge_at });
        }
        rows::set_deleted(tx, credentials.user.id, None, None)?;
        tx.audit_with_details(
            ctx,
            "account.restored",
            credentials.user.id,
            Some(credentials.user.id),
            check.client.details(),
        );
        tx.emit(ctx, events::restored(credentials.user.id));
        open_session(tx, ctx, credentials, &check.client)
    })
}

/// Locks the account for which the password was checked, and reads it again.
fn lock_credentials(tx: &Tx<'_>, check: &PasswordCheck) -> Result<Credentials, AccountError> {
    let user = check.credentials.as_ref().ok_or(AccountError::InvalidCredentials)?.user.id;
    tx.lock("user", [user])?;
    rows::find_credentials_by_id(tx, user)?.ok_or(AccountError::InvalidCredentials)
}

fn open_session(
    tx: &Tx<'_>,
    ctx: &Ctx,
    credentials: Credentials,
    client: &ClientInfo,
) -> Result<(User, IssuedSession), AccountError> {
    if credentials.is_suspended {
        return Err(AccountError::Suspended);
    }
    let session = start_session(tx, ctx, credentials.user.id, client)?;
    Ok((credentials.user, session))
}

/// Starts a session. If the user has the maximum number of sessions, ends the one that was refreshed longest
/// ago.
///
/// # Errors
/// Returns [`AccountError::Store`] if the database operation fails.
pub fn start_session(
    tx: &Tx<'_>,
    ctx: &Ctx,
    user_id: UserId,
    client: &ClientInfo,
) -> Result<IssuedSession, AccountError> {
    for ended in rows::delete_surplus_sessions(tx, user_id, rules::MAX_SESSIONS - 1)? {
        record_session_end(tx, ctx, user_id, ended);
    }
    let session = IssuedSession { id: ctx.new_id(SessionId), user_id, generation: 0 };
    rows::insert_session(tx, session.id, user_id, client, ctx.now, ctx.now + rules::SESSION_IDLE_TIMEOUT)?;
    tx.audit_with_details(ctx, "session.started", session.id, Some(user_id), client.details());
    tx.emit(ctx, events::session_started(user_id, session.id));
    Ok(session)
}

/// Refreshes a session. Within [`rules::REFRESH_GRACE_PERIOD`], the most recently used token returns the
/// same pair again. The use of an older token is a sign of theft and ends the session.
///
/// # Errors
/// Returns [`AccountError::InvalidRefreshToken`] if the session does not exist or has expired, or an older
/// token was used.
pub fn refresh(tx: &Tx<'_>, ctx: &Ctx, spent: RefreshToken) -> TxOutcome<IssuedSession, AccountError> {
    match try_refresh(tx, ctx, spent) {
        Ok(Some(session)) => TxOutcome::Commit(session),
        Ok(None) => TxOutcome::CommitRefusal(AccountError::InvalidRefreshToken),
        Err(error) => TxOutcome::Rollback(error),
    }
}

fn try_refresh(tx: &Tx<'_>, ctx: &Ctx, spent: RefreshToken) -> Result<Option<IssuedSession>, AccountError> {
    let RefreshToken { session: id, generation } = spent;
    let renewed = |user_id| IssuedSession { id, user_id, generation: generation + 1 };
    let expires_at = ctx.now + rules::SESSION_IDLE_TIMEOUT;
    if let Some(user_id) = rows::renew_session(tx, id, generation, ctx.now, expires_at)? {
        tx.audit(ctx, "session.refreshed", id);
        return Ok(Some(renewed(user_id)));
    }
    let row = rows::find_session(tx, id)?.ok_or(AccountError::InvalidRefreshToken)?;
    if row.expires_at <= ctx.now {
        return Err(AccountError::InvalidRefreshToken);
    }
    let just_spent = row.generation == generation + 1;
    let since_spent = ctx.now.as_millis().abs_diff(row.refreshed_at.as_millis());
    // `abs_diff`, because the clock may have been set back since the last refresh.
    if just_spent && u128::from(since_spent) <= rules::REFRESH_GRACE_PERIOD.as_millis() {
        return Ok(Some(renewed(row.user_id)));
    }
    if rows::delete_session(tx, row.user_id, id)? {
        tx.audit(ctx, "session.refresh_reused", id);
        record_session_end(tx, ctx, row.user_id, id);
    }
    Ok(None)
}

/// Ends the session of a refresh token. Does nothing if the session has already ended.
///
/// # Errors
/// Returns [`AccountError::Store`] if the database operation fails.
pub fn log_out(tx: &Tx<'_>, ctx: &Ctx, token: RefreshToken) -> Result<(), AccountError> {
    let Some(row) = rows::find_session(tx, token.session)? else { return Ok(()) };
    match end_session(tx, ctx, row.user_id, token.session) {
        Err(AccountError::SessionNotFound) => Ok(()),
        other => other,
    }
}

/// Ends a session of `user`.
///
/// # Errors
/// Returns [`AccountError::SessionNotFound`] if the user has no such session.
pub fn end_session(tx: &Tx<'_>, ctx: &Ctx, user: UserId, id: SessionId) -> Result<(), AccountError> {
    if !rows::delete_session(tx, user, id)? {
        return Err(AccountError::SessionNotFound);
    }
    record_session_end(tx, ctx, user, id);
    Ok(())
}

/// Ends all sessions of `user` except `kept`.
///
/// # Errors
/// Returns [`AccountError::Store`] if the database operation fails.
pub fn end_sessions(
    tx: &Tx<'_>,
    ctx: &Ctx,
    user: UserId,
    kept: Option<SessionId>,
) -> Result<(), AccountError> {
    for ended in rows::delete_sessions(tx, user, kept)? {
        record_session_end(tx, ctx, user, ended);
    }
    Ok(())
}

fn record_session_end(tx: &Tx<'_>, ctx: &Ctx, user: UserId, session: SessionId) {
    tx.audit(ctx, "session.ended", session);
    tx.emit(ctx, events::session_ended(user, session));
}
