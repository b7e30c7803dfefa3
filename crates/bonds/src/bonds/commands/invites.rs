//! Creates, previews, spends and revokes invites.

use kith_kernel::{Ctx, Timestamp, UserId};
use kith_store::{Outcome, Query, Tx};

use super::super::events;
use super::super::model::{BondError, CodeHashes, INVITE_LIFETIME, InviteId, InvitePreview, WhoMayAsk};
use super::super::rows::{self, LiveInvite};
use super::super::rules::{FAILED_ATTEMPTS_WINDOW, MAX_FAILED_ATTEMPTS, MAX_INVITES};

/// Attempt to use an invite code.
#[derive(Clone, Copy, Debug)]
pub struct Tried {
    /// Keyed hashes of the code.
    pub code: CodeHashes,
    /// Keyed hashes of the user and of their client network, for which failed attempts are counted; `None` if
    /// limits are lifted.
    pub by: Option<[[u8; 32]; 2]>,
}

/// Creates an invite. Returns its ID and expiry.
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
    if rows::list_live_invites(tx, inviter, ctx.now)?.len() as i64 >= MAX_INVITES {
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
/// Returns [`BondError::InviteNotFound`] if there is none.
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

/// Returns the preview of an invite without spending it.
pub fn preview_invite(
    tx: &Tx<'_>,
    ctx: &Ctx,
    user: UserId,
    tried: &Tried,
) -> Outcome<InvitePreview, BondError> {
    use_code(tx, ctx, user, tried, |invite| {
        // A preview would reveal that the inviter accepts no requests.
        if rows::find_settings(tx, invite.inviter)?.who_may_ask == WhoMayAsk::Nobody {
            return Err(BondError::InviteNotFound);
        }
        Ok(InvitePreview { display_name: invite.display_name.clone(), expires_at: invite.expires_at })
    })
}

/// Runs `then` with the usable invite of a code. Counts an attempt with a code that cannot be used; too many
/// of these reject further attempts with [`BondError::TooManyMisses`].
pub fn use_code<T>(
    tx: &Tx<'_>,
    ctx: &Ctx,
    user: UserId,
    tried: &Tried,
    then: impl FnOnce(&LiveInvite) -> Result<T, BondError>,
) -> Outcome<T, BondError> {
    match may_try(tx, ctx, tried).and_then(|()| find(tx, ctx, user, tried)).and_then(|invite| then(&invite)) {
        Ok(done) => Outcome::Commit(done),
        // A block that was made meanwhile must look like a code that does not exist.
        Err(BondError::InviteNotFound | BondError::ReceiverNotFound) => match count_miss(tx, ctx, tried) {
            Ok(()) => Outcome::CommitRefusal(BondError::InviteNotFound),
            Err(error) => Outcome::Rollback(error.into()),
        },
        Err(error) => Outcome::Rollback(error),
    }
}

fn find(q: &Query<'_>, ctx: &Ctx, user: UserId, tried: &Tried) -> Result<LiveInvite, BondError> {
    rows::find_live_invite(q, tried.code, user, ctx.now)?.ok_or(BondError::InviteNotFound)
}

/// Checks the limit of failed attempts. The lock serializes attempts of one subject.
fn may_try(tx: &Tx<'_>, ctx: &Ctx, tried: &Tried) -> Result<(), BondError> {
    let Some(subjects) = &tried.by else { return Ok(()) };
    tx.lock("invite_misses", subjects.map(|subject| hex(&subject)))?;
    for subject in subjects {
        let (misses, first) = rows::find_misses(tx, subject, ctx.now - FAILED_ATTEMPTS_WINDOW)?;
        if let Some(first) = first.filter(|_| misses >= MAX_FAILED_ATTEMPTS) {
            return Err(BondError::TooManyMisses { wait: (first + FAILED_ATTEMPTS_WINDOW).since(ctx.now) });
        }
    }
    Ok(())
}

fn count_miss(tx: &Tx<'_>, ctx: &Ctx, tried: &Tried) -> Result<(), kith_store::Error> {
    let subjects = tried.by.iter().flatten();
    subjects.into_iter().try_for_each(|subject| rows::insert_miss(tx, ctx.new_id(|id| id), subject, ctx.now))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Spends an invite. Fails with [`BondError::InviteNotFound`] if another request was faster.
pub fn spend(tx: &Tx<'_>, ctx: &Ctx, invite: &LiveInvite, by: UserId) -> Result<(), BondError> {
    if !rows::spend_invite(tx, invite.id, by, ctx.now)? {
        return Err(BondError::InviteNotFound);
    }
    tx.audit(ctx, "invite.spent", invite.id);
    tx.emit(ctx, events::invite_spent(invite.inviter));
    Ok(())
}
