//! SQL statements for reminders.

use kith_kernel::Timestamp;
use kith_store::{Error, FromRow as _, Query, Tx, params, row_columns};
use serde_json::Value;

use super::super::model::{ItemId, Space};

/// Reminder of a date.
#[derive(Clone, Debug)]
pub struct Reminder {
    /// ID of the item that is the date.
    pub item: ItemId,
    /// Lead time in minutes.
    pub minutes_before: i64,
    /// Space of the item.
    pub space: Space,
    /// Time at which the reminder is due.
    pub due_at: Timestamp,
}

row_columns! {
    reminder_columns => Reminder {
        item = "item_id",
        minutes_before = "minutes_before",
        space = "space",
        due_at = "due_at"
    }
}

pub fn insert_reminder(tx: &Tx<'_>, reminder: &Reminder) -> Result<(), Error> {
    tx.exec_deferred(
        "INSERT INTO space_reminders (item_id, minutes_before, space, due_at) VALUES ($1, $2, $3, $4)",
        params![reminder.item, reminder.minutes_before, reminder.space.key(), reminder.due_at],
    )?;
    Ok(())
}

pub fn delete_reminders(tx: &Tx<'_>, item: ItemId) -> Result<(), Error> {
    tx.exec_deferred("DELETE FROM space_reminders WHERE item_id = $1", params![item])?;
    Ok(())
}

pub(super) const DUE: &str = concat!(
    "SELECT ",
    reminder_columns!(),
    " FROM space_reminders WHERE due_at <= $1 ORDER BY due_at, item_id LIMIT $2"
);

/// Returns up to `limit` reminders that are due at `now`, longest overdue first.
pub fn list_due_reminders(q: &Query<'_>, now: Timestamp, limit: i64) -> Result<Vec<Reminder>, Error> {
    q.all(DUE, params![now, limit], Reminder::read_row)
}

/// Returns the data of a date.
pub fn find_date(q: &Query<'_>, item: ItemId) -> Result<Option<Value>, Error> {
    q.one("SELECT data FROM space_items WHERE id = $1", params![item], |row| {
        Ok(serde_json::from_str(&row.get::<String>(0)?).expect("only JSON is written"))
    })
}

/// Moves a reminder to the time `next`, or deletes it if `next` is `None`. Returns `false` if another
/// transaction has changed the reminder.
pub fn reschedule_reminder(tx: &Tx<'_>, reminder: &Reminder, next: Option<Timestamp>) -> Result<bool, Error> {
    let Reminder { item, minutes_before, due_at, .. } = reminder;
    let updated = match next {
        Some(next) => tx.exec(
            "UPDATE space_reminders SET due_at = $4 WHERE item_id = $1 AND minutes_before = $2 AND due_at = $3",
            params![item, minutes_before, due_at, next],
        )?,
        None => tx.exec(
            "DELETE FROM space_reminders WHERE item_id = $1 AND minutes_before = $2 AND due_at = $3",
            params![item, minutes_before, due_at],
        )?,
    };
    Ok(updated == 1)
}
