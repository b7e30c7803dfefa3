//! SQL statements for requests, bonds, invites and settings, one function per statement. Contains no
//! business rules.

mod deciding;
mod facts;
mod invites;
mod messages;
mod requests;
mod send_context;
mod settings;

use kith_kernel::{Timestamp, UserId};
use kith_store::{Columns, Error, FromRow as _, Query, Row, Tx, id_columns, params, row_columns};

use super::model::{
    ActiveBond, Bond, BondHistoryEntry, BondId, Breakup, FormerBond, InviteId, Pair, PartnerRequestId,
    restorable_until,
};

pub use deciding::*;
pub use facts::*;
pub use invites::*;
pub use messages::*;
pub use requests::*;
pub use send_context::*;
pub use settings::*;

id_columns!(PartnerRequestId, BondId, InviteId);

// The columns come from `bonds b` and, for the partner, from `users p`.
row_columns! {
    bond_columns => Bond {
        id = "b.id",
        partner = "p.id, p.display_name",
        since = "b.since",
        restored_at = "b.restored_at",
        restorations = "b.restorations"
    }
}

row_columns! {
    history_columns => BondHistoryEntry {
        bond = bond_columns!(),
        ended_at: Option<Timestamp> = "b.ended_at",
        archived_at: Option<Timestamp> = "b.archived_at";
        restorable_until = ended_at.filter(|_| archived_at.is_none()).map(restorable_until);
        breakups = Vec::new()
    }
}

row_columns! {
    former_columns => FormerBond { id = "id", since = "since", ended_at = "ended_at", restorations = "restorations" }
}

row_columns! {
    active_bond_columns => ActiveBond (a: UserId = "b.user_a", b: UserId = "b.user_b") { id = "b.id"; users = [a, b] }
}

// The columns come from `breakups k`. Only the user $1 sees their own reason.
row_columns! {
    breakup_columns => Breakup {
        ended_at = "k.ended_at",
        restored_at = "k.restored_at",
        reason = "CASE WHEN k.ended_by = $1 THEN k.reason END"
    }
}

pub fn insert_bond(tx: &Tx<'_>, bond: BondId, pair: Pair, since: Timestamp) -> Result<(), Error> {
    let [a, b] = pair.users();
    tx.exec_deferred(
        "INSERT INTO bonds (id, user_a, user_b, since) VALUES ($1, $2, $3, $4)",
        params![bond, a, b, since],
    )?;
    Ok(())
}

static FORMER: &str = concat!(
    "SELECT ",
    former_columns!(),
    " FROM bonds WHERE user_a = $1 AND user_b = $2 AND ended_at IS NOT NULL AND archived_at IS NULL
      ORDER BY ended_at DESC LIMIT 1"
);

/// Prefetches the row that [`find_former`] reads.
pub fn prefetch_former(tx: &Tx<'_>, pair: Pair) -> Result<(), Error> {
    let [a, b] = pair.users();
    tx.prefetch(FORMER, params![a, b])
}

/// Returns the last bond of the pair if it has ended and is not archived.
pub fn find_former(q: &Query<'_>, pair: Pair) -> Result<Option<FormerBond>, Error> {
    let [a, b] = pair.users();
    q.one(FORMER, params![a, b], FormerBond::read_row)
}

/// Restores a bond, and stores the time of the restoration in the bond and in its last breakup.
pub fn restore_bond(tx: &Tx<'_>, former: &FormerBond, now: Timestamp) -> Result<(), Error> {
    tx.exec_deferred(
        "UPDATE bonds
         SET ended_at = NULL, name_a = NULL, name_b = NULL, restored_at = $2, restorations = restorations + 1
         WHERE id = $1",
        params![former.id, now],
    )?;
    tx.exec_deferred(
        "UPDATE breakups SET restored_at = $3 WHERE bond_id = $1 AND restorations = $2",
        params![former.id, former.restorations, now],
    )?;
    Ok(())
}

/// Fills the partner slots of both users, in the order of their IDs. Returns `true` if both slots were free.
pub fn fill_slots(tx: &Tx<'_>, bond: BondId, pair: Pair) -> Result<bool, Error> {
    let [a, b] = pair.users();
    let filled = tx.exec(
        "INSERT INTO bond_slots (user_id, bond_id) VALUES ($1, $3), ($2, $3) ON CONFLICT DO NOTHING",
        params![a, b, bond],
    )?;
    Ok(filled == 2)
}

