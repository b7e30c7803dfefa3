//! Invariants of the tables, as queries that count violations.

use kith_store::Error;

use crate::support::TestApp;

const FAULTS: &[(&str, &str)] = &[
    (
        "slots that are not of a living bond of theirs",
        "SELECT COUNT(*) FROM bond_slots s LEFT JOIN bonds b ON b.id = s.bond_id
         WHERE b.id IS NULL OR b.ended_at IS NOT NULL OR s.user_id NOT IN (b.user_a, b.user_b)",
    ),
    (
        "living bonds without both slots",
        "SELECT COUNT(*) FROM bonds b
         WHERE b.ended_at IS NULL AND (SELECT COUNT(*) FROM bond_slots s WHERE s.bond_id = b.id) <> 2",
    ),
    (
        "bonds whose end and breakups disagree",
        "SELECT COUNT(*) FROM bonds b WHERE (b.ended_at IS NULL) <> NOT EXISTS
         (SELECT 1 FROM breakups k WHERE k.bond_id = b.id AND k.restored_at IS NULL)",
    ),
    (
        "bonds that came back without having ended, or the other way round",
        "SELECT COUNT(*) FROM bonds b WHERE (SELECT COUNT(*) FROM breakups k WHERE k.bond_id = b.id) <>
         b.restorations + CASE WHEN b.ended_at IS NULL THEN 0 ELSE 1 END",
    ),
    ("archived bonds that live", "SELECT COUNT(*) FROM bonds WHERE archived_at IS NOT NULL AND ended_at IS NULL"),
    (
        "requests that wait outside of their pair's key",
        "SELECT COUNT(*) FROM partner_requests r WHERE r.delivered AND r.status = 'pending' AND r.pair_key <>
         CASE WHEN r.from_user < r.to_user THEN r.from_user ELSE r.to_user END || ':' ||
         CASE WHEN r.from_user < r.to_user THEN r.to_user ELSE r.from_user END",
    ),
    (
        "requests that wait between two who are partners",
        "SELECT COUNT(*) FROM partner_requests r JOIN bonds b ON b.ended_at IS NULL
         AND ((b.user_a = r.from_user AND b.user_b = r.to_user) OR (b.user_a = r.to_user AND b.user_b = r.from_user))
         WHERE r.delivered AND r.status = 'pending' AND r.created_at > COALESCE(b.restored_at, b.since)",
    ),
    (
        "accepted requests without a bond, and bonds of others",
        "SELECT COUNT(*) FROM partner_requests WHERE (status = 'accepted') <> (bond_id IS NOT NULL)",
    ),
    (
        "living bonds past a block",
        "SELECT COUNT(*) FROM bonds b JOIN blocks k ON b.ended_at IS NULL
         AND ((k.blocker = b.user_a AND k.blocked = b.user_b) OR (k.blocker = b.user_b AND k.blocked = b.user_a))",
    ),
    (
        "living bonds of accounts that were deleted",
        "SELECT COUNT(*) FROM bonds b JOIN users u ON u.id IN (b.user_a, b.user_b)
         WHERE b.ended_at IS NULL AND u.deleted_at IS NOT NULL",
    ),
];

/// Returns the violated invariants with their counts.
pub async fn find_faults(app: &TestApp) -> Vec<(&'static str, i64)> {
    let read = app.db().read(|q| {
        let count = |sql| Ok(q.one(sql, &[], |row| row.get(0))?.unwrap_or(0));
        FAULTS.iter().map(|(what, sql)| Ok::<_, Error>((*what, count(*sql)?))).collect::<Result<Vec<_>, _>>()
    });
    let counts: Vec<(_, i64)> = read.await.map_err(|error: Error| error).expect("the counts");
    counts.into_iter().filter(|(_, count)| *count > 0).collect()
}
