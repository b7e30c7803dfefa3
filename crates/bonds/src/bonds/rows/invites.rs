//! SQL statements for invites, one function per statement. Contains no business rules.

use kith_kernel::uuid::Uuid;
use kith_kernel::{Timestamp, UserId};
use kith_store::{Error, FromRow as _, Query, Tx, params, row_columns};

use super::super::model::{CodeHashes, Invite, InviteId};

/// Usable invite with the columns needed to redeem it.
pub struct UsableInvite {
    /// Invite ID.
    pub id: InviteId,
    /// User who created the invite.
    pub inviter: UserId,
    /// Display name of the inviter.
    pub display_name: String,
    /// Time at which the invite expires.
    pub expires_at: Timestamp,
}

// The columns come from `invites i` and, for the inviter, from `users u`.
row_columns! {
    usable_invite_columns => UsableInvite {
        id = "i.id",
        inviter = "i.inviter",
        display_name = "u.display_name",
        expires_at = "i.expires_at"
    }
}

row_columns! {
    invite_columns => Invite { id = "id", created_at = "created_at", expires_at = "expires_at" }
}

pub fn insert_invite(
    tx: &Tx<'_>,
    id: InviteId,
    code_hash: &[u8; 32],
    inviter: UserId,
    now: Timestamp,
    expires_at: Timestamp,
) -> Result<(), Error> {
    tx.exec_deferred(
        "INSERT INTO invites (id, code_hash, inviter, created_at, expires_at) VALUES ($1, $2, $3, $4, $5)",
        params![id, code_hash, inviter, now, expires_at],
    )?;
    Ok(())
}

/// Returns the invite with this code if `user` can use it. An invite cannot be used if it is redeemed or
/// expired, if its inviter is deleted, or if one of the two users has blocked the other.
pub fn find_usable_invite(
    q: &Query<'_>,
    code: CodeHashes,
    user: UserId,
    now: Timestamp,
) -> Result<Option<UsableInvite>, Error> {
    q.one(
        concat!(
            "SELECT ",
            usable_invite_columns!(),
            " FROM invites i
         JOIN users u ON u.id = i.inviter AND u.deleted_at IS NULL
         WHERE i.code_hash IN ($1, $4) AND i.spent_at IS NULL AND i.expires_at > $3
           AND NOT EXISTS (SELECT 1 FROM blocks k WHERE (k.blocker = $2 AND k.blocked = i.inviter)
                                                     OR (k.blocker = i.inviter AND k.blocked = $2))"
        ),
        params![code.present, user, now, code.previous],
        UsableInvite::read_row,
    )
}

/// Returns the inviter of the invite with this code if `user` redeemed it.
pub fn find_inviter_of_spent(q: &Query<'_>, code: CodeHashes, user: UserId) -> Result<Option<UserId>, Error> {
    q.one(
        "SELECT inviter FROM invites WHERE code_hash IN ($1, $3) AND spent_by = $2 AND inviter <> $2",
        params![code.present, user, code.previous],
        |row| row.get(0),
    )
}

/// Returns the usable invites of `inviter`, newest first.
pub fn list_usable_invites(q: &Query<'_>, inviter: UserId, now: Timestamp) -> Result<Vec<Invite>, Error> {
    q.all(
        concat!(
            "SELECT ",
            invite_columns!(),
            " FROM invites WHERE inviter = $1 AND spent_at IS NULL AND expires_at > $2 ORDER BY id DESC"
        ),
        params![inviter, now],
        Invite::read_row,
    )
}

/// Marks an invite as redeemed by `by`. Returns `false` if it was not usable. A revoked invite is stored as
/// redeemed by its own inviter.
pub fn spend_invite(tx: &Tx<'_>, id: InviteId, by: UserId, now: Timestamp) -> Result<bool, Error> {
    let spent = tx.exec(
        "UPDATE invites SET spent_by = $2, spent_at = $3
         WHERE id = $1 AND spent_at IS NULL AND expires_at > $3",
        params![id, by, now],
    )?;
    Ok(spent == 1)
}

/// Returns the ID of a usable invite of `inviter`, found by its code or its ID.
pub fn find_own_invite(
    q: &Query<'_>,
    inviter: UserId,
    code: Option<CodeHashes>,
    id: Option<InviteId>,
    now: Timestamp,
) -> Result<Option<InviteId>, Error> {
    q.one(
        "SELECT id FROM invites
         WHERE inviter = $1 AND (code_hash IN ($2, $5) OR id = $3) AND spent_at IS NULL AND expires_at > $4",
        params![inviter, code.map(|code| code.present), id, now, code.and_then(|code| code.previous)],
        |row| row.get(0),
    )
}

/// Returns the number of failed attempts of `subject` since `since`, and the time of the first of them.
pub fn find_failed_attempts(
    q: &Query<'_>,
    subject: &[u8; 32],
    since: Timestamp,
) -> Result<(i64, Option<Timestamp>), Error> {
    let found = q.one(
        "SELECT COUNT(*), MIN(failed_at) FROM failed_invite_attempts WHERE subject = $1 AND failed_at > $2",
        params![subject, since],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    Ok(found.unwrap_or_default())
}

pub fn insert_failed_attempt(tx: &Tx<'_>, id: Uuid, subject: &[u8; 32], at: Timestamp) -> Result<(), Error> {
    tx.exec_deferred(
        "INSERT INTO failed_invite_attempts (id, subject, failed_at) VALUES ($1, $2, $3)",
        params![id, subject, at],
    )?;
    Ok(())
}

/// Deletes failed attempts made at or before `attempts_before`, and invites that expired at or before `expired_before`.
pub fn delete_old_invites(
    tx: &Tx<'_>,
    attempts_before: Timestamp,
    expired_before: Timestamp,
) -> Result<(), Error> {
    tx.exec_deferred("DELETE FROM failed_invite_attempts WHERE failed_at <= $1", params![attempts_before])?;
    tx.exec_deferred("DELETE FROM invites WHERE expires_at <= $1", params![expired_before])?;
    Ok(())
}

/// Deletes the invites of `user`, and removes the user's ID from invites of others that the user redeemed.
pub fn delete_invites(tx: &Tx<'_>, user: UserId) -> Result<(), Error> {
    tx.exec_deferred("DELETE FROM invites WHERE inviter = $1", params![user])?;
    tx.exec_deferred("UPDATE invites SET spent_by = NULL WHERE spent_by = $1", params![user])?;
    Ok(())
}
