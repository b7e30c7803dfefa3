//! Archives the spaces of archived bonds: moves them out of the live tables, and purges them after their
//! retention and a grace period.

use std::time::Duration;

use kith_kernel::{Ctx, Timestamp, days};
use kith_platform::purge::{self, PurgeOutcome, PurgeRun};
use kith_platform::{App, Fact, MaintenanceError};
use kith_store::{Error, Tx};
use serde::Serialize;
use serde_json::json;

use super::model::{Space, SpaceUsage, SpaceWithMembers};
use super::settings::SpaceSettings;
use super::{events, rows};
use crate::bonds::BondId;

/// Number of spaces listed for archiving at once. Each is archived in its own transaction.
const BATCH_SIZE: i64 = 100;
/// Number of days before the last archived bond at which the search for unarchived spaces starts, because
/// bonds may be archived out of order.
const SLACK_DAYS: u64 = 60;
/// Grace period in days between the end of the retention and the purge. During it, an operator can still
/// stop the purge.
const HOLD_DAYS: u64 = 14;
/// Number of archives that a run may try to purge, as a multiple of the number that it may purge. Failed
/// tries count.
const MAX_TRIES_PER_PURGE: i64 = 10;

/// Facts for administrators: the number of seconds for which the oldest space has been due for archiving; 0
/// if none is due.
pub const FACTS: &[Fact] = &[Fact {
    name: "spaces.archive",
    read: |q, ctx| {
        let oldest = rows::find_oldest_archivable(q)?;
        Ok(json!({ "overdue_s": oldest.map_or(0, |archived_at| ctx.now.since(archived_at).as_secs()) }))
    },
}];

/// Manifest of a purge, written to disk before the purge.
#[derive(Debug, Serialize)]
struct SpacePurgeManifest {
    bond_id: BondId,
    /// Time of the decision to purge.
    at: Timestamp,
    archived_space_items: i64,
    bytes: i64,
}

/// Archives the spaces of archived bonds, and purges archives whose retention and grace period have ended.
///
/// # Errors
/// Returns an error if the database operation fails or a manifest cannot be written.
pub async fn archive_and_purge(app: App) -> Result<(), MaintenanceError> {
    let ctx = app.system_ctx("maintenance");
    archive_due(&app, &ctx).await?;
    let settings = app.config.section::<SpaceSettings>();
    let retention = days(settings.archive_retention_days.into());
    let max_purged = i64::from(settings.max_purged_per_run);
    let run = PurgeRun::begin(&app, &ctx, "archived_spaces", move |tx, run| {
        start_holds(tx, run, retention, max_purged)
    });
    let run = run.await?;
    let purged = purge_due(&app, &ctx, run, max_purged).await;
    let backlog = app.db.read(move |q| {
        let unheld = rows::count_unheld_expired(q, run.now - retention)?;
        Ok::<_, Error>(unheld + rows::count_archives_to_purge(q, &run)?)
    });
    run.end(&app, &ctx, PurgeOutcome { backlog: backlog.await?, fault: None }).await?;
    purged
}

async fn archive_due(app: &App, ctx: &Ctx) -> Result<(), MaintenanceError> {
    loop {
        let due = app.db.read(|q| {
            let since = rows::find_last_archived(q)?.map_or(Timestamp::EPOCH, |last| last - days(SLACK_DAYS));
            rows::list_archivable_spaces(q, since, BATCH_SIZE)
        });
        let due: Vec<_> = due.await.map_err(|error: Error| error)?;
        let last = (due.len() as i64) < BATCH_SIZE;
        for shared in due {
            app.write(ctx, move |tx, ctx| archive(tx, ctx, &shared)).await?;
        }
        if last {
            return Ok(());
        }
    }
}

fn archive(tx: &Tx<'_>, ctx: &Ctx, shared: &SpaceWithMembers) -> Result<(), Error> {
    let Space::Bond(bond) = shared.space else { return Ok(()) };
    tx.lock("user", &shared.members)?;
    let usage = rows::count_items(tx, shared.space)?;
    if !rows::insert_archive(tx, bond, usage)? {
        return Ok(());
    }
    if usage != SpaceUsage::default() {
        rows::copy_to_archive(tx, shared.space)?;
        rows::delete_space(tx, shared.space)?;
        tx.audit(ctx, "space.archived", bond);
        tx.emit(ctx, events::archived(shared));
    }
    Ok(())
}

/// Schedules the purge of archives whose retention has ended, oldest first. Cancels it for archives whose
/// retention was extended.
fn start_holds(tx: &Tx<'_>, run: &PurgeRun, retention: Duration, limit: i64) -> Result<(), Error> {
    let until = run.now - retention;
    rows::stop_archive_holds(tx, until)?;
    rows::schedule_archive_purges(tx, until, run, days(HOLD_DAYS), limit)
}

/// Purges up to `limit` archives. If an archive cannot be purged, continues with the next one.
async fn purge_due(app: &App, ctx: &Ctx, run: PurgeRun, limit: i64) -> Result<(), MaintenanceError> {
    let due = app.db.read(move |q| rows::list_archives_to_purge(q, &run, limit * MAX_TRIES_PER_PURGE));
    let due: Vec<_> = due.await.map_err(|error: Error| error)?;
    let (mut purged, mut failure) = (0, None);
    for (shared, usage) in due {
        if purged >= limit {
            break;
        }
        let Space::Bond(bond_id) = shared.space else { continue };
        let SpaceUsage { items: archived_space_items, bytes } = usage;
        let manifest = SpacePurgeManifest { bond_id, at: ctx.refreshed().now, archived_space_items, bytes };
        let text = purge::write_manifest(app, &format!("bond-{bond_id}"), &manifest).await?;
        match app.write(ctx, move |tx, ctx| purge_one(tx, ctx, &run, &shared, bond_id, &text)).await {
            Ok(()) => purged += 1,
            Err(error) => {
                tracing::error!(%error, bond = %bond_id, "archived space could not be purged; continuing with the next");
                failure = Some(error);
            }
        }
    }
    failure.map_or(Ok(()), |error| Err(error.into()))
}

fn purge_one(
    tx: &Tx<'_>,
    ctx: &Ctx,
    run: &PurgeRun,
    shared: &SpaceWithMembers,
    bond: BondId,
    manifest: &str,
) -> Result<(), Error> {
    tx.lock("user", &shared.members)?;
    if rows::set_purged(tx, bond, run, manifest)? {
        rows::delete_archived_items(tx, shared.space)?;
        tx.audit(ctx, "space.purged", bond);
        tx.emit(ctx, events::purged(shared));
    }
    Ok(())
}
