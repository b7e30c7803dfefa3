//! Proving who one is, and the sessions that come of it. Failures are counted whether or not there is such an account.

use kith_kernel::{Ctx, UserId};
use kith_platform::auth::Keyring;
use kith_store::{Outcome, Tx};

use super::model::{AccountError, Credentials, Origin, SessionId, User};
use super::secrets::RefreshToken;
use super::{events, rows, rules};

/// A session that was started or renewed, and the pair that it has now.
#[derive(Clone, Copy, Debug)]
pub struct OpenSession {
    /// Of the session.
    pub id: SessionId,
    /// Whose it is.
    pub user_id: UserId,
    /// Which renewal this is.
    pub generation: i64,
}

impl OpenSession {
    /// What renews it next; told once, to the one who asked.
    pub fn refresh_token(self, keyring: &Keyring) -> String {
        RefreshToken { session: self.id, generation: self.generation }.reveal(keyring)
    }
}

/// Somebody who says who they are, and whether the password they gave with it was right.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Whom failures are counted for: a keyed hash of an address, a device or a user.
    pub subject: [u8; 32],
    /// The account that is meant, if there is one.
    pub known: Option<Credentials>,
    /// Whether the password was right when it was looked at.
    pub proved: bool,
    /// A hash as it would be made today, where the one that is kept is not.
    pub better_hash: Option<String>,
    /// Where the request came from.
    pub origin: Origin,
}