/// Returns the active bond of `user`.
pub fn find_current_bond(q: &Query<'_>, user: UserId) -> Result<Option<Bond>, Error> {
    q.one(
        concat!(
            "SELECT ",
            bond_columns!(),
            " FROM bond_slots s
         JOIN bonds b ON b.id = s.bond_id
         JOIN users p ON p.id = CASE WHEN b.user_a = s.user_id THEN b.user_b ELSE b.user_a END
         WHERE s.user_id = $1"
        ),
        params![user],
        Bond::read_row,
    )
}

/// Returns the bond that a request led to, as `user` sees it. Returns `None` if the bond is not active.
pub fn find_bond_of_request(
    q: &Query<'_>,
    request: PartnerRequestId,
    user: UserId,
) -> Result<Option<Bond>, Error> {
    q.one(
        concat!(
            "SELECT ",
            bond_columns!(),
            " FROM partner_requests r
         JOIN bonds b ON b.id = r.bond_id AND b.ended_at IS NULL
         JOIN users p ON p.id = CASE WHEN b.user_a = $2 THEN b.user_b ELSE b.user_a END
         WHERE r.id = $1"
        ),
        params![request, user],
        Bond::read_row,
    )
}

/// Returns the active bond of `user` with the IDs of both its users.
pub fn find_active_bond(q: &Query<'_>, user: UserId) -> Result<Option<ActiveBond>, Error> {
    q.one(
        concat!(
            "SELECT ",
            active_bond_columns!(),
            " FROM bond_slots s JOIN bonds b ON b.id = s.bond_id WHERE s.user_id = $1"
        ),
        params![user],
        ActiveBond::read_row,
    )
}

/// Ends a bond: frees both partner slots, and stores who ended it, the reason and both display names.
pub fn end_bond(
    tx: &Tx<'_>,
    bond: &ActiveBond,
    by: UserId,
    reason: Option<&str>,
    now: Timestamp,
) -> Result<(), Error> {
    tx.exec_deferred(
        "UPDATE bonds
         SET ended_at = $2,
             name_a = (SELECT display_name FROM users WHERE id = user_a),
             name_b = (SELECT display_name FROM users WHERE id = user_b)
         WHERE id = $1",
        params![bond.id, now],
    )?;
    let [a, b] = bond.users;
    tx.exec_deferred(
        "DELETE FROM bond_slots WHERE user_id IN ($1, $2) AND bond_id = $3",
        params![a, b, bond.id],
    )?;
    tx.exec_deferred(
        "INSERT INTO breakups (bond_id, restorations, ended_at, ended_by, reason)
         SELECT id, restorations, $2, $3, $4 FROM bonds WHERE id = $1",
        params![bond.id, now, by, reason],
    )?;
    Ok(())
}

/// Returns up to `limit` active and ended bonds of `user` with an ID below `before`, most recently formed
/// first, without their breakups.
pub fn list_bonds(
    q: &Query<'_>,
    user: UserId,
    before: BondId,
    limit: i64,
    now: Timestamp,
) -> Result<Vec<BondHistoryEntry>, Error> {
    macro_rules! side {
        ($own:literal, $other:literal, $name:literal) => {
            concat!(
                "SELECT ",
                history_columns!(),
                ", b.",
                $name,
                " FROM bonds b JOIN users p ON p.id = b.",
                $other,
                "
                 WHERE b.",
                $own,
                " = $1 AND b.id < $2 ORDER BY b.id DESC LIMIT $3"
            )
        };
    }
    let read = |row: &Row<'_>| read_history(row, now);
    // Reads the bonds in which the user is `user_a` and `user_b` separately, each by its own index, and
    // merges them.
    let mut bonds = q.all(side!("user_a", "user_b", "name_b"), params![user, before, limit], read)?;
    bonds.extend(q.all(side!("user_b", "user_a", "name_a"), params![user, before, limit], read)?);
    bonds.sort_unstable_by_key(|history| std::cmp::Reverse(history.bond.id));
    bonds.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(bonds)
}

