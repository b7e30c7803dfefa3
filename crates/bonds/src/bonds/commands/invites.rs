//! Commands that create, preview, spend and revoke invites.

use kith_kernel::{Ctx, Timestamp, UserId};
use kith_store::{Query, Tx, TxOutcome};

use super::super::events;
use super::super::model::{BondError, CodeHashes, INVITE_LIFETIME, InviteId, InvitePreview, RequestPolicy};
use super::super::rows::{self, UsableInvite};
use super::super::rules::{FAILED_ATTEMPTS_WINDOW, MAX_FAILED_ATTEMPTS, MAX_INVITES};

/// Attempt to use an invite code.
#[derive(Clone, Copy, Debug)]
pub struct InviteAttempt {
    /// Keyed hashes of the code.
    pub code: CodeHashes,
    /// Keyed hashes of the user and of the client's network. Failed attempts are counted for each of them.
    /// `None` if rate limits are disabled.
    pub by: Option<[[u8; 32]; 2]>,
}

/// Creates an invite. Returns its ID and expiry time.
///
/// # Errors
/// Returns [`BondError::TooManyInvites`] if the inviter has the maximum number of usable invites.
pub fn create_invite(
    tx: &Tx<'_>,
    ctx: &Ctx,
    inviter: UserId,
    code_hash: &[u8; 32],
) -> Result<(InviteId, Timestamp), BondError> {
    tx.lock("user", [inviter])?;
    if rows::list_usable_invites(tx, inviter, ctx.now)?.len() as i64 >= MAX_INVITES {
        return Err(BondError::TooManyInvites);
    }
    let (id, expires_at) = (ctx.new_id(InviteId), ctx.now + INVITE_LIFETIME);
    rows::insert_invite(tx, id, code_hash, inviter, ctx.now, expires_at)?;
    tx.audit(ctx, "invite.created", id);
    tx.emit(ctx, events::invite_created(inviter));
    Ok((id, expires_at))
}

/// Revokes a usable invite of `inviter`, found by its code or its ID.
///
/// # Errors
/// Returns [`BondError::InviteNotFound`] if there is no such usable invite.
pub fn revoke_invite(
    tx: &Tx<'_>,
    ctx: &Ctx,
    inviter: UserId,
    code: Option<CodeHashes>,
    id: Option<InviteId>,
) -> Result<(), BondError> {
    tx.lock("user", [inviter])?;
    let id = rows::find_own_invite(tx, inviter, code, id, ctx.now)?.ok_or(BondError::InviteNotFound)?;
    if !rows::spend_invite(tx, id, inviter, ctx.now)? {
        return Err(BondError::InviteNotFound);
    }
    tx.audit(ctx, "invite.revoked", id);
    tx.emit(ctx, events::invite_revoked(inviter));
    Ok(())
}

/// Returns the preview of an invite without redeeming it.
pub fn preview_invite(
    tx: &Tx<'_>,
    ctx: &Ctx,
    user: UserId,
    attempt: &InviteAttempt,
) -> TxOutcome<InvitePreview, BondError> {
    redeem_code(tx, ctx, user, attempt, |invite| {
        // A preview would reveal that the inviter accepts no requests, so the invite counts as not found.
        if rows::find_settings(tx, invite.inviter)?.accepts_requests_from == RequestPolicy::Nobody {
            return Err(BondError::InviteNotFound);
        }
        Ok(InvitePreview { display_name: invite.display_name.clone(), expires_at: invite.expires_at })
    })
}

/// Runs `run` with the usable invite of a code. An attempt with a code that cannot be used is counted. After
/// too many of these, further attempts are rejected with [`BondError::TooManyFailedAttempts`].
pub fn redeem_code<T>(
    tx: &Tx<'_>,
    ctx: &Ctx,
    user: UserId,
    attempt: &InviteAttempt,
    run: impl FnOnce(&UsableInvite) -> Result<T, BondError>,
) -> TxOutcome<T, BondError> {
    match check_failed_attempts(tx, ctx, attempt)
        .and_then(|()| find(tx, ctx, user, attempt))
        .and_then(|invite| run(&invite))
    {
        Ok(done) => TxOutcome::Commit(done),
        // If one of the users has blocked the other, the response must be the same as for an unknown code.
        Err(BondError::InviteNotFound | BondError::RecipientNotFound) => {
            match record_failed_attempt(tx, ctx, attempt) {
                Ok(()) => TxOutcome::CommitRefusal(BondError::InviteNotFound),
                Err(error) => TxOutcome::Rollback(error.into()),
            }
        }
        Err(error) => TxOutcome::Rollback(error),
    }
}

fn find(q: &Query<'_>, ctx: &Ctx, user: UserId, attempt: &InviteAttempt) -> Result<UsableInvite, BondError> {
    rows::find_usable_invite(q, attempt.code, user, ctx.now)?.ok_or(BondError::InviteNotFound)
}

/// Checks the limit of failed attempts. A lock serializes the attempts of each user and each network.
fn check_failed_attempts(tx: &Tx<'_>, ctx: &Ctx, attempt: &InviteAttempt) -> Result<(), BondError> {
    let Some(subjects) = &attempt.by else { return Ok(()) };
    tx.lock("failed_invite_attempts", subjects.map(|subject| hex(&subject)))?;
    for subject in subjects {
        let (failures, first) = rows::find_failed_attempts(tx, subject, ctx.now - FAILED_ATTEMPTS_WINDOW)?;
        if let Some(first) = first.filter(|_| failures >= MAX_FAILED_ATTEMPTS) {
            return Err(BondError::TooManyFailedAttempts {
                wait: (first + FAILED_ATTEMPTS_WINDOW).since(ctx.now),
            });
        }
    }
    Ok(())
}

fn record_failed_attempt(tx: &Tx<'_>, ctx: &Ctx, attempt: &InviteAttempt) -> Result<(), kith_store::Error> {
    let subjects = attempt.by.iter().flatten();
    subjects
        .into_iter()
        .try_for_each(|subject| rows::insert_failed_attempt(tx, ctx.new_id(|id| id), subject, ctx.now))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Redeems an invite. Returns [`BondError::InviteNotFound`] if another transaction redeemed it first.
pub fn spend_invite(tx: &Tx<'_>, ctx: &Ctx, invite: &UsableInvite, by: UserId) -> Result<(), BondError> {
    if !rows::spend_invite(tx, invite.id, by, ctx.now)? {
        return Err(BondError::InviteNotFound);
    }
    tx.audit(ctx, "invite.spent", invite.id);
    tx.emit(ctx, events::invite_spent(invite.inviter));
    Ok(())
}