impl Claim {
    /// Counts a failure and answers `refusal`, or forgets all failures and does what was asked for. Whoever is locked
    /// out by now learns nothing, right or wrong.
    pub fn settle<T>(
        &self,
        tx: &Tx<'_>,
        ctx: &Ctx,
        refusal: AccountError,
        run: impl Fn(&Tx<'_>) -> Result<T, AccountError>,
    ) -> Outcome<T, AccountError> {
        match self.judge(tx, ctx) {
            Ok(true) => match run(tx) {
                Ok(value) => Outcome::Commit(value),
                Err(error) => Outcome::Rollback(error),
            },
            Ok(false) => Outcome::CommitRefusal(refusal),
            Err(error) => Outcome::Rollback(error),
        }
    }

    fn judge(&self, tx: &Tx<'_>, ctx: &Ctx) -> Result<bool, AccountError> {
        let user = self.known.as_ref().map(|known| known.user.id);
        let whose = user.unwrap_or_else(|| stand_in(&self.subject));
        tx.lock("login", [whose])?;
        let failures = rows::find_failures(tx, &self.subject)?;
        failures.may_try(ctx.now)?;
        if self.proved && self.is_current(tx)? {
            if failures.count > 0 {
                rows::forget_failures(tx, &self.subject)?;
            }
            if let (Some(user), Some(hash)) = (user, &self.better_hash) {
                rows::set_password_hash(tx, user, hash)?;
            }
            return Ok(true);
        }
        rows::keep_failures(tx, &self.subject, failures.and_one(ctx.now))?;
        let object = user.map_or_else(|| "unknown".to_owned(), |user| user.to_string());
        // As much is written, whether or not there is such an account: an index more takes measurably longer.
        tx.audit_with(ctx, "session.refused", object, Some(whose), self.origin.details());
        Ok(false)
    }

    /// Whether the password that was looked at is still the one.
    fn is_current(&self, tx: &Tx<'_>) -> Result<bool, AccountError> {
        let Some(known) = &self.known else { return Ok(false) };
        let now = rows::find_credentials_of(tx, known.user.id)?;
        Ok(now.is_some_and(|now| now.password_version == known.password_version))
    }
}

/// For an address without an account, in place of a user id.
fn stand_in(subject: &[u8; 32]) -> UserId {
    let (first, _) = subject.split_first_chunk::<16>().expect("32 is more than 16");
    UserId(kith_kernel::uuid::Uuid::from_bytes(*first))
}

/// Signs in whoever made the claim.
///
/// # Errors
/// [`AccountError::InvalidCredentials`], [`AccountError::Locked`]; only to whoever proved who they are:
/// [`AccountError::Suspended`], [`AccountError::Deleted`].
pub fn log_in(tx: &Tx<'_>, ctx: &Ctx, claim: &Claim) -> Outcome<(User, OpenSession), AccountError> {
    claim.settle(tx, ctx, AccountError::InvalidCredentials, |tx| {
        let known = standing(tx, claim)?;
        if let Some(purge_at) = known.purge_at {
            return Err(AccountError::Deleted { purge_at });
        }
        enter(tx, ctx, known, &claim.origin)
    })
}

/// Takes the deletion of an account back, and signs its owner in.
///
/// # Errors
/// As for [`log_in`]; [`AccountError::NotDeleted`].
pub fn restore(tx: &Tx<'_>, ctx: &Ctx, claim: &Claim) -> Outcome<(User, OpenSession), AccountError> {
    claim.settle(tx, ctx, AccountError::InvalidCredentials, |tx| {
        let known = standing(tx, claim)?;
        let purge_at = known.purge_at.ok_or(AccountError::NotDeleted)?;
        if purge_at <= ctx.now {
            return Err(AccountError::Deleted { purge_at });
        }
        rows::set_deleted(tx, known.user.id, None, None)?;
        tx.audit_with(ctx, "account.restored", known.user.id, Some(known.user.id), claim.origin.details());
        tx.emit(ctx, events::restored(known.user.id));
        enter(tx, ctx, known, &claim.origin)
    })
}

/// The account as it stands now, and stays until the transaction ends.
fn standing(tx: &Tx<'_>, claim: &Claim) -> Result<Credentials, AccountError> {
    let user = claim.known.as_ref().ok_or(AccountError::InvalidCredentials)?.user.id;
    tx.lock("user", [user])?;
    rows::find_credentials_of(tx, user)?.ok_or(AccountError::InvalidCredentials)
}

fn enter(
    tx: &Tx<'_>,
    ctx: &Ctx,
    known: Credentials,
    origin: &Origin,
) -> Result<(User, OpenSession), AccountError> {
    if known.suspended {
        return Err(AccountError::Suspended);
    }
    let session = start_session(tx, ctx, known.user.id, origin)?;
    Ok((known.user, session))
}

/// Opens a session. Somebody with too many loses the one they used longest ago.
///
/// # Errors
/// The database's.
pub fn start_session(
    tx: &Tx<'_>,
    ctx: &Ctx,
    user_id: UserId,
    origin: &Origin,
) -> Result<OpenSession, AccountError> {
    for ended in rows::delete_surplus_sessions(tx, user_id, rules::SESSIONS_MOST - 1)? {
        ended_early(tx, ctx, user_id, ended);
    }
    let session = OpenSession { id: ctx.new_id(SessionId), user_id, generation: 0 };
    rows::insert_session(tx, session.id, user_id, origin, ctx.now, ctx.now + rules::SESSION_IDLE)?;
    tx.audit_with(ctx, "session.started", session.id, Some(user_id), origin.details());
    tx.emit(ctx, events::session_started(user_id, session.id));
    Ok(session)
}

/// Renews a session. The token that was just spent gives the same pair again for a short while; any older one shows that
/// somebody else has it, and ends the session.
///
/// # Errors
/// [`AccountError::InvalidRefreshToken`].
pub fn refresh(tx: &Tx<'_>, ctx: &Ctx, spent: RefreshToken) -> Outcome<OpenSession, AccountError> {
    match try_refresh(tx, ctx, spent) {
        Ok(Some(session)) => Outcome::Commit(session),
        Ok(None) => Outcome::CommitRefusal(AccountError::InvalidRefreshToken),
        Err(error) => Outcome::Rollback(error),
    }
}

fn try_refresh(tx: &Tx<'_>, ctx: &Ctx, spent: RefreshToken) -> Result<Option<OpenSession>, AccountError> {
    let RefreshToken { session: id, generation } = spent;
    let renewed = |user_id| OpenSession { id, user_id, generation: generation + 1 };
    let expires_at = ctx.now + rules::SESSION_IDLE;
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
    // Also if the clock was put back meanwhile.
    if just_spent && u128::from(since_spent) <= rules::REFRESH_GRACE.as_millis() {
        return Ok(Some(renewed(row.user_id)));
    }
    if rows::delete_session(tx, row.user_id, id)? {
        tx.audit(ctx, "session.refresh_reused", id);
        ended_early(tx, ctx, row.user_id, id);
    }
    Ok(None)
}

/// Ends the session that a refresh token belongs to. One that has ended already is as good.
///
/// # Errors
/// The database's.
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
/// [`AccountError::SessionNotFound`].
pub fn end_session(tx: &Tx<'_>, ctx: &Ctx, user: UserId, id: SessionId) -> Result<(), AccountError> {
    if !rows::delete_session(tx, user, id)? {
        return Err(AccountError::SessionNotFound);
    }
    ended_early(tx, ctx, user, id);
    Ok(())
}

/// Ends every session of `user` but `kept`.
///
/// # Errors
/// The database's.
pub fn end_sessions(
    tx: &Tx<'_>,
    ctx: &Ctx,
    user: UserId,
    kept: Option<SessionId>,
) -> Result<(), AccountError> {
    for ended in rows::delete_sessions(tx, user, kept)? {
        ended_early(tx, ctx, user, ended);
    }
    Ok(())
}

fn ended_early(tx: &Tx<'_>, ctx: &Ctx, user: UserId, session: SessionId) {
    tx.audit(ctx, "session.ended", session);
    tx.emit(ctx, events::session_ended(user, session));
}
