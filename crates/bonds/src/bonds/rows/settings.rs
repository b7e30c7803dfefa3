//! SQL statements for partner settings. Contains no business rules.

use kith_kernel::UserId;
use kith_store::{Error, Query, Tx, params};

use super::super::model::{PartnerSettings, RequestPolicy};

/// Returns the partner settings of a user, or the defaults if none are stored.
pub fn find_settings(q: &Query<'_>, user: UserId) -> Result<PartnerSettings, Error> {
    let found = q.one(
        "SELECT accepts_requests_from, discoverable_by_email, discreet FROM partner_settings WHERE user_id = $1",
        params![user],
        |row| {
            let policy: String = row.get(0)?;
            Ok(PartnerSettings {
                accepts_requests_from: RequestPolicy::parse(&policy)
                    .expect("the table's CHECK admits only these"),
                discoverable_by_email: row.get(1)?,
                discreet: row.get(2)?,
            })
        },
    )?;
    Ok(found.unwrap_or_default())
}

pub fn upsert_settings(tx: &Tx<'_>, user: UserId, settings: PartnerSettings) -> Result<(), Error> {
    tx.exec_deferred(
        "INSERT INTO partner_settings (user_id, accepts_requests_from, discoverable_by_email, discreet)
         VALUES ($1, $2, $3, $4)
         ON CONFLICT (user_id) DO UPDATE SET accepts_requests_from = $2, discoverable_by_email = $3, discreet = $4",
        params![
            user,
            settings.accepts_requests_from.as_str(),
            settings.discoverable_by_email,
            settings.discreet
        ],
    )?;
    Ok(())
}

pub fn delete_settings(tx: &Tx<'_>, user: UserId) -> Result<(), Error> {
    tx.exec_deferred("DELETE FROM partner_settings WHERE user_id = $1", params![user])?;
    Ok(())
}
