//! SQL statements for archived spaces.

use std::time::Duration;

use kith_kernel::Timestamp;
use kith_platform::purge::PurgeRun;
use kith_store::{Columns, Error, FromRow as _, Query, Tx, params};

use super::super::model::{Space, SpaceUsage, SpaceWithMembers};
use crate::bonds::BondId;

pub(super) const ARCHIVABLE: &str = concat!(
    "SELECT ",
    bond_space_columns!(),
    " FROM bonds b
     WHERE b.archived_at IS NOT NULL AND b.archived_at >= $1
       AND NOT EXISTS (SELECT 1 FROM archived_spaces a WHERE a.bond_id = b.id)
     ORDER BY b.archived_at LIMIT $2"
);
pub(super) const UNHELD_EXPIRED: &str = "SELECT COUNT(*) FROM archived_spaces
     WHERE purged_at IS NULL AND purge_at IS NULL AND archived_at <= $1";
pub(super) const TO_PURGE: &str = concat!(
    "SELECT ",
    bond_space_columns!(),
    ", a.items, a.bytes
     FROM archived_spaces a JOIN bonds b ON b.id = a.bond_id
     WHERE a.purged_at IS NULL AND a.purge_at IS NOT NULL AND a.purge_at <= $1 AND a.purge_elapsed_ms <= $2
     ORDER BY a.purge_at LIMIT $3"
);

/// Returns the spaces of up to `limit` bonds that were archived at or after `since` and whose spaces are not
/// archived.
pub fn list_archivable_spaces(
    q: &Query<'_>,
    since: Timestamp,
    limit: i64,
) -> Result<Vec<SpaceWithMembers>, Error> {
    q.all(ARCHIVABLE, params![since, limit], SpaceWithMembers::read_row)
}

/// Returns the archive time of the bond that was archived first, among the bonds whose spaces are not
/// archived.
pub fn find_oldest_archivable(q: &Query<'_>) -> Result<Option<Timestamp>, Error> {
    let oldest = q.one(
        "SELECT MIN(b.archived_at) FROM bonds b WHERE b.archived_at IS NOT NULL
           AND NOT EXISTS (SELECT 1 FROM archived_spaces a WHERE a.bond_id = b.id)",
        &[],
        |row| row.get(0),
    )?;
    Ok(oldest.flatten())
}

/// Returns the archive time of the bond that was archived last, among the bonds whose spaces are archived.
pub fn find_last_archived(q: &Query<'_>) -> Result<Option<Timestamp>, Error> {
    let last = q.one("SELECT MAX(archived_at) FROM archived_spaces", &[], |row| row.get(0))?;
    Ok(last.flatten())
}

/// Records that the space of an archived bond is archived. Returns `false` if this was already recorded.
pub fn insert_archive(tx: &Tx<'_>, bond: BondId, usage: SpaceUsage) -> Result<bool, Error> {
    let inserted = tx.exec(
        "INSERT INTO archived_spaces (bond_id, archived_at, items, bytes)
         SELECT id, archived_at, $2, $3 FROM bonds WHERE id = $1 AND archived_at IS NOT NULL
         ON CONFLICT DO NOTHING",
        params![bond, usage.items, usage.bytes],
    )?;
    Ok(inserted == 1)
}

/// Copies all items of a space to the archive.
pub fn copy_to_archive(tx: &Tx<'_>, space: Space) -> Result<(), Error> {
    tx.exec_deferred(
        "INSERT INTO archived_space_items
            (id, space, collection, data, bytes, version, created_at, created_by, updated_at, updated_by)
         SELECT id, space, collection, data, bytes, version, created_at, created_by, updated_at, updated_by
         FROM space_items WHERE space = $1",
        params![space.key()],
    )?;
    Ok(())
}

/// Counts archived spaces whose bond was archived at or before `until` and whose purge is not scheduled yet.
pub fn count_unheld_expired(q: &Query<'_>, until: Timestamp) -> Result<i64, Error> {
    Ok(q.one(UNHELD_EXPIRED, params![until], |row| row.get(0))?.unwrap_or(0))
}

/// Schedules the purge of up to `limit` archives of bonds archived at or before `until`, oldest first.
/// Archives that have only a wall-clock purge time also get one in observed time.
pub fn schedule_archive_purges(
    tx: &Tx<'_>,
    until: Timestamp,
    run: &PurgeRun,
    hold: Duration,
    limit: i64,
) -> Result<(), Error> {
    let elapsed_end_ms = run.elapsed_ms.saturating_add(i64::try_from(hold.as_millis()).unwrap_or(i64::MAX));
    tx.exec_deferred(
        "UPDATE archived_spaces SET purge_elapsed_ms = $1
         WHERE purged_at IS NULL AND purge_at IS NOT NULL AND purge_elapsed_ms IS NULL",
        params![elapsed_end_ms],
    )?;
    tx.exec_deferred(
        "UPDATE archived_spaces SET purge_at = $2, purge_elapsed_ms = $3
         WHERE bond_id IN (SELECT bond_id FROM archived_spaces
             WHERE purged_at IS NULL AND purge_at IS NULL AND archived_at <= $1 ORDER BY archived_at LIMIT $4)",
        params![until, run.now + hold, elapsed_end_ms, limit],
    )?;
    Ok(())
}

/// Cancels the scheduled purge of archives of bonds archived after `until`, because their retention was
/// extended.
pub fn stop_archive_holds(tx: &Tx<'_>, until: Timestamp) -> Result<(), Error> {
    tx.exec_deferred(
        "UPDATE archived_spaces SET purge_at = NULL, purge_elapsed_ms = NULL
         WHERE purged_at IS NULL AND purge_at IS NOT NULL AND archived_at > $1",
        params![until],
    )?;
    Ok(())
}

/// Returns up to `limit` archives whose grace period has ended, with their size.
pub fn list_archives_to_purge(
    q: &Query<'_>,
    run: &PurgeRun,
    limit: i64,
) -> Result<Vec<(SpaceWithMembers, SpaceUsage)>, Error> {
    q.all(TO_PURGE, params![run.now, run.elapsed_ms, limit], |row| {
        let columns = &mut Columns::of(row);
        Ok((columns.read()?, SpaceUsage { items: columns.read()?, bytes: columns.read()? }))
    })
}

/// Counts archives whose grace period has ended and that are not purged yet.
pub fn count_archives_to_purge(q: &Query<'_>, run: &PurgeRun) -> Result<i64, Error> {
    let sql = "SELECT COUNT(*) FROM archived_spaces
               WHERE purged_at IS NULL AND purge_at IS NOT NULL AND purge_at <= $1 AND purge_elapsed_ms <= $2";
    Ok(q.one(sql, params![run.now, run.elapsed_ms], |row| row.get(0))?.unwrap_or(0))
}

/// Records the purge of an archive if it is still due. Returns `true` if the purge was recorded.
pub fn set_purged(tx: &Tx<'_>, bond: BondId, run: &PurgeRun, manifest: &str) -> Result<bool, Error> {
    let purged = tx.exec(
        "UPDATE archived_spaces SET purged_at = $2, manifest = $3
         WHERE bond_id = $1 AND purged_at IS NULL AND purge_at <= $2 AND purge_elapsed_ms <= $4",
        params![bond, run.now, manifest, run.elapsed_ms],
    )?;
    Ok(purged == 1)
}

pub fn delete_archived_items(tx: &Tx<'_>, space: Space) -> Result<(), Error> {
    tx.exec_deferred("DELETE FROM archived_space_items WHERE space = $1", params![space.key()])?;
    Ok(())
}
