//! Statements that count what must never be, or must not be for long.

use kith_kernel::Timestamp;
use kith_store::{Error, Query, params};

/// People who are in more than one bond that has not ended.
pub fn count_people_with_several_bonds(q: &Query<'_>) -> Result<i64, Error> {
    let sql = "SELECT COUNT(*) FROM (
           SELECT person FROM (
             SELECT user_a AS person FROM bonds WHERE ended_at IS NULL
             UNION ALL SELECT user_b AS person FROM bonds WHERE ended_at IS NULL
           ) AS sides GROUP BY person HAVING COUNT(*) > 1
         ) AS several";
    Ok(q.one(sql, &[], |row| row.get(0))?.unwrap_or(0))
}

/// Bonds that have not ended and do not hold the slots of both.
pub fn count_bonds_without_both_slots(q: &Query<'_>) -> Result<i64, Error> {
    let sql = "SELECT COUNT(*) FROM bonds b WHERE b.ended_at IS NULL AND (
           SELECT COUNT(*) FROM bond_slots s WHERE s.bond_id = b.id AND s.user_id IN (b.user_a, b.user_b)) <> 2";
    Ok(q.one(sql, &[], |row| row.get(0))?.unwrap_or(0))
}

/// Slots that bonds hold which have ended.
pub fn count_slots_of_ended_bonds(q: &Query<'_>) -> Result<i64, Error> {
    let sql =
        "SELECT COUNT(*) FROM bond_slots s JOIN bonds b ON b.id = s.bond_id WHERE b.ended_at IS NOT NULL";
    Ok(q.one(sql, &[], |row| row.get(0))?.unwrap_or(0))
}

/// Bonds that are archived.
pub fn count_archived(q: &Query<'_>) -> Result<i64, Error> {
    let sql = "SELECT COUNT(*) FROM bonds WHERE archived_at IS NOT NULL";
    Ok(q.one(sql, &[], |row| row.get(0))?.unwrap_or(0))
}

/// When the bond ended that waits longest to be archived, of those that ended before `ended_before`.
pub fn find_oldest_to_archive(q: &Query<'_>, ended_before: Timestamp) -> Result<Option<Timestamp>, Error> {
    let oldest = q.one(
        "SELECT MIN(ended_at) FROM bonds WHERE ended_at IS NOT NULL AND archived_at IS NULL AND ended_at < $1",
        params![ended_before],
        |row| row.get(0),
    )?;
    Ok(oldest.flatten())
}