/// Returns one active or ended bond of `user`, without its breakups.
pub fn find_bond(
    q: &Query<'_>,
    user: UserId,
    bond: BondId,
    now: Timestamp,
) -> Result<Option<BondHistoryEntry>, Error> {
    q.one(
        concat!(
            "SELECT ",
            history_columns!(),
            ", CASE WHEN b.user_a = $1 THEN b.name_b ELSE b.name_a END
             FROM bonds b JOIN users p ON p.id = CASE WHEN b.user_a = $1 THEN b.user_b ELSE b.user_a END
             WHERE b.id = $2 AND (b.user_a = $1 OR b.user_b = $1)"
        ),
        params![user, bond],
        |row| read_history(row, now),
    )
}

/// Returns the breakups of the bonds of `user` with IDs from `first` to `last`. Omits the reasons that the
/// partner gave.
pub fn list_breakups(
    q: &Query<'_>,
    user: UserId,
    first: BondId,
    last: BondId,
) -> Result<Vec<(BondId, Breakup)>, Error> {
    q.all(
        concat!(
            "SELECT k.bond_id, ",
            breakup_columns!(),
            " FROM breakups k JOIN bonds b ON b.id = k.bond_id
         WHERE (b.user_a = $1 AND b.id >= $2 AND b.id <= $3) OR (b.user_b = $1 AND b.id >= $2 AND b.id <= $3)
         ORDER BY k.bond_id, k.restorations"
        ),
        params![user, first, last],
        |row| {
            let columns = &mut Columns::of(row);
            Ok((columns.read()?, columns.read()?))
        },
    )
}

/// Returns up to `limit` bonds that ended before `ended_before` and are not archived, earliest end first.
pub fn list_archivable_bonds(
    q: &Query<'_>,
    ended_before: Timestamp,
    limit: i64,
) -> Result<Vec<ActiveBond>, Error> {
    q.all(
        concat!(
            "SELECT ",
            active_bond_columns!(),
            " FROM bonds b WHERE ended_at IS NOT NULL AND archived_at IS NULL AND ended_at < $1
              ORDER BY ended_at LIMIT $2"
        ),
        params![ended_before, limit],
        ActiveBond::read_row,
    )
}

/// Archives a bond if it is still ended, with an end before `ended_before`. Returns `true` if it was
/// archived.
pub fn archive_bond(
    tx: &Tx<'_>,
    bond: BondId,
    ended_before: Timestamp,
    now: Timestamp,
) -> Result<bool, Error> {
    let archived = tx.exec(
        "UPDATE bonds SET archived_at = $3
         WHERE id = $1 AND ended_at IS NOT NULL AND ended_at < $2 AND archived_at IS NULL",
        params![bond, ended_before, now],
    )?;
    Ok(archived == 1)
}

pub fn count_reasons(q: &Query<'_>, user: UserId) -> Result<i64, Error> {
    let sql = "SELECT COUNT(*) FROM breakups WHERE ended_by = $1 AND reason IS NOT NULL";
    Ok(q.one(sql, params![user], |row| row.get(0))?.unwrap_or(0))
}

/// Deletes the reasons that `user` gave for breakups, and their display name in ended bonds.
pub fn delete_reasons_and_names(tx: &Tx<'_>, user: UserId) -> Result<(), Error> {
    tx.exec_deferred(
        "UPDATE breakups SET reason = NULL WHERE ended_by = $1 AND reason IS NOT NULL",
        params![user],
    )?;
    tx.exec_deferred("UPDATE bonds SET name_a = NULL WHERE user_a = $1", params![user])?;
    tx.exec_deferred("UPDATE bonds SET name_b = NULL WHERE user_b = $1", params![user])?;
    Ok(())
}

/// Reads a bond without its breakups. If the bond has ended, the partner gets the display name stored at its
/// end.
fn read_history(row: &Row<'_>, now: Timestamp) -> Result<BondHistoryEntry, Error> {
    let columns = &mut Columns::of(row);
    let (mut history, name): (BondHistoryEntry, Option<String>) = (columns.read()?, columns.read()?);
    if let Some(name) = name {
        history.bond.partner.display_name = name;
    }
    history.restorable_until = history.restorable_until.filter(|until| *until >= now);
    Ok(history)
}

#[cfg(test)]
#[path = "../rows_tests.rs"]
mod tests;
