//! SQL statements that count violations of invariants and measure delays.

use kith_kernel::Timestamp;
use kith_store::{Error, Query, params};

/// Counts users with more than one active bond.
pub fn count_users_with_several_bonds(q: &Query<'_>) -> Result<i64, Error> {
    let sql = "SELECT COUNT(*) FROM (
           SELECT person FROM (
             SELECT user_a AS person FROM bonds WHERE ended_at IS NULL
             UNION ALL SELECT user_b AS person FROM bonds WHERE ended_at IS NULL
           ) AS sides GROUP BY person HAVING COUNT(*) > 1
         ) AS several";
    Ok(q.one(sql, &[], |row| row.get(0))?.unwrap_or(0))
}

/// Counts active bonds that do not occupy the partner slots of both users.
pub fn count_bonds_without_both_slots(q: &Query<'_>) -> Result<i64, Error> {
    let sql = "SELECT COUNT(*) FROM bonds b WHERE b.ended_at IS NULL AND (
           SELECT COUNT(*) FROM bond_slots s WHERE s.bond_id = b.id AND s.user_id IN (b.user_a, b.user_b)) <> 2";
    Ok(q.one(sql, &[], |row| row.get(0))?.unwrap_or(0))
}

/// Counts partner slots that are occupied by ended bonds.
pub fn count_slots_of_ended_bonds(q: &Query<'_>) -> Result<i64, Error> {
    let sql =
        "SELECT COUNT(*) FROM bond_slots s JOIN bonds b ON b.id = s.bond_id WHERE b.ended_at IS NOT NULL";
    Ok(q.one(sql, &[], |row| row.get(0))?.unwrap_or(0))
}

/// Counts archived bonds.
pub fn count_archived(q: &Query<'_>) -> Result<i64, Error> {
    let sql = "SELECT COUNT(*) FROM bonds WHERE archived_at IS NOT NULL";
    Ok(q.one(sql, &[], |row| row.get(0))?.unwrap_or(0))
}

/// Returns the end time of the bond that ended first, among the bonds that ended before `ended_before` and
/// are not archived.
pub fn find_oldest_archivable(q: &Query<'_>, ended_before: Timestamp) -> Result<Option<Timestamp>, Error> {
    let oldest = q.one(
        "SELECT MIN(ended_at) FROM bonds WHERE ended_at IS NOT NULL AND archived_at IS NULL AND ended_at < $1",
        params![ended_before],
        |row| row.get(0),
    )?;
    Ok(oldest.flatten())
}
