//! What becomes of spaces whose bonds are archived: they leave the live tables, can be exported for as long as is
//! configured, are held, and go.

use kith_kernel::{Ctx, Timestamp, days};
use kith_platform::{App, Fact, UpkeepError, purge};
use kith_store::{Error, Tx};
use serde::Serialize;
use serde_json::json;

use super::model::{Amount, SharedSpace, Space};
use super::{events, rows};
use crate::bonds::BondId;

/// Spaces that are archived in one go, a transaction each.
const BATCH: i64 = 100;
/// How much out of their order bonds may be archived.
const SLACK_DAYS: u64 = 60;
/// Between falling due and being purged: time to notice.
const HOLD_DAYS: u64 = 14;

/// What administrators are told: for how many seconds a space has been waiting that could be archived; 0 if none is.
pub const FACTS: &[Fact] = &[Fact {
    name: "spaces.archive",
    read: |q, ctx| {
        let oldest = rows::find_oldest_to_archive(q)?;
        Ok(json!({ "overdue_s": oldest.map_or(0, |archived_at| ctx.now.since(archived_at).as_secs()) }))
    },
}];

/// What is about to be purged.
#[derive(Debug, Serialize)]
struct Manifest {
    bond_id: BondId,
    /// When the purge was decided.
    at: Timestamp,
    archived_space_items: i64,
    bytes: i64,
}

/// Archives the spaces of archived bonds, and purges those that were kept long enough.
///
/// # Errors
/// The database's, or the disk's.
pub async fn run_due(app: App) -> Result<(), UpkeepError> {
    let ctx = app.system_ctx("upkeep");
    archive_due(&app, &ctx).await?;
    hold_due(&app, &ctx).await?;
    purge_due(&app, &ctx).await
}

async fn archive_due(app: &App, ctx: &Ctx) -> Result<(), UpkeepError> {
    loop {
        let due = app.db.read(|q| {
            let since = rows::find_last_archived(q)?.map_or(Timestamp::EPOCH, |last| last - days(SLACK_DAYS));
            rows::list_to_archive(q, since, BATCH)
        });
        let due: Vec<_> = due.await.map_err(|error: Error| error)?;
        let last = (due.len() as i64) < BATCH;
        for shared in due {
            app.write(ctx, move |tx, ctx| archive(tx, ctx, &shared)).await?;
        }
        if last {
            return Ok(());
        }
    }
}

fn archive(tx: &Tx<'_>, ctx: &Ctx, shared: &SharedSpace) -> Result<(), Error> {
    let Space::Bond(bond) = shared.space else { return Ok(()) };
    tx.lock("user", &shared.people)?;
    let held = rows::count_items(tx, shared.space)?;
    if !rows::insert_archive(tx, bond, held)? {
        return Ok(());
    }
    if held != Amount::default() {
        rows::copy_to_archive(tx, shared.space)?;
        rows::delete_space(tx, shared.space)?;
        tx.audit(ctx, "space.archived", bond);
        tx.emit(ctx, events::archived(shared));
    }
    Ok(())
}

async fn hold_due(app: &App, ctx: &Ctx) -> Result<(), UpkeepError> {
    let (keep, most) = (days(app.config.spaces.keep_archives_days.into()), app.config.spaces.purge_most);
    let due = app.write(ctx, move |tx, ctx| {
        let until = ctx.now - keep;
        rows::release_archives(tx, until)?;
        let due = rows::count_falling_due(tx, until, i64::from(most) + 1)?;
        if due <= usize::from(most) {
            rows::hold_archives(tx, until, ctx.now + days(HOLD_DAYS))?;
        }
        Ok::<_, Error>(due)
    });
    purge::check_count(due.await?, most, "archived spaces", "spaces.purge_most")
}

async fn purge_due(app: &App, ctx: &Ctx) -> Result<(), UpkeepError> {
    let (now, most) = (ctx.renewed().now, app.config.spaces.purge_most);
    let due = app.db.read(move |q| rows::list_archives_to_purge(q, now, i64::from(most) + 1));
    let due: Vec<_> = due.await.map_err(|error: Error| error)?;
    purge::check_count(due.len(), most, "archived spaces", "spaces.purge_most")?;
    for (shared, held) in due {
        let Space::Bond(bond_id) = shared.space else { continue };
        let Amount { items: archived_space_items, bytes } = held;
        let manifest = Manifest { bond_id, at: ctx.renewed().now, archived_space_items, bytes };
        let text = purge::keep_manifest(app, &format!("bond-{bond_id}"), &manifest).await?;
        app.write(ctx, move |tx, ctx| purge_one(tx, ctx, &shared, bond_id, &text)).await?;
    }
    Ok(())
}

fn purge_one(
    tx: &Tx<'_>,
    ctx: &Ctx,
    shared: &SharedSpace,
    bond: BondId,
    manifest: &str,
) -> Result<(), Error> {
    tx.lock("user", &shared.people)?;
    if rows::set_purged(tx, bond, ctx.now, manifest)? {
        rows::delete_archived_items(tx, shared.space)?;
        tx.audit(ctx, "space.purged", bond);
        tx.emit(ctx, events::purged(shared));
    }
    Ok(())
}
