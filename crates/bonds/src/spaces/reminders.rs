//! Reminders of dates: computes when each reminder is due, and emits its event exactly once across all
//! nodes.
//!
//! A reminder is dropped if its space is frozen or its owner is deleted when it falls due. A repeated
//! reminder continues with its next time. If a reminder fell due several times while no server ran, it is
//! emitted once.

use kith_kernel::{Ctx, Timestamp};
use kith_platform::{App, MaintenanceError};
use kith_store::{Error, Query, Tx};

use super::dates::{self, DateSchedule};
use super::events;
use super::model::{Item, Space};
use super::rows::{self, Reminder};

/// Number of reminders processed in one transaction.
const BATCH_SIZE: i64 = 100;

/// Replaces the stored reminders of `item` if it is a date and its schedule has changed.
///
/// # Errors
/// Returns the store's error if a statement fails.
pub fn update_reminders(
    tx: &Tx<'_>,
    now: Timestamp,
    space: Space,
    before: Option<&Item>,
    item: &Item,
) -> Result<(), Error> {
    if !dates::is_dates(&item.collection) {
        return Ok(());
    }
    let schedule = parse_schedule(&item.data.to_value());
    if before.is_some_and(|before| parse_schedule(&before.data.to_value()) == schedule) {
        return Ok(());
    }
    rows::delete_reminders(tx, item.id)?;
    for &minutes_before in schedule.iter().flat_map(|schedule| &schedule.remind_minutes_before) {
        let next = schedule.as_ref().and_then(|schedule| schedule.next_reminder(minutes_before, now));
        if let Some(due_at) = next {
            rows::insert_reminder(tx, &Reminder { item: item.id, minutes_before, space, due_at })?;
        }
    }
    Ok(())
}

fn parse_schedule(data: &serde_json::Value) -> Option<DateSchedule> {
    dates::read(data, dates::UTC).ok().map(|(_, schedule)| schedule)
}

/// Emits the events of all due reminders.
///
/// # Errors
/// Returns an error if the database operation fails.
pub async fn emit_due(app: App) -> Result<(), MaintenanceError> {
    let ctx = app.system_ctx("maintenance");
    while app.write(&ctx, emit_batch).await? == BATCH_SIZE {}
    Ok(())
}

fn emit_batch(tx: &Tx<'_>, ctx: &Ctx) -> Result<i64, Error> {
    let due = rows::list_due_reminders(tx, ctx.now, BATCH_SIZE)?;
    let shared = |q: &Query<'_>, reminder: &Reminder| rows::find_members(q, reminder.space);
    let mut members = Vec::new();
    for reminder in &due {
        members.extend(shared(tx, reminder)?.into_iter().flat_map(|(shared, _)| shared.members));
    }
    tx.lock("user", members)?;
    for reminder in &due {
        let date = rows::find_date(tx, reminder.item)?;
        let schedule = date.as_ref().and_then(parse_schedule);
        let next = schedule.and_then(|one| one.next_reminder(reminder.minutes_before, ctx.now));
        // Another node may have processed the reminder, or the date may have changed.
        if !rows::reschedule_reminder(tx, reminder, next)? {
            continue;
        }
        if let Some((shared, true)) = shared(tx, reminder)? {
            tx.audit(ctx, "space_reminder.due", reminder.item);
            let Reminder { item, minutes_before, due_at, .. } = *reminder;
            tx.emit(ctx, events::reminder_due(&shared, item, minutes_before, due_at));
        }
    }
    Ok(due.len() as i64)
}
