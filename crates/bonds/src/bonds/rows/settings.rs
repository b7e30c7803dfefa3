//! SQL statements of partner settings. No decisions.

use kith_kernel::UserId;
use kith_store::{Error, Query, Tx, params};

use super::super::model::{Settings, WhoMayAsk};

/// Returns the partner settings of a user, or the defaults if none are stored.
pub fn find_settings(q: &Query<'_>, user: UserId) -> Result<Settings, Error> {
    let found = q.one(
        "SELECT who_may_ask, found_by_email, discreet FROM partner_settings WHERE user_id = $1",
        params![user],
        |row| {
            let who_may_ask: String = row.get(0)?;
            Ok(Settings {
                who_may_ask: WhoMayAsk::parse(&who_may_ask).expect("the table's CHECK admits only these"),
                found_by_email: row.get(1)?,
                discreet: row.get(2)?,
            })
        },
    )?;
    Ok(found.unwrap_or_default())
}

pub fn upsert_settings(tx: &Tx<'_>, user: UserId, settings: Settings) -> Result<(), Error> {
    tx.exec(
        "INSERT INTO partner_settings (user_id, who_may_ask, found_by_email, discreet) VALUES ($1, $2, $3, $4)
         ON CONFLICT (user_id) DO UPDATE SET who_may_ask = $2, found_by_email = $3, discreet = $4",
        params![user, settings.who_may_ask.as_str(), settings.found_by_email, settings.discreet],
    )?;
    Ok(())
}

pub fn delete_settings(tx: &Tx<'_>, user: UserId) -> Result<(), Error> {
    tx.exec("DELETE FROM partner_settings WHERE user_id = $1", params![user])?;
    Ok(())
}
