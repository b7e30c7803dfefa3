//! Changes to accounts and sessions, a transaction each. Passwords are hashed before one begins, never inside.

use std::time::Duration;

use kith_kernel::{Ctx, UserId, days};
use kith_store::{IntoOutcome as _, Outcome, Tx};

use super::model::{AccountError, NewAccount, OpenSession, RefreshToken, SessionId, User};
use super::{events, rows};

/// A session that nobody renews ends after this.
const SESSION_IDLE: Duration = days(30);

/// Makes an account and signs its owner in.
///
/// # Errors
/// [`AccountError::EmailTaken`].
pub fn register(tx: &Tx<'_>, ctx: &Ctx, account: &NewAccount) -> Result<(User, OpenSession), AccountError> {
    let user = User {
        id: ctx.new_id(UserId),
        email: account.email.typed.clone(),
        display_name: account.display_name.clone(),
        created_at: ctx.now,
    };
    if !rows::insert_user(tx, &user, account)? {
        return Err(AccountError::EmailTaken);
    }
    tx.audit(ctx, "account.registered", user.id);
    tx.emit(ctx, events::registered(&user));
    let session = start_session(tx, ctx, user.id)?;
    Ok((user, session))
}

/// Signs in whoever is `known` by the address, if the password was right; a refusal leaves its trace.
///
/// # Errors
/// [`AccountError::InvalidCredentials`].
pub fn log_in(
    tx: &Tx<'_>,
    ctx: &Ctx,
    known: Option<&User>,
    password_right: bool,
) -> Outcome<(User, OpenSession), AccountError> {
    match known {
        Some(user) if password_right => {
            start_session(tx, ctx, user.id).map(|session| (user.clone(), session)).into_outcome()
        }
        _ => {
            let whose = known.map_or_else(|| "unknown".to_owned(), |user| user.id.to_string());
            tx.audit(ctx, "session.refused", whose);
            Outcome::CommitRefusal(AccountError::InvalidCredentials)
        }
    }
}

/// Renews a session and spends the token it was renewed with.
///
/// # Errors
/// [`AccountError::InvalidRefreshToken`].
pub fn refresh(tx: &Tx<'_>, ctx: &Ctx, spent: &RefreshToken) -> Result<OpenSession, AccountError> {
    let refresh_token = RefreshToken::new(ctx.random());
    let (id, user_id) =
        rows::rotate_refresh_token(tx, spent, &refresh_token, ctx.now, ctx.now + SESSION_IDLE)?
            .ok_or(AccountError::InvalidRefreshToken)?;
    tx.audit(ctx, "session.refreshed", id);
    Ok(OpenSession { id, user_id, refresh_token })
}

fn start_session(tx: &Tx<'_>, ctx: &Ctx, user_id: UserId) -> Result<OpenSession, AccountError> {
    let session =
        OpenSession { id: ctx.new_id(SessionId), user_id, refresh_token: RefreshToken::new(ctx.random()) };
    rows::insert_session(tx, &session, ctx.now, ctx.now + SESSION_IDLE)?;
    tx.audit(ctx, "session.started", session.id);
    Ok(session)
}
